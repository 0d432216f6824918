import io
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from seer.data.storage.index import MANIFEST, Manifest, index_path, read_index
from seer.data.storage.reader import Reader
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.indexing import index
from shards.records import quarantine
from shards.verify import verify
from tests.kit.faults import contents
from tests.kit.pictures import bomb, encoded


def webdataset_tar(path, numbers, **extra):
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for i in numbers:
            writer.write(
                {
                    "__key__": f"{i:05}",
                    "jpg": encoded(i),
                    **{name: make(i) for name, make in extra.items()},
                }
            )


def plain_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_tars_of_others_become_a_data_set_and_stay_as_they_are(tmp_path):
    webdataset_tar(tmp_path / "00000.tar", range(6), txt=lambda i: b"caption", json=lambda i: b"{}")
    webdataset_tar(tmp_path / "00001.tar", range(6, 9), txt=lambda i: b"caption")
    # As img2dataset leaves it.
    pq.write_table(pa.table({"url": ["http://x"]}), tmp_path / "00000.parquet")
    before = contents(tmp_path)
    report = index([tmp_path], workers=1)
    assert (report.indexed, report.samples) == (2, 9)
    assert {name: digest for name, digest in contents(tmp_path).items() if name in before} == before
    manifest = Manifest.load(tmp_path)
    assert manifest.classes is None
    assert Reader(manifest).read(np.arange(9)) == [encoded(i) for i in range(9)]
    oracle = webdataset.WebDataset(
        [str(tmp_path / shard) for shard in manifest.shards], shardshuffle=False
    )
    tables = [read_index(index_path(tmp_path / shard)) for shard in manifest.shards]
    assert pa.concat_tables(tables)["key"].to_pylist() == [sample["__key__"] for sample in oracle]
    assert verify(tmp_path, workers=1).ok


def test_labels_are_read_from_cls(tmp_path):
    webdataset_tar(tmp_path / "a.tar", range(4), cls=lambda i: str(i).encode())
    index([tmp_path / "a.tar"], workers=1)
    assert Manifest.load(tmp_path).classes == ["0", "1", "2", "3"]
    assert read_index(index_path(tmp_path / "a.tar"))["label"].to_pylist() == [0, 1, 2, 3]


def labelled(path, labels):
    """Images with a label each, as the `.cls` of a member or None."""
    files = [(f"{i}.jpg", encoded(i)) for i in range(len(labels))]
    return plain_tar(
        path,
        [*files, *((f"{i}.cls", label) for i, label in enumerate(labels) if label is not None)],
    )


def labels_of(folder):
    tables = [
        read_index(index_path(folder / shard), ["label"]) for shard in Manifest.load(folder).shards
    ]
    return [label for table in tables for label in table["label"].to_pylist()]


def test_names_of_classes_are_numbered_over_all_tars(tmp_path):
    labelled(tmp_path / "0.tar", [b"dog", b"cat\n", None, b"-1"])
    labelled(tmp_path / "1.tar", [b"cow", b"dog"])
    plain_tar(tmp_path / "2.tar", [("x.jpg", encoded(9))])
    index([tmp_path], workers=1)
    assert Manifest.load(tmp_path).classes == ["cat", "cow", "dog"]
    assert labels_of(tmp_path) == [2, 0, None, None, 1, 2, None]
    assert verify(tmp_path, workers=1).ok
    labelled(tmp_path / "3.tar", [b"ant", b"cow"])  # later: the numbers that are given stay
    index([tmp_path], workers=1)
    assert Manifest.load(tmp_path).classes == ["cat", "cow", "dog", "ant"]
    assert labels_of(tmp_path)[-2:] == [3, 1]
    assert verify(tmp_path, workers=1).ok
    report = build([tmp_path], tmp_path / "out", BuildOptions(workers=1, shuffle=False))
    assert report.classes == ["ant", "cat", "cow", "dog"]
    assert labels_of(tmp_path / "out") == [3, 1, None, None, 2, 3, None, 0, 2]


@pytest.mark.parametrize("order", [0, 1])
def test_names_and_numbers_do_not_mix(tmp_path, order):
    labelled(tmp_path / f"{order}.tar", [b"dog"])
    labelled(tmp_path / f"{1 - order}.tar", [b"0"])
    with pytest.raises(
        InputError, match=rf"'dog' in one place, numbers in {1 - order}\.tar/0\.cls"
    ):
        index([tmp_path], workers=1)
    assert not (tmp_path / MANIFEST).exists()
    with pytest.raises(
        InputError, match=r"by name would mix with tars .*'dog' in one place, numbers in .*0\.cls"
    ):
        build([tmp_path], tmp_path / "out", BuildOptions(workers=1))


