"""What a training starts from: the weights of any MODEL, or of a checkpoint of others, in a backbone
of ours; and SwAV's head and prototypes, where they stand beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from seer.backbones import BackboneConfig, canonical
from seer.backbones.base import Backbone
from seer.backbones.libraries import Foreign
from seer.errors import InputError
from seer.interop import swav_heads
from seer.interop.foreign import Pooled
from seer.interop.identify import Contents, Fitted, contents, fit_to, identify
from seer.interop.models import Model, load_model
from seer.interop.native import read_heads
from seer.interop.opening import open_published, own_file
from seer.interop.published import Published, of_tensors
from seer.interop.spec import OURS, is_weights
from seer.interop.weights import check_forms, form, listed, load_partly, load_strictly

PUBLISHED_STRIDE = 2  # of every stem in timm and torchvision


@dataclass(frozen=True)
class Start:
    """What a training was given.

    Attributes:
        summary: what it was, in a few words.
        mean, std: of the channels of the images that it was trained on, where that is known.
        taken: which of the heads that were asked for came along.
        advice: the options with which the source's heads would; "" if it has none, or they did.
    """

    summary: str
    mean: list[float] | None = None
    std: list[float] | None = None
    taken: frozenset[str] = field(default_factory=frozenset)
    advice: str = ""


def load_initial(
    backbone: Backbone,
    source: str,
    beside: Mapping[str, nn.Module] | None = None,
    partial: bool = False,
) -> Start:
    """Copy the weights that `source` names into `backbone`: all of its tensors and no others.

    Args:
        source: as `load_model` takes it; or a checkpoint of others, whose tensors go by one of
            `layouts.NAMINGS`. Classifiers are left aside.
        beside: SwAV's `head` and `prototypes`, which are filled where the source has the same.
        partial: of a checkpoint of others, take the tensors that fit and leave the rest as they are.

    Raises:
        InputError: in one line, what is wrong with it; of another architecture, the `backbone.name` that would fit.
    """
    path = Path(source)
    own = own_file(path)
    if own is None and is_weights(path):
        if isinstance(backbone, Foreign):
            raise InputError(
                f"{source}: by which names its tensors go is for the library to say; give "
                f"init={backbone.config.name}:FILE"
            )
        return _load_published(backbone, path, beside or {}, partial)
    model = load_model(source)
    if isinstance(model.backbone, Pooled) and isinstance(backbone, Foreign):
        return _take_over(backbone, model, source)
    if isinstance(model.backbone, Pooled):
        library = model.backbone.name.partition(":")[0]
        published = of_tensors(model.backbone.network.state_dict(), path)
        forms = published.forms
        fitted = fit_to(backbone, published, Contents(forms, {}, []), library)
        _check(backbone, fitted, source, [PUBLISHED_STRIDE], model.backbone.name)
        load_strictly(backbone, fitted.tensors(), source)
        summary = f"{len(forms):,} tensors of {source} → backbone, its classifier left aside"
        return Start(summary, model.mean, model.std)
    assert isinstance(model.backbone, Backbone)
    _check_same(model.backbone.config, backbone.config, source)
    tensors = model.backbone.state_dict()
    load_strictly(backbone, tensors, source)
    which = f" ({model.label})" if model.run_dir else ""
    summary = f"{len(tensors):,} tensors of {source}{which} → backbone"
    start = Start(summary, model.mean, model.std)
    if own is None or not beside:
        return start
    kept = read_heads(own)
    forms = {name: form(tensor) for name, tensor in kept.items()}
    return _with_heads(start, beside, Published(forms, kept.__getitem__), source)


def _take_over(backbone: Foreign, model: Model, source: str) -> Start:
    """The tensors of a network of the same library."""
    assert isinstance(model.backbone, Pooled)
    if model.backbone.name.split(".")[0] != backbone.config.name.split(".")[0]:
        raise InputError(
            f"{source}: holds another backbone than this run's; set backbone.name={model.backbone.name}"
        )
    tensors = model.backbone.network.state_dict()
    load_strictly(backbone.network, tensors, source)
    which = f" ({model.label})" if model.run_dir else ""
    summary = f"{len(tensors):,} tensors of {source}{which} → backbone"
    return Start(summary, model.mean, model.std)


def _load_published(
    backbone: Backbone, path: Path, beside: Mapping[str, nn.Module], partial: bool
) -> Start:
    """A checkpoint that says nothing of what it is but by the names of its tensors."""
    published = open_published(path)
    found = contents(published.forms)
    fitted = fit_to(backbone, published, found)
    stride = backbone.config.stem_stride
    if partial:
        agreeing, rest = _agreeing(backbone, fitted, path)
        load_partly(backbone, fitted.tensors(agreeing), path)
        count = f"{len(agreeing):,} of {len(backbone.state_dict()):,}"
    else:
        _check(backbone, fitted, str(path), [stride, 3 - stride])
        load_strictly(backbone, fitted.tensors(), path)
        count = f"{len(found.trunk):,}"
        rest = ""
    summary = f"{count} tensors of {path} ({fitted.library}'s names) → backbone{rest}"
    if found.aside:
        summary += f", {' and '.join(found.aside)} left aside"
    if stride != PUBLISHED_STRIDE and fitted.library != OURS:
        summary += f", taken as of stem_stride={stride}"
    images = published.images
    start = Start(summary, images.get("mean"), images.get("std"))
    theirs = found.heads
    forms = {name: published.forms[key] for name, key in theirs.items()}
    kept = Published(forms, lambda name: published.read(theirs[name]))
    return _with_heads(start, beside, kept, str(path))


def _with_heads(
    start: Start, beside: Mapping[str, nn.Module], kept: Published, source: str
) -> Start:
    """Fill what stands beside the backbone, and add to the summary what became of a source's heads."""
    if not kept.forms:
        return start
    words = sorted({name.partition(".")[0] for name in kept.forms})
    taken = swav_heads.fill(beside, kept, source)
    summary = start.summary
    for word in taken:
        count = sum(name.startswith(f"{word}.") for name in kept.forms)
        summary += f", {count} → {word}"
    aside = [word for word in words if word not in taken]
    if aside:
        summary += f", its {' and '.join(aside)} left aside"
    advice = swav_heads.options(kept.forms) if aside and beside else ""
    return Start(summary, start.mean, start.std, frozenset(taken), advice)


