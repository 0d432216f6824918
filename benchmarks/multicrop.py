"""Images/s of 2×224 + 4×96 multi-crop with SwAV's augmentation on one core, from JPEG bytes,
against other libraries.

    python benchmarks/multicrop.py PHOTOS [--images N --rounds N --core N] [--json FILE]

PHOTOS is a folder of JPEG photographs, of which those of 500 to 1024 pixels (the longer side) are
used. Everyone gets the same bytes, and all take turns: the peers, `decoding` (simplejpeg, whole
pictures, nothing else), and seer in its two modes, finished fp32 crops, and uint8 crops whose
colours are left to the accelerator. A peer that is not installed is left out, and said to be. Rates
are per second of processor time, which other work on the machine disturbs least.
"""

import argparse
import io
import os
import random
import time
import warnings
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from harness import arguments, figure, interleaved, report
from PIL import Image, ImageFilter
from torchvision import io as vision_io
from torchvision import transforms as v1
from torchvision.transforms import v2

from seer.data.crops.multicrop import DEFAULT_VIEWS, IMAGENET_MEAN, IMAGENET_STD, MultiCrop
from seer.data.decoding.decode import decode, shape

JPEGS = list[bytes]
Contestant = Callable[[], Any]
CROPS = [
    (view.size, tuple(view.scale)) for view in DEFAULT_VIEWS.values() for _ in range(view.count)
]
SIGMAS = (0.1, 2.0)
KERNEL = 23  # pixels: SwAV's, a tenth of the large crop
BATCH = 32


def over(jpegs: JPEGS, one: Callable[[bytes], Any]) -> Contestant:
    """A contestant that knows no batches."""
    return lambda: [one(data) for data in jpegs]


# ---- ours ------------------------------------------------------------------------------------------------------------


def seer(jpegs: JPEGS, finish: bool) -> Contestant:
    """As a loader's worker does it; another epoch in each turn, as the peers' random numbers go on
    as well.
    """
    crops, epochs = MultiCrop(DEFAULT_VIEWS, seed=0, finish=finish), iter(range(10**6))

    def run() -> None:
        epoch = next(epochs)
        for start in range(0, len(jpegs), BATCH):
            batch = jpegs[start : start + BATCH]
            ids = np.arange(start, start + len(batch))
            plan = crops.plan([shape(data) for data in batch], np.full(len(batch), epoch), ids)
            for b, data in enumerate(batch):
                plan.cut(b, decode(data, reduction=plan.reductions[b]))
            plan.batch()

    return run


# ---- peers, each as its documentation or its recipe has it -----------------------------------------------------------


def pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def blur_with_opencv(image: Image.Image) -> Image.Image:
    return Image.fromarray(
        cv2.GaussianBlur(np.asarray(image), (KERNEL, KERNEL), random.uniform(*SIGMAS))
    )


def blur_with_pillow(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(*SIGMAS)))


def on_pillow_images(jpegs: JPEGS, blur: Callable[[Image.Image], Image.Image]) -> Contestant:
    """torchvision's first transforms on Pillow images: SwAV's pipeline, and VISSL's, which differ
    in who blurs.
    """
    pipelines = [
        v1.Compose(
            [
                v1.RandomResizedCrop(size, scale=scale),
                v1.RandomHorizontalFlip(),
                v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                v1.RandomGrayscale(0.2),
                v1.RandomApply([v1.Lambda(blur)], p=0.5),
                v1.ToTensor(),
                v1.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        for size, scale in CROPS
    ]

    def one(data: bytes) -> list[torch.Tensor]:
        image = pillow(data)
        return [pipeline(image) for pipeline in pipelines]

    return over(jpegs, one)


def torchvision_v2(jpegs: JPEGS) -> Contestant:
    pipelines = [
        v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=scale, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(KERNEL, SIGMAS)], p=0.5),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        for size, scale in CROPS
    ]

    def one(data: bytes) -> list[torch.Tensor]:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = vision_io.decode_jpeg(encoded, mode=vision_io.ImageReadMode.RGB)
        return [pipeline(image) for pipeline in pipelines]

    return over(jpegs, one)


def lightly(jpegs: JPEGS) -> Contestant:
    from lightly.transforms import SwaVTransform

    sizes, counts = zip(*((view.size, view.count) for view in DEFAULT_VIEWS.values()), strict=True)
    low, high = zip(*(view.scale for view in DEFAULT_VIEWS.values()), strict=True)
    transform = SwaVTransform(
        crop_sizes=sizes, crop_counts=counts, crop_min_scales=low, crop_max_scales=high
    )
    return over(jpegs, lambda data: transform(pillow(data)))


