"""The batches of a detector."""

import pickle

import numpy as np
import pytest
import torch

from seer.data.labelled import LabelledSamples
from seer.data.loader import Loader
from seer.data.options import LoaderConfig
from seer.data.order import Order
from seer.eval.data.boxes import train_and_test
from seer.eval.data.objects import Object, flat
from seer.eval.trained.detection.boxbatches import framed
from seer.eval.trained.detection.boxcutter import BoxCutter
from seer.eval.trained.detection.boxtask import BoxTask, task_of
from seer.eval.trained.detection.byaspect import ByAspect
from seer.eval.trained.detection.placement import Placing, reduction, resized_size
from tests.kit import boxes


@pytest.mark.parametrize(("images", "batch"), [(40, 4), (37, 4), (10, 16), (9, 2), (1, 1)])
def test_every_image_comes_once_an_epoch_and_batches_are_of_a_kind(images, batch):
    wide = np.random.default_rng(0).random(images) < 0.6
    order = ByAspect(Order(np.ones(images, np.int64), 3, batch, 256), wide, batch)
    stream = order.ids(0, 6 * images)
    for epoch in stream.reshape(6, images):
        assert sorted(epoch.tolist()) == list(range(images))
    assert not np.array_equal(stream[:images], stream[images : 2 * images]) or images == 1
    whole = stream[: len(stream) // batch * batch].reshape(-1, batch)
    mixed = sum(len(set(wide[ids].tolist())) > 1 for ids in whole)
    assert mixed <= 3 * 6
    # Any piece of it is the same, and so is a copy.
    again = pickle.loads(pickle.dumps(order))
    np.testing.assert_array_equal(
        again.ids(images + 1, images), stream[images + 1 : 2 * images + 1]
    )


def test_sizes_are_those_of_the_shorter_side_within_the_longer():
    assert resized_size((480, 640), 800, 1333) == (800, 1067)
    assert resized_size((100, 1000), 800, 1333) == (133, 1333)
    assert reduction((800, 1000), (100, 125)) == 8
    assert reduction((800, 1000), (101, 125)) == 4
    assert reduction((800, 1000), (800, 1000)) == 1


def cutter(objects, flip: bool, sides=(96,)) -> BoxCutter:
    return BoxCutter(objects, Placing(sides, 1000, flip, 5), True, [0.0] * 3, [1.0] * 3, 32)


def test_boxes_and_masks_lie_on_their_object_however_it_is_resized_and_mirrored():
    """Of a black picture with a white rectangle, as a polygon and as run lengths."""
    from seer.eval.data.masks import runs_in

    image = np.zeros((48, 64, 3), np.uint8)
    image[8:24, 10:40] = 255
    ring = np.array([[10, 8], [40, 8], [40, 24], [10, 24]], np.float32)
    runs = runs_in(image[:, :, 0] > 0)
    box = np.array([10, 8, 40, 24])
    things = [
        Object(0, box, polygons=(ring,)),
        Object(1, box, runs=runs),
        Object(0, box, crowd=True, runs=runs),
        Object(0, box),
    ]
    table = flat([(48, 64)], [things])
    sides = set()
    for epoch in range(8):
        plan = cutter(table, True).plan([(48, 64)], np.array([epoch]), np.array([0]))
        plan.cut(0, image)
        parcel = plan.batch()
        assert parcel.labels[0].tolist() == [1, 2]  # neither the crowd nor what has no mask
        batch = cutter(table, True).finish(
            parcel.__class__(**(vars(parcel) | {"frame": (96, 128)})), "cpu"
        )
        white = batch.pixels[0, 0] > 0.5
        rows, columns = torch.nonzero(white, as_tuple=True)
        around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        sides.add(int(around[0]))
        for own, mask in zip(batch.boxes[0], batch.masks[0], strict=True):
            torch.testing.assert_close(own, around.float(), atol=0, rtol=0)
            assert (mask.bool() != white).float().mean() < 0.02
    assert sides == {20, 48}  # mirrored and not


def test_an_image_without_objects_has_masks_of_none():
    made = cutter(flat([(48, 64)], [[]]), True)
    plan = made.plan([(48, 64)], np.array([0]), np.array([0]))
    plan.cut(0, np.zeros((48, 64, 3), np.uint8))
    parcel = plan.batch()
    batch = made.finish(parcel.__class__(**(vars(parcel) | {"frame": (96, 128)})), "cpu")
    assert batch.boxes[0].shape == (0, 4)
    assert batch.masks[0].shape == (0, *batch.sizes[0])


def test_nothing_is_mirrored_where_that_is_not_asked_for():
    box = Object(0, np.array([10, 8, 40, 24]), runs=np.array([0, 48 * 64]))
    table = flat([(48, 64)], [[box]])
    for epoch in range(8):
        plan = cutter(table, False).plan([(48, 64)], np.array([epoch]), np.array([0]))
        plan.cut(0, np.zeros((48, 64, 3), np.uint8))
        assert plan.batch().boxes[0].tolist() == [[20, 16, 80, 48]]


def test_sides_are_drawn_anew_in_each_epoch_and_frames_are_multiples():
    table = flat([(50, 60)] * 6, [[]] * 6)
    made = cutter(table, False, (40, 70))
    ids = np.arange(6)
    sizes = [made.placing.shapes(table.sizes, np.full(6, epoch), ids) for epoch in range(12)]
    assert {int(size) for epoch in sizes for size in epoch[:, 0]} == {40, 70}
    assert len({tuple(epoch[0]) for epoch in sizes}) == 2  # of one image
    assert made.frame(np.zeros(2, int), np.array([0, 0])) in ((64, 64), (96, 96))


def test_pixels_are_normalised_by_mean_and_deviation():
    image = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    pixels = framed([image], (2, 1), [0.5, 0.2, 0.4], [0.25, 0.5, 0.2], "cpu")
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([-2.0, 0.0, 3.0]))
    assert not pixels[0, :, 1].any()


