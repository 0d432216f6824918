import errno
import os
import pickle
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from seer.data.crops.multicrop import MultiCrop, View
from seer.data.labelled import load_labelled
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage import remote as module
from seer.data.storage.index import MANIFEST, Manifest, index_path, write_index
from seer.data.storage.reader import Reader
from seer.data.storage.remote import FetchConfig, ReadAhead
from seer.errors import InputError
from seer.eval.pile import open_pile
from tests.kit.pictures import coloured_jpeg
from tests.kit.servers import be_impatient, files, serve
from tests.kit.shards import write_shards

VIEWS = {"large": View(size=12, count=1)}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the data of `shards`, and what else a test puts there."""
    be_impatient(monkeypatch)
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "home"))
    with serve(files(tmp_path)) as server:
        yield server


def reader(server, fetch="ranges", gb=1.0, where="", open_shards=1) -> Reader:
    return Reader(Manifest.load(f"{server.url}/shards"), FetchConfig(fetch, where, gb), open_shards)


def gets(server) -> Counter:
    """How often each tar was asked for."""
    return Counter(
        {
            path: n
            for (method, path), n in server.asked.items()
            if method == "GET" and path.endswith("tar")
        }
    )


@pytest.mark.parametrize("fetch", ["ranges", "shards", "auto"])
def test_the_same_bytes_as_from_disk_through_failures(shards, server, fetch):
    server.rate, server.stall = 0.15, 0.7
    ours, theirs, draw = reader(server, fetch), Reader(shards), np.random.default_rng(0)
    for _ in range(12):
        ids = draw.integers(0, 40, 9)
        assert ours.read(ids) == theirs.read(ids)
    assert ours.read(np.array([], np.int64)) == []
    assert pickle.loads(pickle.dumps(ours)).read(np.array([5])) == [coloured_jpeg(5)]
    assert len(server.failed) > 2


def batches(manifest, config: LoaderConfig, steps=range(14), **ranks) -> list:
    """Steps of a loader: `(ids, crops)`."""
    order = Order(manifest.sizes, seed=3, lanes=4, window=5)
    source = Reader(manifest, config, 4)
    loader = Loader(source, order, MultiCrop(VIEWS, seed=3), batch_size=6, config=config, **ranks)
    return [
        (views.index.tolist(), views.crops[0]) for views in loader.iterate(steps.start, steps.stop)
    ]


def equal(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("fetch", ["ranges", "shards", "auto"])
@pytest.mark.parametrize(("workers", "mode"), [(3, "threads"), (2, "processes")])
def test_the_same_batches_as_from_disk(shards, server, tmp_path, fetch, workers, mode):
    server.rate, server.faults = 0.1, ["503", "429", "reset", "truncated"]
    config = LoaderConfig(fetch, str(tmp_path / "cache"), workers=workers, mode=mode)
    expected = batches(shards, LoaderConfig(workers=0))
    assert equal(batches(Manifest.load(f"{server.url}/shards"), config), expected)


def test_more_ranks_than_shards(tmp_path, server):
    write_shards(tmp_path / "shards", [9, 8])
    manifest, config = Manifest.load(f"{server.url}/shards"), LoaderConfig("shards", workers=0)
    whole = batches(manifest, config)
    ranks = [batches(manifest, config, rank=rank, world_size=6) for rank in range(6)]
    assert [[i for rank in ranks for i in rank[k][0]] for k in range(14)] == [
        ids for ids, _ in whole
    ]
    assert gets(server) == {"/shards/shard-000000.tar": 1, "/shards/shard-000001.tar": 1}


def test_continues_from_any_step(shards, server):
    manifest, config = Manifest.load(f"{server.url}/shards"), LoaderConfig("ranges", workers=0)
    assert equal(batches(manifest, config, range(5, 9)), batches(shards, config)[5:9])


def test_neighbours_share_a_request(shards, server):
    ours = reader(server)
    ours.read(np.arange(40))
    assert gets(server) == {f"/shards/shard-00000{i}.tar": 1 for i in (0, 2, 3)}


def test_merged_ranges_give_each_member_and_waste_little(shards, server, monkeypatch):
    monkeypatch.setattr(module, "GAP", 50)
    monkeypatch.setattr(module, "MERGED", 400)
    ours, asked = reader(server)._remote, []

    def read(ranges):
        asked.extend((url.name, start, stop) for url, start, stop in ranges)
        return [content(url.name, start, stop) for url, start, stop in ranges]

    def content(name, start, stop):
        return f"{name}{'.' * 20_000}".encode()[start:stop]

    monkeypatch.setattr(module, "read_ranges", read)
    for seed in range(50):
        draw = random.Random(seed)
        sizes = [draw.choice([1, 20, 90, 700]) for _ in range(60)]
        starts = np.cumsum([size + draw.choice([0, 30, 80]) for size in sizes]) - sizes
        spans = [
            (i // 20 + 1, int(start), size)
            for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
        ]
        draw.shuffle(spans)
        spans += spans[:7]
        asked.clear()
        found = ours.read(spans)
        assert found == [content(shards.shards[s], start, start + size) for s, start, size in spans]
        wanted = {
            (shards.shards[s], byte)
            for s, start, size in spans
            for byte in range(start, start + size)
        }
        for name, start, stop in asked:
            held = [(name, byte) in wanted for byte in range(start, stop)]
            assert stop - start <= 400 or all(held)  # larger than that are single members alone
            gaps = "".join(" x"[h] for h in held).split("x")
            assert max(map(len, gaps)) <= 50
        assert len(asked) < 50 + 7


def test_auto_brings_shards_that_fit_and_then_asks_for_nothing_more(shards, server):
    server.rate, server.faults = 0.1, ["503"]
    ours, ids = reader(server, "auto"), np.array([0, 15, 39])
    folder, deadline = ours._remote.cache.folder, time.monotonic() + 60
    while len(list(folder.glob("*.tar"))) < 3 and time.monotonic() < deadline:
        assert ours.read(ids) == [coloured_jpeg(i) for i in ids.tolist()]
    server.asked.clear()
    assert ours.read(ids) == [coloured_jpeg(i) for i in ids.tolist()]
    assert not server.asked


@pytest.mark.parametrize(
    ("fetch", "open_shards", "gigabytes", "caches"),
    [
        ("auto", 4, 1e-4, True),
        ("auto", 1, 6.2e-5, True),
        ("auto", 2, 6.2e-5, False),
        ("ranges", 1, 1.0, False),
    ],
)
def test_shards_are_cached_where_those_in_use_fit(
    shards, server, fetch, open_shards, gigabytes, caches
):
    assert shards.bytes.tolist() == [20480, 10240, 30720, 20480]
    assert (reader(server, fetch, gigabytes, "", open_shards)._remote.cache is not None) == caches


def test_a_replaced_shard(shards, server):
    path = shards.directory / shards.shards[2]
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(
        InputError, match=r"shard-000002.tar has 31232 bytes and had 30720 when it was indexed"
    ) as raised:
        reader(server).read(np.array([12]))
    assert "\n" not in str(raised.value)
    path.write_bytes(bytes(30720))  # the same length: whole shards are compared by their hash
    with pytest.raises(InputError, match=r"shard-000002.tar was replaced after it was indexed"):
        reader(server, "shards").read(np.array([12]))
    ours, deadline = reader(server, "auto"), time.monotonic() + 60
    with pytest.raises(InputError, match=r"shard-000002.tar was replaced after it was indexed"):
        any(
            ours.read(np.array([12])) == [] for _ in iter(lambda: time.monotonic() > deadline, True)
        )


def test_a_missing_tar_or_index(shards, server):
    (shards.directory / shards.shards[0]).unlink()
    index = index_path(shards.directory / shards.shards[2])
    index.unlink()
    with pytest.raises(InputError, match=r"shard-000000.tar does not exist"):
        reader(server).read(np.array([0]))
    with pytest.raises(
        InputError, match=r"shard-000002.index.parquet is no readable index .*; run: seer"
    ):
        reader(server).read(np.array([12]))
    write_index(index, [])
    with pytest.raises(InputError, match="has 0 samples and the manifest says 17"):
        reader(server).read(np.array([12]))
    (shards.directory / MANIFEST).unlink()
    with pytest.raises(
        InputError,
        match=r"manifest.parquet does not exist .*; if only tars are there, run seer shards",
    ):
        reader(server)


def test_a_cache_that_cannot_be_written(shards, server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file cannot be written \(.+\); set loader.cache_dir"):
        reader(server, "shards", where=str(tmp_path / "file"))
    assert reader(server, "auto", where=str(tmp_path / "file")).read(np.array([3])) == [
        coloured_jpeg(3)
    ]


def test_a_cache_disk_that_fills_up_costs_the_cache_and_not_the_run(
    shards, server, tmp_path, monkeypatch, caplog
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    ours, deadline = reader(server, "auto", where=str(tmp_path / "cache")), time.monotonic() + 60
    while ours._remote.cache is not None and time.monotonic() < deadline:
        assert ours.read(np.array([3])) == [coloured_jpeg(3)]
    assert ours._remote.cache is None
    assert "No space left on device" in caplog.text
    assert ours.read(np.array([3])) == [coloured_jpeg(3)]


def test_wrong_options(shards, server):
    with pytest.raises(
        InputError, match=r"loader.fetch: 'shard' is unknown \(did you mean 'shards'\?\)"
    ):
        reader(server, "shard")
    with pytest.raises(
        InputError, match=r"loader.cache_gb=1e-05: a shard has 3.07e-05 GB; give more"
    ):
        reader(server, "shards", 1e-5)


class Log:
    """Stands for a reader, and tells what is read of it, and when."""

    def __init__(self):
        self.groups: list[list[int]] = []

    def read(self, ids: np.ndarray) -> list[bytes]:
        self.groups.append(sorted(set((ids // 10).tolist())))
        return [bytes([i % 256]) for i in ids.tolist()]


def ids_of(step: int) -> np.ndarray:
    return np.arange(step * 10, step * 10 + 10)


def content(step: int) -> list[bytes]:
    return [bytes([i % 256]) for i in ids_of(step).tolist()]


def test_batches_are_read_ahead_in_groups(monkeypatch):
    monkeypatch.setattr(module, "AHEAD", 6 * 10 * 100)
    log = Log()
    ahead = ReadAhead(log.read, mean_bytes=100)
    for step in range(4, 60, 2):  # as the first of two workers
        assert ahead.take(10, step, ids_of, stride=2) == content(step)
        assert len(ahead._pending) <= 2 * 3
    groups = [tuple(group) for group in log.groups]
    assert set(groups[:4]) >= {(4,), (6, 8)}
    assert len(groups) == len(set(groups))
    assert all(len(group) == 3 for group in set(groups) - {(4,), (6, 8)})


def test_threads_read_ahead_together_and_who_stops_leaves_little(monkeypatch):
    monkeypatch.setattr(module, "AHEAD", 2 * 10 * 100)
    ahead = ReadAhead(Log().read, mean_bytes=100)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda step: ahead.take(10, step, ids_of, 3), range(90))) == [
            content(s) for s in range(90)
        ]
    for start in range(0, 5000, 100):
        assert ahead.take(10, start, ids_of, 1) == content(start)
        assert ahead.take(10, start + 1, ids_of, 1) == content(start + 1)
    assert len(ahead._pending) <= 3


def test_what_fails_ahead_of_time_is_raised_when_it_is_asked_for():
    def read(ids):
        if ids[-1] >= 30:
            raise InputError("gone")
        return [b"x" for _ in ids]

    ahead = ReadAhead(read, mean_bytes=2**30)
    for step in range(3):
        assert ahead.take(10, step, ids_of, 1) == [b"x"] * 10
    with pytest.raises(InputError, match="gone"):
        ahead.take(10, 3, ids_of, 1)


def test_labelled_shards_and_embeddings_of_a_store(tmp_path, server):
    for split in ("train", "val"):
        write_shards(tmp_path / split, [3, 2], labels=lambda i: i % 2, classes=["even", "odd"])
    for split, folder in ((None, "/val"), ("train", ""), ("test", "")):
        data = load_labelled(server.url + folder, split)
        assert data.labels.tolist() == [0, 1, 0, 1, 0]
        assert data.bytes(3) == coloured_jpeg(3)
        assert (
            data.fingerprint
            == load_labelled(tmp_path / (split or "val").replace("test", "val")).fingerprint
        )
    pile = open_pile(f"{server.url}/val")
    assert pile.labels == ["even", "odd", "even", "odd", "even"]
    assert pile.image(4).shape == (16, 16, 3)
    with pytest.raises(InputError, match=r"/nowhere/train/manifest.parquet does not exist"):
        load_labelled(f"{server.url}/nowhere", "train")


def test_an_interrupt_while_workers_wait_for_a_silent_store(shards, server, monkeypatch):
    def interrupt(*_):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        raise KeyboardInterrupt

    def be_silent(*_):
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(600)

    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    manifest = Manifest.load(f"{server.url}/shards")
    server.answer = be_silent
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            batches(manifest, LoaderConfig("ranges", workers=2))
        assert not active_children()
    finally:
        signal.signal(signal.SIGALRM, before)
