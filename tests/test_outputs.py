"""Files that were asked for: whatever is wrong with them is one line before the work, and the old
one stays.
"""

import errno
import os
from pathlib import Path

import pytest

from seer import files
from seer.errors import InputError
from seer.outputs import check_folder_writable, check_writable, write
from seer.terminal import emit


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "it is a folder; name a file in it"),
        ("file/x.json", "file is a file, not a folder"),
        ("loop/x.json", "cannot be written"),
        ("a\x00b", "cannot be written"),
        ("x" * 300, "File name too long"),
        ("x" * 300 + "/y", "cannot be written"),
        ("/proc/none/x.json", "cannot be written"),
        ("\x1b[2J/\x00", r"\\x1b\[2J"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(tmp_path, target, message):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for append in (False, True):
        with pytest.raises(InputError, match=message) as error:
            check_writable(tmp_path / target, "--json", append)
        assert str(error.value).startswith("--json /")
        assert str(error.value).isprintable()
    if target not in ("", "x" * 300):
        with pytest.raises(InputError):
            check_folder_writable(tmp_path / target, "--out")
    if target:
        with pytest.raises(InputError):
            write(tmp_path / target, "x", "the results")


def test_what_may_not_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    path = tmp_path / "old.json"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="it is there, and not yours to write"):
        check_writable(path, "--json")

    def full(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(InputError, match=r"--json .*cannot be written \(Read-only file system\)"):
        check_writable(tmp_path / "new.json", "--json")


def test_checking_changes_nothing(tmp_path):
    (tmp_path / "old.json").write_text("old")
    for append in (False, True):
        for name in ("old.json", "x.json", "new/folder/x.json"):
            check_writable(tmp_path / name, "--json", append)
    check_folder_writable(tmp_path / "new/folder", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


def test_folders_on_the_way_are_made_with_the_file(tmp_path):
    write(tmp_path / "new/folder/x.json", "{}", "the results")
    assert (tmp_path / "new/folder/x.json").read_text() == "{}"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "old.json"
    path.write_text("old")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(
        InputError, match=r"the results cannot be written \(No space left on device\)"
    ):
        emit({"a": 1}, str(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_devices_are_written_to_as_they_are_and_pipes_that_somebody_reads(tmp_path):
    for append in (False, True):
        check_writable("/dev/null", "--json", append)
    write("/dev/null", "x", "the results")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(InputError, match="No space left on device"):
        write("/dev/full", "x" * 100_000, "the results")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="No such device or address"):
        check_writable(tmp_path / "pipe", "results file", append=True)
