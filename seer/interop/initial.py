"""What a training starts from: the weights of any MODEL, or of a file that holds nothing else, in a
backbone of ours.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from seer.backbones import BACKBONES, BackboneConfig, build, canonical
from seer.backbones.base import Backbone
from seer.errors import InputError
from seer.interop.foreign import Pooled
from seer.interop.layouts import blocks_in, names_of
from seer.interop.models import load_model
from seer.interop.native import is_native
from seer.interop.spec import LIBRARIES
from seer.interop.weights import Form, check_forms, form, load_strictly, read_weights

OURS = "seer"
PUBLISHED_STRIDE = 2  # of every stem in timm and torchvision
# What stands beside a backbone in other people's files: classifiers, and the heads of SwAV's own.
HEADS = ("fc", "head", "projection_head", "prototypes")


@dataclass(frozen=True)
class Start:
    """What a backbone was given.

    Attributes:
        summary: what it was, in a few words.
        mean, std: of the channels of the images that it was trained on, where that is known.
    """

    summary: str
    mean: list[float] | None = None
    std: list[float] | None = None


def load_initial(backbone: Backbone, source: str) -> Start:
    """Copy the weights that `source` names into `backbone`: all of its tensors and no others.

    Args:
        source: as `load_model` takes it; or a file of weights, which go by seer's, torchvision's or timm's names.
            Classifiers are left aside.

    Raises:
        InputError: in one line, what is wrong with it; of another architecture, the `backbone.name` that would fit.
    """
    if os.path.isfile(source) and not is_native(Path(source)):
        return _load_file(backbone, Path(source))
    model = load_model(source)
    if isinstance(model.backbone, Pooled):
        library = source.partition(":")[0]
        tensors = model.backbone.network.state_dict()
        _copy(backbone, tensors, library, source, [PUBLISHED_STRIDE])
        summary = f"{len(tensors):,} tensors of {source} → backbone, its classifier left aside"
    else:
        assert isinstance(model.backbone, Backbone)
        _check_same(model.backbone.config, backbone.config, source)
        tensors = model.backbone.state_dict()
        load_strictly(backbone, tensors, source)
        which = f" ({model.label})" if model.run_dir else ""
        summary = f"{len(tensors):,} tensors of {source}{which} → backbone"
    return Start(summary, model.mean, model.std)


def _load_file(backbone: Backbone, path: Path) -> Start:
    """Weights of which nothing is said but their names."""
    tensors = read_weights(path)
    heads = {name.partition(".")[0] for name in tensors} & set(HEADS)
    trunk = {name: t for name, t in tensors.items() if name.partition(".")[0] not in heads}
    library = max((OURS, *LIBRARIES), key=lambda naming: _shared(backbone, naming, trunk))
    stride = backbone.config.stem_stride
    _copy(backbone, trunk, library, str(path), [stride, 3 - stride])
    summary = f"{len(trunk):,} tensors of {path} ({library}'s names) → backbone"
    if heads:
        summary += f", {' and '.join(sorted(heads))} left aside"
    if stride != PUBLISHED_STRIDE and library != OURS:
        summary += f", taken as of stem_stride={stride}"
    return Start(summary)


def _shared(backbone: Backbone, library: str, names: Iterable[str]) -> int:
    """How many of the names are those that the library gives to this backbone's tensors."""
    return len(names_of(library, backbone).keys() & set(names))


def _copy(
    backbone: Backbone, tensors: Mapping[str, Tensor], library: str, source: str, strides: list[int]
) -> None:
    """Copy tensors that go by a library's names, whose network has one of the strides."""
    names = names_of(library, backbone)
    ours = {names.get(name, name): tensor for name, tensor in tensors.items()}
    forms = {name: form(tensor) for name, tensor in tensors.items()}
    try:
        check_forms(backbone, {name: form(tensor) for name, tensor in ours.items()}, source)
    except InputError as error:
        fitting = _fitting(forms, strides)
        raise InputError(f"{error}; {_advice(fitting, backbone.config)}") from None
    if backbone.config.stem_stride not in strides:
        (stride,) = strides
        raise InputError(
            f"{source}: its stem has stride {stride}; set backbone.stem_stride={stride}"
        )
    load_strictly(backbone, ours, source)


def _check_same(given: BackboneConfig, wanted: BackboneConfig, source: str) -> None:
    if changes := _changes(given, wanted):
        raise InputError(f"{source}: holds another backbone than this run's; set {changes}")


def _advice(fitting: BackboneConfig | None, wanted: BackboneConfig) -> str:
    if fitting is None:
        return "it fits no backbone of seer, whose names are those of RegNets and ResNets"
    return f"set {_changes(fitting, wanted)}"


def _changes(given: BackboneConfig, wanted: BackboneConfig) -> str:
    """The options that make `wanted` the architecture of `given`; "" if it is that."""
    changes = []
    if canonical(given.name) != canonical(wanted.name):
        changes.append(f"backbone.name={canonical(given.name)}")
    if given.stem_stride != wanted.stem_stride:
        changes.append(f"backbone.stem_stride={given.stem_stride}")
    return " ".join(changes)


def _fitting(forms: Mapping[str, Form], strides: list[int]) -> BackboneConfig | None:
    """The backbone whose tensors these are, under anybody's names; None if there is none."""
    depth = blocks_in(forms)
    for name, create in BACKBONES.items():
        # To build them all would take seconds.
        if isinstance(create, partial) and create.args[0].depth != depth:
            continue
        for stride in strides:
            config = BackboneConfig(name, stem_stride=stride)
            if forms in _forms_of(config):
                return config
    return None


def _forms_of(config: BackboneConfig) -> list[dict[str, Form]]:
    """The tensors of a backbone, under each library's names."""
    with torch.device("meta"):
        backbone = build(config)
    forms = {name: form(tensor) for name, tensor in backbone.state_dict().items()}
    namings = [names_of(library, backbone) for library in (OURS, *LIBRARIES)]
    return [{name: forms[ours] for name, ours in naming.items()} for naming in namings]
