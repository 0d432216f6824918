"""Whitening, against what it is for: covariances, by numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from seer.backbones import build
from seer.errors import InputError
from seer.speedrun.whitening import whiten_features, whiten_stem
from tests.kit.pictures import photograph


def images() -> torch.Tensor:
    pictures = torch.stack([torch.from_numpy(photograph(seed, 64)) for seed in range(8)])
    return pictures.permute(0, 3, 1, 2) / 64 - 2


def responses(convolution: nn.Conv2d, seen: torch.Tensor) -> np.ndarray:
    """What the filters answer to all patches that lie in the images, `(N, filters)`."""
    inside = nn.functional.conv2d(seen, convolution.weight)
    return inside.transpose(0, 1).flatten(1).T.double().detach().numpy()


@pytest.mark.parametrize("width", [32, 64])
def test_the_stems_answers_are_uncorrelated_and_have_both_signs(width):
    convolution = nn.Conv2d(3, width, 3, bias=False)
    before = convolution.weight.detach().clone()
    seen = images()
    whiten_stem(nn.Sequential(convolution, nn.Conv2d(width, 4, 1)), seen)
    count = min(width // 2, 27)
    answers = responses(convolution, seen)
    np.testing.assert_allclose(answers[:, :count], -answers[:, count : 2 * count], atol=1e-5)
    moments = answers[:, :count].T @ answers[:, :count] / len(answers)
    assert np.abs(moments - np.diag(moments.diagonal())).max() < 1e-3
    # Axes of variance v answer with v / (v + 0.01): the largest with 1, fainter ones with less.
    patches = nn.functional.unfold(seen, 3).transpose(1, 2).reshape(-1, 27).double().numpy()
    variances = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1][:count]
    np.testing.assert_allclose(moments.diagonal(), variances / (variances + 0.01), atol=2e-3)
    assert torch.equal(convolution.weight[2 * count :], before[2 * count :])
    assert not convolution.weight.requires_grad


def test_the_stem_of_a_backbone_is_its_first_convolution_and_the_rest_learns():
    backbone = build("resnet18", stem_stride=1)
    whiten_stem(backbone, images())
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen == ["stem.conv.weight"]


@pytest.mark.parametrize("network", [nn.Linear(3, 4), nn.Conv2d(3, 6, 3, groups=3)])
def test_what_has_no_such_convolution_is_refused(network):
    with pytest.raises(InputError, match="whiten: the network does not begin with a convolution"):
        whiten_stem(network, images())


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_the_banks_variances_are_raised_to_what_is_left_of_the_power(power):
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, 6)) * [10, 3, 1, 1, 0.5, 0.1]
    rows = torch.from_numpy((generator.normal(size=(5000, 6)) @ mixing + 7).astype(np.float32))
    bank, queries = whiten_features(rows, rows[:5], power)
    torch.testing.assert_close(bank[:5], queries)
    values = bank.double().numpy()
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-3)
    moments = values.T @ values / len(values)
    variances = np.linalg.eigvalsh(np.cov(rows.T.double().numpy(), bias=True))[::-1]
    floor = 1e-3 * variances.mean()
    expected = np.diag(variances * (variances + floor) ** (-2 * power))
    np.testing.assert_allclose(moments, expected, atol=2e-3 * expected.max())


def test_with_power_0_distances_stay():
    rows = torch.randn(50, 4, dtype=torch.float64)
    bank, queries = whiten_features(rows, rows[:3] + 1, 0.0)
    moved, still = (a[:, None] - b for a, b in ((queries, bank), (rows[:3] + 1, rows)))
    torch.testing.assert_close(moved.norm(dim=2), still.norm(dim=2))
