import os

import numpy as np
import pytest
from typer.testing import CliRunner

from seer.cli import app
from seer.data.storage.index import MANIFEST, Manifest
from seer.data.storage.reader import Reader
from seer.errors import InputError
from shards.indexing import index, index_on_first_use
from shards.sources.scan import scan
from shards.takedown import remove
from shards.verify import verify
from tests.kit.faults import contents
from tests.kit.pictures import encoded
from tests.shards.sources.test_scan import pack


def tars(root, *names):
    """A tar of one image at each of these places."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pack(root / name, [(f"{number}.jpg", encoded(number))])
    return root


def images(folder):
    manifest = Manifest.load(folder)
    return Reader(manifest).read(np.arange(manifest.samples))


def unwritable(monkeypatch, folder):
    """The tests may run as root, whom no mode bits stop."""
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: access(p, mode) and not (mode & os.W_OK and p == folder)
    )


def test_tars_in_folders_below_are_one_data_set(tmp_path):
    root = tars(tmp_path / "x", "a/deep/0.tar", "b/0.TAR", ".hidden/0.tar")
    report = index([root], workers=1)
    assert (report.folders, report.samples) == ([str(root)], 2)
    assert Manifest.load(root).shards == ["a__deep__0.tar", "b__0.TAR"]
    assert images(root) == [encoded(0), encoded(1)]
    assert verify(root, workers=1).ok
    assert index([root], workers=1).current == 2
    assert len(scan([str(root)])) == 2  # links to what lies below are no further images
    root.rename(tmp_path / "moved")
    assert images(tmp_path / "moved") == [encoded(0), encoded(1)]


def test_tars_of_the_folder_itself_come_alone_and_others_are_told(tmp_path):
    root = tars(tmp_path, "0.tar", "old/1.tar")
    report = index([root], workers=1)
    assert Manifest.load(root).shards == ["0.tar"]
    assert report.notes == [
        f"1 tars in folders below left out, for example {root / 'old' / '1.tar'}"
    ]


def test_splits_and_data_sets_stay_apart(tmp_path):
    root = tars(tmp_path, "train/a/0.tar", "Val/0.tar", "more/0.tar")
    index([root / "more"], workers=1)
    report = index([root], workers=1)
    assert sorted(report.folders) == sorted(str(root / name) for name in ("train", "Val", "more"))
    assert not (root / MANIFEST).exists()
    assert images(root / "train") == [encoded(0)]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    root = tars(tmp_path / "tars", "a/0.tar", "a/1.tar", "b/0.tar")
    before = contents(root)
    unwritable(monkeypatch, root)
    with pytest.raises(InputError, match="cannot be written; give --index-dir DIR"):
        index([root], workers=1)
    with pytest.raises(InputError, match=f"run: seer shards index {root} --index-dir DIR"):
        index_on_first_use([str(root)], None, nested=True)
    out = tmp_path / "new" / "index"
    report = index([root], workers=1, index_dir=out)
    assert (report.folders, Manifest.load(out).shards) == (
        [str(out)],
        ["a__0.tar", "a__1.tar", "b__0.tar"],
    )
    assert images(out) == [encoded(0), encoded(1), encoded(2)]
    assert contents(root) == before
    assert verify(out, workers=1).ok
    # A further name, no other tar.
    assert index([root / "a" / "0.tar", root], workers=1, index_dir=out).samples == 4


def test_names_that_meet_and_names_that_are_no_text(tmp_path):
    root = tars(tmp_path / "x", "a/b__0.tar", "a__b/0.tar")
    odd = os.fsdecode(b"caf\xe9\n.tar")
    pack(root / "a" / odd, [("5.jpg", encoded(5))])
    index([root], workers=1)
    assert Manifest.load(root).shards == ["a__b__0.tar", "a__b__0~2.tar", "a__caf__.tar"]
    assert len(set(images(root))) == 3
    with pytest.raises(InputError, match="can not stand in a manifest; rename it"):
        index([root / "a"], workers=1)
    pack(tmp_path / "same.tar", [])
    pack(tmp_path / "same.TAR", [])
    with pytest.raises(InputError, match=r"same\.TAR and same\.tar would have the same index"):
        index([tmp_path], workers=1)


@pytest.mark.parametrize(("nested", "indexed"), [(True, True), (False, False)])
def test_first_use(tmp_path, nested, indexed):
    from contextlib import nullcontext

    root = tars(tmp_path, "deep/er/0.tar")
    index_on_first_use(
        [str(root), str(tmp_path / "missing"), "s3://x/y"], lambda folder: nullcontext(), nested
    )
    assert (root / MANIFEST).exists() == indexed
    assert {path.name for path in root.iterdir()} - {MANIFEST, "deep"} == (
        {"deep__er__0.tar", "deep__er__0.index.parquet"} if indexed else set()
    )


def test_images_taken_out_of_links_stay_in_the_tars_and_that_is_told(tmp_path):
    root = tmp_path / "tars"
    root.mkdir()
    pack(root / "0.tar", [(f"{i}.jpg", encoded(i)) for i in range(3)])
    before = contents(root)
    index([root], workers=1, index_dir=tmp_path / "out")
    (tmp_path / "keys").write_text("1\n")
    command = [
        "shards",
        "remove",
        str(tmp_path / "out"),
        "--keys",
        str(tmp_path / "keys"),
        "--workers",
        "1",
    ]
    output = CliRunner().invoke(app, command).output
    assert "of 1 shards the tars lie elsewhere and are left as they are" in output
    assert images(tmp_path / "out") == [encoded(0), encoded(2)]
    assert contents(root) == before


def test_suffixes_in_capitals(tmp_path):
    pack(tmp_path / "X.TAR", [(f"{i}.JPG", encoded(i)) for i in range(3)])
    index([tmp_path / "X.TAR"], workers=1)
    (tmp_path / "keys").write_text("1\n")
    remove(tmp_path, tmp_path / "keys", "keys", workers=1)
    assert Manifest.load(tmp_path).shards == ["X.r1.tar"]
    assert images(tmp_path) == [encoded(0), encoded(2)]
    assert verify(tmp_path, workers=1).ok
    pack(tmp_path / "Y.TAR", [("y.jpg", encoded(5))])
    assert verify(tmp_path, workers=1).problems == [
        f"Y.TAR: not in the manifest; run: seer shards index {tmp_path / 'Y.TAR'}"
    ]
