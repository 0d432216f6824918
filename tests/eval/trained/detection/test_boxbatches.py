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
            torch.testing.assert_close(own, around.float(), atol=1.0, rtol=0)
            assert (mask.bool() != white).float().mean() < 0.02
    assert sides == {20, 48}  # mirrored and not


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
