"""MODEL, the word of the command line: what it names, as far as that can be told without loading it.
Imports no torch, which takes seconds.
"""

import os
import re
from pathlib import Path

from seer.backbones import LIBRARIES, canonical
from seer.errors import InputError, nearest, unreadable
from seer.inputs import open_data
from seer.rundir.names import BACKBONE as WEIGHTS
from seer.rundir.names import CHECKPOINTS, CONFIG

# Whose names of tensors are known. VISSL is what SEER was trained with; its RegNets are
# ClassyVision's in other containers.
NAMINGS = (*LIBRARIES, "transformers", "pycls", "vissl", "classy_vision")
FORMS = (
    "a run directory, a file or folder of weights, BACKBONE:random, timm:NAME[:WEIGHTS] "
    "or torchvision:NAME[:WEIGHTS], and @PIXELS behind it for images of another size"
)
SIZE = r"(.+)@([1-9][0-9]{0,4})"
LARGEST_SIDE = 4096  # px of images
HUB = "config.json"  # of a folder as transformers lays it out
SHARDS = (".torch", ".pt", ".pth", ".bin")  # a folder of these is one of shards
# What a run began as: its network at random, and with the weights that `init` named.
RANDOM = "random"
INIT = "init"
SAVED = (b"PK\x03\x04", b"\x80")  # how files of torch.save begin: a zip, once a pickle
STEP = r"step-([0-9]{1,18})"  # a checkpoint's folder
# What an export may be for, and how the name of its file ends; "" for a folder.
TARGETS = {
    "safetensors": ".safetensors",
    "torchvision": ".safetensors",
    "timm": ".safetensors",
    "transformers": "",
    "onnx": ".onnx",
}
OURS = "seer"
# Whose weights are imported. fairscale's shards are of VISSL's networks, or of whatever somebody
# else has sharded.
SOURCES = (*NAMINGS, "fairscale", OURS)


def library_of(spec: str) -> str:
    """The library whose network MODEL names; "" if it names none."""
    library, _, rest = spec.partition(":")
    return library if library in LIBRARIES and rest else ""


def weights_file(model: str, weights: str) -> Path | None:
    """The file that `weights` names, or None for `random`."""
    if weights == "random":
        return None
    path = Path(os.path.expanduser(weights))
    if not os.path.isfile(path):
        raise InputError(
            f"{model}:{weights}: the weights are neither 'pretrained', 'random', nor a file that exists"
        )
    return path


def without_size(spec: str) -> tuple[str, int]:
    """MODEL without the side of its images, and that in pixels; 0 where none is given."""
    match = re.fullmatch(SIZE, spec, re.DOTALL)
    if not match or os.path.exists(spec):
        return spec, 0
    return match[1], int(match[2])


def split(spec: str) -> tuple[Path, str]:
    """Path and what follows its colon, if it is not the path itself that has the colon."""
    head, colon, tail = spec.rpartition(":")
    # By os.path, which raises nothing: names may be too long, folders closed.
    return (Path(head), tail) if colon and not os.path.exists(spec) else (Path(spec), "")


def is_weights(path: Path) -> bool:
    """Whether it is a file, or a folder as others lay weights out, and no run directory."""
    if not os.path.isdir(path):
        return os.path.isfile(path)
    return not os.path.exists(path / CONFIG) and (
        os.path.isfile(path / HUB) or is_folder_of_shards(path)
    )


def is_folder_of_shards(folder: Path) -> bool:
    try:
        return any(file.suffix in SHARDS for file in folder.iterdir())
    except OSError as error:
        unreadable(error)


def run_of(spec: str) -> Path | None:
    """The run directory that MODEL names, if it names one."""
    spec, _ = without_size(spec)
    path, _ = split(spec)
    is_run = not library_of(spec) and os.path.isdir(path) and not is_weights(path)
    return path if is_run else None


