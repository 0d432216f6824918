"""Large-scale jitter and copy-paste, by hand and by what must hold of any scene."""

import numpy as np
import pytest

from seer.eval.data.boxes import train_and_test
from seer.eval.data.objects import Object, flat
from seer.eval.trained.detection.boxcutter import BoxCutter
from seer.eval.trained.detection.copypaste import Scene, bounds, pasted
from seer.eval.trained.detection.placement import Placement, Placing, jittered
from tests.kit import boxes

SQUARE = 64


def rectangle(top, left, bottom, right, side=8):
    mask = np.zeros((side, side), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def scene(level, *masks, side=8):
    stack = np.stack(masks) if masks else np.zeros((0, side, side), np.uint8)
    pixels = np.full((side, side, 3), level, np.uint8)
    return Scene(pixels, bounds(stack), np.arange(len(stack)) + level, stack)


def test_pasted_objects_hide_what_is_below_them():
    """A square of 4 is half hidden, one of 2 is hidden whole, and one elsewhere stays."""
    below = scene(10, rectangle(0, 0, 4, 4), rectangle(1, 2, 3, 4), rectangle(6, 6, 8, 8))
    above = scene(200, rectangle(0, 2, 5, 6))
    made = pasted(below, above)
    assert made.labels.tolist() == [10, 12, 200]
    assert made.boxes.tolist() == [[0, 0, 2, 4], [6, 6, 8, 8], [2, 0, 6, 5]]
    assert made.masks.sum((1, 2)).tolist() == [8, 4, 20]
    assert (made.pixels == 200).all(2).sum() == 20
    assert (made.pixels == 10).all(2).sum() == 64 - 20


def drawn(rng):
    corners = rng.integers(0, 7, (rng.integers(0, 5), 2)).tolist()
    return [rectangle(y, x, *rng.integers([y + 1, x + 1], 9)) for y, x in corners]


@pytest.mark.parametrize("seed", range(30))
def test_no_pixel_of_an_old_object_is_under_a_new_one(seed):
    rng = np.random.default_rng(seed)
    old = drawn(rng)
    new = drawn(rng)
    below = scene(10, *old)
    above = scene(100, *new)
    made = pasted(below, above)
    covered = above.masks.any(0)
    kept = made.labels < 100
    np.testing.assert_array_equal(made.masks[~kept], above.masks)
    for label, mask in zip(made.labels[kept], made.masks[kept], strict=True):
        np.testing.assert_array_equal(mask, below.masks[label - 10] * ~covered)
    gone = set(range(10, 10 + len(old))) - set(made.labels[kept].tolist())
    assert all(covered[below.masks[label - 10] > 0].all() for label in gone)
    for box, mask in zip(made.boxes.astype(int), made.masks, strict=True):
        left, top, right, bottom = box
        assert mask[top:bottom, left:right].sum() == mask.sum()
        for side in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):
            assert side.any()


def test_an_image_twice_the_square_is_cut_and_one_of_half_of_it_is_whole():
    cut = jittered((100, 200), 2.0, 64, (0.5, 0.25), True)
    assert cut == Placement((64, 128), (0, 16), (64, 64), True)
    small = jittered((100, 200), 0.5, 64, (0.9, 0.9), False)
    assert small == Placement((16, 32), (0, 0), (16, 32), False)


def test_a_cut_reaches_the_last_row_and_column():
    assert jittered((100, 200), 2.0, 64, (0.99, 0.99), False).corner == (0, 64)
    assert jittered((200, 100), 2.0, 64, (0.99, 0.99), False).corner == (64, 0)


def jitter(objects, scales=(0.5, 2.0), sources=None):
    placing = Placing((64,), 64, True, 3, scales, SQUARE)
    return BoxCutter(objects, placing, True, [0.5] * 3, [1.0] * 3, 32, sources=sources)


def test_boxes_and_masks_stay_on_their_object_however_it_is_cut():
    """Of a black picture with a white rectangle, which is gone where it lies outside."""
    image = np.zeros((48, 96, 3), np.uint8)
    image[8:24, 20:40] = 255
    ring = np.array([[20, 8], [40, 8], [40, 24], [20, 24]], np.float32)
    table = flat([(48, 96)], [[Object(4, np.array([20, 8, 40, 24]), polygons=(ring,))]])
    counts = set()
    for epoch in range(40):
        plan = jitter(table).plan([(48, 96)], np.array([epoch]), np.array([0]))
        plan.cut(0, image)
        (made,) = plan.scenes
        white = made.pixels[:, :, 0] > 127
        counts.add(len(made.labels))
        assert max(made.pixels.shape[:2]) <= SQUARE
        if len(made.labels):
            assert made.labels.tolist() == [5]
            assert (made.masks[0].astype(bool) != white).mean() < 0.03
            np.testing.assert_allclose(made.boxes, bounds(white[None]), atol=1.5)
        else:
            assert white.sum() <= 2 * SQUARE  # a strip at the edge, less than a pixel of it
    assert counts == {0, 1}


def test_copy_paste_is_a_function_of_seed_epoch_and_image(tmp_path):
    images, _ = train_and_test(boxes.both(tmp_path, 6, 1))
    shapes = [tuple(size) for size in images.objects.sizes.tolist()]

    def scenes(ids, epoch, sources):
        cutter = jitter(images.objects, (0.8, 1.25), sources)
        own = np.array(ids)
        plan = cutter.plan([shapes[i] for i in ids], np.full(len(ids), epoch), own)
        for b, i in enumerate(ids):
            plan.cut(b, images.image(i))
        return plan.scenes

    together = scenes([0, 1, 2], 4, images)
    alone = [scenes([i], 4, images)[0] for i in (0, 1, 2)]
    plain = scenes([0, 1, 2], 4, None)
    later = scenes([0, 1, 2], 5, images)
    for ours, own, theirs in zip(together, alone, later, strict=True):
        np.testing.assert_array_equal(ours.pixels, own.pixels)
        np.testing.assert_array_equal(ours.masks, own.masks)
        assert not np.array_equal(ours.pixels, theirs.pixels)
        assert ours.pixels.shape == (SQUARE, SQUARE, 3)
    more = [len(a.labels) - len(b.labels) for a, b in zip(together, plain, strict=True)]
    assert max(more) > 0


def test_objects_come_from_every_image_but_the_own(tmp_path):
    images, _ = train_and_test(boxes.both(tmp_path, 4, 1))
    sources: set[int] = set()

    class Watched:
        def __len__(self):
            return len(images)

        def image(self, number):
            sources.add(number)
            return images.image(number)

    cutter = jitter(images.objects, sources=Watched())
    shape = tuple(images.objects.sizes[2].tolist())
    for epoch in range(40):
        cutter.plan([shape], np.array([epoch]), np.array([2])).cut(0, images.image(2))
    assert sources == {0, 1, 3}


@pytest.mark.parametrize(("scale", "reduced"), [(0.1, 8), (1.0, 1)])
def test_images_that_become_small_are_decoded_small(scale, reduced):
    table = flat([(512, 512)], [[Object(0, np.array([0, 0, 512, 512]))]])
    placing = Placing((64,), 64, False, 3, (scale, scale), 512)
    cutter = BoxCutter(table, placing, False, [0.5] * 3, [1.0] * 3)
    plan = cutter.plan([(512, 512)], np.array([0]), np.array([0]))
    assert plan.reductions == [reduced]
    assert cutter.frame(np.array([0]), np.array([0])) == (512, 512)
