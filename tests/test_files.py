import os

import pytest

from seer import files
from tests.kit.faults import die, killed


@pytest.fixture
def path(tmp_path):
    files.write(tmp_path / "file.txt", "old")
    return tmp_path / "file.txt"


def names(path):
    return [entry.name for entry in path.parent.iterdir()]


def test_text_in_one_or_in_many_pieces(path):
    files.write(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    files.write(path, (f"{i}\n" for i in range(3)))
    assert path.read_text() == "0\n1\n2\n"
    assert names(path) == ["file.txt"]


def test_who_fails_leaves_the_old_file_and_nothing_else(path):
    def lines():
        yield "half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write(path, lines())
    assert path.read_text() == "old"
    assert names(path) == ["file.txt"]


def test_who_is_killed_leaves_the_old_file(path):
    def lines():
        yield "half" * 10_000
        die()
        yield "the rest"

    assert killed(lambda: None, files.write, path, lines())
    assert path.read_text() == "old"
    assert all(name == path.name or name.startswith(".") for name in names(path))


def test_the_content_is_on_the_disk_before_the_name_is(path, monkeypatch):
    order = []
    for function in ("fsync", "replace"):
        real = getattr(os, function)
        monkeypatch.setattr(
            os, function, lambda *a, f=function, real=real: (order.append(f), real(*a))
        )
    files.write(path, "new")
    assert order == ["fsync", "replace"]
    assert path.read_text() == "new"


def test_a_lock_is_made_and_follows_no_link(tmp_path):
    with files.open_own(tmp_path / "lock", "a+b") as lock:
        lock.write(b"kept")
    files.open_own(tmp_path / "lock", "a+b").close()
    assert (tmp_path / "lock").read_bytes() == b"kept"
    (tmp_path / "link").symlink_to(tmp_path / "lock")
    with pytest.raises(OSError, match="symbolic links"):
        files.open_own(tmp_path / "link", "a+b")
