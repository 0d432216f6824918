"""Whole images, windows, sizes and mirror images."""

import numpy as np
import pytest
import torch
from torch import nn

from seer.errors import InputError
from seer.eval.trained.dense.inference import Seen, output_of, passes, sizes_of, windows_of
from seer.eval.trained.dense.normals import SurfaceNormals
from seer.eval.trained.dense.options import SegmentConfig
from seer.eval.trained.dense.segment import Segmentation

SEEN = Seen([0.5] * 3, [0.25] * 3, 8, torch.device("cpu"))
TASK = Segmentation(["a", "b"])


def config(**options) -> SegmentConfig:
    return SegmentConfig(model="", data="", **({"test_size": 0, "crop": []} | options))


def image(height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def network() -> nn.Module:
    """It sees no further than a pixel, but for where it is."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 2, 1)


def plain(pixels: np.ndarray) -> torch.Tensor:
    values = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    return network()(values).softmax(1)[0]


@pytest.mark.parametrize("options", [{}, {"inference": "slide", "window": [16, 24]}])
@pytest.mark.parametrize("flip", [False, True])
def test_a_network_of_single_pixels_gives_the_same_whichever_way(options, flip):
    pixels = image()
    with torch.no_grad():
        found = output_of(network(), pixels, TASK, config(test_flip=flip, **options), SEEN)
        torch.testing.assert_close(found, plain(pixels))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(value):
    broken = network()
    broken.bias.data[0] = value
    with torch.no_grad(), pytest.raises(InputError, match="the trained network's outputs"):
        output_of(broken, image(), TASK, config(), SEEN)


def test_windows_cover_all_and_stay_within():
    options = config(inference="slide", window=[16, 24], stride=0.5)
    covered = np.zeros((40, 57), int)
    for top, left, height, width in windows_of((40, 57), options):
        assert (height, width) == (16, 24)
        assert top + height <= 40
        assert left + width <= 57
        covered[top : top + height, left : left + width] += 1
    assert covered.min() >= 1
    assert windows_of((10, 12), options) == [(0, 0, 10, 12)]


def test_overlapping_windows_are_averaged():
    calls = []

    def counting(x):
        calls.append(x.shape)
        return torch.full((1, 2, *x.shape[2:]), float(len(calls)))

    options = config(inference="slide", window=[16, 16], stride=0.5)

    class Raw(Segmentation):
        def activated(self, outputs):
            return outputs

    found = output_of(counting, image(16, 24), Raw(["a", "b"]), options, SEEN)
    assert calls == [(1, 3, 16, 16)] * 2
    assert found[0, 0].tolist() == [1] * 8 + [1.5] * 8 + [2] * 8


def test_sizes_are_averaged_as_shares():
    seen = []

    def spy(x):
        seen.append(tuple(x.shape[2:]))
        return torch.cat([x[:, :1], -x[:, :1]], 1)

    options = config(test_scales=[1.0, 0.5], test_flip=True)
    found = output_of(spy, image(), TASK, options, SEEN)
    assert seen == [(40, 56)] * 2 + [(24, 32)] * 2  # multiples of 8
    assert sizes_of((40, 56), options) == [(40, 56), (20, 28)]
    torch.testing.assert_close(found.sum(0), torch.ones(40, 56))
    assert passes((40, 56), options) == 4


def test_what_the_network_sees_beyond_an_image_is_not_counted():
    """A frame of zeros around it is cut off again."""
    pixels = image(13, 21)
    with torch.no_grad():
        found = output_of(network(), pixels, TASK, config(), SEEN)
    torch.testing.assert_close(found, plain(pixels))


def test_a_mirror_image_has_mirrored_normals():
    """A network that tells slopes says the same of an image and of its mirror image."""
    slopes = nn.Conv2d(3, 3, 3, padding=1)
    nn.init.zeros_(slopes.weight)
    with torch.no_grad():
        slopes.bias.copy_(torch.tensor([0.0, 0, -1]))
        slopes.weight[0, :, 1] = torch.tensor([-1.0, 0, 1])
        slopes.weight[1, :, :, 1] = torch.tensor([-1.0, 0, 1])
        guesses = [
            output_of(slopes, image(), SurfaceNormals(None), config(test_flip=flip), SEEN)
            for flip in (False, True)
        ]
    assert guesses[0][0].abs().mean() > 0.1
    torch.testing.assert_close(guesses[1], guesses[0])
