"""Several processes share one build, and nobody coordinates them."""

import fcntl
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from seer.errors import InputError
from shards import build as building
from shards.build import BuildOptions, build
from shards.records import state
from shards.verify import verify
from shards.writing import parts
from shards.writing.parts import Part
from tests.kit.faults import contents
from tests.kit.pictures import encoded

OPTIONS = BuildOptions(workers=1, shard_size=3, labels=True)


def part(text, **changes):
    return replace(OPTIONS, part=text, **changes)


@pytest.fixture
def whole(photos, tmp_path):
    """The sources, one of them damaged, and what one process makes of them."""
    (photos / "cat" / "cut.jpg").write_bytes(encoded(50)[:300])
    build([photos], tmp_path / "whole", OPTIONS)
    return photos, contents(tmp_path / "whole")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_in_any_order_make_what_one_process_makes(whole, tmp_path, count):
    photos, expected = whole
    order = random.Random(count).sample(range(1, count + 1), count)
    reports = [build([photos], tmp_path / "out", part(f"{i}/{count}")) for i in order]
    assert [report.complete for report in reports] == [False] * (count - 1) + [True]
    assert contents(tmp_path / "out") == expected
    assert verify(tmp_path / "out", workers=1).ok
    assert sum(report.samples for report in reports[:-1]) < reports[-1].samples == 20
    assert build([photos], tmp_path / "out", part(f"1/{count}")).already_complete
    assert build([photos], tmp_path / "out", OPTIONS).already_complete
    assert contents(tmp_path / "out") == expected


def test_more_parts_than_shards(whole, tmp_path):
    photos, expected = whole
    for i in range(9, 0, -1):
        report = build([photos], tmp_path / "out", part(f"{i}/9"))
        assert report.complete == (i == 1)
    assert contents(tmp_path / "out") == expected


def test_parts_at_the_same_time(whole, tmp_path):
    photos, expected = whole
    for attempt in range(5):
        out = tmp_path / f"out{attempt}"
        with ThreadPoolExecutor(4) as threads:
            reports = list(
                threads.map(lambda i, out=out: build([photos], out, part(f"{i}/4")), range(1, 5))
            )
        assert any(report.complete for report in reports)
        assert contents(out) == expected


def test_a_part_that_looks_while_another_begins(whole, tmp_path, monkeypatch):
    photos, expected = whole
    out, scandir = tmp_path / "out", os.scandir
    out.mkdir()

    def late(path):
        if Path(path) == out:
            monkeypatch.undo()
            build([photos], out, part("1/2"))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert build([photos], out, part("2/2")).complete
    assert contents(out) == expected


def test_a_part_that_begins_while_the_last_one_ends(whole, tmp_path, monkeypatch):
    photos, expected = whole
    out, locked = tmp_path / "out", state.locked
    build([photos], out, part("1/2"))
    written = dict[str, int]()

    def late(*arguments):
        """The other part ends the build between this one's look at the folder and its lock."""
        monkeypatch.undo()
        assert build([photos], out, part("2/2")).complete
        written.update(times(out))
        return locked(*arguments)

    monkeypatch.setattr(state, "locked", late)
    assert build([photos], out, part("1/2")).already_complete
    assert contents(out) == expected
    assert times(out) == written, "shards of a complete build were written again"


def test_a_part_that_waits_while_the_last_one_removes_the_state(whole, tmp_path, monkeypatch):
    photos, expected = whole
    out, alone = tmp_path / "out", state.alone

    @contextmanager
    def late(out):
        """The other part is removing the state when this one opens a file in it."""
        if not state.unfinished(out, ["shard-000000.tar", "shard-000002.tar"]):
            monkeypatch.undo()
            assert build([photos], out, part("2/2")).complete
            (out / state.STATE).mkdir()
        with alone(out):
            yield

    monkeypatch.setattr(state, "alone", late)
    assert build([photos], out, part("1/2")).complete
    assert contents(out) == expected
    assert not (out / state.STATE).exists()


def test_a_lock_whose_file_is_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    flock, path = fcntl.flock, tmp_path / state.STATE / "lock"

    def late(*arguments):
        monkeypatch.undo()
        path.unlink()
        path.parent.rmdir()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        state.locked(tmp_path),
        pytest.raises(InputError, match="being built by process"),
        state.locked(tmp_path),
    ):
        raise AssertionError("two processes hold one build")


