"""Parts of maps, against torchvision's."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from seer.eval.trained.detection.roi_align import RoIAlign

STRIDES = (4, 8, 16, 32)
SHAPES = [(128, 96), (128, 96)]


def maps(dtype: torch.dtype, channels: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        str(i): torch.randn(
            len(SHAPES), channels, 128 // s, 96 // s, generator=generator, dtype=dtype
        ).requires_grad_()
        for i, s in enumerate(STRIDES)
    }


def boxes(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Of every size, some beyond the image, some of no area."""
    generator = torch.Generator().manual_seed(count)
    low = torch.rand(count, 2, generator=generator, dtype=dtype) * 120 - 10
    sides = torch.rand(count, 2, generator=generator, dtype=dtype) ** 3 * 600
    sides[::7] = 0
    sides[1] = 500  # of the uppermost map
    return torch.cat([low, low + sides], dim=1)


def cut(module: type[MultiScaleRoIAlign], names: list[str], dtype: torch.dtype, size: int):
    """Parts, and the gradients of a fixed sum of them."""
    x = maps(dtype)
    own = [boxes(40, dtype), boxes(25, dtype)]
    parts = module(names, size, 2)(x, own, SHAPES)
    direction = torch.linspace(-1, 1, parts.numel(), dtype=dtype).view_as(parts)
    gradients = torch.autograd.grad((parts * direction).sum(), [x[name] for name in names])
    return parts, *gradients


@pytest.mark.parametrize("names", [["0", "1", "2", "3"], ["2"]])
@pytest.mark.parametrize("size", [7, 14])
def test_parts_and_gradients_are_those_of_torchvision(names, size):
    ours = cut(RoIAlign, names, torch.float64, size)
    theirs = cut(MultiScaleRoIAlign, names, torch.float64, size)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_single_precision_differs_by_rounding():
    ours = cut(RoIAlign, ["0", "1", "2", "3"], torch.float32, 7)
    theirs = cut(MultiScaleRoIAlign, ["0", "1", "2", "3"], torch.float32, 7)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_images_without_boxes_have_no_parts():
    empty = torch.zeros(0, 4)
    pool = RoIAlign(["0", "1", "2", "3"], 7, 2)
    assert pool(maps(torch.float32), [empty, empty], SHAPES).shape == (0, 3, 7, 7)
    assert len(pool(maps(torch.float32), [empty, boxes(2, torch.float32)], SHAPES)) == 2
