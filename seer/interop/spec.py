"""MODEL, the word of the command line: what it names, as far as that can be told without loading it.
Imports no torch, which takes seconds.
"""

import os
import re
from pathlib import Path

from seer.backbones import canonical
from seer.errors import InputError, nearest
from seer.rundir.names import BACKBONE as WEIGHTS
from seer.rundir.names import CHECKPOINTS, CONFIG

LIBRARIES = ("torchvision", "timm")
FORMS = "a run directory, an exported file, BACKBONE:random, timm:NAME[:WEIGHTS] or torchvision:NAME[:WEIGHTS]"
STEP = r"step-([0-9]{1,18})"  # a checkpoint's folder
TARGETS = ("safetensors", *LIBRARIES)  # what an export may be for


def library_of(spec: str) -> str:
    """The library whose network MODEL names; "" if it names none."""
    library, _, rest = spec.partition(":")
    return library if library in LIBRARIES and rest else ""


def split(spec: str) -> tuple[Path, str]:
    """Path and what follows its colon, if it is not the path itself that has the colon."""
    head, colon, tail = spec.rpartition(":")
    # By os.path, which raises nothing: names may be too long, folders closed.
    return (Path(head), tail) if colon and not os.path.exists(spec) else (Path(spec), "")


def run_of(spec: str) -> Path | None:
    """The run directory that MODEL names, if it names one."""
    path, _ = split(spec)
    return path if not library_of(spec) and os.path.isdir(path) else None


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
        raise InputError(f"{run}:{part}: no such checkpoint; there are {steps}, and random")
    return file


def check_model(spec: str) -> None:
    """Refuse, at once, what names no model that could be loaded.

    Raises:
        InputError: as `check_form`; a run has no such checkpoint.
    """
    check_form(spec)
    path, part = split(spec)
    if run_of(spec) and part != "random":
        weights_of(path, part)


def check_form(spec: str) -> None:
    """Refuse what is none of `FORMS`. Raises `InputError`: nothing is there, a folder is no run, there is
    no such backbone.
    """
    if library_of(spec):
        return
    path, part = split(spec)
    if os.path.isdir(path):
        if not (path / CONFIG).is_file():
            raise InputError(f"{path}: not a run directory, it has no {CONFIG}; expected {FORMS}")
    elif os.path.isfile(path):
        if path.suffix.lower() in (".pth", ".pt", ".bin"):
            raise InputError(
                f"{path}: give its architecture, too: timm:NAME:{path} or torchvision:NAME:{path}"
            )
    elif part == "random":
        canonical(str(path))
    else:
        raise InputError(f"{spec}: no such model; expected {FORMS}")


def check_initial(source: str) -> None:
    """Refuse, at once, what a training cannot start from. Raises `InputError`."""
    if not os.path.isfile(source):  # any file may hold weights
        check_model(source)


def check_export(spec: str, to: str, out: Path) -> None:
    """Refuse, at once, an export of a model that is not ours, for no library, or to no such file.

    Raises:
        InputError: which of these.
    """
    if to not in TARGETS:
        raise InputError(f"--to {to}: no such target{nearest(to, TARGETS)}")
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"--out {out}: give a file whose name ends in .safetensors")
    if library := library_of(spec):
        raise InputError(f"{spec}: is {library}'s own already; seer exports seer's backbones")
    check_model(spec)
