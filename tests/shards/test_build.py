import errno
import io
import math
import os
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image, ImageOps

from seer.data.storage.index import MANIFEST, Manifest, index_path, read_index
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.options import DownloadOptions
from shards.records import quarantine, state
from shards.report.stats import lines, stats
from shards.verify import verify
from tests.kit.faults import contents
from tests.kit.pictures import bomb, encoded, pixels

INLINE = BuildOptions(workers=1, shard_size=8)


def options(**changes):
    return BuildOptions(**{"workers": 1, "shard_size": 8, **changes})


def rows(out):
    manifest = Manifest.load(out)
    return [
        {**row, "shard": s}
        for s in manifest.shards
        for row in read_index(index_path(out / s)).to_pylist()
    ]


def read(out):
    """`{source: image bytes}` by index alone."""
    found = {}
    for row in rows(out):
        with open(out / row["shard"], "rb") as file:
            file.seek(row["offset"])
            found[row["source"]] = file.read(row["size"])
    return found


def by_webdataset(out):
    urls = sorted(str(path) for path in out.glob("*.tar"))
    return {s["__key__"]: s for s in webdataset.WebDataset(urls, shardshuffle=False)}


def test_originals_are_kept_byte_for_byte_and_every_reader_finds_them(photos, tmp_path):
    out = tmp_path / "out"
    report = build([photos], out, INLINE)
    originals = {str(path.relative_to(photos)): path.read_bytes() for path in photos.rglob("*.jpg")}
    assert read(out) == originals
    assert {f"{key}.jpg": sample["jpg"] for key, sample in by_webdataset(out).items()} == originals
    listed = [
        subprocess.run(
            ["tar", "tf", path], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for path in sorted(out.glob("*.tar"))
    ]
    assert [len(names) for names in listed] == [8, 8, 4]
    assert sorted(name for names in listed for name in names) == sorted(originals)
    assert (report.samples, report.shards, report.quarantined) == (20, 3, {})
    assert report.bytes == sum(path.stat().st_size for path in out.glob("*.tar"))
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [
            MANIFEST,
            *(f"shard-{i:06}.{suffix}" for i in range(3) for suffix in ("tar", "index.parquet")),
        ]
    )
    assert verify(out, workers=1).ok


def test_every_kind_of_picture(folder, tmp_path):
    rgb = Image.fromarray(pixels(0))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = io.BytesIO()
    Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80).save(deep, "PNG")
    moving = io.BytesIO()
    rgb.save(moving, "GIF", save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)])
    files = {
        "grey.jpg": encoded(1, mode="L"),
        "cmyk.jpg": encoded(1, mode="CMYK"),
        "turned.jpg": encoded(1, exif=exif),
        "palette.png": encoded(1, "PNG", "P"),
        "bits.png": encoded(1, "PNG", "1"),
        "alpha.png": encoded(1, "PNG", "RGBA"),
        "deep.png": deep.getvalue(),
        "moving.gif": moving.getvalue(),
        "x.webp": encoded(1, "WEBP"),
        "x.bmp": encoded(1, "BMP"),
        "x.tiff": encoded(1, "TIFF", "CMYK"),
        "x.ppm": encoded(1, "PPM"),
        "x.tga": encoded(1, "TGA"),
        "x.jp2": encoded(1, "JPEG2000"),
        "really_a_png.jpg": encoded(1, "PNG"),
        "tiny.jpg": encoded(1, size=(1, 1)),
    }
    out = tmp_path / "out"
    report = build([folder(files)], out, INLINE)
    assert report.quarantined == {}
    assert read(out) == files
    for row in rows(out):
        with Image.open(io.BytesIO(files[row["source"]])) as image:
            assert (row["width"], row["height"]) == ImageOps.exif_transpose(image).size
            assert row["format"] == image.format
    assert "png" in by_webdataset(out)["really_a_png"]
    assert verify(out, workers=1).ok


