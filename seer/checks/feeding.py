"""What this machine can and cannot do for a run: so far, whether its cores can feed an accelerator
from given data.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch

from seer.data.crops.multicrop import DEFAULT_VIEWS, MultiCrop
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.engine.metrics import environment
from seer.errors import InputError, quoted

SAMPLES = 128


@dataclass(frozen=True)
class DataPath:
    """Milliseconds per image that one core spends on each part of 2×224+4×96 multi-crop, measured
    on real samples.

    Attributes:
        read: from the store, one reader, files perhaps cached by the system. decode: to pixels. crop: the six crops.
        augment: colour, blur and normalisation, which `loader.device_augment` moves to the accelerator.
        damaged: how many of the `samples` could not be decoded.
    """

    samples: int
    damaged: int
    megapixels: float
    read: float
    decode: float
    crop: float
    augment: float

    @property
    def limits(self) -> str:
        """The part that takes longest."""
        return max(("read", "decode", "crop", "augment"), key=lambda part: getattr(self, part))

    def rate(self, device_augment: bool) -> float:
        """Images per second and core."""
        return 1e3 / (self.read + self.decode + self.crop + (0 if device_augment else self.augment))


REMEDIES = {
    "read": "keep the shards on a local or faster disk, or raise loader.workers: waiting for a store needs no core",
    "decode": "build the shards anew with a smaller --max-side: most pixels of large photographs are cropped away",
    "crop": "use fewer or smaller views",
    "augment": "set loader.device_augment=true: the accelerator does it in batch",
}


def measure(data: str) -> DataPath:
    """Time one core on a batch from all over the data. Raises InputError as reading the data does."""
    torch.set_num_threads(1)
    manifest = Manifest.load(data)
    reader = Reader(manifest)
    count = min(SAMPLES, manifest.samples)
    ids = Order(manifest.sizes, 0, count, 256).ids(0, count)
    encoded, read = timed(lambda: reader.read(ids))
    images, decoding = timed(lambda: list(decoded(encoded)))
    if not images:
        raise InputError(
            f"{data}: none of {count} samples can be decoded; run: seer shards verify {quoted(data)}"
        )
    numbers = np.zeros(len(images), np.int64), ids[: len(images)]
    cut, finished = (MultiCrop(DEFAULT_VIEWS, 0, finish) for finish in (False, True))
    cut(images, *numbers), finished(images, *numbers)  # the first time pays for warming up
    _, cropping = timed(lambda: cut(images, *numbers))
    _, both = timed(lambda: finished(images, *numbers))
    whole = len(images)
    return DataPath(
        samples=count,
        damaged=count - whole,
        megapixels=sum(image.shape[0] * image.shape[1] for image in images) / whole / 1e6,
        read=1e3 * read / count,
        decode=1e3 * decoding / whole,
        crop=1e3 * cropping / whole,
        augment=1e3 * max(0.0, both - cropping) / whole,
    )


def decoded(encoded: Iterable[bytes]) -> Iterable[np.ndarray]:
    """The images that can be decoded."""
    for data in encoded:
        with suppress(DamagedImage):
            yield decode(data)


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = action()
    return result, time.perf_counter() - began


def lines(path: DataPath, images_per_second: float) -> list[str]:
    """The findings for a terminal; `images_per_second` is what one accelerator consumes."""
    found = [
        f"{path.samples} samples of {path.megapixels:.2f} megapixels on average, {path.damaged} damaged",
        *(f"  {part:8}{getattr(path, part):7.2f} ms per image and core" for part in REMEDIES),
    ]
    cores = environment()["cores"]
    for device in (False, True):
        rate = path.rate(device)
        need = ceil(images_per_second / rate)
        found.append(
            f"augmentation {'on the accelerator' if device else 'in the workers':19}{rate:7.0f} images/s and core: "
            f"{need} cores for one accelerator of {images_per_second:.0f} images/s; here are {cores}"
        )
    return [*found, f"most time goes to {path.limits}: {REMEDIES[path.limits]}"]
