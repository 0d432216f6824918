import os
import random
import shutil
import tarfile

import pytest

from seer.data.storage.index import MANIFEST, Manifest, index_path, read_index, write_index
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.indexing import index
from shards.verify import verify
from tests.kit.faults import contents


@pytest.fixture
def shards(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1, shard_size=10, labels=True))
    return tmp_path / "out"


def problems(out):
    report = verify(out, workers=1)
    assert report.ok == (report.problems == [])
    assert all("\n" not in line for line in report.lines())
    return report.problems


def flip(path, bit):
    time = path.stat().st_mtime_ns
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))
    os.utime(path, ns=(time, time))


def test_sound_shards_have_no_problems(shards):
    seen = []
    report = verify(shards, workers=2, progress=lambda *done: seen.append(done))
    assert (report.problems, report.shards, report.samples) == ([], 2, 20)
    assert report.lines() == [f"ok: 2 shards, 20 images in {shards}"]
    assert seen == [(1, 2), (2, 2)]


def test_any_flipped_bit_of_a_tar_is_found(shards):
    draw = random.Random(0)
    path = shards / "shard-000001.tar"
    for _ in range(50):
        bit = draw.randrange(path.stat().st_size * 8)
        flip(path, bit)
        assert "shard-000001.tar: damaged: its SHA-256 is not the manifest's" in problems(shards), (
            bit
        )
        flip(path, bit)
    assert problems(shards) == []


