"""Crops on the device: decoding, cutting and altering 2×224 + 4×96 of each photograph, by the fused
kernels and by plain torch.

`ms` is until the device has finished, `host_ms` how long Python was busy (the median of both).
`gb` are the bytes that have to be moved at least, and `of_copy` is how near that comes to a plain
copy on the same device.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch import Tensor

from seer.data.crops.augment import augment_batch, augment_plain
from seer.data.crops.device import cut_plain, decoded, encode, pixels, size_of_plain
from seer.data.crops.draws import IDENTITY, Appearance, Boxes, Op
from seer.data.crops.executors import kernels_for
from seer.data.crops.multicrop import DEFAULT_VIEWS, MultiCrop, View
from seer.quickstart.pictures import photographs

STEP_MS = 140.0  # of a ResNet-50 with 256 samples on an H100, at the rate that we aim at
AIM = 0.05  # of that step
SIDES = (375, 500)  # of most photographs on the web, as ImageNet has them
TINY = {"large": View(size=24, count=2), "small": View(size=12, count=4, scale=[0.05, 0.14])}
Timing = dict[str, float]


def rows(options: Any) -> Iterator[dict[str, Any]]:
    device = torch.device(options.device)
    count = 4 if options.small else 256
    rounds = 2 if options.small else 12
    crops = MultiCrop(TINY if options.small else DEFAULT_VIEWS, seed=0, finish=False)
    sizes = [resolution.size for resolution in crops.resolutions]
    speed = copy_speed(device, 2**20 if options.small else 2**29, rounds)
    yield {"what": "copy", "gb_per_s": speed}

    jpegs = jpegs_of(options.data, count)
    encoded = encode(jpegs, crops, np.zeros(count, np.int64), np.arange(count))
    encoded = encoded.pin_memory() if device.type == "cuda" else encoded
    packed = [image for image in encoded.images if image.ndim == 1]
    timing = timed(lambda: decoded(packed, device), device, rounds)
    yield {
        "what": "decode",
        "images": len(packed),
        "images_per_s": 1e3 * len(packed) / timing["ms"],
        **timing,
    }

    began = time.perf_counter()
    kernels = kernels_for(device)
    yield {"what": "kernels", "fused": kernels is not None, "s": time.perf_counter() - began}
    images = pixels(encoded.images, device)

    def figures(what: str, timing: Timing, gb: float) -> dict[str, Any]:
        rate = 1e3 * count / timing["ms"]
        of_copy = 1e3 * gb / timing["ms"] / speed
        return {"what": what, "images_per_s": rate, **timing, "gb": gb, "of_copy": of_copy}

    cutters = {"cut, plain": cut_plain} | ({"cut, fused": kernels.cut} if kernels else {})
    groups = {}
    for name, cutter in cutters.items():
        timing = timed(lambda cutter=cutter: cutter(images, encoded.boxes, sizes), device, rounds)
        groups[name] = cutter(images, encoded.boxes, sizes)
        yield figures(name, timing, cut_bytes(encoded.boxes, sizes) / 1e9)
    if kernels:
        yield {"what": "cut, fused to plain", **difference(*groups.values())}

    pairs = list(zip(groups["cut, plain"], encoded.looks, strict=True))
    augmenters = {"alter, plain": augment_plain}
    augmenters |= {"alter, fused": augment_batch} if kernels else {}
    altered = {}
    for name, augment in augmenters.items():

        def alter(augment: Callable[..., Tensor] = augment) -> list[Tensor]:
            return [augment(group, looks, crops.normalise) for group, looks in pairs]

        timing = timed(alter, device, rounds)
        altered[name] = alter()
        yield figures(name, timing, sum(alter_bytes(*pair) for pair in pairs) / 1e9)
    if kernels:
        levels = 255 * max(crops.normalise.std)
        yield {"what": "alter, fused to plain", **difference(*altered.values(), levels)}
    altered.clear()

    def both() -> None:
        cutter = kernels.cut if kernels else cut_plain
        for group, looks in zip(cutter(images, encoded.boxes, sizes), encoded.looks, strict=True):
            augment_batch(group, looks, crops.normalise)

    timing = timed(both, device, rounds)
    share = timing["ms"] / STEP_MS
    yield {"what": "cut and alter", **timing, "share_of_step": share, "aim": AIM}


def timed(call: Callable[[], Any], device: torch.device, rounds: int) -> Timing:
    """The median of as many calls, after two that do not count; each begins on an idle device."""
    whole = []
    host = []
    for _ in range(2 + rounds):
        wait(device)
        began = time.perf_counter()
        call()
        host.append(time.perf_counter() - began)
        wait(device)
        whole.append(time.perf_counter() - began)
    return {
        "ms": 1e3 * statistics.median(whole[2:]),
        "host_ms": 1e3 * statistics.median(host[2:]),
        "first_ms": 1e3 * whole[0],
    }


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_speed(device: torch.device, size: int, rounds: int) -> float:
    """GB/s of a copy on the device, what is read and what is written together."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / 1e6 / timed(lambda: target.copy_(source), device, rounds)["ms"]


def jpegs_of(folder: Path | None, count: int) -> list[bytes]:
    """Photographs of the folder, or parts of those that scikit-image and scikit-learn bring."""
    if folder:
        paths = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")
        )
        photographs_there = [path.read_bytes() for path in paths]
        plain = [jpeg for jpeg in photographs_there if size_of_plain(jpeg)]
        return [plain[i % len(plain)] for i in range(count)]
    sources = list(photographs().values())
    rng = np.random.default_rng(0)
    return [part(sources[i % len(sources)], rng) for i in range(count)]


def part(source: np.ndarray, rng: np.random.Generator) -> bytes:
    """Some three quarters of a photograph, as large as most are on the web, upright or lying."""
    height, width = source.shape[:2]
    rows_kept = int(0.75 * height)
    columns_kept = int(0.75 * width)
    top, left = rng.integers(0, (height - rows_kept + 1, width - columns_kept + 1))
    cutting = source[top : top + rows_kept, left : left + columns_kept]
    size = SIDES if rng.random() < 0.25 else SIDES[::-1]
    resized = cv2.resize(cutting, size, interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(resized), quality=90, colorsubsampling="420")


def cut_bytes(boxes: tuple[Boxes, ...], sizes: list[int]) -> int:
    """Each box read once, each crop written."""
    read = sum(int(each.box[:, 2:].prod(1).sum()) for each in boxes)
    written = sum(len(each.flip) * size**2 for each, size in zip(boxes, sizes, strict=True))
    return 3 * (read + written)


def alter_bytes(crops: Tensor, looks: Appearance) -> int:
    """Levels read, once more for the mean of contrast; values written, twice more and read twice
    for a blur.
    """
    values = crops[0].numel()
    contrast = int((looks.factors[:, Op.CONTRAST] != IDENTITY[Op.CONTRAST]).sum())
    blurred = int((looks.sigma > 0).sum())
    return values * (len(crops) * (1 + 4) + contrast + blurred * 4 * 4)


def difference(ours: list[Tensor], plain: list[Tensor], levels: float = 1.0) -> dict[str, float]:
    """The largest, in levels, and the share of values that differ by more than 0.01 of one."""
    largest = 0.0
    differing = 0
    for a, b in zip(ours, plain, strict=True):
        for own, theirs in zip(a.split(64), b.split(64), strict=True):
            gap = (own.float() - theirs.float()).abs() * levels
            largest = max(largest, float(gap.max()))
            differing += int((gap > 0.01).sum())
    total = sum(a.numel() for a in ours)
    return {"max_levels": largest, "differing": differing / total}
