"""Linear depth: one linear map from a frozen backbone's features at each place to metres.

The map is the ridge regression of each place's mean depth, weighted by how many of its pixels have one,
which is that of every known pixel on the features of its place; λ is the one with the least squared error
on a fifth of the training images. Images pass once, and no features are kept. Depth is enlarged
bilinearly to the image's own size, and every pixel that has a depth counts.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seer.errors import InputError
from seer.eval.data.mapfiles import NO_DEPTH
from seer.eval.data.surfacemaps import SurfaceImages
from seer.eval.dense import least_squares
from seer.eval.dense.frozen_maps import streamed
from seer.eval.dense.options import DepthConfig
from seer.eval.dense.surface_errors import Depths, depth_scores
from seer.eval.probes.together import processes
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.schema import check_options


class Fit(NamedTuple):
    """Coefficients `(D + 1, 1)`, the λ of these, and the nearest and farthest place in metres, beyond
    which nothing is guessed.
    """

    coefficients: Tensor
    ridge: float
    nearest: float
    farthest: float

    def predict(self, features: Tensor, shape: Sequence[int]) -> np.ndarray:
        """Metres `shape` by features `(D, h, w)`."""
        rows = features.flatten(1).T.double() @ self.coefficients[:-1] + self.coefficients[-1]
        places = rows.T.reshape(1, 1, *features.shape[1:])
        metres = interpolate(places, tuple(shape), mode="bilinear")[0, 0]
        return metres.clamp(self.nearest, self.farthest).numpy()


def run(
    model: Model, train: SurfaceImages, test: SurfaceImages, config: DepthConfig
) -> list[Score]:
    """The share of depths within a factor of 1.25, root mean square and relative errors.

    Raises:
        InputError: an option is wrong, there is no depth, an image or map cannot be used, or features are
            not finite.
    """
    check_options(config)
    if processes() > 1:
        raise InputError(f"--nproc {processes()}: depth is one process")
    for images in (train, test):
        images.check_depth()
    fit = fitted(model, train, config)
    load = partial(_pair, test)
    errors = []
    holes = 0
    for _, features, depth in streamed(model, len(test), load, config, "test images"):
        errors.append(Depths.of(depth, fit.predict(features, depth.shape)))
        holes += int(np.isnan(depth).sum())
    pixels = sum(each.pixels for each in errors)
    if not pixels:
        raise InputError(f"{test.folder}: no test image has a depth")
    details = {
        "lambda": fit.ridge,
        "pixels": pixels,
        "left_out": {"training": train.counts, "test": test.counts},
        "not_scored": {NO_DEPTH: holes},
    }
    return depth_scores(errors, details)


def fitted(model: Model, train: SurfaceImages, config: DepthConfig) -> Fit:
    """The linear map of training images. Raises `InputError` where they have no depth."""
    if len(train) < 2:
        raise InputError(f"{train.source.name(0)}: is alone; λ is chosen on another image")
    known = []

    def samples() -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        load = partial(_pair, train)
        for number, features, depth in streamed(model, len(train), load, config, "training images"):
            means, weights = means_of(depth, features.shape[1:])
            known.append(means[weights > 0])
            yield number, features.flatten(1).T, means[:, None], weights

    fit = least_squares.fitted(samples(), len(train))
    if fit is None:
        raise InputError(f"{train.folder}: too few of its training images have a depth")
    ridge, coefficients = fit
    metres = torch.cat(known)
    return Fit(coefficients, ridge, float(metres.min()), float(metres.max()))


def _pair(images: SurfaceImages, number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its depth."""
    return images.image(number), images.depth(number)


def means_of(depth: np.ndarray, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For each place of a grid the mean `(h * w,)` of its known metres, 0 where there are none, and how
    many pixels are known, `(h * w,)`.
    """
    rows = np.arange(depth.shape[0]) * grid[0] // depth.shape[0]
    columns = np.arange(depth.shape[1]) * grid[1] // depth.shape[1]
    places = rows[:, None] * grid[1] + columns
    known = np.isfinite(depth)
    totals = np.bincount(places[known], minlength=grid[0] * grid[1])
    sums = np.bincount(places[known], depth[known].astype(np.float64), len(totals))
    return torch.from_numpy(sums / np.maximum(totals, 1)), torch.from_numpy(totals)