def _agreeing(backbone: Backbone, fitted: Fitted, path: Path) -> tuple[list[str], str]:
    """The tensors that are the backbone's in name and shape; and what is missing and left aside."""
    expected = {name: form(tensor) for name, tensor in backbone.state_dict().items()}
    forms = fitted.forms
    agreeing = [name for name in expected if forms.get(name) == expected[name]]
    if not any(fitted.names[name] for name in agreeing):
        raise InputError(f"{path}: no tensor of it fits {backbone.config.name}, not even in part")
    missing = [name for name in expected if forms.get(name) != expected[name]]
    others = [name for name in forms if name not in agreeing]
    rest = f", {listed(missing)} start new" if missing else ""
    rest += f", {listed(others)} left aside" if others else ""
    return agreeing, rest


def _check(
    backbone: Backbone, fitted: Fitted, source: str, strides: list[int], name: str = ""
) -> None:
    """Raise `InputError` unless a network whose stem has one of the strides is `backbone`.

    Args:
        name: of the network in its library, where that is known.
    """
    try:
        check_forms(backbone, fitted.forms, source)
    except InputError as error:
        theirs = {name: fitted.published.forms[name] for name in fitted.names.values() if name}
        fitting = identify(theirs, strides)
        advice = _advice(fitting[0] if fitting else None, backbone.config, name)
        raise InputError(f"{error}; {advice}") from None
    if backbone.config.stem_stride not in strides:
        (stride,) = strides
        raise InputError(
            f"{source}: its stem has stride {stride}; set backbone.stem_stride={stride}"
        )


def _check_same(given: BackboneConfig, wanted: BackboneConfig, source: str) -> None:
    if changes := _changes(given, wanted):
        raise InputError(f"{source}: holds another backbone than this run's; set {changes}")


def _advice(fitting: BackboneConfig | None, wanted: BackboneConfig, name: str) -> str:
    if fitting is None and name:
        return f"set backbone.name={name}"
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
