"""Build, index, stream: every sample once per epoch, damage in the ledger, for any shards, ranks,
workers and kills.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from seer.data import ledger
from seer.data.crops.multicrop import MultiCrop, View
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage.index import MANIFEST, Manifest, index_path
from seer.data.storage.reader import Reader
from shards.build import BuildOptions, build
from shards.indexing import index
from shards.writing.writer import write_shard
from tests.kit.faults import spoil
from tests.kit.pictures import jpeg, photograph

CROPS = {"large": View(size=8, count=1)}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for i in range(61):
        (root / f"{i:03d}.jpg").write_bytes(jpeg(photograph(i, 12, 12)))
    return root


def built(images: Path, out: Path, shard_size: int, kills: int, monkeypatch) -> Path:
    """Shards of a build that was interrupted `kills` times between two shards, then indexed as
    another's tars.
    """
    options = BuildOptions(workers=1, shard_size=shard_size)
    left = 1

    def interrupted(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write_shard(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("shards.build.write_shard", interrupted)
        for _ in range(kills):
            left = 1
            with pytest.raises(KeyboardInterrupt):
                build([images], out, options)
    build([images], out, options)
    for shard in Manifest.load(out).shards:
        index_path(out / shard).unlink()
    (out / MANIFEST).unlink()
    index([out], workers=1)
    return out


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_sample_once_per_epoch(images, tmp_path_factory, monkeypatch, data):
    draw = data.draw
    root = tmp_path_factory.mktemp("example")
    shard_size = draw(st.integers(2, 40), "shard size")
    shards = built(
        images,
        root / "shards",
        shard_size,
        draw(st.integers(0, min(2, 60 // shard_size)), "kills"),
        monkeypatch,
    )
    manifest = Manifest.load(shards)
    # Of every shard at least one sample stays whole.
    spoiled = {
        shard: draw(st.lists(st.integers(0, size - 2), max_size=2, unique=True), shard)
        for shard, size in zip(manifest.shards, manifest.sizes.tolist(), strict=True)
        if size > 3
    }
    shards = spoil(shards, root / "spoiled", spoiled)
    firsts = dict(
        zip(manifest.shards, (np.cumsum(manifest.sizes) - manifest.sizes).tolist(), strict=True)
    )
    damaged = {firsts[shard] + row for shard, rows in spoiled.items() for row in rows}

    worlds = [1, 2, 3, 4, 6, 8]
    batch = 24  # all of them divide it
    steps = 2 * manifest.samples // batch + 1
    order = Order(
        manifest.sizes, draw(st.integers(0, 99), "seed"), batch, draw(st.integers(1, 64), "window")
    )
    taken, step = list[int](), 0
    while step < steps:  # another world size after each kill; a kill loses what was made ahead
        world, until = (
            draw(st.sampled_from(worlds), "world"),
            draw(st.integers(step + 1, steps), "killed after"),
        )
        parts = [
            deliver(shards, order, batch, rank, world, step, until, root, draw)
            for rank in range(world)
        ]
        for number in range(until - step):
            taken += [id for part in parts for id in part[number]]
        step = until

    epochs = [Counter(taken[start : start + manifest.samples]) for start in (0, manifest.samples)]
    assert all(epoch == Counter(range(manifest.samples)) for epoch in epochs)
    entries = ledger.read(root, len(taken))
    assert [(entry.position, entry.id) for entry in entries] == [
        (p, id) for p, id in enumerate(taken) if id in damaged
    ]
    assert all(entry.replacement not in damaged for entry in entries)


def deliver(shards, order, batch, rank, world, start, stop, run_dir, draw) -> list[list[int]]:
    """What one rank of `world` takes in steps start … stop - 1: ids by step."""
    workers = draw(st.integers(0, 4), "workers")
    config = LoaderConfig(
        workers=workers, mode="threads", prefetch=draw(st.integers(1, 3), "prefetch")
    )
    crops = MultiCrop(CROPS, seed=0)
    loader = Loader(
        Reader(Manifest.load(shards)), order, crops,
        batch_size=batch, rank=rank, world_size=world, config=config, run_dir=run_dir,
    )  # fmt: skip
    # A killed rank had more steps under way than it delivered.
    iterator = loader.iterate(start, stop + 2)
    ids = [next(iterator).index.tolist() for _ in range(stop - start)]
    iterator.close()
    return ids


@pytest.mark.parametrize("workers", [1, 4])
def test_with_worker_processes(images, tmp_path, workers, monkeypatch):
    shards = spoil(
        built(images, tmp_path / "shards", 9, 1, monkeypatch),
        tmp_path / "spoiled",
        {"shard-000002.tar": [0, 5]},
    )
    manifest = Manifest.load(shards)
    order = Order(manifest.sizes, 1, 61, 16)
    loader = Loader(
        Reader(manifest),
        order,
        MultiCrop(CROPS, seed=0),
        batch_size=61,
        config=LoaderConfig(workers=workers),
        run_dir=tmp_path,
    )
    for views in loader.iterate(0, 3):
        assert sorted(views.index.tolist()) == list(range(61))
    assert Counter(entry.id for entry in ledger.read(tmp_path, 3 * 61)) == {18: 3, 23: 3}
