"""MODEL, the word of the command line: anything that can be evaluated, from one line of text."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seer.backbones import BackboneConfig, build, canonical
from seer.backbones.base import Backbone
from seer.backbones.libraries import Foreign
from seer.config import config_hash, incidental, read
from seer.data.crops.multicrop import IMAGENET_MEAN, IMAGENET_STD
from seer.data.folders import readable
from seer.data.options import LoaderConfig
from seer.engine.checkpoint.header import check_file
from seer.engine.options import RunConfig
from seer.errors import InputError
from seer.inputs import read_json, read_yaml
from seer.interop.foreign import Pooled
from seer.interop.identify import Fitted, contents, fit_to, identify, refuse_unknown
from seer.interop.native import (
    BACKBONE,
    MEAN,
    SIZE,
    STD,
    backbone_config,
    read_backbone,
    save_backbone,
)
from seer.interop.opening import open_published, own_file
from seer.interop.published import Published
from seer.interop.spec import (
    INIT,
    RANDOM,
    check_form,
    is_weights,
    library_of,
    split,
    weights_of,
    without_size,
)
from seer.interop.weights import check_finite, load_strictly, reason
from seer.rundir.names import CONFIG, HEADER
from seer.schema import DIGEST, Integer, MapOf, MismatchError, Record

__all__ = ["Model", "load_backbone", "load_model", "save_backbone"]

# What a model needs of a run's configuration, and of a checkpoint's header.
NEEDED = Record(
    {
        "backbone": BACKBONE,
        "views": MapOf(Record({"size": SIZE, "count": Integer(0)})),
        "mean": MEAN,
        "std": STD,
        "seed": Integer(),
    }
)
# Keys that change nothing of what is learned, of whatever is trained on images that a `Loader`
# delivers.
FREE = incidental(RunConfig) | incidental(LoaderConfig, "loader.") | {"score"}
SUMS = Record({}, {"files": MapOf(Record({}, {"sha256": DIGEST}))})

# Where a checkpoint does not say on what images it was trained.
PUBLISHED_IMAGES: dict[str, Any] = {
    "size": 224,
    "mean": list(IMAGENET_MEAN),
    "std": list(IMAGENET_STD),
}


@dataclass
class Model:
    """A backbone, and what its images and its results need.

    Attributes:
        backbone: maps `(B, 3, H, W)` to `(B, out_dim)`; has `out_dim`; in eval mode.
        label: what reports call it.
        size: side of its images in pixels.
        mean, std: of the images' channels, in [0, 1].
        config_hash: twelve hex digits naming the configuration it comes from.
        run_dir: its run, if it has one.
    """

    backbone: nn.Module
    label: str
    size: int
    mean: list[float]
    std: list[float]
    config_hash: str
    run_dir: Path | None = None


def load_model(spec: str) -> Model:
    """The model that `spec` names.

    Args:
        spec: RUN (its newest checkpoint) | RUN:step-100 | RUN:random (same architecture and seed, untrained) |
            RUN:init (the weights that it began with) | FILE or FOLDER of weights, ours or published |
            BACKBONE:random | timm:NAME[:WEIGHTS] |
            torchvision:NAME[:WEIGHTS]. WEIGHTS is `pretrained` (the default), `random`, or a local file. @64 behind any
            of them: of images of 64 px, which its label says, too.

    Raises:
        InputError: in one line, what is wrong with the spec or the file, and what to do.
    """
    check_form(spec)
    spec, size = without_size(spec)
    if library := library_of(spec):
        name, _, weights = spec.removeprefix(f"{library}:").partition(":")
        model = _load_foreign(library, name, weights)
    else:
        model = _load_own(spec)
    check_finite(model.backbone.state_dict(), spec)
    if isinstance(model.backbone, Foreign):  # it is measured as any other of its library
        own = model.backbone
        model = replace(model, backbone=Pooled(own.network, own.out_dim, own.config.name))
    model.backbone.eval()
    return replace(sized(model, size), label=f"{model.label}@{size}") if size else model


def sized(model: Model, size: int) -> Model:
    """The model with another side of its images in pixels, if that is not 0. Raises `InputError` if
    it takes none.
    """
    if size < 0:
        raise InputError(f"size={size}: give pixels, or 0 for the model's own {model.size}")
    if size in (0, model.size):
        return model
    try:
        with torch.inference_mode():
            model.backbone(torch.zeros(1, 3, size, size))
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # what networks raise that are made for one size
        raise InputError(
            f"size={size}: {model.label} takes no images of that size ({reason(error)})"
        ) from None
    return replace(model, size=size)


def load_backbone(source: Path | str) -> tuple[Backbone, dict[str, Any]]:
    """A trained backbone and its file's metadata, from a run (`RUN`, `RUN:step-100`) or an exported
    file.
    """
    path, part = split(str(source))
    if not os.path.exists(path):
        raise InputError(f"{source}: no such run directory or exported file")
    return read_backbone(path if path.is_file() else _checkpoint(path, part))


def _load_own(spec: str) -> Model:
    path, part = split(spec)
    if own := own_file(path):
        return _load_file(own)
    if is_weights(path):
        return _load_published(path)
    if os.path.isdir(path):
        return _load_run(path, part)
    return _load_untrained(str(path))


def _load_run(run: Path, part: str) -> Model:
    config = _run_config(run)
    expected = backbone_config(config["backbone"], f"{run}/{CONFIG}")
    digest = config_hash(config, FREE)
    name = readable(run.name)
    if part in (RANDOM, INIT):
        sizes = [view["size"] for view in config["views"].values() if view["count"]]
        backbone: nn.Module
        if part == INIT:
            backbone = _beginning(run, config, expected)
            label = f"{name} {INIT}"
        else:
            backbone = _untrained(expected, config["seed"])
            label = f"{name} untrained"
        return Model(backbone, label, max(sizes), config["mean"], config["std"], digest, run)
    file = _checkpoint(run, part)
    backbone, about = read_backbone(file)
    _check_architecture(file, backbone, expected)
    return Model(
        backbone,
        f"{name} {file.parent.name}",
        about["size"],
        about["mean"],
        about["std"],
        digest,
        run,
    )


def _beginning(run: Path, config: dict[str, Any], expected: BackboneConfig) -> nn.Module:
    """The network as the weights that a run's `init` names make it."""
    source = config.get("init")
    if not source:
        raise InputError(
            f"{run}:{INIT}: the run began with no weights; compare it with {run}:{RANDOM}"
        )
    if config.get("init_partial"):
        raise InputError(
            f"{run}:{INIT}: the run took a part of {source}, and the rest at random, which is not kept"
        )
    network = load_model(source).backbone
    if not isinstance(network, Backbone):  # timm's or torchvision's, as it is
        return network
    # A file of weights does not tell the stride of its stem, which the run knows.
    backbone = _untrained(expected, config["seed"])
    load_strictly(backbone, network.state_dict(), source)
    return backbone


