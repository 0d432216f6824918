"""Which prototype of a run each image is nearest to, by the run's own head and prototypes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.engine.checkpoint.header import damage, read_header
from seer.engine.checkpoint.tensorfile import Block, Entry, fill, read_entries
from seer.errors import InputError
from seer.inputs import read_yaml
from seer.interop import swav_heads
from seer.interop.identify import contents
from seer.interop.native import is_native, read_heads
from seer.interop.opening import open_published, own_file
from seer.interop.published import Published
from seer.interop.spec import (
    INIT,
    RANDOM,
    is_weights,
    library_of,
    run_of,
    split,
    weights_of,
    without_size,
)
from seer.interop.weights import FLOATING, WHOLE, Form, check_finite, form
from seer.methods.heads import MLP, Prototypes
from seer.rundir.names import CONFIG, HEADER, STATE
from seer.schema import WORD, Record

PREFIX = "method."  # of a method's tensors in a checkpoint
OURS = (f"{PREFIX}head.", f"{PREFIX}prototypes.")
# What stands between the layers of the heads of methods that have prototypes.
ACTIVATIONS: dict[str, type[nn.Module]] = {"swav": nn.ReLU, "dino": nn.GELU}
METHOD = Record({"method": Record({"name": WORD})})  # of a run's configuration
BLOCK = 2**12  # images at a time
SAVED = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}


class NoPrototypesError(InputError):
    """A model that has no prototypes, or none that can be read: one line says why."""


@dataclass(frozen=True)
class Assignments:
    """Every image's nearest prototype.

    Attributes:
        prototypes: how many there are.
        nearest: `(N,)` int64.
        cosines: `(N,)` float32 of image and prototype.
    """

    prototypes: int
    nearest: Tensor
    cosines: Tensor


def assign(spec: str, features: Tensor) -> Assignments:
    """Project features `(N, D)` by the head of MODEL and find the nearest of its prototypes.

    Raises:
        NoPrototypesError: it has none, or such as do not fit the features.
    """
    head, prototypes = load_heads(spec, features.shape[1])
    nearest = []
    cosines = []
    with torch.inference_mode():
        for block in features.split(BLOCK):
            scores = prototypes(F.normalize(head(block), dim=1))
            best = scores.max(dim=1)
            nearest.append(best.indices)
            cosines.append(best.values)
    return Assignments(prototypes.out_features, torch.cat(nearest), torch.cat(cosines))


def load_heads(spec: str, width: int) -> tuple[MLP, Prototypes]:
    """The head, which takes features of this width, and the prototypes of MODEL."""
    method = _method(spec)
    if method not in ACTIVATIONS:
        raise NoPrototypesError(f"{spec} has no prototypes: it was trained by {method}")
    kept = _published(spec)
    about = swav_heads.about(kept.forms)
    if "prototypes" not in about or not about["head"]:
        raise NoPrototypesError(f"{spec} has no prototypes: only what SwAV trained has some")
    with torch.device("meta"):
        head = MLP(
            width,
            about["head"],
            about["head_bn"],
            about["head_bn_out"],
            activation=ACTIVATIONS[method],
        )
        prototypes = Prototypes(about["head"][-1], about["prototypes"])
    modules: dict[str, nn.Module] = {"head": head, "prototypes": prototypes}
    for name, module in modules.items():
        prefix = f"{name}."
        named = [key for key in kept.forms if key.startswith(prefix)]
        forms = {key.removeprefix(prefix): kept.forms[key] for key in named}
        if forms != {key: form(value) for key, value in module.state_dict().items()}:
            raise NoPrototypesError(
                f"{spec}: its {name} is none of SwAV's that takes features of {width:,} dimensions"
            )
        tensors = {key.removeprefix(prefix): kept.read(key) for key in named}
        check_finite(tensors, spec)
        module.load_state_dict(tensors, assign=True)
        module.eval()
    prototypes.weight.data = F.normalize(prototypes.weight.data, dim=1)
    return head, prototypes


def _method(spec: str) -> str:
    """By what a run was trained; whatever else has a head beside its backbone has SwAV's."""
    run = run_of(spec)
    return "swav" if run is None else read_yaml(run / CONFIG, METHOD)["method"]["name"]


def _published(spec: str) -> Published:
    """Head and prototypes that MODEL names, by our names; none in most."""
    spec, _ = without_size(spec)
    path, part = split(spec)
    run = run_of(spec)
    if run is not None:
        if part in (RANDOM, INIT):
            raise NoPrototypesError(
                f"{spec} has no prototypes; they are of a checkpoint, as {run} or {run}:step-100"
            )
        return _of_checkpoint(weights_of(run, part).parent)
    if library_of(spec) or not is_weights(path):
        return Published({}, dict[str, Tensor]().__getitem__)
    own = own_file(path)
    if own and is_native(own):
        tensors = read_heads(own)
        return Published(
            {name: form(value) for name, value in tensors.items()}, tensors.__getitem__
        )
    published = open_published(path)
    theirs = contents(published.forms).heads
    forms = {name: published.forms[key] for name, key in theirs.items()}
    return Published(forms, lambda name: published.read(theirs[name]))


def _of_checkpoint(folder: Path) -> Published:
    """What a checkpoint's state holds of them, however it is cut into blocks."""
    if not (folder / HEADER).is_file():
        raise NoPrototypesError(f"{folder} has a backbone alone, and no prototypes")
    state = folder / STATE
    with damage(folder):
        saved = read_header(folder)["tensors"]
        files = sorted(state.glob("*.safetensors"))
        entries = [entry for file in files for entry in read_entries(file)]
    ours = [entry for entry in entries if entry.name.startswith(OURS)]
    blocks: dict[str, list[Entry]] = {}
    for entry in ours:
        blocks.setdefault(entry.name.removeprefix(PREFIX), []).append(entry)
    shapes = {name: _whole(folder, found) for name, found in blocks.items()}
    wanted = {name for name in saved if name.startswith(OURS)}
    if {PREFIX + name: shape for name, shape in shapes.items()} != {n: saved[n][1] for n in wanted}:
        raise NoPrototypesError(f"{folder}: damaged (parts of head or prototypes are missing)")
    kinds = {name: FLOATING if blocks[name][0].code in SAVED else WHOLE for name in blocks}
    forms = {name: Form(tuple(shape), kinds[name]) for name, shape in shapes.items()}

    def read(name: str) -> Tensor:
        code = blocks[name][0].code
        whole = torch.zeros(shapes[name], dtype=SAVED.get(code, torch.int64))
        with damage(folder):
            fill(state, blocks[name], {PREFIX + name: Block([0] * whole.dim(), whole)})
        return whole

    return Published(forms, read)


def _whole(folder: Path, blocks: Sequence[Entry]) -> list[int]:
    """The shape of a tensor of which these are all blocks; what they hold bounds it."""
    ends = [[o + n for o, n in zip(b.offset, b.shape, strict=True)] for b in blocks]
    shape = [max(sides) for sides in zip(*ends, strict=True)]
    if sum(math.prod(block.shape) for block in blocks) != math.prod(shape):
        raise NoPrototypesError(f"{folder}: damaged (blocks of {blocks[0].name} are missing)")
    return shape
