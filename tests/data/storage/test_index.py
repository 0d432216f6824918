import os
import re
import subprocess
import sys

import numpy as np
import pytest
import webdataset

from seer.data.storage.index import (
    INDEX_SCHEMA,
    MANIFEST,
    Manifest,
    index_path,
    read_index,
    write_index,
    write_manifest,
)
from seer.errors import InputError
from tests.kit.pictures import coloured_jpeg
from tests.kit.servers import files, serve
from tests.kit.shards import write_shards


def test_index_points_at_what_webdataset_reads(shards):
    for shard, size in zip(shards.shards, shards.sizes, strict=True):
        path = shards.directory / shard
        table = read_index(index_path(path))
        assert table.schema.equals(INDEX_SCHEMA)
        samples = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
        assert len(samples) == size
        data = path.read_bytes()
        for row, sample in zip(table.to_pylist(), samples, strict=True):
            assert row["key"] == sample["__key__"]
            assert data[row["offset"] : row["offset"] + row["size"]] == sample["jpg"]


def test_manifest_tells_its_shards(shards):
    assert shards.shards == [f"shard-{i:06d}.tar" for i in range(4)]
    assert shards.sizes.tolist() == [11, 0, 17, 12]
    assert shards.sizes.dtype == np.int64
    assert shards.samples == 40
    assert shards.classes is None
    assert Manifest.load(shards.directory / MANIFEST).hash == shards.hash


def test_hash_follows_content_not_place(tmp_path, shards):
    assert write_shards(tmp_path / "elsewhere", [11, 0, 17, 12]).hash == shards.hash
    other = write_shards(tmp_path / "other", [11, 0, 17, 12], image=lambda i: coloured_jpeg(i + 1))
    assert other.hash != shards.hash
    assert len(shards.hash) == 16


def test_classes_and_build_are_kept(tmp_path):
    write_manifest(
        tmp_path,
        [{"shard": "a.tar", "samples": 1, "bytes": 10240, "sha256": "0" * 64}],
        {"classes": ["cat", "dog"], "build": {"max_side": 256}},
    )
    manifest = Manifest.load(tmp_path)
    assert manifest.classes == ["cat", "dog"]
    assert manifest.build == {"max_side": 256}
    assert os.listdir(tmp_path) == [MANIFEST]  # no temporary file is left


def missing(path):
    return path / "nowhere"


def a_file(path):
    (path / "file").write_bytes(b"")
    return path / "file"


def empty(path):
    return path


def images(path):
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/er/x.JPG").write_bytes(coloured_jpeg(1))
    return path


def tars(path):
    (path / "x.tar").write_bytes(b"")
    return path


def something_else(path):
    (path / "x.docx").write_bytes(b"")
    return path


def garbage(path):
    (path / MANIFEST).write_bytes(b"PAR1 but not really")
    return path


def foreign(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), path / MANIFEST)
    return path


def newer(path):
    write_manifest(path, [], {"format": "seer-shards/9"})
    return path