def weights_of(run: Path, part: str) -> Path:
    """The backbone file of a run: that of `step-N`, or the newest. Raises `InputError`."""
    found = run.glob(f"{CHECKPOINTS}/step-*/{WEIGHTS}")
    matches = {file: re.fullmatch(STEP, file.parent.name) for file in found}
    files = {int(match[1]): file for file, match in matches.items() if match}
    if not files:
        raise InputError(
            f"{run}: has no finished checkpoint; wait for the first, or use {run}:random"
        )
    match = re.fullmatch(STEP, part or f"step-{max(files)}")
    file = files.get(int(match[1])) if match else None
    if file is None:
        steps = ", ".join(f"step-{step}" for step in sorted(files))
        raise InputError(
            f"{run}:{part}: no such checkpoint; there are {steps}, {INIT} and {RANDOM}"
        )
    return file


def check_model(spec: str) -> None:
    """Refuse, at once, what names no model that could be loaded.

    Raises:
        InputError: as `check_form`; a run has no such checkpoint.
    """
    check_form(spec)
    path, part = split(without_size(spec)[0])
    if run_of(spec) and part not in (RANDOM, INIT):
        weights_of(path, part)


def check_form(spec: str) -> None:
    """Refuse what is none of `FORMS`. Raises `InputError`: nothing is there, a folder is no run, there is
    no such backbone.
    """
    whole = spec
    spec, size = without_size(spec)
    if size > LARGEST_SIDE:
        raise InputError(f"{whole}: images have up to {LARGEST_SIDE:,} px here; give no more")
    if library_of(spec):
        library, name, weights = (*spec.split(":", 2), "")[:3]
        if os.sep in weights or "." in weights:  # a path, and no name of the library's
            weights_file(f"{library}:{name}", weights)
        return
    path, part = split(spec)
    if is_weights(path):
        return  # what they are is told by reading them
    if os.path.isdir(path):
        if not (path / CONFIG).is_file():
            raise InputError(f"{path}: not a run directory, it has no {CONFIG}; expected {FORMS}")
    elif part == "random":
        canonical(str(path))
    else:
        raise InputError(f"{spec}: no such model; expected {FORMS}")


def check_initial(source: str) -> None:
    """Refuse, at once, what a training cannot start from. Raises `InputError`."""
    path, part = split(source)
    if os.path.isfile(source):
        _check_weights(path)
    elif library_of(source) or part == "random" or os.path.exists(path):
        check_model(source)
    else:
        raise InputError(
            f"{source}: does not exist; init takes a file of weights (of torch.save, or .safetensors), {FORMS}"
        )


def _check_weights(path: Path) -> None:
    """Refuse a file that by its first bytes was not written by torch.save, unless its name says that
    it is of another kind. Raises `InputError`.
    """
    if path.suffix.lower() == ".safetensors":
        return
    try:
        with open_data(path) as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a file of weights"
        ) from None
    if not start.startswith(SAVED):
        raise InputError(
            f"{path}: holds no weights; give a file of torch.save, or one whose name ends in .safetensors"
        )


def check_export(spec: str, to: str, out: Path) -> None:
    """Refuse, at once, an export of a model that is not ours, for no library, or to no such file.

    Raises:
        InputError: which of these.
    """
    if to not in TARGETS:
        raise InputError(f"--to {to}: no such target{nearest(to, TARGETS)}")
    _check_ending(out, TARGETS[to])
    if library := library_of(spec):
        raise InputError(f"{spec}: is {library}'s own already; seer exports seer's backbones")
    check_model(spec)


def check_import(path: Path, library: str, out: Path) -> None:
    """Refuse, at once, an import of nothing, from no library, or to no such file.

    Raises:
        InputError: which of these.
    """
    if library not in SOURCES:
        raise InputError(f"--from {library}: no such library{nearest(library, SOURCES)}")
    _check_ending(out, ".safetensors")
    if not is_weights(path):
        raise InputError(f"{path}: no such file, nor a folder that holds weights")


def _check_ending(out: Path, suffix: str) -> None:
    """Raise `InputError` unless a file of this suffix, or a new folder, may be called `out`."""
    if suffix and (out.suffix != suffix or out.is_dir()):
        raise InputError(f"--out {out}: give a file whose name ends in {suffix}")
    if not suffix and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out {out}: is there already; give a new folder")