@pytest.fixture
def trouble(folder, photos):
    """The photos, and among them every kind of damage."""
    whole = encoded(7, size=(200, 300))
    broken = bytearray(encoded(8, "PNG", size=(200, 300)))
    broken[len(broken) // 2] ^= 255
    return folder(
        {
            "cat/corrupt.png": bytes(broken),
            "cat/truncated.jpg": whole[: len(whole) // 2],
            "cat/empty.jpg": b"",
            "dog/bomb.png": bomb(),
            "dog/words.jpg": b"these are only words",
            "notes.txt": b"not even called an image",
        }
    )


def test_damage_is_quarantined_counted_and_named(trouble, tmp_path):
    out = tmp_path / "out"
    report = build([trouble], out, INLINE)
    assert report.samples == 20
    assert report.quarantined == {
        "corrupt": 1,
        "empty file": 1,
        "not an image": 1,
        "too many pixels": 1,
        "truncated": 1,
    }
    entries = {e["source"]: e["reason"] for e in quarantine.read(out)}
    assert sorted(entries) == [
        f"cat/{n}" for n in ("corrupt.png", "empty.jpg", "truncated.jpg")
    ] + [
        "dog/bomb.png",
        "dog/words.jpg",
    ]
    assert entries["dog/bomb.png"] == "too many pixels (60000x60000)"
    found = stats(out)
    assert found["quarantined"] == report.quarantined
    assert found["ignored"] == {".txt": 1}
    text = "\n".join([*lines(found), *report.lines()])
    assert all(name in text for name in entries)
    assert verify(out, workers=1).ok


def test_the_number_of_workers_does_not_matter(trouble, tmp_path):
    seen = []
    for workers, size in [
        (1, 8),
        (3, 8),
        (1, 100),
        (2, 100),
    ]:  # the last: two threads share one shard
        changed, done = options(workers=workers, shard_size=size), list[tuple[int, int]]()
        build(
            [trouble],
            tmp_path / f"{workers}-{size}",
            changed,
            lambda *now, done=done: done.append(now),
        )
        seen.append(done)
    assert contents(tmp_path / "1-8") == contents(tmp_path / "3-8")
    assert contents(tmp_path / "1-100") == contents(tmp_path / "2-100")
    for done in seen:
        assert (done[0], done[-1]) == ((0, 25), (25, 25))
        assert done == sorted(done)


def test_labels_become_columns_members_and_classes(photos, tmp_path):
    build([photos], tmp_path / "out", options(labels=True))
    assert Manifest.load(tmp_path / "out").classes == ["cat", "dog"]
    for row in rows(tmp_path / "out"):
        assert row["source"].startswith(("cat", "dog")[row["label"]])
    for key, sample in by_webdataset(tmp_path / "out").items():
        assert int(sample["cls"]) == key.startswith("dog")


def test_shuffling_mixes_classes(photos, tmp_path):
    build([photos], tmp_path / "mixed", options(shard_size=10))
    build([photos], tmp_path / "sorted", options(shard_size=10, shuffle=False))

    def classes(out):
        shards = [
            read_index(index_path(out / shard))["key"].to_pylist()
            for shard in Manifest.load(out).shards
        ]
        return [{key[:3] for key in keys} for keys in shards]

    assert classes(tmp_path / "mixed") == [{"cat", "dog"}] * 2
    assert classes(tmp_path / "sorted") == [{"cat"}, {"dog"}]


def test_max_side_touches_only_what_exceeds_it(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "small.png": encoded(0, "PNG"),
        "just.jpg": encoded(1, size=(64, 50)),
        "wide.png": encoded(2, "PNG", "RGBA", size=(60, 240)),
        "turned.jpg": encoded(3, size=(60, 240), exif=exif),
    }
    build([folder(files)], tmp_path / "out", options(max_side=64))
    found = read(tmp_path / "out")
    assert (found["small.png"], found["just.jpg"]) == (files["small.png"], files["just.jpg"])
    sizes = {
        row["source"]: (row["width"], row["height"], row["format"])
        for row in rows(tmp_path / "out")
    }
    assert sizes["wide.png"] == (64, 16, "JPEG")
    assert sizes["turned.jpg"] == (16, 64, "JPEG")
    for name in ("wide.png", "turned.jpg"):
        with (
            Image.open(io.BytesIO(found[name])) as made,
            Image.open(io.BytesIO(files[name])) as original,
        ):
            assert (made.format, made.size, made.getexif()) == ("JPEG", sizes[name][:2], {})
            expected = (
                ImageOps.exif_transpose(original)
                .convert("RGB")
                .resize(made.size, Image.Resampling.BOX)
            )
            assert np.abs(np.asarray(made, float) - np.asarray(expected, float)).mean() < 5
    assert "jpg" in by_webdataset(tmp_path / "out")["wide"]


def test_reencode_changes_all(photos, tmp_path):
    build([photos], tmp_path / "out", options(reencode=30))
    for name, data in read(tmp_path / "out").items():
        original = (photos / name).read_bytes()
        assert data != original
        with Image.open(io.BytesIO(data)) as made, Image.open(io.BytesIO(original)) as image:
            assert made.size == image.size
            # Coarser than Pillow's quality 75.
            assert made.quantization[0][0] > image.quantization[0][0]


def test_webdataset_tars_keep_keys_metadata_and_labels(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "in.tar"), encoder=False) as writer:
        for i in range(10):
            writer.write(
                {
                    "__key__": f"{i:04}",
                    "png": encoded(i, "PNG"),
                    "cls": str(i % 3).encode(),
                    "json": b'{"caption": "x"}',
                }
            )
    out = tmp_path / "out"
    build([tmp_path / "in.tar"], out, INLINE)
    before = {
        s["__key__"]: s for s in webdataset.WebDataset(str(tmp_path / "in.tar"), shardshuffle=False)
    }
    after = by_webdataset(out)
    for key, sample in before.items():
        assert {k: v for k, v in after[key].items() if k[0] != "_"} == {
            k: v for k, v in sample.items() if k[0] != "_"
        }
    assert len(after) == 10
    assert Manifest.load(out).classes == ["0", "1", "2"]
    assert {row["key"]: row["label"] for row in rows(out)} == {f"{i:04}": i % 3 for i in range(10)}
    assert rows(out)[0]["source"].startswith("in.tar/")


def test_rebuilding_labelled_shards_keeps_class_names(photos, tmp_path):
    build([photos], tmp_path / "one", options(labels=True))
    build([tmp_path / "one"], tmp_path / "two", options(max_side=16, shard_size=5))
    assert Manifest.load(tmp_path / "two").classes == ["cat", "dog"]
    keys = {row["key"]: row["label"] for row in rows(tmp_path / "one")}
    assert {row["key"]: row["label"] for row in rows(tmp_path / "two")} == keys


def test_a_tar_of_a_folder_by_pythons_tarfile(photos, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "tarfile", "-c", tmp_path / "t.tar", "."], cwd=photos, check=True
    )
    build([tmp_path / "t.tar"], tmp_path / "out", INLINE)
    assert len(rows(tmp_path / "out")) == 20
    assert sorted(read(tmp_path / "out").values()) == sorted(
        path.read_bytes() for path in photos.rglob("*.jpg")
    )
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert all(name.startswith(("cat/", "dog/")) for name in tar.getnames())


