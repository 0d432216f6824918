"""Images and maps are cut together."""

import numpy as np
import pytest
import torch

from seer.eval.data.maps import train_and_test
from seer.eval.trained.dense.options import SegmentConfig
from seer.eval.trained.dense.pairbatches import PairCutter, altered, nearest
from seer.eval.trained.dense.segment import Segmentation
from tests.kit import maps

STATISTICS = ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])


def cutter(tmp_path, **options) -> PairCutter:
    config = SegmentConfig(model="", data="", **options)
    images, _ = train_and_test(maps.both(tmp_path, 4, 1))
    return PairCutter(images, Segmentation(["a", "b", "c"], [255]), config, *STATISTICS)


def cut(cutter: PairCutter, epoch: int, ids: list[int]):
    numbers = np.array(ids)
    epochs = np.full(len(ids), epoch)
    images = [cutter.images.image(i) for i in ids]
    plan = cutter.plan([image.shape[:2] for image in images], epochs, numbers)
    for b, image in enumerate(images):
        plan.cut(b, image)
    parcel = plan.batch()
    parcel = type(parcel)(
        parcel.images, parcel.targets, parcel.index, cutter.frame(epochs, numbers)
    )
    return cutter.finish(parcel, "cpu")


def shown(pixels: torch.Tensor) -> torch.Tensor:
    """The class that a pixel's colour shows, −1 where the image is not."""
    red, green = pixels[:, 0], pixels[:, 1]
    classes = (red > 0.5).int() + 2 * ((green > 0.5) & (red <= 0.5)).int()
    return torch.where(pixels.sum(1) == 0, -1, classes)


@pytest.mark.parametrize("crop", [[48, 80], [128, 128], []])
def test_what_is_seen_is_what_is_to_be_learned(tmp_path, crop):
    """At any scale, place and side up: pixels and targets agree but along edges and in the void row."""
    part = cutter(tmp_path, crop=crop, short_sides=[64], scales=[0.5, 2.0], colour=0.0)
    for epoch in range(6):
        batch = cut(part, epoch, [0, 1, 2, 3])
        assert batch.pixels.shape[2:] == batch.targets.shape[1:]
        inside = batch.targets >= 0
        assert inside.any()
        agree = (shown(batch.pixels) == batch.targets)[inside].float().mean()
        assert agree > 0.93
        outside = shown(batch.pixels) == -1
        wrong = batch.targets[outside] > 0  # dark noise may be black
        assert int(wrong.sum()) <= 0.01 * wrong.numel()
        if crop:
            assert batch.targets.shape[1:] == tuple(crop)
        else:
            assert batch.targets.shape[1] % 32 == batch.targets.shape[2] % 32 == 0


def test_a_cut_depends_on_epoch_and_image_alone(tmp_path):
    part = cutter(tmp_path, crop=[48, 48])
    whole = cut(part, 1, [0, 1, 2, 3])
    some = cut(part, 1, [2, 3])
    assert torch.equal(whole.pixels[2:], some.pixels)
    assert torch.equal(whole.targets[2:], some.targets)
    assert not torch.equal(cut(part, 2, [2, 3]).targets, some.targets)


def test_half_are_mirrored(tmp_path):
    plain = cutter(tmp_path, crop=[], short_sides=[], scales=[1, 1], colour=0.0, flip=False)
    mirrored = cutter(tmp_path, crop=[], short_sides=[], scales=[1, 1], colour=0.0)
    turned = 0
    for epoch in range(24):
        one = cut(plain, epoch, [1]).targets
        other = cut(mirrored, epoch, [1]).targets
        own = one[:, :64, :96]
        assert torch.equal(other, one) or torch.equal(other[:, :64, :96], own.flip(-1))
        turned += not torch.equal(other, one)
    assert 6 <= turned <= 18
    assert torch.equal(one[0, 1:64, :96], torch.from_numpy(plain.images.mask(1))[1:])


def test_nearest_takes_the_value_below_each_centre():
    values = np.arange(12).reshape(3, 4)
    whole = nearest(values, (6, 2), slice(0, 6), slice(0, 2))
    centres = [(y + 0.5) * 3 / 6 for y in range(6)]
    assert whole[:, 0].tolist() == [values[int(y), 1] for y in centres]
    assert whole[0].tolist() == [1, 3]
    assert np.array_equal(nearest(values, (6, 2), slice(2, 5), slice(1, 2)), whole[2:5, 1:])
    assert np.array_equal(nearest(values, (3, 4), slice(0, 3), slice(0, 4)), values)


def test_looks_change_as_their_factors_say():
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 120, (5, 6, 3)).astype(np.uint8)
    assert np.array_equal(altered(pixels, np.ones(3)), pixels)
    bright = altered(pixels, np.array([1.5, 1, 1])).astype(int)
    assert np.abs(bright - np.rint(pixels * 1.5)).max() <= 1
    grey = altered(pixels, np.array([1, 1, 0])).astype(int)
    assert np.ptp(grey, axis=2).max() == 0
    flat = altered(pixels, np.array([1, 0, 1])).astype(int)
    assert np.ptp(flat) == 0


def test_a_batch_moves_and_is_cut_in_parts(tmp_path):
    batch = cut(cutter(tmp_path, crop=[32, 32]), 0, [0, 1, 2, 3])
    moved = batch.to(torch.float64)
    assert moved.pixels.dtype == torch.float64
    assert moved.targets.dtype == batch.targets.dtype
    first, second = batch.chunk(2)
    assert second.index.tolist() == [2, 3]
    assert torch.equal(torch.cat([first.targets, second.targets]), batch.targets)
