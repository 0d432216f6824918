import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.data.decoding.decode import DamagedImage
from seer.data.folders import Files, images_under, read_image, readable
from seer.errors import InputError
from tests.kit.pictures import coloured_jpeg

LATIN = os.fsdecode(b"caf\xe9.jpg")


def test_names_are_readable():
    assert readable("größe.jpg") == "größe.jpg"
    assert readable(r"a\b.jpg") == r"a\b.jpg"
    assert readable(LATIN) == r"caf\xe9.jpg"
    assert readable(r"caf\xe9.jpg") == r"caf\\xe9.jpg"


@given(
    st.lists(
        st.binary(min_size=1, max_size=6)
        | st.sampled_from([b"\\xe9", b"\xe9", b"\\\\xe9", b"\\\xe9"])
    )
)
def test_different_names_stay_different(names):
    shown = {name: readable(os.fsdecode(name)) for name in names}
    assert len(set(shown.values())) == len(set(names))
    for text in shown.values():
        text.encode()  # as UTF-8


def test_folders_linked_across_each_other_are_read_once_each(tmp_path, caplog):
    """Eight folders, each with a link to every other: followed along every path, they would have
    100,000 images.
    """
    folders = [tmp_path / f"{i}" for i in range(8)]
    for folder in folders:
        folder.mkdir()
        (folder / "a.jpg").touch()
        for target in folders:
            (folder / f"to{target.name}").symlink_to(target)
    paths = images_under(tmp_path)
    assert {f"{i}/a.jpg" for i in range(8)} <= set(paths)
    assert len(paths) <= 16
    assert "links to folders that are read already" in caplog.text


def test_folders_that_cannot_be_read_are_told_of(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    errors: list[OSError] = []
    assert images_under(tmp_path, errors.append) == ["b/1.jpg"]
    assert [error.filename for error in errors] == [str(tmp_path / "a")]
    with pytest.raises(InputError, match="Permission denied"):
        images_under(tmp_path)


def test_only_regular_files_are_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket.jpg"))
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(2**31)
    names = images_under(tmp_path)
    assert len(names) == 6
    for name in names:
        with pytest.raises(DamagedImage):
            read_image(tmp_path / name)
        with pytest.raises(InputError, match="cannot be read"):
            _ = Files(tmp_path, [name]).fingerprint
    listener.close()


def test_a_changed_image_of_the_same_size_and_time_is_noticed(tmp_path):
    path = tmp_path / LATIN
    path.write_bytes(coloured_jpeg(1))
    before = Files(tmp_path, [LATIN]).fingerprint
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert Files(tmp_path, [LATIN]).fingerprint != before
    assert Files(tmp_path, [LATIN]).name(0).endswith(r"/caf\xe9.jpg")


def test_images_of_kinds_that_are_not_read_are_told_of(tmp_path):
    for name in ("a.jpg", "IMG_1.HEIC", "b.nef", ".hidden.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    other_kinds = []
    assert images_under(tmp_path, on_unread=other_kinds.append) == ["a.jpg"]
    assert sorted(other_kinds) == ["IMG_1.HEIC", "b.nef"]