def test_a_reencoded_member_replaces_its_suffix(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "in.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", "png": encoded(0, "PNG"), "txt": b"words"})
    build([tmp_path / "in.tar"], tmp_path / "out", options(reencode=90))
    sample = by_webdataset(tmp_path / "out")["a"]
    assert {key for key in sample if key[0] != "_"} == {"jpg", "txt"}


def test_the_same_command_again_does_nothing(photos, tmp_path):
    build([photos], tmp_path / "out", INLINE)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    report = build([photos], tmp_path / "out", options(workers=2))
    assert report.already_complete
    assert report.lines()[0].startswith("already complete, nothing to do: 20 images")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_another_build_is_refused_and_nothing_changes(photos, folder, tmp_path):
    out = tmp_path / "out"
    build([photos], out, INLINE)
    before = contents(out)
    other = folder({"x.jpg": encoded(0)}, "other")
    for sources, changed, message in [
        ([photos], options(shard_size=9), "shard_size was 8, now 9"),
        (
            [photos],
            options(labels=True, max_side=3),
            "labels was False, now True; max_side was None, now 3",
        ),
        ([other], INLINE, f"sources was {photos}, now {other}"),
    ]:
        with pytest.raises(InputError, match=message) as raised:
            build(sources, out, changed)
        assert "\n" not in str(raised.value)
    (photos / "new.jpg").write_bytes(encoded(99))
    with pytest.raises(InputError, match="samples was 20, now 21"):
        build([photos], out, INLINE)
    (photos / "new.jpg").unlink()
    (photos / "cat" / "00.jpg").write_bytes(encoded(99, size=(50, 50)))
    with pytest.raises(InputError, match="names or sizes of its source files have changed"):
        build([photos], out, INLINE)
    assert contents(out) == before