def no_samples(path):
    write_manifest(path, [], {})
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "does not exist"),
        (a_file, "is a file"),
        (empty, "is empty"),
        (images, "holds images, not shards; run: seer shards build"),
        (tars, "tars without a manifest; run: seer shards index"),
        (something_else, "no manifest.parquet and no images"),
        (garbage, "no readable manifest"),
        (foreign, "no readable manifest"),
        (newer, "update seer"),
        (no_samples, "lists no samples"),
        (lambda path: "ftp://host/shards", "'ftp' is no kind of store"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, make, words):
    with pytest.raises(InputError, match=words) as raised:
        Manifest.load(make(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_command_to_be_copied_has_its_paths_as_words(tmp_path):
    folder = images(tmp_path / "my photos; rm -r")
    with pytest.raises(InputError, match=re.escape(f"seer shards build '{folder}' --out SHARDS")):
        Manifest.load(folder)


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_missing_or_broken_index(tmp_path, content):
    path = tmp_path / "shard.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="seer shards index"):
        read_index(path)


def test_a_damaged_manifest_on_a_server_is_not_to_be_indexed_there(tmp_path):
    garbage(tmp_path)
    with (
        serve(files(tmp_path)) as server,
        pytest.raises(InputError, match="index where the tars can be written"),
    ):
        Manifest.load(server.url)


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="needs Linux's list of a process's threads"
)
def test_reading_leaves_no_thread_of_arrow_behind(shards):
    # One that still held Python's memory when the interpreter ended aborted one `seer shards build`
    # in ten.
    program = """if True:
        import os, sys
        from seer.data.storage.index import Manifest, index_path, read_index
        before = set(os.listdir("/proc/self/task"))
        manifest = Manifest.load(sys.argv[1])
        read_index(index_path(manifest.directory / manifest.shards[0]))
        print(len(set(os.listdir("/proc/self/task")) - before))"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(shards.directory)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


ROW = {"shard": "a.tar", "samples": 1, "bytes": 10240, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("rows", "note", "words"),
    [
        ([ROW | {"shard": "../a.tar"}], {}, "is not the plain name of a file that ends in .tar"),
        ([ROW | {"shard": "/etc/a.tar"}], {}, "is not the plain name"),
        ([ROW | {"shard": "a.zip"}], {}, "is not the plain name"),
        ([ROW, ROW], {}, "it names a shard twice"),
        ([ROW | {"sha256": "../../x"}], {}, "is not 64 hex digits"),
        ([ROW | {"samples": -1}], {}, "is not a whole number from 0"),
        ([ROW | {"samples": 2**60}], {}, "is not a whole number from 0"),
        ([ROW | {"bytes": 2**60}], {}, "is not a whole number from 0"),
        ([ROW | {"bytes": None}], {}, "it has a row without a value"),
        ([ROW], {"classes": [1]}, "1 is not a text"),
        ([ROW], {"classes": "ab"}, "is not a list"),
        ([ROW], {"build": {"removed": "x"}}, "is not a whole number"),
        ([ROW], {"build": []}, "is not names with values"),
        ([ROW], {"format": 1}, "is not a text"),
    ],
)
def test_manifests_that_nobody_wrote_are_refused(tmp_path, rows, note, words):
    write_manifest(tmp_path, rows, note)
    with pytest.raises(InputError, match=words) as raised:
        Manifest.load(tmp_path)
    assert "no readable manifest" in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offset": -512}, "is not a whole number from 0"),
        ({"size": 2**60}, "is not a whole number from 0"),
        ({"offset": 10**6}, "has a sample that ends at byte 1000[0-9]* of a tar of"),
        ({"size": 10**6}, "of a tar of"),
        ({"width": 0}, "is not a whole number from 1"),
        ({"label": -1}, "is not a whole number from 0"),
        ({"label": 2}, "has a label 2, and the manifest 2 classes"),
        ({"label": 999_999_999}, "has a label 999999999, and the manifest 2 classes"),
        ({"key": None}, "it has a row without a value"),
    ],
)
def test_indices_that_lead_out_of_their_tar_are_refused(tmp_path, changes, words):
    manifest = write_shards(tmp_path, [3], labels=lambda i: i % 2, classes=["a", "b"])
    path = index_path(tmp_path / manifest.shards[0])
    rows = read_index(path).to_pylist()
    write_index(path, [rows[0], rows[1] | changes, rows[2]])
    with pytest.raises(InputError, match=words):
        manifest.index(0)
    write_index(path, rows[:2])
    with pytest.raises(InputError, match="has 2 samples and the manifest says 3"):
        manifest.index(0, ["offset"])


EXTRA = {"suffix": "txt", "offset": 512, "size": 5}


@pytest.mark.parametrize(
    ("extras", "words"),
    [
        ([EXTRA | {"offset": -1}], r"extras.offset\[0\]: -1 is not a whole number from 0"),
        ([EXTRA, EXTRA | {"offset": 2**43}], r"extras.offset\[1\]: 8796093022208 is not"),
        ([EXTRA | {"size": -1}], r"extras.size\[0\]: -1 is not a whole number from 0"),
        ([EXTRA | {"size": 2**30}], "extras.size"),
        ([EXTRA | {"offset": 10**6}], "has a member that ends at byte 1000005 of a tar of 10240"),
        ([EXTRA | {"offset": 10_236}], "has a member that ends at byte 10241 of a tar of 10240"),
        ([EXTRA | {"suffix": "t\x1b[2J"}], r"extras.suffix\[0\]: 't\\x1b\[2J' is not a suffix"),
        ([EXTRA | {"suffix": "../x"}], "is not a suffix"),
        ([EXTRA | {"suffix": "größe"}], "is not a suffix"),
        ([EXTRA | {"suffix": ""}], "is not a suffix"),
        ([EXTRA | {"suffix": "x" * 256}], "is not a suffix"),
        ([EXTRA | {"suffix": None}], "extras.suffix: it has a row without a value"),
        ([EXTRA | {"offset": None}], "extras.offset: it has a row without a value"),
        ([None], "extras: it has an item without a value"),
    ],
)
def test_extras_that_lead_out_of_their_tar_are_refused(tmp_path, extras, words):
    manifest = write_shards(tmp_path, [3])
    path = index_path(tmp_path / manifest.shards[0])
    rows = read_index(path).to_pylist()
    write_index(path, [rows[0], rows[1] | {"extras": extras}, rows[2]])
    with pytest.raises(InputError, match=words) as raised:
        manifest.index(0)
    assert str(raised.value).isprintable()
    assert manifest.index(0, ["offset", "label"]).column_names == ["offset", "label"]


@pytest.mark.parametrize("extras", [None, [], [EXTRA], [EXTRA | {"offset": 10_235}, EXTRA]])
def test_extras_within_their_tar_are_as_they_were_written(tmp_path, extras):
    manifest = write_shards(tmp_path, [3])
    path = index_path(tmp_path / manifest.shards[0])
    rows = read_index(path).to_pylist()
    rows[1]["extras"] = extras
    write_index(path, rows)
    assert manifest.index(0)["extras"].to_pylist() == [None, extras, None]


def test_a_flipped_bit_of_an_index_is_not_trained_on(tmp_path):
    manifest = write_shards(tmp_path, [3])
    path = index_path(tmp_path / manifest.shards[0])
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="its seal is broken"):
        manifest.index(0)


def test_what_a_library_quotes_of_a_damaged_file_is_escaped(tmp_path):
    manifest = write_shards(tmp_path, [3])
    path = index_path(tmp_path / manifest.shards[0])
    content = path.read_bytes()
    for place in range(len(content) - 400, len(content) - 8, 3):  # the footer
        path.write_bytes(content[:place] + b"\x1b" + content[place + 1 :])
        with pytest.raises(InputError) as raised:
            manifest.index(0)
        assert str(raised.value).isprintable()