def test_a_flipped_bit_names_the_image(shards):
    row = read_index(index_path(shards / "shard-000000.tar")).to_pylist()[3]
    flip(shards / "shard-000000.tar", (row["offset"] + row["size"] // 2) * 8)
    assert f"shard-000000.tar: {row['key']} is not as its index says (sha256)" in problems(shards)


def test_any_flipped_bit_of_an_index_is_found(shards):
    """Also where no reader looks: in statistics, or in the padding of pages."""
    path = index_path(shards / "shard-000000.tar")
    draw = random.Random(1)
    for _ in range(50):
        bit = draw.randrange(path.stat().st_size * 8)
        flip(path, bit)
        assert problems(shards)[0].startswith("shard-000000.tar: its index cannot be read"), bit
        flip(path, bit)
    assert problems(shards) == []


def test_any_flipped_bit_of_the_manifest_is_found_by_whoever_reads_it(shards):
    path = shards / MANIFEST
    draw = random.Random(2)
    for _ in range(50):
        bit = draw.randrange(path.stat().st_size * 8)
        flip(path, bit)
        with pytest.raises(InputError, match="no readable manifest"):
            Manifest.load(shards)
        flip(path, bit)
    assert problems(shards) == []


def mended(out):
    report = verify(out, workers=1, repair=True)
    assert verify(out, workers=1).problems == report.problems
    return report


@pytest.mark.parametrize("harm", ["gone", "cut", "other", "short"])
def test_repair_makes_an_index_anew(shards, harm):
    path = index_path(shards / "shard-000000.tar")
    before, files = read_index(path), contents(shards)
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, 1000)
    elif harm == "other":
        change_index(shards, lambda rows: rows[2].update(offset=rows[2]["offset"] + 1, width=9))
    else:
        change_index(shards, lambda rows: rows.pop(4))
    report = mended(shards)
    assert (report.ok, report.repaired) == (True, ["shard-000000.tar"])
    assert report.lines()[0] == "repaired: shard-000000.tar was indexed anew"
    after = read_index(path)
    assert after.drop_columns("source").equals(before.drop_columns("source"))
    if harm == "other":
        assert after.equals(before)  # sources can only be known from the old index
    assert {name: digest for name, digest in contents(shards).items() if name != path.name} == {
        name: digest for name, digest in files.items() if name != path.name
    }


def test_repair_takes_a_replaced_tar_and_no_damaged_one(shards):
    replaced, damaged = shards / "shard-000000.tar", shards / "shard-000001.tar"
    with tarfile.open(replaced) as tar, tarfile.open(shards / "new.tar", "w") as new:
        for member in tar.getmembers()[2:]:
            new.addfile(member, tar.extractfile(member))
    (shards / "new.tar").replace(replaced)
    newer = index_path(replaced).stat().st_mtime + 100
    os.utime(replaced, (newer, newer))
    flip(damaged, 4096)
    before = contents(shards)
    report = mended(shards)
    assert report.repaired == ["shard-000000.tar"]
    assert all(line.startswith("shard-000001.tar") for line in report.problems)
    assert "shard-000001.tar: damaged: its SHA-256 is not the manifest's" in report.problems
    assert Manifest.load(shards).samples == 19
    assert Manifest.load(shards).classes == ["cat", "dog"]
    for path in (replaced, damaged, index_path(damaged)):
        assert contents(shards)[path.name] == before[path.name]


def test_an_interrupted_removal_is_told_and_settled(shards):
    (shards / ".removal").mkdir()
    assert problems(shards) == [
        "a removal was interrupted or is under way; if none is, run: seer shards verify --repair"
    ]
    assert mended(shards).ok


def change_index(shards, change):
    path = index_path(shards / "shard-000000.tar")
    rows = read_index(path).to_pylist()
    change(rows)
    write_index(path, rows)


@pytest.mark.parametrize(
    "column", ["key", "offset", "size", "width", "height", "format", "sha256", "label"]
)
def test_every_wrong_value_of_an_index_is_found(shards, column):
    values = {"key": "other", "format": "PNG", "sha256": bytes(32)}
    row = read_index(index_path(shards / "shard-000000.tar")).to_pylist()[2]
    change_index(
        shards,
        lambda rows: rows[2].update(
            {column: values[column] if column in values else row[column] + 1}
        ),
    )
    if column == "key":
        assert problems(shards) == [
            "shard-000000.tar: other is in the index but not in the tar",
            f"shard-000000.tar: {row['key']} is in the tar but not in the index",
        ]
    else:
        assert problems(shards) == [
            f"shard-000000.tar: {row['key']} is not as its index says ({column})"
        ]


def test_missing_and_extra_members(shards):
    change_index(shards, lambda rows: rows.pop(4))
    found = problems(shards)
    assert "shard-000000.tar: its index has 9 samples, the manifest says 10" in found
    assert any("is in the tar but not in the index" in line for line in found)
    path = shards / "shard-000001.tar"
    with tarfile.open(path) as tar, tarfile.open(shards / "new.tar", "w") as new:
        for member in tar.getmembers()[2:]:  # the first sample's image and label
            new.addfile(member, tar.extractfile(member))
    (shards / "new.tar").replace(path)
    found = [line for line in problems(shards) if line.startswith("shard-000001.tar")]
    assert any("is in the index but not in the tar" in line for line in found)
    assert any("changed after it was indexed" in line for line in found)


def test_many_wrong_members_are_summed_up(shards):
    change_index(shards, lambda rows: [row.update(width=1) for row in rows])
    assert [line for line in problems(shards) if "more" in line] == [
        "shard-000000.tar: … and 5 members more"
    ]


def test_missing_shard_missing_index_and_strangers(shards):
    shutil.copy(shards / "shard-000000.tar", shards / "stranger.tar")
    (shards / "shard-000000.tar").unlink()
    index_path(shards / "shard-000001.tar").unlink()
    assert problems(shards) == [
        "shard-000000.tar: missing, although the manifest names it",
        f"shard-000001.tar: has no index; run: seer shards index {shards / 'shard-000001.tar'}",
        f"stranger.tar: not in the manifest; run: seer shards index {shards / 'stranger.tar'}",
    ]


def test_a_copy_with_an_older_index_is_sound(shards):
    newer = (shards / MANIFEST).stat().st_mtime + 100
    for shard in Manifest.load(shards).shards:
        os.utime(shards / shard, (newer, newer))
    assert problems(shards) == []


def test_truncated_shard(shards):
    path = shards / "shard-000000.tar"
    size = path.stat().st_size
    os.truncate(path, size // 2 + 100)
    os.utime(path, (0, 0))
    found = problems(shards)
    assert found[0] == f"shard-000000.tar: {size // 2 + 100:,} bytes instead of {size:,}"
    assert any("truncated tar" in line for line in found)


def test_no_manifest(shards):
    (shards / MANIFEST).unlink()
    with pytest.raises(InputError, match="seer shards index"):
        verify(shards)


def test_a_tar_without_one_usable_image_is_no_stranger(shards):
    """img2dataset leaves such a one where no download of a shard succeeded."""
    for name, member in (("empty.tar", None), ("useless.tar", "x.jpg")):
        with tarfile.open(shards / name, "w") as tar:
            if member:
                tar.addfile(tarfile.TarInfo(member))
    assert problems(shards) == [
        "useless.tar: not in the manifest; run: seer shards index " + str(shards / "useless.tar")
    ]
    index([shards], workers=1)
    assert problems(shards) == []
