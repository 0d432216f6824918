"""Crops with labels: the same part of an image every time, and images mixed in pairs."""

import numpy as np
import pytest
import torch

from seer.data.crops.labelled_crop import LabelledCrop, draw_shares
from seer.eval.probes.features import CROPS

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8) for i in range(count)]


def batch_of(cutter: LabelledCrop, ids: np.ndarray, epoch: int = 0):
    shown = [images(12)[i] for i in ids]
    plan = cutter.plan([image.shape[:2] for image in shown], np.full(len(ids), epoch), ids)
    for b, image in enumerate(shown):
        plan.cut(b, image)
    return cutter.finish(plan.batch(), "cpu")


def cutter(**options) -> LabelledCrop:
    return LabelledCrop(np.arange(12) % 3, 16, 7, (0.2, 1.0), MEAN, STD, **options)


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize("crop", ["centre", "short_side"])
def test_a_still_crop_is_that_of_tests_in_every_epoch(crop, finish):
    ids = np.arange(6)
    still = cutter(still=CROPS[crop], finish=finish)
    batches = [batch_of(still, ids, epoch) for epoch in (0, 5)]
    assert torch.equal(batches[0].pixels, batches[1].pixels)
    for image, pixels in zip(images(6), batches[0].pixels, strict=True):
        square = CROPS[crop](image, 16) / 255
        expected = ((square - MEAN) / STD).transpose(2, 0, 1)
        np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-5)


def test_images_are_mixed_with_their_neighbours_and_say_by_how_much():
    ids = np.array([4, 9, 0, 7])
    plain = batch_of(cutter(), ids)
    mixed = batch_of(cutter(mixup=0.8), ids)
    assert plain.shares is None
    assert mixed.shares is not None
    assert mixed.labels.tolist() == plain.labels.tolist()
    assert mixed.pixels.is_contiguous(memory_format=torch.channels_last)
    shares = mixed.shares.tolist()
    assert shares[0] == shares[1] != shares[2] == shares[3]
    for i, partner in enumerate([1, 0, 3, 2]):
        expected = shares[i] * plain.pixels[i] + (1 - shares[i]) * plain.pixels[partner]
        torch.testing.assert_close(mixed.pixels[i], expected)
    halves = mixed.chunk(2)
    assert [half.shares.tolist() for half in halves] == [shares[:2], shares[2:]]


def test_a_pair_is_mixed_alike_whatever_batch_it_stands_in():
    ids = np.array([4, 9, 0, 7])
    mixing = cutter(mixup=0.8)
    whole = batch_of(mixing, ids, epoch=3)
    parts = [batch_of(mixing, ids[:2], epoch=3), batch_of(mixing, ids[2:], epoch=3)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    later = batch_of(mixing, ids, epoch=4)
    assert not torch.equal(later.shares, whole.shares)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_have_the_larger_half_of_the_beta_distribution(alpha):
    ids = np.arange(20_000)
    shares = draw_shares(alpha, 5, np.zeros_like(ids), ids)
    drawn = np.random.default_rng(0).beta(alpha, alpha, 200_000)
    expected = np.maximum(drawn, 1 - drawn)
    assert shares.min() >= 0.5
    quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
    np.testing.assert_allclose(
        np.quantile(shares[::2], quantiles), np.quantile(expected, quantiles), atol=0.012
    )
