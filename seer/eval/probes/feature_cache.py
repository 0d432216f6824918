"""Features kept on disk: found by all that they depend on, and used only if every bit is as it was
written.

A cache is a convenience. Where it cannot be read, is damaged or cannot be written, one line says so
and the features are computed.
"""

import errno
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

import seer
from seer import files
from seer.data.folders import readable
from seer.errors import InputError
from seer.inputs import parse_json
from seer.interop.weights import FLOATING, Form, check_finite, open_safetensors, reason
from seer.schema import DIGEST, Choice, Integer, Record

logger = logging.getLogger("seer.eval")

FORMAT = "seer-features/1"
_memory: dict[str, Tensor] | None = None  # in place of files, where `in_memory` says so
# What a file says of itself: what it was made from, its shape, and the hash of its values.
ABOUT = Record(
    {
        "format": Choice(FORMAT),
        "key": DIGEST,
        "images": Integer(1),
        "width": Integer(1),
        "sha256": DIGEST,
    },
    extra=None,
)


def key_of(network: nn.Module, images: str, preprocessing: Sequence[Any]) -> str:
    """64 hex digits that change with whatever may change features.

    Args:
        images: fingerprint of the images and their order.
        preprocessing: how they come to be the network's input, and its precision.
    """
    parts = [
        FORMAT,
        seer.__version__,
        versions(network),
        weights_hash(network),
        images,
        list(preprocessing),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def path_of(key: str) -> Path:
    """Where the features of this key lie. Raises OSError where no folder was given and the user has
    no home.
    """
    root = os.path.expanduser(os.environ.get("SEER_CACHE") or "~/.cache/seer")
    if root.startswith("~"):
        raise FileNotFoundError(errno.ENOENT, "there is no such home folder", root)
    return Path(root, "features", f"{key[:24]}.safetensors")


@contextmanager
def in_memory() -> Iterator[None]:
    """While entered, features are kept in memory, and forgotten at its end: of a network that is
    measured once, by several tasks.
    """
    global _memory
    _memory = {}
    try:
        yield
    finally:
        _memory = None


def load(key: str, images: int) -> Tensor | None:
    """The features of this key, `(images, D)` float32; None if they are not there, or not as they
    were written.
    """
    if _memory is not None:
        return _memory.get(key)
    try:
        path = path_of(key)
        return _read(path, key, images) if os.path.lexists(path) else None
    except (InputError, OSError) as error:
        logger.warning(
            "features kept in the cache are not used, but computed anew: %s", reason(error)
        )
        return None


def store(key: str, features: Tensor) -> None:
    """Keep features `(N, D)` float32. Writers of the same key may be at it at once: each puts a
    whole file there.
    """
    if _memory is not None:
        _memory[key] = features
        return
    images, width = features.shape
    about = {
        "format": FORMAT,
        "key": key,
        "images": images,
        "width": width,
        "sha256": _sha256(features),
    }
    try:
        path = path_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as beside:
            save_file({"features": features.contiguous()}, beside, {"seer": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        logger.warning(
            "features cannot be kept (%s: %s): the next evaluation computes them again; "
            "set SEER_CACHE to a folder where you may write, or cache=false",
            readable(str(getattr(error, "filename", None) or os.environ.get("SEER_CACHE", ""))),
            reason(error),
        )


def weights_hash(network: nn.Module) -> str:
    """A hash of a network's structure, parameters and buffers."""
    digest = hashlib.blake2b(repr(network).encode(), digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def versions(network: nn.Module) -> dict[str, str]:
    """The versions of the packages whose modules a network is made of."""
    packages = {type(module).__module__.partition(".")[0] for module in network.modules()}
    return {
        name: str(getattr(sys.modules.get(name), "__version__", "")) for name in sorted(packages)
    }


def _read(path: Path, key: str, images: int) -> Tensor:
    with open_safetensors(path) as file:
        about = parse_json(file.metadata.get("seer", ""), ABOUT, str(path))
        form = Form((images, about["width"]), FLOATING)
        if about["key"] != key or about["images"] != images or file.forms != {"features": form}:
            raise InputError(f"{path}: holds other features than those of these images")
        features = file.tensor("features")
        if features.dtype != torch.float32 or _sha256(features) != about["sha256"]:
            raise InputError(f"{path}: damaged (its values are not what was written)")
        check_finite({"features": features}, path)
    return features


def _sha256(features: Tensor) -> str:
    return hashlib.sha256(_bytes(features)).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
