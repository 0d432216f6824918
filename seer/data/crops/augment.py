"""The appearance of crops: colour jitter, grey, blur, solarize, normalise; by executors that
agree.

`augment_crop` works on one uint8 crop with a compiled kernel, in the loader's worker.
`augment_batch` works on a batch of them, on any device: on GPUs with the kernels of `fused`,
elsewhere, and as their oracle, with torch (`augment_plain`). Torchvision's operations are the
reference for all: every operation of the jitter clamps to [0, 255] before the next, because strong
factors saturate and a product of matrices would not. Both compute in fp32 and never round, as
torchvision does on tensors of floats, and so agree to 0.01 of a level of 255; torchvision on 8-bit
images also cuts each result down to an integer. `tests/data/crops/test_augment.py` states the
tolerances.

Brightness, contrast and saturation are the same blend, `f·x + (1 - f)·y`, with black, the crop's
mean grey and each pixel's own grey for y. So each is an affine map of the colours, and in a batch
all three run as one operation whatever the order each crop drew; only hue, which is not affine, is
run on the crops whose turn it is.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil

import cv2
import numpy as np
import torch
from torch import Tensor

from seer.data.crops.draws import IDENTITY, LUMA, Appearance, Look, Op
from seer.data.crops.executors import kernels_for
from seer.errors import InputError

# Red, green and blue on the colour circle, a turn added to stay positive.
CORNERS = (1.0, 1 + 2 / 3, 1 + 1 / 3)
BLUR_REACH = 3.0  # the Gaussian is cut at this many sigmas, which changes no pixel by half a level

# Values per round of the batch executor: a round's temporaries fit a CPU's cache, or a fraction of
# a GPU's memory.
_ROUND = {"cpu": 2**18, "cuda": 2**26}


@dataclass(frozen=True)
class Normalise:
    """uint8 levels to `(x / 255 - mean) / std`, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise InputError(
                f"mean {list(self.mean)}, std {list(self.std)}: three numbers each, and std above 0"
            )

    @cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift, `(3,)` float32 each, by which levels become values."""
        mean = np.array(self.mean)
        std = np.array(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def batch(self, planes: Tensor, out: Tensor) -> None:
        """`(N, 3, S, S)` levels, overwritten, into `out`, `(N, S, S, 3)`."""
        mean, std = (
            _constant(values, planes.device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        out.copy_(planes.sub_(255 * mean).div_(255 * std).permute(0, 2, 3, 1))


# ---- one crop, compiled ----------------------------------------------------------------------------------------------


def augment_crop(crop: np.ndarray, look: Look, normalise: Normalise, out: np.ndarray) -> None:
    """Alter one `(S, S, 3)` uint8 crop and normalise it into `out`, float32."""
    from seer.data.crops import kernel

    factors, order, grey, sigma, solarize = look
    taps = np.ones(1, np.float32)
    if sigma:
        taps = blur_taps(sigma, len(crop), kernel.GROUP)
        reach = len(taps) - 1
        crop = cv2.copyMakeBorder(crop, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
    kernel.alter(crop, factors, order, grey, taps, solarize, *normalise.weights, out)


def blur_taps(sigma: float, size: int, multiple: int = 1) -> np.ndarray:
    """The Gaussian from its centre outwards; its reach is filled up with zeros to a `multiple`."""
    reach = blur_radius(sigma, size)
    taps = np.zeros(1 + ceil(reach / multiple) * multiple, np.float32)
    taps[: reach + 1] = cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F)[reach:, 0]
    return taps


def blur_radius(sigma: float, size: int) -> int:
    """Pixels the kernel reaches to each side; at most what can be mirrored."""
    return min(ceil(BLUR_REACH * sigma), size - 1)


def blur_radii(sigmas: np.ndarray, size: int) -> np.ndarray:
    """`blur_radius` of `(N,)` sigmas, int64; 0 where there is no blur."""
    radii = np.ceil(BLUR_REACH * sigmas.astype(np.float64)).astype(np.int64)
    return np.minimum(radii, size - 1)


# ---- a batch of crops, torch -----------------------------------------------------------------------------------------


@torch.no_grad()
def augment_batch(crops: Tensor, looks: Appearance, normalise: Normalise) -> Tensor:
    """Alter and normalise `(N, S, S, 3)` uint8 crops on their device. Returns `(N, S, S, 3)`
    float32.
    """
    kernels = kernels_for(crops.device)
    if not kernels:
        return augment_plain(crops, looks, normalise)
    radii = blur_radii(looks.sigma, crops.shape[1])
    return kernels.alter(crops, looks, radii, *normalise.weights)


@torch.no_grad()
def augment_plain(crops: Tensor, looks: Appearance, normalise: Normalise) -> Tensor:
    """`augment_batch` in plain torch.

    Which crops an operation concerns is known on the host, so nothing waits for the device.
    """
    out = torch.empty(crops.shape, dtype=torch.float32, device=crops.device)
    values = _ROUND.get(crops.device.type, _ROUND["cuda"])
    count = max(1, values // max(1, crops[:1].numel()))
    with torch.autocast(crops.device.type, enabled=False):
        for start in range(0, len(crops), count):
            rows = slice(start, start + count)
            altered = _alter(crops[rows], looks[rows])
            normalise.batch(altered, out[rows])
    return out


def _alter(crops: Tensor, looks: Appearance) -> Tensor:
    """`(N, S, S, 3)` uint8 to `(N, 3, S, S)` float32 in [0, 255]."""
    images = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    planes = images.flatten(2)  # the same memory
    _jitter(planes, looks)
    grey, blurred, solarized = _rows([looks.grey, looks.sigma > 0, looks.solarize], planes.device)
    if len(grey):
        planes[grey] = luma(planes[grey]).expand(-1, 3, -1)
    if len(blurred):
        images[blurred] = blur_batch(images[blurred], looks.sigma[looks.sigma > 0])
    if len(solarized):
        chosen = planes[solarized]
        # On integers the same as from 128 on.
        planes[solarized] = torch.minimum(chosen, 255 - chosen)
    return images


def _jitter(planes: Tensor, looks: Appearance) -> None:
    """Colour jitter of `(N, 3, P)` planes in place: three rounds of blends, and hue before, between
    or after them.
    """
    if not (looks.factors != IDENTITY).any():
        return
    blends = looks.order[looks.order != Op.HUE].reshape(-1, 3)
    factors = np.take_along_axis(looks.factors, blends, 1)
    weights = np.stack(
        [
            factors,
            (1 - factors) * (blends == Op.SATURATION),
            (1 - factors) * (blends == Op.CONTRAST),
        ]
    )
    rounds = torch.from_numpy(weights.transpose(2, 0, 1)[..., None, None].copy()).to(
        planes.device, non_blocking=True
    )
    turns = torch.from_numpy(looks.factors[:, Op.HUE, None, None]).to(
        planes.device, non_blocking=True
    )
    hue_round = np.where(looks.factors[:, Op.HUE] != 0, (looks.order == Op.HUE).argmax(1), -1)
    for number, rows in enumerate(_rows([hue_round == k for k in range(4)], planes.device)):
        if len(rows):
            planes[rows] = rotate_hues(planes[rows], turns[rows])
        if number < len(rounds):
            blend_batch(planes, *rounds[number])


def blend_batch(planes: Tensor, keep: Tensor, own: Tensor, mean: Tensor) -> None:
    """`keep·x + own·grey(x) + mean·mean(grey(x))`, clamped, in place; planes `(N, 3, P)`, weights
    `(N, 1, 1)`.
    """
    grey = luma(planes)
    level = grey.mean(-1, keepdim=True).mul_(mean)
    planes.mul_(keep).add_(grey.mul_(own).add_(level)).clamp_(0, 255)


def luma(planes: Tensor) -> Tensor:
    """`(N, 3, P)` → `(N, 1, P)`."""
    return _constant(LUMA, planes.device)[None] @ planes


def rotate_hues(planes: Tensor, turns: Tensor) -> Tensor:
    """Turn the colour circle of `(N, 3, P)` planes by `(N, 1, 1)` turns; value and chroma stay.

    In HSV's hexagon a channel is `value - chroma·clamp(2 - |h - 3|, 0, 1)`, with h the hue in
    sixths of a turn, counted from each channel's own corner.
    """
    value = planes.amax(1, keepdim=True)
    chroma = value - planes.amin(1, keepdim=True)
    red, green, blue = planes.split(1, dim=1)
    from_green = (blue - red).add_(2 * chroma)
    from_blue = (red - green).add_(4 * chroma)
    hue = torch.where(
        value == red, green - blue, torch.where(value == green, from_green, from_blue)
    )
    hue = hue.div_(chroma.clamp(min=1e-6).mul_(6)).add_(turns)  # in turns, above -1
    dip = (
        (hue + _constant(CORNERS, planes.device)[:, None])
        .frac_()
        .sub_(0.5)
        .abs_()
        .mul_(-6)
        .add_(2)
        .clamp_(0, 1)
    )
    return value - dip.mul_(chroma)


def blur_batch(images: Tensor, sigmas: np.ndarray) -> Tensor:
    """Gaussian blur of `(N, 3, S, S)`, each by its own of `(N,)` sigmas, as `blur` does it.

    A matrix product along each axis does more arithmetic than a kernel of a dozen taps, in a
    twelfth of the passes.
    """
    matrices = blur_matrices(sigmas, images.shape[-1], images.device)

    def along_rows(x: Tensor) -> Tensor:
        return (x.flatten(1, 2) @ matrices.mT).view(x.shape)

    return along_rows(along_rows(images).mT).mT


def blur_matrices(sigmas: np.ndarray, size: int, device: torch.device) -> Tensor:
    """`(N, size, size)` matrices that blur a column of `size` pixels, mirrored borders included."""
    half = np.zeros((len(sigmas), 2 * size - 1), np.float32)  # each kernel from its centre outwards
    for row, sigma in zip(half, sigmas.tolist(), strict=True):
        taps = blur_taps(sigma, size)
        row[: len(taps)] = taps
    kernels = torch.from_numpy(half).to(device, non_blocking=True)
    before_centre = kernels[:, 1:size].flip(1)
    both_sides = torch.cat([before_centre, kernels[:, :size]], 1)
    at_sum = kernels.unfold(1, size, 1)  # (N, size, size), the tap at distance i + j
    matrices = both_sides.unfold(1, size, 1).flip(1)  # ... at |i - j|
    # Pixel j counts directly, and as its mirror image beyond either border; the border pixels have
    # none on their side.
    mirrored_below = at_sum[:, :, 1:]
    mirrored_above = at_sum.flip(1, 2)[:, :, :-1]
    matrices[:, :, 1:] += mirrored_below
    matrices[:, :, :-1] += mirrored_above
    return matrices


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Sent once, because every transfer from pageable memory waits for the device."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _rows(chosen: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """The indices of several `(N,)` masks, in one transfer."""
    indices = [np.flatnonzero(mask) for mask in chosen]
    joined = torch.from_numpy(np.concatenate(indices)).to(device, non_blocking=True)
    return list(joined.split([len(part) for part in indices]))
