"""A survey: every sample once, as it is in its epoch, and nothing that a run counts knows of it."""

import numpy as np
import pytest
import torch

from seer.data.crops.multicrop import MultiCrop, View
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import OnePass, Order
from seer.data.views import Views
from seer.rundir.names import DAMAGED
from tests.kit.pictures import coloured_jpeg
from tests.kit.shards import write_shards

SAMPLES, BATCH, EPOCH = 28, 6, 2  # 5 batches, of which the last has 4 samples and 2 again
MODES = [
    LoaderConfig(workers=0),
    LoaderConfig(workers=1, mode="threads"),
    LoaderConfig(workers=1, mode="processes"),
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """28 pictures, of which number 3 is damaged."""
    root = tmp_path_factory.mktemp("survey")
    return write_shards(root, [11, 17], image=lambda i: b"" if i == 3 else coloured_jpeg(i))


def make(manifest, config=MODES[0], **options) -> Loader:
    order = Order(manifest.sizes, seed=3, lanes=4, window=5)
    crops = MultiCrop({"large": View(size=12, count=2)}, seed=3)
    return Loader(manifest, order, crops, batch_size=BATCH, config=config, **options)


def crops_by_sample(batches: list[Views]) -> dict[int, torch.Tensor]:
    return {
        sample: batch.crops[0][:, i]
        for batch in batches
        for i, sample in enumerate(batch.index.tolist())
    }


@pytest.mark.parametrize("config", MODES, ids=["inline", "threads", "processes"])
def test_it_is_the_epoch_once_from_its_first_sample_on(manifest, config):
    loader = make(manifest, config)
    batches = list(loader.survey(EPOCH))
    index = torch.cat([batch.index for batch in batches]).tolist()
    epoch = loader.order.ids(EPOCH * SAMPLES, SAMPLES).tolist()
    assert index == [*epoch, *epoch[:2]]
    assert sorted(epoch) == list(range(SAMPLES))
    shown = crops_by_sample(batches)
    trained = crops_by_sample(list(make(manifest).iterate(10, 14)))  # steps within the epoch
    assert len(trained) == 4 * BATCH
    assert all(torch.equal(shown[sample], crops) for sample, crops in trained.items())


def test_ranks_share_it_in_equal_parts(manifest):
    whole = list(make(manifest).survey(EPOCH))
    for world_size in (2, 3):
        ranks = [
            list(make(manifest, rank=rank, world_size=world_size).survey(EPOCH))
            for rank in range(world_size)
        ]
        for batch, *shares in zip(whole, *ranks, strict=True):
            assert torch.equal(torch.cat([share.index for share in shares]), batch.index)
            assert len({len(share.index) for share in shares}) == 1


def test_it_leaves_no_trace_in_counts_and_ledger(manifest, tmp_path):
    """Not even where it lies between two steps of a run."""
    alone = make(manifest)
    undisturbed = list(alone.iterate(0, 8))
    loader = make(manifest, run_dir=tmp_path)
    batches = []
    for number, batch in enumerate(loader.iterate(0, 8)):
        batches.append(batch)
        if number == 0:
            counts = loader.seen, loader.replaced, loader.wait_seconds, loader.work_seconds
            assert not (tmp_path / DAMAGED).exists()
            surveyed = [sample for views in loader.survey(0) for sample in views.index.tolist()]
            assert 3 in surveyed
            after = loader.seen, loader.replaced, loader.wait_seconds, loader.work_seconds
            assert after == counts
            assert not (tmp_path / DAMAGED).exists()
    assert loader.seen == alone.seen
    for batch, expected in zip(batches, undisturbed, strict=True):
        assert torch.equal(batch.index, expected.index)
        assert torch.equal(batch.crops[0], expected.crops[0])
    assert (tmp_path / DAMAGED).exists()  # the run itself has met it


def test_a_pass_over_few_samples_begins_again_and_again():
    order = Order(np.array([3]), seed=0, lanes=1, window=2)
    epoch = order.ids(3, 3).tolist()
    assert OnePass(order, 1).ids(2, 6).tolist() == [epoch[2], *epoch, *epoch[:2]]
    assert OnePass(order, 1).epoch(np.arange(4)).tolist() == [1] * 4