def _load_file(path: Path) -> Model:
    backbone, about = read_backbone(path)
    digest = about.get("config_hash") or config_hash(about)
    label = about.get("label") or readable(str(path))
    return Model(backbone, label, about["size"], about["mean"], about["std"], digest)


def _load_published(path: Path) -> Model:
    """A checkpoint of others, which tells by its tensors alone what it is."""
    published = open_published(path)
    backbone, fitted = identified(published, path)
    load_strictly(backbone, fitted.tensors(), path, assign=True)
    digest = config_hash({"model": str(path), "backbone": backbone.config.name})
    images = {**PUBLISHED_IMAGES, **published.images}
    return Model(backbone, readable(path.name), config_hash=digest, **images)


def identified(published: Published, path: Path) -> tuple[Backbone, Fitted]:
    """The backbone, without memory, whose tensors a checkpoint has, and these under its names.
    Raises `InputError` where there is none.
    """
    found = contents(published.forms)
    fit = identify(found.trunk)
    if fit is None:
        refuse_unknown(found.trunk, path)
    config, library = fit
    with torch.device("meta"):
        backbone = build(config)
    return backbone, fit_to(backbone, published, found, library)


def _load_untrained(name: str) -> Model:
    config = BackboneConfig(canonical(name))
    about = {"backbone": config.name, "weights": "random"}
    mean = list(IMAGENET_MEAN)
    std = list(IMAGENET_STD)
    return Model(
        _untrained(config, 0), f"{config.name} untrained", 224, mean, std, config_hash(about)
    )


def _load_foreign(library: str, name: str, weights: str) -> Model:
    from seer.interop import timm, torchvision  # here: slow to import, and timm is an extra

    weights = weights or "pretrained"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone, images = {"timm": timm.load, "torchvision": torchvision.load}[library](
            name, weights
        )
    label = f"{library}:{name}:{weights}"
    return Model(backbone, label, config_hash=config_hash({"model": label}), **images)


def _untrained(config: BackboneConfig, seed: int) -> Backbone:
    with torch.device("meta"):
        parameters = build(config).parameters()
    needed = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise InputError(
            f"{config.name}: {needed:,} bytes of weights do not fit into this machine's {memory:,}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def _checkpoint(run: Path, part: str) -> Path:
    """The backbone file of a run, intact: that of `step-N`, or the newest."""
    file = weights_of(run, part)
    if (file.parent / HEADER).exists():
        read_json(file.parent / HEADER, SUMS)
    check_file(file)
    return file


def _run_config(run: Path) -> dict[str, Any]:
    path = run / CONFIG
    # A bounded file of keys and values, before anything interprets them.
    read_yaml(path, Record({}))
    config = read(path)
    try:
        NEEDED.check(config)
        if not any(view["count"] for view in config["views"].values()):
            raise MismatchError("views", "none has a count above 0")
    except MismatchError as error:
        raise InputError(
            f"{path}: its backbone, views, mean, std and seed are not all there: {error}"
        ) from None
    return config


def _check_architecture(file: Path, backbone: Backbone, expected: BackboneConfig) -> None:
    found, wanted = (
        f"{canonical(c.name)} with stem_stride={c.stem_stride}" for c in (backbone.config, expected)
    )
    if found != wanted:
        raise InputError(f"{file}: holds {found}, and {wanted} is wanted")
