"""MODEL, the word of the command line: anything that can be evaluated, from one line of text."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seer.backbones import Backbone, BackboneConfig, build, canonical
from seer.config import config_hash, read
from seer.data.crops import IMAGENET_MEAN, IMAGENET_STD
from seer.engine.integrity import check_file
from seer.errors import InputError
from seer.interop.files import load_strictly, read_backbone, save_backbone

__all__ = ["Model", "load_backbone", "load_model", "save_backbone"]

FORMS = "a run directory, an exported file, BACKBONE:random, timm:NAME[:WEIGHTS] or torchvision:NAME[:WEIGHTS]"


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
            FILE.safetensors | BACKBONE:random | timm:NAME[:WEIGHTS] | torchvision:NAME[:WEIGHTS]. WEIGHTS is
            `pretrained` (the default), `random`, or a local file.

    Raises:
        InputError: in one line, what is wrong with the spec or the file, and what to do.
    """
    library, _, rest = spec.partition(":")
    if library in ("timm", "torchvision") and rest:
        model = _load_foreign(library, *rest.partition(":")[::2])
    else:
        path, part = _split(spec)
        if path.is_dir():
            model = _load_run(path, part)
        elif path.is_file():
            model = _load_file(path)
        elif part == "random":
            model = _load_untrained(str(path))
        else:
            raise InputError(f"{spec}: no such model; expected {FORMS}")
    model.backbone.eval()
    return model


def load_backbone(source: Path | str, into: Backbone | None = None) -> tuple[Backbone, dict[str, Any]]:
    """A trained backbone and its file's metadata, from a run (`RUN`, `RUN:step-100`) or an exported file.

    With `into`, the weights are copied there; `InputError` when it has another architecture.
    """
    path, part = _split(str(source))
    if not path.exists():
        raise InputError(f"{source}: no such run directory or exported file")
    file = path if path.is_file() else _checkpoint(path, part)
    backbone, about = read_backbone(file)
    if into is None:
        return backbone, about
    _check_architecture(file, backbone, into.config)
    load_strictly(into, backbone.state_dict(), file)
    return into, about


def _load_run(run: Path, part: str) -> Model:
    config = _run_config(run)
    try:
        expected = BackboneConfig(**config["backbone"])
        size = max(view["size"] for view in config["views"].values() if view["count"])
        mean, std, seed = config["mean"], config["std"], config["seed"]
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{run}/config.yaml: its backbone, views, mean, std and seed are not all there: {error}"
        ) from error
    digest = config_hash(config)
    if part == "random":
        return Model(_untrained(expected, seed), f"{run.name} untrained", size, mean, std, digest, run)
    file = _checkpoint(run, part)
    backbone, about = read_backbone(file)
    _check_architecture(file, backbone, expected)
    label = f"{run.name} {file.parent.name}"
    return Model(backbone, label, about["size"], about["mean"], about["std"], digest, run)


def _load_file(path: Path) -> Model:
    backbone, about = read_backbone(path)
    digest = about.get("config_hash") or config_hash(about)
    return Model(backbone, about.get("label", str(path)), about["size"], about["mean"], about["std"], digest)


def _load_untrained(name: str) -> Model:
    config = BackboneConfig(canonical(name))
    about = {"backbone": config.name, "weights": "random"}
    mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
    return Model(_untrained(config, 0), f"{config.name} untrained", 224, mean, std, config_hash(about))


def _load_foreign(library: str, name: str, weights: str) -> Model:
    from seer.interop import timm, torchvision  # here: slow to import, and timm is an extra

    weights = weights or "pretrained"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone, images = {"timm": timm.load, "torchvision": torchvision.load}[library](name, weights)
    label = f"{library}:{name}:{weights}"
    return Model(backbone, label, config_hash=config_hash({"model": label}), **images)


def _untrained(config: BackboneConfig, seed: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def _split(spec: str) -> tuple[Path, str]:
    """Path and what follows its colon, if it is not the path itself that has the colon."""
    head, colon, tail = spec.rpartition(":")
    return (Path(head), tail) if colon and not Path(spec).exists() else (Path(spec), "")


def _checkpoint(run: Path, part: str) -> Path:
    """The backbone file of a run, intact: that of `step-N`, or the newest."""
    found = run.glob("checkpoints/step-*/backbone.safetensors")
    files = {int(file.parent.name[5:]): file for file in found if file.parent.name[5:].isdecimal()}
    if not files:
        raise InputError(f"{run}: has no finished checkpoint; wait for the first, or use {run}:random")
    match = re.fullmatch(r"step-(\d+)", part or f"step-{max(files)}")
    file = files.get(int(match[1])) if match else None
    if file is None:
        steps = ", ".join(f"step-{step}" for step in sorted(files))
        raise InputError(f"{run}:{part}: no such checkpoint; there are {steps}, and random")
    check_file(file)
    return file


def _run_config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: not a run directory, it has no config.yaml; expected {FORMS}")
    return read(path)


def _check_architecture(file: Path, backbone: Backbone, expected: BackboneConfig) -> None:
    found, wanted = (f"{canonical(c.name)} with stem_stride={c.stem_stride}" for c in (backbone.config, expected))
    if found != wanted:
        raise InputError(f"{file}: holds {found}, and {wanted} is wanted")
