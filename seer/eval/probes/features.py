"""Images through a frozen backbone, once: decoded in threads, computed in batches, kept on disk."""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seer.data.crops.multicrop import centre_crop, without_far_ends
from seer.data.labelled import ImageSet
from seer.distributed import on_all
from seer.errors import InputError
from seer.eval.probes import feature_cache, together
from seer.eval.probes.options import FeatureConfig
from seer.interop.models import Model
from seer.precision import autocast
from seer.schema import check_options
from seer.terminal import progress

T = TypeVar("T")
R = TypeVar("R")

SMALL = 64  # px; models of such images see them whole
LARGE = 1e12  # of a feature
# Pixels, 200 MB: of images of 4,096 px, which a model's file may ask for, 4 pass at a time.
LARGEST_BATCH = 2**26
# A number for `whole_or_centre` and `to_input`: another one when they give other pixels.
PREPROCESSING = 1


class Images(Protocol):
    """Numbered images, `(H, W, 3)` uint8."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray: ...


def extract(model: Model, data: ImageSet, config: FeatureConfig, name: str = "images") -> Tensor:
    """The features of all images, `(N, D)` float32 on the CPU, all finite; from the cache if it has
    them. Processes that measure together compute a share each, and all have the whole.

    Raises:
        InputError: an option is wrong, an image cannot be decoded, or its features are not finite.
    """
    key = cache_key(model, data, config) if config.cache else None
    if key and (kept := _kept(key, len(data))) is not None:
        return kept

    def load(rows: list[int]) -> tuple[list[int], Tensor]:
        return rows, stack([data.image(i) for i in rows], model.size, config.crop)

    batches = stream(model, len(data), load, config, name, data.source.name)
    if together.processes() > 1:
        features = together.gathered(len(data), batches, _folder(key))
    else:
        features = torch.empty(0)
        for rows, values in batches:
            if not len(features):
                features = torch.empty(len(data), values.shape[1])
            features[rows] = values
    if key and not together.number():
        feature_cache.store(key, features)
    return features


def _kept(key: str, images: int) -> Tensor | None:
    """What the cache has, if all processes that measure together find it."""
    kept = feature_cache.load(key, images)
    if together.processes() > 1 and not all(on_all(lambda: kept is not None)):
        return None
    return kept


def _folder(key: str | None) -> Path:
    """Where features are gathered: beside those that are kept, which takes as much room."""
    try:
        return feature_cache.path_of(key).parent if key else Path(tempfile.gettempdir())
    except OSError:
        return Path(tempfile.gettempdir())


def stream(
    model: Model,
    count: int,
    load: Callable[[list[int]], tuple[list[int], Tensor]],
    config: FeatureConfig,
    name: str,
    name_of: Callable[[int], str],
) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers of n images and their features `(n, D)` on the CPU, batch by batch, out of images 0 …
    count − 1; of processes that measure together each has its share of the batches.

    Args:
        load: numbers of images → the numbers of those that can be used, and their pixels `(n, S, S, 3)` uint8; called
            in threads.
        name_of: an image's name, for the error.

    Raises:
        InputError: names the first image whose features are not finite.
    """
    backbone = frozen(model, config)
    device = together.own_device(config.device)
    size = max(1, min(config.batch_size, LARGEST_BATCH // model.size**2))
    batches = [rows.tolist() for rows in torch.arange(count).split(size)]
    batches = batches[together.number() :: together.processes()]
    loaded = in_threads(load, batches, max(1, config.threads // together.processes()))
    for rows, pixels in watch(loaded, len(batches), name, "batches"):
        if rows:
            inputs = to_input(model, pixels.to(device))
            features = backbone(inputs).cpu()
            check_finite(features, rows, name_of, model)
            yield rows, features


def check_finite(
    features: Tensor, rows: Sequence[int], name_of: Callable[[int], str], model: Model
) -> None:
    """Raise `InputError` if the features `(n, D)` of the images `rows` are not all finite: they
    mean nothing.
    """
    wrong = (~torch.isfinite(features)).any(1).nonzero()[:, 0]
    if len(wrong):
        first = name_of(rows[int(wrong[0])])
        raise InputError(
            f"{model.label}: its features of {first} are NaN or infinite, so it cannot be scored; its weights or the "
            "statistics of its BatchNorm are damaged, or of a run that diverged: use another checkpoint"
        )


def taming(largest: Tensor) -> Tensor:
    """Factors that bring values as large as these near 1; 1 where values are of an ordinary size.

    The squares of very large or small features, as untrained networks give them, are infinite or 0
    in float32, and a score would be of nothing. The factors are powers of two, so that multiplying
    by them rounds nothing.
    """
    _, exponents = torch.frexp(largest)
    extreme = (largest > LARGE) | ((largest < 1 / LARGE) & (largest > 0))
    return torch.ldexp(
        torch.ones_like(largest), torch.where(extreme, -exponents, 0).clamp(-126, 126)
    )


def stack(images: list[np.ndarray], size: int, crop: str = "centre") -> Tensor:
    """Images of any size as `(n, size, size, 3)` uint8, cut as the option `crop` says."""
    pixels = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        pixels[i] = CROPS[crop](image, size)
    return torch.from_numpy(pixels)


def whole_or_centre(image: np.ndarray, size: int) -> np.ndarray:
    """`(size, size, 3)`: the centre, 224 / 256 of the shorter side as on ImageNet; small images
    without margin.
    """
    return centre_crop(image, size, size if size <= SMALL else round(size * 256 / 224))


def short_side(image: np.ndarray, size: int) -> np.ndarray:
    """`(size, size, 3)`: the shorter side resized to `size`, bicubically as Pillow's, and the
    central square of it.
    """
    image = without_far_ends(image)
    sides = image.shape[:2]
    height, width = (int(size * side / min(sides)) for side in sides)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    top = round((height - size) / 2)
    left = round((width - size) / 2)
    return np.asarray(resized)[top : top + size, left : left + size]


CROPS = {"centre": whole_or_centre, "short_side": short_side}


def frozen(model: Model, config: FeatureConfig) -> Callable[[Tensor], Tensor]:
    """The backbone as a function from normalised images `(B, 3, S, S)` to features `(B, D)` float32
    on the device.
    """
    check_options(config)
    device = together.own_device(config.device)
    network = model.backbone.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def run(x: Tensor) -> Tensor:
        with autocast(config.precision, device):
            return network(x).float()

    return run


def to_input(model: Model, pixels: Tensor) -> Tensor:
    """`(B, S, S, 3)` uint8 → `(B, 3, S, S)` float32 (channels last in memory), normalised as the
    model wants it.
    """
    mean, std = (
        torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (model.mean, model.std)
    )
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std


def cache_key(model: Model, data: ImageSet, config: FeatureConfig) -> str:
    """Names the features of this very network of these very images."""
    return feature_cache.key_of(model.backbone, data.fingerprint, preprocessing(model, config))


def preprocessing(model: Model, config: FeatureConfig) -> list[Any]:
    """What features depend on besides network and images."""
    return [
        PREPROCESSING,
        model.size,
        config.crop,
        list(model.mean),
        list(model.std),
        config.precision,
    ]


def in_threads(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """`map` over threads in order, never more than a few results ahead."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = deque(pool.submit(function, item) for item in items[: 2 * threads])
        for i in range(len(items)):
            result = ahead.popleft().result()
            if i + 2 * threads < len(items):
                ahead.append(pool.submit(function, items[i + 2 * threads]))
            yield result


def watch(items: Iterable[T], total: int, label: str, unit: str) -> Iterator[T]:
    """The items, with `terminal.progress` on stderr, of processes that measure together the main
    one's.
    """
    if together.number():
        yield from items
        return
    with progress(label, unit) as tick:
        for done, item in enumerate(items, 1):
            yield item
            tick(done, total)
