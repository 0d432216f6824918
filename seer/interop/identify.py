"""Which backbone of ours a stranger's tensors are, and by whose names they go."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from seer.backbones import BACKBONES, BackboneConfig, build
from seer.backbones.base import Backbone
from seer.errors import InputError
from seer.interop.layouts import blocks_in, names_of
from seer.interop.published import Published
from seer.interop.spec import NAMINGS, OURS
from seer.interop.weights import WHOLE, Form, check_forms, form

# What stands beside a backbone in other people's files: classifiers, and the heads of SwAV's own.
HEADS = ("fc", "head", "classifier", "heads", "projection_head", "prototypes")
# SwAV's projection and prototypes; VISSL's are the first of its `heads`.
PROJECTION = re.compile(r"(?:heads\.0\.)?projection_head\.(?:(\d+)\.)?(\w+)")
PROTOTYPES = re.compile(r"(?:heads\.0\.)?prototypes(?:\.prototypes)?(\d*)\.weight")
COUNTER = "num_batches_tracked"  # of a BatchNorm; counts, and changes no feature


@dataclass(frozen=True)
class Contents:
    """A checkpoint's tensors, by what they belong to.

    Attributes:
        trunk: of the backbone, by their names there.
        heads: of SwAV's head and prototypes: our names → their names.
        aside: what else there is, in a word each.
    """

    trunk: Mapping[str, Form]
    heads: Mapping[str, str]
    aside: Sequence[str]


@dataclass(frozen=True)
class Fitted:
    """A checkpoint's tensors under the names of a backbone of ours.

    Attributes:
        names: our names → theirs; "" for a counter that the file leaves out.
        library: whose names they were.
    """

    published: Published
    names: Mapping[str, str]
    library: str

    @property
    def forms(self) -> dict[str, Form]:
        forms = self.published.forms
        return {
            name: forms[theirs] if theirs else Form((), WHOLE)
            for name, theirs in self.names.items()
        }

    def read(self, name: str) -> Tensor:
        theirs = self.names[name]
        return self.published.read(theirs) if theirs else torch.zeros((), dtype=torch.int64)

    def tensors(self, names: Iterable[str] = ()) -> dict[str, Tensor]:
        return {name: self.read(name) for name in names or self.names}


def contents(forms: Mapping[str, Form]) -> Contents:
    """Sort a checkpoint's tensors by what they belong to."""
    words = {name: name.partition(".")[0] for name in forms}
    trunk = {name: forms[name] for name, word in words.items() if word not in HEADS}
    beside = [name for name, word in words.items() if word in HEADS]
    heads = {}
    sets = 0
    for name in beside:
        if match := PROJECTION.fullmatch(name):
            heads[f"head.{match[1] or 0}.{match[2]}"] = name
        elif match := PROTOTYPES.fullmatch(name):
            heads["prototypes.weight"] = name
            sets += 1
    if sets > 1:  # several sets of prototypes, of which ours would be one
        del heads["prototypes.weight"]
    taken = set(heads.values())
    return Contents(trunk, heads, sorted({words[name] for name in beside if name not in taken}))


def fit_to(backbone: Backbone, published: Published, found: Contents, library: str = "") -> Fitted:
    """A checkpoint's tensors under the names of `backbone`, by those of a library or of whichever
    shares the most. What is not the backbone's keeps its name.
    """
    library = library or max(
        (OURS, *NAMINGS), key=lambda naming: _shared(backbone, naming, found.trunk)
    )
    names = names_of(library, backbone)
    ours = {names.get(name, name): name for name in found.trunk}
    if not any(name.endswith(COUNTER) for name in ours):
        ours |= {name: "" for name in backbone.state_dict() if name.endswith(COUNTER)}
    return Fitted(published, ours, library)


def identify(
    forms: Mapping[str, Form], strides: Sequence[int] = (2, 1)
) -> tuple[BackboneConfig, str] | None:
    """The backbone whose tensors these are, and by whose names they go; None if there is none.

    Args:
        strides: of the stem, the likelier first: a RegNet's tensors do not tell.
    """
    for config, library, theirs in _candidates(blocks_in(forms), strides):
        if forms in (theirs, _without_counters(theirs)):
            return config, library
    return None


def refuse_unknown(forms: Mapping[str, Form], source: object) -> NoReturn:
    """Raise `InputError` for tensors that are no backbone's: how they differ from the nearest."""
    pairs = set(forms.items())
    nearest = ""
    agreeing = len(pairs) // 2
    for config, library, theirs in _candidates(blocks_in(forms), (2,)):
        shared = len(pairs & set(theirs.items()))
        if shared > agreeing:
            agreeing = shared
            nearest = config.name
            naming = library
    if nearest:
        with torch.device("meta"):
            backbone = build(nearest)
        names = names_of(naming, backbone)
        check_forms(backbone, {names.get(name, name): f for name, f in forms.items()}, source)
    raise InputError(
        f"{source}: fits no backbone of seer; if it is another network, name it: "
        f"timm:NAME:{source} or torchvision:NAME:{source}"
    )


def _candidates(
    depth: int, strides: Sequence[int]
) -> Iterator[tuple[BackboneConfig, str, dict[str, Form]]]:
    """Every backbone of so many blocks under everybody's names."""
    for name, create in BACKBONES.items():
        # To build them all would take seconds.
        spec = create.args[0] if isinstance(create, partial) else None
        if getattr(spec, "depth", depth) != depth:
            continue
        for stride in strides:
            config = BackboneConfig(name, stem_stride=stride)
            with torch.device("meta"):
                backbone = build(config)
            forms = {name: form(tensor) for name, tensor in backbone.state_dict().items()}
            for library in (OURS, *NAMINGS):
                names = names_of(library, backbone)
                yield config, library, {theirs: forms[ours] for theirs, ours in names.items()}


def _without_counters(forms: Mapping[str, Form]) -> dict[str, Form]:
    return {name: form for name, form in forms.items() if not name.endswith(COUNTER)}


def _shared(backbone: Backbone, library: str, names: Iterable[str]) -> int:
    """How many of the names are those that the library gives to this backbone's tensors."""
    return len(names_of(library, backbone).keys() & set(names))
