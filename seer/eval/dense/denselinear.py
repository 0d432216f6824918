"""Linear segmentation: one linear map from a frozen backbone's features at each place to classes.

The map is the ridge regression of each place's shares of classes, which is that of every pixel of
the masks on the features of its place; λ is the one with the least squared error on a fifth of the
training images. Images pass once, and no features are kept. Class scores are enlarged bilinearly to
the mask's own size, and all its pixels count but void ones.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seer.errors import InputError
from seer.eval.data.mapped import MappedImages, highest, numbered
from seer.eval.dense.frozen_maps import streamed
from seer.eval.dense.least_squares import fitted
from seer.eval.dense.options import DenseLinearConfig
from seer.eval.dense.overlaps import Overlaps, overlap_scores, overlaps
from seer.eval.probes.together import processes
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.schema import check_options


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
    ridge, coefficients = _fitted(model, train, classes, config)
    images: list[Overlaps] = []
    load = partial(_pair, test, classes, config)
    for _, values, mask in streamed(model, len(test), load, config, "test images"):
        decided = predicted(values, coefficients, mask.shape)
        images.append(overlaps(mask, decided, classes))
    names = [*train.classes, *map(str, range(len(train.classes), classes))][:classes]
    left_out = {"training": train.counts, "test": test.counts}
    return overlap_scores(images, names, {"lambda": ridge, "left_out": left_out})


def _fitted(
    model: Model, train: MappedImages, classes: int, config: DenseLinearConfig
) -> tuple[float, Tensor]:
    if len(train) < 2:
        raise InputError(f"{train.source.name(0)}: is alone; λ is chosen on another image")

    def samples() -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        load = partial(_pair, train, classes, config)
        for number, values, mask in streamed(model, len(train), load, config, "training images"):
            yield number, values.flatten(1).T, *shares_of(mask, classes, values.shape[1:])

    fit = fitted(samples(), len(train))
    if fit is None:
        raise InputError(f"{train.masks.name(0)}: it and others have no class; see void=")
    return fit


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


def _pair(
    images: MappedImages, classes: int, config: DenseLinearConfig, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask, void being negative."""
    image, mask = images.pair(number)
    return image, numbered(mask, classes, config.void, images.masks.name(number))