def test_batches_come_in_the_order_in_which_they_become_full():
    wide = np.array([True, False] * 8)
    order = Order(np.ones(16, np.int64), 3, 4, 256)
    plain = order.ids(0, 16)
    full: list[list[int]] = []
    open_batches: dict[bool, list[int]] = {True: [], False: []}
    for id in plain.tolist():
        own = open_batches[bool(wide[id])]
        own.append(id)
        if len(own) == 4:
            full.append(list(own))
            own.clear()
    assert ByAspect(order, wide, 4).ids(0, 16).reshape(4, 4).tolist() == full


def loader(images, world: int = 1, rank: int = 0, workers: int = 0, batch: int = 4) -> Loader:
    wide = images.objects.sizes[:, 1] >= images.objects.sizes[:, 0]
    made = Loader(
        LabelledSamples(images, "boxes"),
        ByAspect(Order(np.ones(len(images), np.int64), 0, batch, 256), wide, batch),
        cutter(images.objects, True, (64, 96)),
        batch_size=batch,
        rank=rank,
        world_size=world,
        config=LoaderConfig(workers=workers),
    )
    made.task = task_of(made)
    return made


def same(a, b) -> None:
    torch.testing.assert_close(a.pixels, b.pixels, rtol=0, atol=0)
    assert torch.equal(a.index, b.index)
    assert a.sizes == b.sizes
    for ours, theirs in zip(
        (*a.boxes, *a.labels, *a.masks), (*b.boxes, *b.labels, *b.masks), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_shares_of_two_ranks_are_the_batch_of_one(tmp_path):
    images, _ = train_and_test(boxes.both(tmp_path, 9, 1))
    whole = list(loader(images).iterate(0, 5))
    shares = [list(loader(images, 2, rank).iterate(0, 5)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for ours, part in zip(batch.chunk(2), parts, strict=True):
            same(ours, part)
        pixels = batch.to(torch.float64)
        assert pixels.boxes[0].dtype == pixels.pixels.dtype == torch.float64
        assert pixels.labels[0].dtype == torch.int64


def test_workers_make_the_same_batches(tmp_path):
    images, _ = train_and_test(boxes.both(tmp_path, 6, 1))
    for ours, theirs in zip(
        loader(images).iterate(3, 6), loader(images, workers=1).iterate(3, 6), strict=True
    ):
        same(ours, theirs)
    assert isinstance(loader(images).task, BoxTask)
