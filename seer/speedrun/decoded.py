"""A labelled data set, decoded and in memory: what a speedrun's clock waits for."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seer.data.labelled import Labelled, splits
from seer.errors import InputError, first_line
from seer.eval.probes.features import in_threads, watch
from seer.speedrun.entry import PICKLED, pickled

TOGETHER = 500  # images of a thread's turn


@dataclass(frozen=True)
class Pixels:
    """Images `(N, H, W, 3)` uint8, and nothing that tells their classes: they are sorted by a hash
    of what they show.
    """

    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class Labels:
    """The classes, `(N,)` int64 each, of the images in their order."""

    train: Tensor
    test: Tensor
    classes: int


def read(data: Path | str) -> tuple[Pixels, Labels]:
    """Class folders or labelled shards under `data/train` and `data/test`, or CIFAR-10's own files.

    Raises:
        InputError: these are not there, an image cannot be decoded, sizes differ, the memory is too small.
    """
    folder = pickled(Path(data))
    if folder is not None:
        train, test = (_unpickled(folder, training) for training in (True, False))
        classes = 10
    else:
        sources = splits(data)
        check_memory(*sources)
        train, test = (_decoded(source) for source in sources)
        classes = len(sources[0].classes)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(
            f"{data}: training images are {_size(train[0])} and test images {_size(test[0])}; give one size"
        )
    pixels = Pixels(torch.from_numpy(train[0]), torch.from_numpy(test[0]))
    return pixels, Labels(torch.from_numpy(train[1]), torch.from_numpy(test[1]), classes)


def check_memory(train: Labelled, test: Labelled) -> None:
    """Whether this host has the memory for all images; raises `InputError`."""
    needed = train.image(0).nbytes * (len(train) + len(test))
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present // 2:
        raise InputError(
            f"the images need {needed / 2**30:.0f} GiB of memory and this host has {present / 2**30:.0f}, half of them "
            "for the images; a speedrun is for small images: use seer pretrain"
        )


def _decoded(images: Labelled) -> tuple[np.ndarray, np.ndarray]:
    shape = images.image(0).shape
    pixels = np.empty((len(images), *shape), np.uint8)

    def load(rows: np.ndarray) -> None:
        for i in rows.tolist():
            image = images.image(i)
            if image.shape != shape:
                raise InputError(
                    f"{images.source.name(i)} is {_size(image[None])} and others are {_size(pixels)}; give one size"
                )
            pixels[i] = image

    parts = np.array_split(np.arange(len(images)), -(-len(images) // TOGETHER))
    for _ in watch(in_threads(load, parts, os.cpu_count() or 1), len(parts), "decoding", "parts"):
        pass
    return _in_order(pixels, images.labels)


def _unpickled(folder: Path, training: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pickles can run code: torchvision opens them only if their hashes are those of the published
    ones.
    """
    from torchvision.datasets import CIFAR10

    try:
        published = CIFAR10(str(folder), train=training)
    except RuntimeError as error:
        raise InputError(
            f"{folder / PICKLED}: not CIFAR-10 as published ({first_line(error)}); get it again"
        ) from error
    return _in_order(published.data, np.array(published.targets))


def _in_order(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    digests = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    order = np.array(sorted(range(len(digests)), key=digests.__getitem__))
    return pixels[order], labels[order].astype(np.int64)


def _size(images: np.ndarray) -> str:
    return f"{images.shape[2]}×{images.shape[1]}"
