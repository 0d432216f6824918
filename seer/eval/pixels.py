"""Raw pixels as a model: the floor that a pretrained backbone must clear."""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.decoding.decode import DamagedImage
from seer.errors import InputError
from seer.eval.probes.features import SMALL, Images, whole_or_centre
from seer.eval.tasks import is_pixels, pixels_size
from seer.interop.models import Model, load_model

SAMPLE = 2000  # images from which the mean image is taken


class Pixels(nn.Module):
    """`(B, 3, S, S)` → `(B, 3·S·S)`, centred at the mean training image; larger or smaller images are
    brought to S.
    """

    mean: Tensor

    def __init__(self, mean: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.out_dim = mean.numel()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.mean.shape[1:]:  # images of a size that was asked for
            x = F.interpolate(x, self.mean.shape[1:], mode="area")
        return (x - self.mean).flatten(1)


def load(spec: str, train: Images) -> Model:
    """`load_model`, and besides `pixels[:SIZE]` (default: the images' own short side, 64 at most)."""
    if not is_pixels(spec):
        return load_model(spec)
    return pixels(train, pixels_size(spec))


def pixels(train: Images, size: int) -> Model:
    """The baseline for these training images."""
    images = list(_sample(train))
    if not images:
        raise InputError("pixels: none of the images can be decoded")
    size = size or _side(images[0])
    mean = np.mean([whole_or_centre(image, size) for image in images], axis=0) / 255
    module = Pixels(torch.from_numpy(mean).float().permute(2, 0, 1).contiguous())
    return Model(module, f"pixels:{size}", size, [0.0] * 3, [1.0] * 3, config_hash=f"pixels:{size}")


def own_size(train: Images) -> int:
    """The side in pixels that `pixels` takes for these training images; 0 if none can be decoded."""
    first = next(_sample(train), None)
    return 0 if first is None else _side(first)


def _sample(train: Images) -> Iterator[np.ndarray]:
    """Some of the images, always the same, those left out that cannot be decoded."""
    for i in np.random.default_rng(0).permutation(len(train))[:SAMPLE].tolist():
        with suppress(DamagedImage):
            yield train.image(i)


def _side(image: np.ndarray) -> int:
    return min(SMALL, *image.shape[:2])