def test_a_folder_of_other_things_is_no_place_to_build(photos, folder, tmp_path):
    other = folder({"precious.txt": b"x"}, "other")
    with pytest.raises(InputError, match="not empty and holds no build"):
        build([photos], other, INLINE)
    with pytest.raises(InputError, match="is a file"):
        build([photos], other / "precious.txt", INLINE)
    assert contents(other).keys() == {"precious.txt"}


def test_two_builds_at_once(photos, tmp_path):
    with (
        state.locked(tmp_path / "out"),
        pytest.raises(InputError, match=f"being built by process {os.getpid()}"),
    ):
        build([photos], tmp_path / "out", INLINE)
    assert build([photos], tmp_path / "out", INLINE).samples == 20


def test_nothing_usable(folder, tmp_path):
    root = folder({"a.jpg": b"x", "b.jpg": b"", "c.jpg": b""})
    with pytest.raises(
        InputError, match=r"none of 3 images is usable: 2 empty file, 1 not an image; for example"
    ):
        build([root], tmp_path / "out", INLINE)
    assert not (tmp_path / "out").exists()


def test_a_shard_of_which_nothing_is_usable_is_left_out(folder, tmp_path):
    root = folder(
        {**{f"a{i}.jpg": b"" for i in range(8)}, **{f"b{i}.jpg": encoded(i) for i in range(8)}}
    )
    report = build([root], tmp_path / "out", options(shuffle=False))
    assert Manifest.load(tmp_path / "out").shards == ["shard-000001.tar"]
    assert (report.samples, report.quarantined) == (8, {"empty file": 8})
    assert verify(tmp_path / "out", workers=1).ok


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shard_size": 0}, "--shard-size: 0 is not a whole number from 1 to"),
        ({"reencode": 101}, "--reencode: 101 is not a whole number from 1 to 100"),
        ({"max_side": 0}, "--max-side: 0 is not"),
        ({"workers": -1}, "--workers: -1 is not"),
    ],
)
def test_options_out_of_range(photos, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        build([photos], tmp_path / "out", options(**changed))


def test_a_full_disk_is_one_line_and_the_build_continues(photos, tmp_path, monkeypatch):
    build([photos], tmp_path / "whole", INLINE)
    fsync, calls = os.fsync, iter(range(100))

    def full(descriptor):
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="no space left on device"):
        build([photos], tmp_path / "out", INLINE)
    monkeypatch.undo()
    report = build([photos], tmp_path / "out", INLINE)
    assert report.continued == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_complete_build_that_lost_a_shard_says_so(photos, tmp_path):
    build([photos], tmp_path / "out", INLINE)
    (tmp_path / "out" / "shard-000001.tar").unlink()
    with pytest.raises(InputError, match=r"lacks shard-000001\.tar"):
        build([photos], tmp_path / "out", INLINE)


def test_manifest_says_how_it_was_built(photos, tmp_path):
    build([photos], tmp_path / "out", INLINE)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.build["options"] == INLINE.identity()
    assert manifest.build["sources"] == [str(photos)]
    table = pq.read_table(tmp_path / "out" / MANIFEST)
    assert table["bytes"].to_pylist() == [
        (tmp_path / "out" / shard).stat().st_size for shard in manifest.shards
    ]


def test_lists_of_what_the_user_may_read_need_leave(photos, tmp_path):
    (tmp_path / "x.txt").write_text(
        "".join(f"file://{path}\n" for path in sorted(photos.rglob("*.jpg")))
    )
    with pytest.raises(InputError, match=r"x\.txt has file:// URLs, .*: --allow-private"):
        build([tmp_path / "x.txt"], tmp_path / "out", BuildOptions(workers=1))
    assert not (tmp_path / "out").exists()
    options = BuildOptions(workers=1, download=DownloadOptions(allow_private=True))
    assert build([tmp_path / "x.txt"], tmp_path / "out", options).samples == 20


@pytest.mark.parametrize(
    "options", [{"max_aspect": math.nan}, {"max_aspect": -1.0}, {"min_side": 0}]
)
def test_options_that_are_no_number_in_range(photos, tmp_path, options):
    with pytest.raises(InputError, match=r"^--(max-aspect|min-side): .* is not a"):
        build([photos], tmp_path / "out", BuildOptions(**options))


def test_an_output_that_cannot_be_written_is_told_before_the_listing(photos, tmp_path, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and path != tmp_path)
    monkeypatch.setattr("shards.build.scan", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(InputError, match=f"cannot be written .no permission in {tmp_path}"):
        build([photos], tmp_path / "out", BuildOptions(workers=1))
