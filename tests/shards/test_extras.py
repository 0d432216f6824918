"""The other members of a sample: what the index says of them, against Python's `tarfile`."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seer.data.storage import index as format
from seer.data.storage.index import EXTRAS, INDEX_SCHEMA, Manifest, index_path, read_index
from seer.data.storage.reader import Reader
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.dedup.find import DedupOptions
from shards.indexing import COMPLETED, index
from shards.report.stats import lines, stats
from shards.takedown import remove
from shards.verify import verify
from tests.kit.faults import contents
from tests.kit.pictures import encoded

SUFFIXES = ("mask.png", "json", "txt", "boxes.json", "depth.npy", "Caption", "größe", "x" * 300)
IMAGE = encoded(0, size=(4, 4))


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def by_tarfile(folder: Path) -> dict[str, dict[str, bytes]]:
    """The members of all samples by key and suffix, as another reader finds them."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in Manifest.load(folder).shards:
        with tarfile.open(folder / shard) as tar:
            for member in tar.getmembers():
                key, suffix = member.name.split(".", 1)
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[suffix] = file.read()
    return samples


def by_reader(folder: Path, suffixes: tuple[str, ...]) -> dict[str, dict[str, bytes]]:
    """The same as training reads them, `jpg` and these suffixes alone."""
    manifest = Manifest.load(folder)
    reader = Reader(manifest)
    keys = [
        key
        for number in range(len(manifest.shards))
        for key in manifest.index(number, ["key"])["key"].to_pylist()
    ]
    samples = reader.read_samples(np.arange(len(reader)), suffixes)
    read = {}
    for key, sample in zip(keys, samples, strict=True):
        members = dict(zip(suffixes, sample.extras, strict=True)) | {"jpg": sample.image}
        read[key] = {suffix: data for suffix, data in members.items() if data is not None}
    return read


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_goes_along_with_an_image_is_read_as_it_is(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("tars")
    for number in range(data.draw(st.integers(1, 2))):
        members = []
        for sample in range(data.draw(st.integers(1, 3))):
            chosen = data.draw(st.lists(st.sampled_from(SUFFIXES), unique=True))
            extras = [
                (f"{number}-{sample}.{suffix}", data.draw(st.binary(max_size=700)))
                for suffix in chosen
            ]
            members += [(f"{number}-{sample}.jpg", IMAGE), *extras]
        # Members need not stand side by side; but a map that stands alone would be an image.
        apart = [member for member in members if not member[0].endswith(("jpg", "png"))]
        if data.draw(st.booleans()):
            together = [member for member in members if member not in apart]
            members = together + data.draw(st.permutations(apart))
        write_tar(folder / f"{number}.tar", members)
    index([folder], workers=1)
    asked = ("txt", "caption", "mask.png", "json", "depth.npy", "boxes.json")
    expected = {
        key: {suffix.lower(): data for suffix, data in sample.items() if suffix.isascii()}
        for key, sample in by_tarfile(folder).items()
    }
    for sample in expected.values():
        sample.pop("x" * 300, None)
    assert by_reader(folder, asked) == expected
    assert by_reader(folder, ()) == {key: {"jpg": IMAGE} for key in expected}
    assert verify(folder, workers=1).ok


@pytest.fixture
def tars(tmp_path) -> Path:
    """Two tars of six images: each with a caption, every second one with a mask and a label."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for number in range(2):
        members = []
        for i in range(6 * number, 6 * number + 6):
            members += [(f"{i}.jpg", encoded(i)), (f"{i}.txt", f"caption {i}".encode())]
            if i % 2:
                members += [(f"{i}.mask.png", encoded(i, "PNG", "L")), (f"{i}.cls", b"1")]
        write_tar(folder / f"{number}.tar", members)
    return folder


ASKED = ("mask.png", "txt")


def without_labels(samples: dict[str, dict[str, bytes]]) -> dict[str, dict[str, bytes]]:
    return {
        key: {suffix: data for suffix, data in sample.items() if suffix != "cls"}
        for key, sample in samples.items()
    }


def test_what_is_built_has_them_and_what_is_removed_takes_its_own_along(tars, tmp_path):
    out = tmp_path / "out"
    build([tars], out, BuildOptions(workers=1, shard_size=5))
    built = by_reader(out, ASKED)
    assert built == without_labels(by_tarfile(out))
    assert sorted(map(len, built.values())) == [2] * 6 + [3] * 6
    gone = sorted(built)[:4]
    (tmp_path / "keys").write_text("\n".join(gone))
    remove(out, tmp_path / "keys", "keys", workers=1)
    assert by_reader(out, ASKED) == {key: built[key] for key in built if key not in gone}
    assert verify(out, workers=1).ok


def test_duplicates_that_go_take_theirs_along(tars, tmp_path):
    twice = tmp_path / "twice"
    twice.mkdir()
    names = [f"again-{i}" for i in range(3)]
    write_tar(twice / "a.tar", [(f"{n}.{s}", IMAGE) for n in names for s in ("jpg", "mask.png")])
    out = tmp_path / "out"
    options = BuildOptions(workers=1, shard_size=20, unwanted=DedupOptions("exact"))
    build([tars, twice], out, options)
    assert Manifest.load(out).samples == 13
    assert by_reader(out, ASKED) == without_labels(by_tarfile(out))
    assert verify(out, workers=1).ok


def age(folder: Path) -> None:
    """Make the indices as an earlier version wrote them."""
    for shard in Manifest.load(folder).shards:
        path = index_path(folder / shard)
        schema = INDEX_SCHEMA.remove(INDEX_SCHEMA.get_field_index(EXTRAS))
        format._write(path, read_index(path).drop_columns([EXTRAS]), schema)


def test_an_index_of_an_earlier_version_is_read_and_completed(tars, tmp_path):
    index([tars], workers=1)
    manifest, files = Manifest.load(tars), contents(tars)
    age(tars)
    old = contents(tars)
    assert by_reader(tars, ()) == {str(i): {"jpg": encoded(i)} for i in range(12)}
    assert verify(tars, workers=1).ok
    assert stats(tars, pictures=2)["extras"] == {}
    with pytest.raises(
        InputError,
        match=r"0.index.parquet does not say where .*mask.png lies.*run: seer shards index",
    ):
        by_reader(tars, ASKED)
    assert contents(tars) == old
    report = index([tars], workers=1)
    assert (report.indexed, report.current) == (0, 2)
    assert any(COMPLETED in line for line in report.lines())
    assert contents(tars) == files
    assert Manifest.load(tars).hash == manifest.hash
    assert by_reader(tars, ASKED) == without_labels(by_tarfile(tars))
    assert not any(COMPLETED in line for line in index([tars], workers=1).lines())


def test_what_is_removed_of_an_earlier_version_leaves_an_index_of_this_one(tars, tmp_path):
    index([tars], workers=1)
    age(tars)
    (tmp_path / "keys").write_text("1\n2\n")
    remove(tars, tmp_path / "keys", "keys", workers=1)
    assert EXTRAS in read_index(index_path(tars / "0.r1.tar")).column_names
    assert EXTRAS not in read_index(index_path(tars / "1.tar")).column_names
    assert verify(tars, workers=1).ok
    index([tars], workers=1)
    assert by_reader(tars, ASKED) == without_labels(by_tarfile(tars))


@pytest.mark.parametrize(
    "change",
    [
        lambda extras: extras[0].update(offset=extras[0]["offset"] + 1),
        lambda extras: extras[0].update(size=extras[0]["size"] - 1),
        lambda extras: extras[0].update(offset=2**40),
        lambda extras: extras[0].update(suffix="mask.png"),
        lambda extras: extras.append(extras[0]),
        lambda extras: extras.clear(),
    ],
    ids=["place", "size", "outside", "suffix", "twice", "missing"],
)
def test_what_an_index_says_wrongly_of_them_is_found_and_repaired(tars, change):
    index([tars], workers=1)
    path = index_path(tars / "0.tar")
    rows = read_index(path).to_pylist()
    change(rows[2][EXTRAS])
    format.write_index(path, rows)
    assert verify(tars, workers=1).problems == ["0.tar: 2 is not as its index says (extras)"]
    assert verify(tars, workers=1, repair=True).ok


def test_statistics_count_them(tars):
    index([tars], workers=1)
    figures = stats(tars, pictures=2)
    assert figures["extras"] == {"txt": 12, "mask.png": 6}
    assert "other members: 12 txt, 6 mask.png" in lines(figures)
