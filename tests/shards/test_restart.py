"""A build may be killed at any moment; the same command then ends with the same bytes."""

import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.verify import verify
from tests.kit.faults import at_change, contents, die, killed
from tests.kit.pictures import encoded

OPTIONS = BuildOptions(workers=1, shard_size=11, labels=True)


@pytest.fixture
def undisturbed(photos, tmp_path):
    """The sources, one of them damaged, and what a build of them should hold."""
    (photos / "cat" / "cut.jpg").write_bytes(encoded(50)[:300])
    build([photos], tmp_path / "undisturbed", OPTIONS)
    return photos, contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_around_every_rename(undisturbed, tmp_path, after):
    """Renames are where files become visible, so the moments around them are all the states there
    are to find.
    """
    photos, expected = undisturbed
    for moment in range(50):
        out = tmp_path / f"out{moment}"
        if not killed(at_change(moment, after, "replace"), build, [photos], out, OPTIONS):
            break
        build([photos], out, OPTIONS)
        assert contents(out) == expected, f"killed at rename {moment}"
    assert moment == 9  # the plan, tar, index and record of two shards, quarantine, manifest


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> int:
    """How many calls and returns an undisturbed build of twenty photographs makes."""
    root = tmp_path_factory.mktemp("events")
    for i in range(20):
        (root / "photos" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        (root / "photos" / str(i % 2) / f"{i}.jpg").write_bytes(encoded(i))
    count = Countdown(sys.maxsize)
    sys.setprofile(count)
    try:
        build([root / "photos"], root / "out", OPTIONS)
    finally:
        sys.setprofile(None)
    return sys.maxsize - count.left


@pytest.mark.parametrize("seed", range(50))
def test_killed_at_random_moments_again_and_again(undisturbed, tmp_path, events, seed):
    """Moments are counted in calls: in seconds, a fast machine would be done before it is killed."""
    photos, expected = undisturbed
    draw, out = random.Random(seed), tmp_path / "out"
    assert killed(
        partial(sys.setprofile, Countdown(draw.randrange(events))), build, [photos], out, OPTIONS
    )
    for _ in range(seed % 3):  # the continued build has less to do, and may end first
        killed(
            partial(sys.setprofile, Countdown(draw.randrange(events))),
            build,
            [photos],
            out,
            OPTIONS,
        )
    build([photos], out, OPTIONS)
    assert contents(out) == expected


class Countdown:
    """A profile function that kills its process after so many events."""

    def __init__(self, left: int):
        self.left = left

    def __call__(self, *event) -> None:
        self.left -= 1
        if self.left < 0:
            die()


SCRIPT = """
from shards.build import BuildOptions, build
if __name__ == "__main__":
    options = BuildOptions(workers=2, shard_size=11, labels=True)
    build([{photos!r}], {out!r}, options, lambda *done: print(*done, flush=True))
"""


def test_killing_the_parent_leaves_no_worker_behind(undisturbed, tmp_path):
    photos, expected = undisturbed
    out = tmp_path / "out"
    (tmp_path / "script.py").write_text(SCRIPT.format(photos=str(photos), out=str(out)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], env=environment, stdout=subprocess.PIPE
    )
    assert parent.stdout
    parent.stdout.readline()
    workers = set[int]()
    while parent.poll() is None and len(workers) < 2:
        workers |= set(children(parent.pid))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert build([photos], out, OPTIONS).samples == 20
    assert contents(out) == expected
    assert verify(out, workers=1).ok
    deadline = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, f"workers {workers} outlive the build"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def begun(photos, out, **record):
    """A folder that says of itself that this build was begun in it, with a record of a shard."""
    # Before the first record.
    assert killed(at_change(3, False, "replace"), build, [photos], out, OPTIONS)
    shard = record["shard"]
    facts = {
        "samples": 0,
        "bytes": 0,
        "sha256": "0" * 64,
        "labels": 0,
        "quarantine": [],
        "staged": True,
    }
    (out / ".build" / f"{Path(shard).name}.json").write_text(json.dumps(facts | record))


@pytest.mark.parametrize("shard", ["{}/precious.tar", "../precious.tar", "mine.tar"])
def test_a_record_that_no_build_wrote_deletes_nothing(undisturbed, tmp_path, shard):
    photos, expected = undisturbed
    out = tmp_path / "out"
    begun(photos, out, shard=shard.format(tmp_path))
    (tmp_path / "precious.tar").write_text("precious")
    (out / "mine.tar").write_text("precious")
    build([photos], out, OPTIONS)
    assert (tmp_path / "precious.tar").read_text() == "precious"
    assert (out / "mine.tar").read_text() == "precious"
    (out / "mine.tar").unlink()
    assert contents(out) == expected


def test_a_state_that_is_a_link_is_not_followed(photos, tmp_path):
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    (victim / "lock").write_text("precious")
    out.mkdir()
    (out / ".build").symlink_to(victim)
    with pytest.raises(InputError, match=r"\.build is a link, and would lead out of .*; remove it"):
        build([photos], out, OPTIONS)
    assert contents(victim) == contents(tmp_path / "victim")
    assert (victim / "lock").read_text() == "precious"
