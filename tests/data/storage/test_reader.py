import gc
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from seer.data.storage import reader as module
from seer.data.storage.index import index_path, write_index
from seer.data.storage.reader import UNLABELLED, Reader
from seer.errors import InputError
from tests.kit.pictures import coloured_jpeg
from tests.kit.shards import write_shards


def test_reads_any_samples_in_the_order_asked(shards):
    ids = np.array([39, 0, 11, 10, 28, 27, 0])
    assert Reader(shards).read(ids) == [coloured_jpeg(i) for i in ids.tolist()]


def test_reads_nothing(shards):
    assert Reader(shards).read(np.array([], dtype=np.int64)) == []


def test_labels(tmp_path):
    manifest = write_shards(
        tmp_path, [3, 4], labels=lambda i: None if i == 5 else i % 2, classes=["even", "odd"]
    )
    labels = Reader(manifest).labels(np.array([6, 1, 5, 0]))
    assert labels.tolist() == [0, 1, UNLABELLED, 0]
    assert labels.dtype == np.int64


def test_next_in_shard_wraps(shards):
    reader = Reader(shards)
    assert [reader.next_in_shard(i) for i in (0, 10, 11, 27, 39)] == [1, 0, 12, 11, 28]


def test_survives_pickling(shards):
    reader = pickle.loads(pickle.dumps(Reader(shards)))
    assert reader.read(np.array([5])) == [coloured_jpeg(5)]


def open_tars(folder) -> list[str]:
    """The files in `folder` that this process holds open."""
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return [
        path
        for path in (os.path.realpath(link) for link in links)
        if path.startswith(f"{folder}{os.sep}")
    ]


def test_open_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_FILES", 3)
    reader = Reader(write_shards(tmp_path, [2] * 20))
    for _ in range(3):
        assert reader.read(np.arange(40)) == [coloured_jpeg(i) for i in range(40)]
        assert len(open_tars(tmp_path)) <= 3
    del reader
    gc.collect()
    assert not open_tars(tmp_path)


def test_threads_share_a_reader_that_evicts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_FILES", 2)
    reader = Reader(write_shards(tmp_path, [2] * 20))
    draws = np.random.default_rng(0).integers(0, 40, (64, 20))
    with ThreadPoolExecutor(8) as pool:
        for ids, data in zip(draws, pool.map(reader.read, draws), strict=True):
            assert data == [coloured_jpeg(i) for i in ids.tolist()]


@pytest.mark.parametrize(
    "change", [lambda data: data[:600], lambda data: data + bytes(10240)], ids=["cut", "longer"]
)
def test_a_shard_of_another_length_than_when_it_was_indexed(shards, change):
    path = shards.directory / shards.shards[0]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(
        InputError,
        match=r"shard-000000.tar has \d+ bytes and had 20480 when it was indexed; restore",
    ):
        Reader(shards).read(np.array([0]))


def test_a_shard_that_is_cut_while_it_is_read_gives_short_bytes(shards):
    reader = Reader(shards)
    reader.read(np.array([0]))
    os.truncate(shards.directory / shards.shards[0], 600)
    first, last = reader.read(np.array([0, 10]))
    assert first == coloured_jpeg(0)[:88]
    assert last == b""


def test_missing_shard_and_mismatched_index(shards):
    (shards.directory / shards.shards[0]).unlink()
    with pytest.raises(InputError, match=r"shard-000000.tar cannot be read \(No such file"):
        Reader(shards).read(np.array([0]))
    write_index(index_path(shards.directory / shards.shards[2]), [])
    with pytest.raises(InputError, match="has 0 samples and the manifest says 17"):
        Reader(shards).read(np.array([12]))
