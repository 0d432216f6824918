import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from webdataset.tariterators import base_plus_ext

from seer.errors import InputError
from shards.archives import tars
from shards.build import BuildOptions, build
from shards.indexing import index
from shards.sources.scan import scan
from tests.kit.pictures import encoded


def found(*sources, **options):
    listing = scan([str(source) for source in sources], **options)
    return listing, [os.fsdecode(name) for name in listing.table["name"].to_pylist()]


def pack(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_images_are_told_by_content_and_the_rest_is_counted(folder):
    root = folder(
        {
            "a.jpg": encoded(0),
            "no_suffix": encoded(1),
            "deep/er/wrong.txt": encoded(2, "PNG"),
            "UPPER.JPEG": encoded(3),
            "damaged.png": b"nothing",
            "empty.gif": b"",
            "notes.txt": b"P1 is no picture",
            "code.h": b"#define x 1",
            "table.csv": b"",
            "data.h5": b"\x89HDF\r\n\x1a\n",
            ".hidden.jpg": encoded(4),
            ".git/x.jpg": encoded(5),
        }
    )
    listing, names = found(root)
    assert sorted(names) == [
        "UPPER.JPEG",
        "a.jpg",
        "damaged.png",
        "deep/er/wrong.txt",
        "empty.gif",
        "no_suffix",
    ]
    assert listing.ignored == {".txt": 1, ".h": 1, ".csv": 1, ".h5": 1}
    assert listing.quarantine == []


HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(20)


def test_images_of_kinds_that_are_not_read_are_quarantined_with_the_remedy(folder, tmp_path):
    files = {
        "IMG_1.HEIC": HEIC,
        "b.dng": encoded(0, "TIFF"),  # what Pillow would read of a raw file is its thumbnail
        "c.jxl": b"\xff\x0a",
        "jpeg.heic": encoded(1),  # by another name
        "d.jpg": encoded(2),
        "e.txt": b"no image",
    }
    root = folder(files)
    packed = pack(tmp_path / "t.tar", files.items())
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    for source, prefix in ((root, ""), (packed, "t.tar/"), (tmp_path / "z.zip", "z.zip/")):
        listing, names = found(source)
        assert sorted(names) == ["d.jpg", "jpeg.heic"]
        assert {each["source"]: each["reason"] for each in listing.quarantine} == {
            f"{prefix}IMG_1.HEIC": "HEIC is not read; convert it to JPEG",
            f"{prefix}b.dng": "camera raw is not read; convert it to JPEG",
            f"{prefix}c.jxl": "JPEG XL is not read; convert it to JPEG",
        }
        assert listing.ignored == {".txt": 1}


def test_avif_is_an_image_where_it_is_read(folder):
    listing, names = found(folder({"a.avif": encoded(0, "AVIF")}))
    assert (names, listing.quarantine) == (["a.avif"], [])


def test_where_all_are_of_such_a_kind_it_is_said(folder):
    with pytest.raises(InputError, match=r"no usable image .*a\.heic: HEIC is not read; convert"):
        found(folder({"a.heic": HEIC}))


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    root = folder({"a/x.jpg": encoded(0)})
    elsewhere = folder({"y.jpg": encoded(1)}, "elsewhere")
    (root / "linked").symlink_to(elsewhere)
    (root / "a" / "again").symlink_to(root)
    (root / "file.jpg").symlink_to(elsewhere / "y.jpg")
    (root / "broken.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "pipe.jpg")
    listing, names = found(root)
    assert sorted(names) == ["a/x.jpg", "file.jpg", "linked/y.jpg"]
    assert listing.quarantine == [
        {"source": "broken.jpg", "reason": "cannot be read (No such file or directory)"}
    ]


def test_any_depth(folder):
    deep = "/".join(["d"] * 500) + "/x.jpg"
    root = folder({deep: encoded(0)})
    assert found(root)[1] == [deep]


def test_odd_names_make_webdataset_keys(folder):
    names = ["a.b.c.jpg", "ü 雪.jpg", "__x__/y.jpg", "new\nline.jpg", "v1.2/x.jpg", "no_suffix"]
    root = folder({name: encoded(i) for i, name in enumerate(names)})
    with open(os.path.join(os.fsencode(root), b"\xff\xfe.jpg"), "wb") as file:
        file.write(encoded(9))
    listing, found_names = found(root)
    keys = listing.table["key"].to_pylist()
    assert sorted(os.fsencode(name) for name in found_names) == sorted(
        [*map(os.fsencode, names), b"\xff\xfe.jpg"]
    )
    assert set(keys) == {"a_b_c", "ü 雪", "x__/y", "new_line", "v1.2/x", "no_suffix", "\\xff\\xfe"}
    for key in keys:
        assert base_plus_ext(f"{key}.jpg") == (key, "jpg")


def test_keys_that_meet_are_told_apart(folder, tmp_path):
    first = folder({"x.jpg": encoded(0), "x.png": encoded(1), "x~2.jpg": encoded(2)})
    second = pack(
        tmp_path / "t.tar",
        [("x.jpg", encoded(3)), ("./x.jpg", encoded(4)), ("../../x.jpg", encoded(5))],
    )
    listing, _ = found(first, second)
    keys = listing.table["key"].to_pylist()
    assert len(set(keys)) == 6
    assert keys[:3] == ["x", "x~3", "x~2"]


def test_order_and_fingerprint_depend_on_names_alone(folder):
    files = {f"{folder}/{i}.jpg": encoded(i) for folder in "ba" for i in range(5)}
    one, names = found(folder(files, "one"))
    two, other = found(folder(dict(sorted(files.items(), reverse=True)), "two"))
    assert names == other
    assert one.fingerprint == two.fingerprint
    folder({"a/9.jpg": b"more"}, "two")
    assert found(folder({}, "two"))[0].fingerprint != one.fingerprint


def test_the_output_is_no_source(folder):
    root = folder({"a.jpg": encoded(0), "shards/b.jpg": encoded(1)})
    assert found(root, skip=root / "shards")[1] == ["a.jpg"]


def test_tars_in_folders_and_what_their_samples_hold(folder, tmp_path):
    root = folder({"x.jpg": encoded(0)})
    pack(
        root / "set.tar",
        [
            ("1.json", b"{}"),
            ("1.seg.png", encoded(1, "PNG")),
            ("1.jpg", encoded(2)),
            ("README.txt", b"words"),
            ("folder/unnamed", encoded(3)),
        ],
    )
    listing, names = found(root)
    assert names == ["1.jpg", "folder/unnamed", "x.jpg"]
    assert [extra["suffix"] for extra in listing.table["extras"].to_pylist()[0]] == [
        "json",
        "seg.png",
    ]
    assert listing.ignored == {".txt": 1}
    container = listing.containers[1]
    assert container.source_of(b"1.jpg") == "set.tar/1.jpg"


def test_sources_are_recorded_apart_when_there_are_several(folder):
    one, two = folder({"x.jpg": encoded(0)}, "one"), folder({"x.jpg": encoded(1)}, "two")
    listing, _ = found(one, two)
    assert [c.source_of(b"x.jpg") for c in listing.containers] == [f"{one}/x.jpg", f"{two}/x.jpg"]
    assert found(one)[0].containers[0].source_of(b"x.jpg") == "x.jpg"


def test_labels(photos, folder):
    folder({"stray.jpg": encoded(50), "bird/deep/er.jpg": encoded(51)})
    listing, names = found(photos, labels=True)
    assert listing.classes == ["bird", "cat", "dog"]
    assert listing.table["class"].to_pylist() == [name.split("/")[0] for name in names]
    assert listing.quarantine == [{"source": "stray.jpg", "reason": "not in a class folder"}]


def test_labels_need_class_folders(folder, tmp_path, photos):
    flat = folder({"x.jpg": encoded(0)}, "flat")
    with pytest.raises(InputError, match="folder per class"):
        scan([str(flat)], labels=True)
    labelled = pack(tmp_path / "t.tar", [("x.jpg", encoded(0)), ("x.cls", b"3")])
    with pytest.raises(InputError, match="classes by name would mix with tars"):
        scan([str(photos), str(labelled)], labels=True)


def test_damaged_tars_are_quarantined(folder):
    root = folder({"x.jpg": encoded(0), "bad.tar": b"no tar" * 500})
    whole = pack(root / "cut.tar", [("1.jpg", encoded(1)), ("2.jpg", encoded(2))])
    whole.write_bytes(whole.read_bytes().rstrip(b"\0")[:-10])
    listing, names = found(root)
    assert names == ["1.jpg", "x.jpg"]
    assert [entry["source"] for entry in listing.quarantine] == ["bad.tar", "cut.tar"]
    assert listing.quarantine[1]["reason"] == "truncated tar (within 2.jpg)"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "does not exist"),
        ({}, "is empty"),
        ({"a.txt": b"x", "b.txt": b"y"}, r"only 2 \.txt"),
        ({"x.tar": b"\x1f\x8b" + bytes(600)}, "no usable image in .*gzip"),
    ],
)
def test_bad_sources_are_one_line(folder, tmp_path, files, message):
    root = tmp_path / "missing" if files is None else folder(files)
    with pytest.raises(InputError, match=message) as raised:
        scan([str(root)])
    assert "\n" not in str(raised.value)