@pytest.mark.parametrize(
    "label", [b"999999999", b"1048576", b"0.5", b"[1, 2]", b"caf\xe9", b"x" * 5000]
)
def test_labels_that_are_no_class_are_left_out_and_told(tmp_path, label):
    labelled(tmp_path / "0.tar", [b"1", label, b"nan", b"-100"])
    report = index([tmp_path], workers=1)
    assert Manifest.load(tmp_path).classes == ["0", "1"]
    assert labels_of(tmp_path) == [1, None, None, None]
    assert next(
        line for line in report.notes if "labels left out that are no class" in line
    ).startswith("1 labels")
    assert verify(tmp_path, workers=1).ok
    built = build([tmp_path / "0.tar"], tmp_path / "out", BuildOptions(workers=1, shuffle=False))
    assert built.classes == ["0", "1"]
    assert labels_of(tmp_path / "out") == [1, None, None, None]
    assert any(line.endswith("for example 0.tar/1.cls") for line in built.notes)


def test_names_in_a_manifest_stay_when_there_are_more_numbers(tmp_path):
    labelled(tmp_path / "0.tar", [b"dog", b"cat"])
    index([tmp_path], workers=1)
    labelled(tmp_path / "1.tar", [b"3"])
    index([tmp_path], workers=1)
    assert Manifest.load(tmp_path).classes == ["cat", "dog", "2", "3"]


def test_dotted_unsorted_and_concatenated_tars(tmp_path):
    """What the index says is what the reader gives, and what is built from them is what
    `webdataset` reads.
    """
    plain_tar(
        tmp_path / "dotted.tar",
        [(f"p/2021.05.{1 + i:02} 12.{i:02}.jpg", encoded(i)) for i in range(12)],
    )
    order = [3, 0, 6, 2, 5, 1, 4]
    images = [(f"{i}.jpg", encoded(i)) for i in order]
    plain_tar(
        tmp_path / "unsorted.tar",
        [*images, *((f"{i}.cls", b"%d" % (i % 2)) for i in reversed(order))],
    )
    plain_tar(tmp_path / "a.tar", [(f"a{i}.jpg", encoded(i)) for i in range(3)])
    plain_tar(tmp_path / "b.tar", [(f"b{i}.jpg", encoded(i)) for i in range(3, 6)])
    (tmp_path / "joined.tar").write_bytes(
        b"".join((tmp_path / f"{part}.tar").read_bytes() for part in "ab")
    )
    for part in "ab":
        (tmp_path / f"{part}.tar").unlink()
    assert index([tmp_path], workers=1).samples == 25
    expected = [encoded(i) for i in [*range(12), *range(6), *order]]
    assert Reader(Manifest.load(tmp_path)).read(np.arange(25)) == expected
    assert labels_of(tmp_path) == [None] * 18 + [i % 2 for i in order]
    assert verify(tmp_path, workers=1).ok
    build([tmp_path], tmp_path / "out", BuildOptions(workers=1, shuffle=False))
    shard = tmp_path / "out" / "shard-000000.tar"
    found = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == read_index(index_path(shard))[
        "key"
    ].to_pylist()
    assert [sample["jpg"] for sample in found] == expected
    assert [sample.get("cls") for sample in found][18:] == [b"%d" % (i % 2) for i in order]
    assert found[0]["__key__"] == "p/2021_05_01 12_00"


def test_one_folder_at_a_time_and_tars_added_later(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        webdataset_tar(tmp_path / folder / "0.tar", range(2))
    report = index([tmp_path / "x", tmp_path / "y" / "0.tar"], workers=2)
    assert report.folders == [str(tmp_path / "x"), str(tmp_path / "y")]
    webdataset_tar(tmp_path / "x" / "1.tar", range(3))
    report = index([tmp_path / "x" / "1.tar"], workers=1)
    assert (report.indexed, report.current, report.samples) == (1, 0, 5)
    assert Manifest.load(tmp_path / "x").shards == ["0.tar", "1.tar"]


def test_a_tar_that_changed_is_indexed_again(tmp_path):
    webdataset_tar(tmp_path / "0.tar", range(3))
    index([tmp_path], workers=1)
    assert index([tmp_path], workers=1).lines()[0].startswith("0 tars indexed, 1 up to date")
    newer = index_path(tmp_path / "0.tar").stat().st_mtime + 10
    os.utime(tmp_path / "0.tar", (newer, newer))  # only copied
    assert index([tmp_path], workers=1).indexed == 0
    webdataset_tar(tmp_path / "0.tar", range(1, 4))
    os.utime(tmp_path / "0.tar", (newer, newer))
    assert index([tmp_path], workers=1).indexed == 1
    assert Reader(Manifest.load(tmp_path)).read(np.array([0])) == [encoded(1)]
    assert verify(tmp_path, workers=1).ok


def test_damaged_members_and_tars_are_quarantined(tmp_path):
    files = [
        ("good.jpg", encoded(0)),
        ("cut.jpg", encoded(1)[:200]),
        ("bomb.png", bomb()),
        ("words.txt", b"words"),
    ]
    plain_tar(tmp_path / "0.tar", files)
    plain_tar(tmp_path / "1.tar", [("a.jpg", encoded(2)), ("b.jpg", encoded(3))])
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: whole.index(encoded(3)) + 100])
    (tmp_path / "2.tar").write_bytes(b"no tar")
    report = index([tmp_path], workers=1)
    assert Manifest.load(tmp_path).shards == ["0.tar", "1.tar"]
    assert Reader(Manifest.load(tmp_path)).read(np.array([0, 1])) == [encoded(0), encoded(2)]
    assert report.quarantined == {
        "damaged tar": 1,
        "too many pixels": 1,
        "truncated": 1,
        "truncated tar": 1,
    }
    assert report.ignored == {".txt": 1}
    assert {entry["source"] for entry in quarantine.read(tmp_path)} == {
        "0.tar/cut.jpg",
        "0.tar/bomb.png",
        "1.tar",
        "2.tar",
    }
    assert [
        line for line in verify(tmp_path, workers=1).problems if not line.startswith("2.tar")
    ] == []
    plain_tar(tmp_path / "1.tar", [("a.jpg", encoded(2)), ("b.jpg", encoded(3))])
    assert index([tmp_path], workers=1).quarantined == {
        "damaged tar": 1,
        "too many pixels": 1,
        "truncated": 1,
    }