def test_a_state_that_is_removed_between_making_and_opening_it(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def late(path, **options):
        monkeypatch.undo()
        mkdir(path, **options)
        path.rmdir()

    monkeypatch.setattr(Path, "mkdir", late)
    with state.locked(tmp_path):
        assert (tmp_path / state.STATE / state.LOCK).exists()


def test_a_file_where_the_state_should_be(whole, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / state.STATE).write_text("")
    with pytest.raises(InputError, match="is a file, and no folder"):
        build([whole[0]], tmp_path / "out", OPTIONS)


def test_a_folder_that_cannot_be_made(whole):
    """Linux answers that /proc/x does not exist where other file systems refuse to make it."""
    with pytest.raises(InputError, match="/proc/seer"):
        build([whole[0]], "/proc/seer", OPTIONS)


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_a_part_alone_says_what_it_made(whole, tmp_path):
    report = build([whole[0]], tmp_path / "out", part("2/4"))
    assert (report.complete, report.shards, report.samples) == (False, 2, 6)
    assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert "other parts" in "\n".join(report.lines())
    again = build([whole[0]], tmp_path / "out", part("2/4"))
    assert again.continued == 2


def test_a_plain_build_ends_what_parts_have_begun(whole, tmp_path):
    photos, expected = whole
    build([photos], tmp_path / "out", part("1/3"))
    assert build([photos], tmp_path / "out", OPTIONS).continued == 3
    assert contents(tmp_path / "out") == expected


def test_another_number_of_parts_goes_on(whole, tmp_path):
    photos, expected = whole
    build([photos], tmp_path / "out", part("1/3"))
    for i in (1, 2):
        report = build([photos], tmp_path / "out", part(f"{i}/2"))
    assert report.complete
    assert contents(tmp_path / "out") == expected


def test_parts_of_another_build_are_refused(whole, tmp_path):
    build([whole[0]], tmp_path / "out", part("1/3"))
    with pytest.raises(InputError, match="shard_size was 3, now 4"):
        build([whole[0]], tmp_path / "out", part("2/3", shard_size=4))


def test_who_may_build_with_whom(whole, tmp_path):
    photos, out = whole[0], tmp_path / "out"
    with state.locked(out, "1-of-2"):
        with pytest.raises(InputError, match="being built by other processes"):
            build([photos], out, OPTIONS)
        with pytest.raises(InputError, match=f"being built by process {os.getpid()}"):
            build([photos], out, part("1/2"))
        assert not build([photos], out, part("2/2")).complete
    with (
        state.locked(out),
        pytest.raises(InputError, match=f"being built by process {os.getpid()}"),
    ):
        build([photos], out, part("1/2"))


def test_what_a_killed_part_leaves_is_cleared_by_itself_only(whole, tmp_path):
    photos, expected = whole
    out = tmp_path / "out"
    build([photos], out, part("1/2"))
    mine, other = out / ".build" / ".shard-000002.tar.999", out / ".build" / ".shard-000001.tar.999"
    index = out / ".shard-000003.index.parquet.999"
    for path in (mine, other, index):
        path.write_bytes(b"half")
    build([photos], out, part("1/2"))
    assert not mine.exists()
    assert other.exists()
    assert index.exists()
    build([photos], out, part("2/2"))
    assert contents(out) == expected


def test_killed_while_finishing(whole, tmp_path, monkeypatch):
    photos, expected = whole
    build([photos], tmp_path / "out", part("1/2"))

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        build([photos], tmp_path / "out", part("2/2"))
    monkeypatch.undo()
    assert build([photos], tmp_path / "out", part("1/2")).complete
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_part(text):
    with pytest.raises(InputError, match="write I/N with I from 1 to N"):
        parts.parse(text, {})


def test_parts_of_a_job_array():
    array = {
        "SLURM_ARRAY_TASK_ID": "14",
        "SLURM_ARRAY_TASK_MIN": "10",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    assert parts.parse("slurm", {**array, "SLURM_ARRAY_TASK_STEP": "2"}) == Part(3, 4)
    assert parts.parse("slurm", {**array, "SLURM_ARRAY_TASK_ID": "13"}) == Part(4, 4)
    assert parts.parse("", array) is None
    with pytest.raises(
        InputError, match=r"no task of a job array .'SLURM_ARRAY_TASK_ID' is not set"
    ):
        parts.parse("slurm", {})
    with pytest.raises(InputError, match="not evenly spaced"):
        parts.parse("slurm", array)
