"""Images through a frozen backbone, once: decoded in threads, computed in batches, kept on disk."""

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seer import files
from seer.data.crops import centre_crop
from seer.data.labelled import Labelled
from seer.errors import InputError, nearest
from seer.interop.models import Model
from seer.schema import DEVICE, Choice, Integer, option

T = TypeVar("T")
R = TypeVar("R")

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SMALL = 64  # px; models of such images see them whole


@dataclass
class FeatureConfig:
    """How features are computed; every task has these options.

    Attributes:
        batch_size: images per pass through the backbone.
        threads: decoding threads.
        precision: `fp32` or `bf16` (autocast).
        device: `auto`, `cpu` or `cuda`.
        size: side of the images in pixels; 0 is what the model was trained at.
        cache: keep features under `$SEER_CACHE` (default ~/.cache/seer) and reuse them.
    """

    batch_size: int = option(128, Integer(1, 2**20))
    threads: int = option(2, Integer(1, 1024))
    precision: str = option("fp32", Choice("fp32", "bf16"))
    device: str = option("auto", DEVICE)
    size: int = option(0, Integer(0, 4096))
    cache: bool = True


class Images(Protocol):
    """Numbered images, `(H, W, 3)` uint8."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray: ...


def extract(model: Model, data: Labelled, config: FeatureConfig, name: str = "images") -> Tensor:
    """The features of all images, `(N, D)` float32 on the CPU, from the cache if it has them.

    Raises:
        InputError: an option is wrong.
    """
    path = cache_path(model, data, config) if config.cache else None
    if path and path.is_file():
        with suppress(Exception):  # a damaged cache file is computed anew
            return load_file(path)["features"]
    parts = stream(model, len(data), lambda rows: stack([data.image(i) for i in rows], model.size), config, name)
    features = torch.cat(list(parts))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as beside:
            save_file({"features": features}, beside)
    return features


def stream(
    model: Model, count: int, load: Callable[[list[int]], Tensor], config: FeatureConfig, name: str
) -> Iterator[Tensor]:
    """Features `(n, D)` of images 0 … count − 1, batch by batch, on the CPU.

    Args:
        load: numbers of images → their pixels `(n, S, S, 3)` uint8; called in threads.
    """
    backbone, device = frozen(model, config), pick_device(config.device)
    batches = [rows.tolist() for rows in torch.arange(count).split(config.batch_size)]
    for pixels in watch(in_threads(load, batches, config.threads), len(batches), name):
        if len(pixels):
            yield backbone(to_input(model, pixels.to(device))).cpu()


def stack(images: list[np.ndarray], size: int) -> Tensor:
    """Images of any size as `(n, size, size, 3)` uint8."""
    pixels = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        pixels[i] = whole_or_centre(image, size)
    return torch.from_numpy(pixels)


def whole_or_centre(image: np.ndarray, size: int) -> np.ndarray:
    """`(size, size, 3)`: the centre, 224 / 256 of the shorter side as on ImageNet; small images without margin."""
    return centre_crop(image, size, size if size <= SMALL else round(size * 256 / 224))


def frozen(model: Model, config: FeatureConfig) -> Callable[[Tensor], Tensor]:
    """The backbone as a function from normalised images `(B, 3, S, S)` to features `(B, D)` float32 on the device."""
    if config.precision not in PRECISIONS:
        raise InputError(f"precision: '{config.precision}' is unknown{nearest(config.precision, PRECISIONS)}")
    device, dtype = pick_device(config.device), PRECISIONS[config.precision]
    network = model.backbone.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def run(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return network(x).float()

    return run


def to_input(model: Model, pixels: Tensor) -> Tensor:
    """`(B, S, S, 3)` uint8 → `(B, 3, S, S)` float32 (channels last in memory), normalised as the model wants it."""
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (model.mean, model.std))
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std


def pick_device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise InputError(
            f"device={name} is not there; use auto, cpu" + (" or cuda" if torch.cuda.is_available() else "")
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def cache_path(model: Model, data: Labelled, config: FeatureConfig) -> Path:
    """Where the features of this very network on these very images lie."""
    root = Path(os.environ.get("SEER_CACHE", "~/.cache/seer")).expanduser()
    key = [weights_hash(model.backbone), data.fingerprint, model.size, [*model.mean], [*model.std], config.precision]
    return root / "features" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.safetensors"


def weights_hash(network: nn.Module) -> str:
    """A hash of a network's structure, parameters and buffers."""
    digest = hashlib.blake2b(repr(network).encode(), digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def in_threads(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """`map` over threads in order, never more than a few results ahead."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = deque(pool.submit(function, item) for item in items[: 2 * threads])
        for i in range(len(items)):
            result = ahead.popleft().result()
            if i + 2 * threads < len(items):
                ahead.append(pool.submit(function, items[i + 2 * threads]))
            yield result


def watch(items: Iterable[T], total: int, name: str) -> Iterator[T]:
    """The items, with a progress bar on a terminal and a line every ten seconds in a log, both on stderr."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, name, total, console=console, transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"{name}: {done} of {total}", file=sys.stderr, flush=True)