def test_headers_alone(tmp_path):
    plain_tar(tmp_path / "0.tar", [("cut.jpg", encoded(1)[:700])])
    assert index([tmp_path], workers=1, check=False).samples == 1


def test_duplicate_and_climbing_names(tmp_path):
    files = [
        ("a.jpg", encoded(0)),
        ("a.jpg", encoded(1)),
        ("../b.jpg", encoded(2)),
        ("/c/d.jpg", encoded(3)),
    ]
    plain_tar(tmp_path / "0.tar", files)
    index([tmp_path], workers=1)
    assert read_index(index_path(tmp_path / "0.tar"))["key"].to_pylist() == ["a", "a~2", "b", "c/d"]
    assert Reader(Manifest.load(tmp_path)).read(np.arange(4)) == [encoded(i) for i in range(4)]
    assert verify(tmp_path, workers=1).ok


def test_a_lost_index_comes_back_from_the_tar(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1, shard_size=10, labels=True))
    lost = index_path(tmp_path / "out" / "shard-000001.tar")
    before, manifest = read_index(lost).drop_columns("source"), contents(tmp_path / "out")[MANIFEST]
    lost.unlink()
    assert index([tmp_path / "out"], workers=1).indexed == 1
    assert read_index(lost).drop_columns("source").equals(before)
    assert contents(tmp_path / "out")[MANIFEST] == manifest
    assert verify(tmp_path / "out", workers=1).ok


def test_a_damaged_index_is_made_anew(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1, shard_size=10))
    damaged = index_path(tmp_path / "out" / "shard-000001.tar")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    (problem,) = verify(tmp_path / "out", workers=1).problems
    assert problem.endswith(f"run: seer shards index {damaged.with_name('shard-000001.tar')}")
    assert index([tmp_path / "out"], workers=1).indexed == 1
    assert verify(tmp_path / "out", workers=1).ok


@pytest.mark.parametrize("damaged", [False, True])
def test_sources_are_carried_over_from_an_index_that_is_whole(photos, tmp_path, damaged):
    build([photos], tmp_path / "out", BuildOptions(workers=1, shard_size=10))
    tar = tmp_path / "out" / "shard-000001.tar"
    before, content = read_index(index_path(tar))["source"], bytearray(index_path(tar).read_bytes())
    content[content.index(before[0].as_py().encode())] ^= damaged
    index_path(tar).write_bytes(content)
    tar.write_bytes(tar.read_bytes() + bytes(512))
    assert index([tmp_path / "out"], workers=1).indexed == 1
    after = read_index(index_path(tar))["source"].to_pylist()
    assert after == before.to_pylist() if not damaged else not set(after) & set(before.to_pylist())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "does not exist"),
        ({}, "no .tar in"),
        ({"0.tar": b""}, r"no usable image in the tars of .* \(1 empty tar\)"),
        ({"0.tar": b"\x1f\x8b123"}, "1 compressed tar"),
    ],
)
def test_nothing_to_index(folder, tmp_path, files, message):
    root = tmp_path / "missing" if files is None else folder(files)
    with pytest.raises(InputError, match=message) as raised:
        index([root], workers=1)
    assert "\n" not in str(raised.value)
    assert files is None or not (root / MANIFEST).exists()


def test_a_manifest_that_names_a_missing_shard(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1, shard_size=10))
    (tmp_path / "out" / "shard-000000.tar").unlink()
    with pytest.raises(InputError, match=r"names shard-000000\.tar, which is missing"):
        index([tmp_path / "out"], workers=1)


def test_other_files_are_refused(folder):
    root = folder({"x.tar.gz": b""})
    with pytest.raises(InputError, match=r"is no \.tar; give uncompressed"):
        index([root / "x.tar.gz"])
