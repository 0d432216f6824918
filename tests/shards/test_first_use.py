"""A folder of images given to a training: shards beside the run, once, and only where that is meant."""

import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from seer.data.storage.index import MANIFEST, Manifest
from seer.errors import InputError
from shards import first_use
from shards.build import build
from shards.first_use import check_data, count_images, earlier_shards, holds_images, shards_of
from shards.options import BuildOptions
from tests.kit.pictures import coloured_jpeg, jpeg, photograph


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch):
    def alone(sources, out, progress=None):
        return build(sources, out, BuildOptions(workers=1), progress)

    monkeypatch.setattr(first_use, "build", alone)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "my photos"
    for i in range(6):
        path = folder / "2024" / f"{i}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(photograph(i)))
    return folder


def made(folder: Path, runs: Path, begun_with: Path | None = None):
    return shards_of(folder, runs, begun_with, lambda out: nullcontext(lambda done, total: None))


def test_they_are_made_once(photos, tmp_path):
    runs = tmp_path / "runs"
    out, report = made(photos, runs)
    assert out == runs / "my photos-shards"
    assert report.samples == Manifest.load(out).samples == 6
    before = (out / MANIFEST).stat()
    assert made(photos, runs) == (out, None)
    assert (out / MANIFEST).stat() == before
    assert [path.name for path in runs.iterdir()] == [out.name]


def test_other_images_have_other_shards_and_a_begun_run_keeps_its_own(photos, tmp_path):
    runs = tmp_path / "runs"
    first, _ = made(photos, runs)
    (photos / "new.jpg").write_bytes(jpeg(photograph(99)))
    assert made(photos, runs, begun_with=first) == (first, None)
    second, report = made(photos, runs)
    assert (second.name, report.samples) == ("my photos-shards-2", 7)
    elsewhere = tmp_path / "other" / "my photos"
    shutil.copytree(photos, elsewhere)
    third, report = made(elsewhere, runs)
    assert (third.name, report.samples) == ("my photos-shards-3", 7)
    assert made(photos, runs) == (second, None)
    # What a run was begun with, but is not made here, says nothing.
    assert made(photos, runs, begun_with=photos) == (second, None)


def test_what_was_made_of_the_same_folder_before_is_known_by_its_images(photos, tmp_path):
    runs = tmp_path / "runs"
    first, _ = made(photos, runs)
    assert earlier_shards(photos, first) == []
    elsewhere = tmp_path / "other" / "my photos"
    shutil.copytree(photos, elsewhere)
    second, _ = made(elsewhere, runs)
    assert earlier_shards(elsewhere, second) == []  # those of the first are another folder's
    (photos / "new.jpg").write_bytes(jpeg(photograph(99)))
    third, _ = made(photos, runs)
    assert third.name == "my photos-shards-3"
    assert earlier_shards(photos, third) == [(first, 6)]


def test_images_are_counted_until_there_are_enough(photos, tmp_path):
    assert count_images(photos, 7) == 6
    assert count_images(photos, 6) is None
    (photos / "7th").write_bytes(jpeg(photograph(7)))  # without a suffix
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.jpg").write_bytes(jpeg(photograph(8)))
    assert count_images(photos, 9) == 7
    out, _ = made(photos, tmp_path)
    assert Manifest.load(out).samples == 7
    (tmp_path / "more").mkdir()
    (photos / "link").symlink_to(tmp_path / "more")
    assert count_images(photos, 9) is None
    (photos / "link").unlink()
    (photos / "2024" / "more.ZIP").touch()
    assert count_images(photos, 9) is None


def test_what_is_neither_images_nor_shards_is_told(photos, tmp_path):
    shards, _ = made(photos, tmp_path)
    (tmp_path / "an empty one").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    wanted = "give a folder of images or of shards"
    refusals = {
        tmp_path / "nothing": f"does not exist; {wanted}",
        tmp_path / "an empty one": f"holds no images; {wanted}",
        tmp_path / "texts": f"holds no images; {wanted}",
        photos / "2024" / "0.JPG": f"give the folder that holds it: data='{photos}/2024'",
    }
    for path, message in refusals.items():
        with pytest.raises(InputError) as error:
            check_data(str(path))
        assert str(error.value).startswith(f"data={shlex.quote(str(path))}: ")
        assert str(error.value).endswith(message)
    for data in (shards, shards / MANIFEST, "s3://bucket/nothing"):
        check_data(str(data))


def test_what_lies_there_is_left_alone(photos, tmp_path):
    foreign = tmp_path / "runs" / "my photos-shards"
    foreign.mkdir(parents=True)
    (foreign / "letter.txt").write_text("mine")
    out, _ = made(photos, tmp_path / "runs")
    assert out.name == "my photos-shards-2"
    assert [path.name for path in foreign.iterdir()] == ["letter.txt"]


def test_a_killed_building_is_continued(photos, tmp_path, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("shards.build._write_shards", killed)
    with pytest.raises(KeyboardInterrupt):
        made(photos, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(
        first_use, "build", lambda s, o, progress: build(s, o, BuildOptions(workers=1))
    )
    out, report = made(photos, tmp_path)
    assert (out.name, report.samples) == ("my photos-shards", 6)


@pytest.mark.parametrize("held_out", ["test", "val", "Validation"])
def test_test_images_are_not_trained_on(photos, tmp_path, held_out):
    (photos / "2024").rename(photos / "train")
    shutil.copytree(photos / "train", photos / held_out)
    with pytest.raises(
        InputError, match=rf"holds train/ and {held_out}/.*give data='.*/train'; for all"
    ):
        made(photos, tmp_path)
    out, _ = made(photos / "train", tmp_path)
    assert out.name == "my photos-train-shards"


@pytest.mark.parametrize("runs", ["/proc/none", "a file/runs", "x" * 300])
def test_where_nothing_can_be_made(photos, tmp_path, runs):
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(
        InputError, match=r"shards of its images cannot be made in .*give a run_dir"
    ):
        made(photos, tmp_path / runs)
    assert (tmp_path / "a file").read_text() == "mine"


def test_a_folder_whose_shards_would_have_too_long_a_name(photos, tmp_path):
    folder = photos.rename(tmp_path / ("x" * 252))
    with pytest.raises(InputError, match=r"cannot be made in .*File name too long"):
        made(folder, tmp_path / "runs")


def test_what_is_a_folder_of_images(photos, tmp_path):
    shards = tmp_path / "shards"
    build([photos], shards, BuildOptions(workers=1))
    assert holds_images(str(photos))
    assert holds_images(str(photos / "2024"))
    assert not holds_images(str(shards))
    assert not holds_images(str(tmp_path / "nothing"))
    assert not holds_images("s3://bucket/shards")
    assert not holds_images(str(photos / "2024" / "0.JPG"))
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("a")
    assert not holds_images(str(texts))
    (texts / "a.png").write_bytes(coloured_jpeg(1))
    assert holds_images(str(texts))
    shutil.copy(shards / "shard-000000.tar", texts)
    assert not holds_images(str(texts))  # these are indexed


def test_a_folder_of_photographs_that_are_not_read_is_told_so(tmp_path):
    photos = tmp_path / "phone"
    photos.mkdir()
    (photos / "IMG_1.HEIC").write_bytes(b"\0\0\0\x24ftypheic")
    assert holds_images(str(photos))
    with pytest.raises(InputError, match="HEIC is not read; convert it to JPEG"):
        made(photos, tmp_path / "runs")
