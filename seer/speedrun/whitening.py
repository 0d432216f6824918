"""Whitening without a label: of what a network sees first, and of what it makes in the end."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seer.errors import InputError

PATCHES_FLOOR = 1e-2  # added to the patches' variances: the faintest axes are noise
FEATURES_FLOOR = 1e-3  # added to the features' variances, as a share of their mean


@torch.no_grad()
def whiten_stem(backbone: nn.Module, images: Tensor) -> None:
    """Set the filters of the first convolution to the main axes of the images' patches, each divided
    by its deviation and with both signs, and freeze them.

    As supervised speedruns do (Page 2018, "How to Train Your ResNet"). A convolution with more
    filters than there are signed axes keeps the others as they were initialised, frozen too.

    Args:
        images: `(N, 3, H, W)`, normalised, as the network sees them.

    Raises:
        InputError: the first convolution is grouped, or the network has none.
    """
    first = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.groups > 1:
        raise InputError("whiten: the network does not begin with a convolution; set whiten=false")
    patches = F.unfold(images, first.kernel_size).transpose(1, 2).flatten(0, 1)
    variances, axes = main_axes(patches)
    filters = (axes / (variances + PATCHES_FLOOR).sqrt()).T.float()
    filters = filters[: first.out_channels // 2].unflatten(1, first.weight.shape[1:])
    signed = torch.cat([filters, -filters])
    first.weight[: len(signed)] = signed.to(first.weight)
    first.weight.requires_grad_(False)


@torch.no_grad()
def whiten_features(bank: Tensor, queries: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Features `(N, D)` and `(Q, D)` along the main axes of the bank's, whose variances are raised to
    1 - 2·power: all equal with 0.5; with 0 nothing but the bank's mean is taken off.
    """
    mean = bank.mean(0)
    variances, axes = main_axes(bank - mean)
    scales = (variances + FEATURES_FLOOR * variances.mean()) ** -power
    turned = (axes * scales).to(bank.dtype)
    return (bank - mean) @ turned, (queries - mean) @ turned


def main_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares `(D,)` of `(N, D)` along their main axes, the largest first, and these as columns of
    `(D, D)`, in float64.
    """
    moments = (rows.T @ rows).double() / len(rows)
    values, vectors = torch.linalg.eigh(moments)
    return values.flip(0).clamp(min=0), vectors.flip(1)
