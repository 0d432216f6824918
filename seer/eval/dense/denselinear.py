"""Linear segmentation: one linear map from a frozen backbone's features at each place to classes.

The map is the ridge regression of each place's shares of classes, which is that of every pixel of
the masks on the features of its place; λ is the one with the least squared error on a fifth of the
training images. Images pass once, and no features are kept. Class scores are enlarged bilinearly to
the mask's own size, and all its pixels count but void ones.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from seer.errors import InputError
from seer.eval.data.mapped import MappedImages, highest, numbered
from seer.eval.dense.least_squares import Sums, best_ridge
from seer.eval.dense.options import DenseLinearConfig
from seer.eval.dense.overlaps import Overlaps, overlap_scores, overlaps
from seer.eval.probes.features import in_threads, to_input, watch
from seer.eval.probes.together import own_device, processes
from seer.eval.scores import Score
from seer.interop.levels import levels_of
from seer.interop.models import Model
from seer.precision import autocast
from seer.schema import check_options

HELD = 5  # one of so many training images chooses λ
RIDGES = [10.0**power for power in range(-7, 1)]

Batch = tuple[list[int], Tensor, list[np.ndarray]]  # numbers, pixels `(n, S, S, 3)`, masks


def run(
    model: Model, train: MappedImages, test: MappedImages, config: DenseLinearConfig
) -> list[Score]:
    """mIoU and pixel accuracy on the test images.

    Raises:
        InputError: an option is wrong, an image or mask cannot be used, a mask has a number beyond the
            classes, or features are not finite.
    """
    check_options(config)
    if processes() > 1:
        raise InputError(f"--nproc {processes()}: denselinear is one process")
    classes = config.classes or len(train.classes) or highest(train, config.void) + 1
    features = features_of(model, config)
    ridge, coefficients = _fitted(model, features, train, classes, config)
    images: list[Overlaps] = []
    for _, maps, masks in _maps(model, features, test, classes, config, "test images"):
        for values, mask in zip(maps, masks, strict=True):
            decided = predicted(values, coefficients, mask.shape)
            images.append(overlaps(mask, decided, classes))
    names = [*train.classes, *map(str, range(len(train.classes), classes))][:classes]
    return overlap_scores(images, names, {"lambda": ridge})


def features_of(model: Model, config: DenseLinearConfig) -> Callable[[Tensor], Tensor]:
    """From normalised images `(B, 3, S, S)` to features `(B, D, h, w)` float32 on the CPU."""
    device = own_device(config.device)
    network = levels_of(model.backbone, model.label).to(device).eval()
    wanted = sorted(set(config.levels))

    @torch.inference_mode()
    def compute(inputs: Tensor) -> Tensor:
        with autocast(config.precision, device):
            maps = network(inputs.to(device))
        chosen = [maps[level - 2].float() for level in wanted]
        side = chosen[0].shape[-2:]
        enlarged = [interpolate(each, side, mode="bilinear") for each in chosen]
        return torch.cat(enlarged, 1).cpu()

    return compute


def _fitted(
    model: Model,
    features: Callable[[Tensor], Tensor],
    train: MappedImages,
    classes: int,
    config: DenseLinearConfig,
) -> tuple[float, Tensor]:
    if len(train) < 2:
        raise InputError(f"{train.source.name(0)}: is alone; λ is chosen on another image")
    halves: list[Sums] = []
    for numbers, maps, masks in _maps(model, features, train, classes, config, "training images"):
        if not halves:
            halves = [Sums(maps.shape[1], classes) for _ in range(2)]
        for number, values, mask in zip(numbers, maps, masks, strict=True):
            held = number % HELD == HELD - 1 or number == len(train) - 1 < HELD
            shares, weights = shares_of(mask, classes, values.shape[1:])
            halves[held].add(values.flatten(1).T, shares, weights)
    fit, held_out = halves
    if not (fit.weight > 0 and held_out.weight > 0):
        raise InputError(f"{train.masks.name(0)}: it and others have no class; see void=")
    ridge = best_ridge(fit, held_out, RIDGES)
    return ridge, (fit + held_out).solve(ridge)


def shares_of(mask: np.ndarray, classes: int, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For each place of a grid the shares of its known pixels that each class has, `(h * w, C)`, and
    how many pixels are known, `(h * w,)`.
    """
    rows = np.arange(mask.shape[0]) * grid[0] // mask.shape[0]
    columns = np.arange(mask.shape[1]) * grid[1] // mask.shape[1]
    places = rows[:, None] * grid[1] + columns
    known = mask >= 0
    flat = places[known] * classes + mask[known]
    counts = np.bincount(flat, minlength=grid[0] * grid[1] * classes).reshape(-1, classes)
    totals = counts.sum(1)
    shares = counts / np.maximum(totals, 1)[:, None]
    return torch.from_numpy(shares), torch.from_numpy(totals)


def predicted(values: Tensor, coefficients: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """The class of each pixel, `shape`, by features `(D, h, w)`."""
    rows = values.flatten(1).T.double() @ coefficients[:-1] + coefficients[-1]
    scores = rows.T.reshape(1, -1, *values.shape[1:])
    return interpolate(scores.float(), shape, mode="bilinear")[0].argmax(0).numpy()


def _maps(
    model: Model,
    features: Callable[[Tensor], Tensor],
    images: MappedImages,
    classes: int,
    config: DenseLinearConfig,
    name: str,
) -> Iterator[tuple[list[int], Tensor, list[np.ndarray]]]:
    """Batches of numbers, features `(n, D, h, w)` and masks, void being negative."""

    def load(numbers: list[int]) -> Batch:
        pixels = np.empty((len(numbers), model.size, model.size, 3), np.uint8)
        masks = []
        for row, number in zip(pixels, numbers, strict=True):
            image, mask = images.pair(number)
            side = (model.size, model.size)
            row[:] = np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC))
            masks.append(numbered(mask, classes, config.void, images.masks.name(number)))
        return numbers, torch.from_numpy(pixels), masks

    batches = [rows.tolist() for rows in torch.arange(len(images)).split(config.batch_size)]
    loaded = in_threads(load, batches, config.threads)
    for numbers, pixels, masks in watch(loaded, len(batches), name, "batches"):
        maps = features(to_input(model, pixels))
        if not torch.isfinite(maps).all():
            raise InputError(f"{model.label}: its features are NaN or infinite; use another")
        yield numbers, maps, masks