def test_a_file_is_no_source(folder):
    root = folder({"x.jpg": encoded(0)})
    with pytest.raises(InputError, match=r"neither a folder nor a \.tar, \.zip or list"):
        scan([str(root / "x.jpg")])


def test_unreadable(folder, monkeypatch):
    root = folder({"x.jpg": encoded(0), "closed/y.jpg": encoded(1)})
    scandir = os.scandir

    def denied(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # the tests may run as root, whom no mode bits stop
    listing, names = found(root)
    assert names == ["x.jpg"]
    assert listing.quarantine == [
        {"source": "closed", "reason": "cannot be read (Permission denied)"}
    ]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="permission denied"):
        scan([str(root)])


def test_many_keys_that_meet_stay_linear(folder, tmp_path):
    files = [(f"{i % 3}.jpg", b"") for i in range(600)]
    listing, _ = found(pack(tmp_path / "t.tar", files))
    keys = np.array(listing.table["key"].to_pylist())
    assert len(np.unique(keys)) == 600
    assert max(int(key.partition("~")[2] or 1) for key in keys) == 200


def test_names_that_are_no_text_break_nothing(folder, tmp_path):
    odd = b"x.\xff".decode("utf-8", "surrogateescape")
    root = folder({"a.jpg": encoded(0)})
    with open(os.path.join(root, odd), "wb") as file:
        file.write(b"no image")
    pack(root / "t.tar", [(f"{odd}.jpg", encoded(1)), (odd, b"{}"), (f"1{odd}", b"no image")])
    listing, names = found(root)
    assert names == ["a.jpg", f"{odd}.jpg"]
    assert listing.ignored == {".\\xff": 2}
    assert listing.table["extras"].to_pylist()[1][0]["suffix"] == "\\xff"


def test_a_huge_member_is_not_read_in_search_of_an_image(folder, monkeypatch):
    root = folder({"a.jpg": encoded(0)})
    pack(root / "t.tar", [("film.mp4", bytes(3 << 20))])
    asked = []
    read = tars.read_range
    monkeypatch.setattr(
        tars,
        "read_range",
        lambda path, offset, size: asked.append(size) or read(path, offset, size),
    )
    assert found(root)[1] == ["a.jpg"]
    assert asked == [1 << 20]


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    pipe = tmp_path / f"x{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="not a regular file"):
        build([pipe], tmp_path / "out", BuildOptions(workers=1))
    if suffix == ".tar":
        with pytest.raises(InputError, match="not a regular file"):
            index([pipe], workers=1)


def test_a_link_to_nothing_is_named(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.tar").symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(InputError, match=r"x\.tar: a link to nothing; remove it"):
        index([folder], workers=1)