def albumentations(jpegs: JPEGS) -> Contestant:
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    factors = (0.2, 1.8)
    pipelines = [
        A.Compose(
            [
                A.RandomResizedCrop(size=(size, size), scale=scale),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(
                    brightness=factors, contrast=factors, saturation=factors, hue=(-0.2, 0.2), p=0.8
                ),
                A.ToGray(p=0.2),
                A.GaussianBlur(blur_limit=(KERNEL, KERNEL), sigma_limit=SIGMAS, p=0.5),
                A.Normalize(IMAGENET_MEAN, IMAGENET_STD),
                ToTensorV2(),
            ]
        )
        for size, scale in CROPS
    ]

    def one(data: bytes) -> list[Any]:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        return [pipeline(image=image) for pipeline in pipelines]

    return over(jpegs, one)


def dali(jpegs: JPEGS) -> Contestant:
    """DALI fixes the order of the jitter's operations, and has no conditions: every crop is
    jittered and blurred.
    """
    from nvidia.dali import fn, pipeline_def, types

    stream = cycle(np.frombuffer(data, np.uint8) for data in jpegs)
    batch = min(BATCH, len(jpegs))

    def between(low: float, high: float):
        return fn.random.uniform(range=[low, high])

    def crop(image, size: int, scale: tuple[float, ...]):
        image = fn.random_resized_crop(image, size=size, random_area=list(scale))
        factors = {name: between(0.2, 1.8) for name in ("brightness", "contrast", "saturation")}
        image = fn.gaussian_blur(
            fn.color_twist(image, hue=between(-72, 72), **factors), sigma=between(*SIGMAS)
        )
        mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
        flip = fn.random.coin_flip()
        return fn.crop_mirror_normalize(image, dtype=types.FLOAT, mean=mean, std=std, mirror=flip)

    @pipeline_def(batch_size=batch, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        encoded = fn.external_source(
            lambda: [next(stream) for _ in range(batch)], dtype=types.UINT8
        )
        image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        return tuple(crop(image, size, scale) for size, scale in CROPS)

    built = pipeline()
    built.build()
    return lambda: [built.run() for _ in range(len(jpegs) // batch)]


PEERS: dict[str, Callable[[JPEGS], Contestant]] = {
    "swav-pil": lambda jpegs: on_pillow_images(jpegs, blur_with_opencv),
    "vissl-pil": lambda jpegs: on_pillow_images(jpegs, blur_with_pillow),
    "lightly": lightly,
    "torchvision-v2-uint8": torchvision_v2,
    "albumentations": albumentations,
    "dali-cpu": dali,
}


# ---- the run ---------------------------------------------------------------------------------------------------------


def photographs(folder: Path, count: int) -> JPEGS:
    """The same `count` photographs in every run."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    random.Random(0).shuffle(paths)
    fitting = (
        data for data in (path.read_bytes() for path in paths) if 500 <= max(shape(data)) <= 1024
    )
    return [data for data, _ in zip(fitting, range(count), strict=False)]


def contestants(jpegs: JPEGS, peers: Iterable[str]) -> dict[str, Contestant]:
    """Everyone, ours first."""
    everyone = {"finished": seer(jpegs, True), "crops only": seer(jpegs, False)}
    everyone["decoding"] = over(jpegs, simplejpeg.decode_jpeg)
    for name in peers:
        try:
            everyone[name] = PEERS[name](jpegs)
        except ImportError as error:
            print(f"  {name} is left out: {error}", flush=True)
    return everyone


def figures(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both modes of ours against all peers."""
    jpegs = photographs(options.photos, options.images)
    if not jpegs:
        raise SystemExit(f"{options.photos} has no JPEG of 500 to 1024 pixels")
    pixels = np.mean([np.prod(shape(data)) for data in jpegs])
    print(
        f"{len(jpegs)} photographs, {pixels / 1e6:.2f} megapixels and {np.mean([*map(len, jpegs)]) / 1e3:.0f} kB each"
    )
    seconds = interleaved(
        contestants(jpegs, options.peers), options.rounds, warmup=1, clock=time.process_time
    )
    rates = {name: len(jpegs) / value for name, value in seconds.items()}
    finished, crops_only = rates.pop("finished"), rates.pop("crops only")
    return [
        figure("2x224+4x96 multi-crop, finished, one core", "images/s", finished, rates),
        figure(
            "2x224+4x96 multi-crop, crops only, the rest on the accelerator, one core",
            "images/s",
            crops_only,
            rates,
        ),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    random.seed(0)
    torch.manual_seed(0)
    report(figures(options), options.json)


if __name__ == "__main__":
    main()
