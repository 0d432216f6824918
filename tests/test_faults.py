"""Twenty seeded faults in one run: it comes to what it would have come to without them, and takes
every sample once.

`SEER_FAULT_SEED` draws other faults.
"""

import os
import random
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from seer import distributed
from seer.checks.audit import audit
from seer.data.loader import Loader
from seer.distributed import World
from seer.engine.checkpoint import checkpointer, integrity, tensorfile
from seer.engine.checkpoint.mirror import Mirror
from seer.engine.metrics import RunLog
from seer.errors import StoppedError, UnsavedError
from seer.pretrain.recipe import Pretrain, load_config
from seer.pretrain.run import run
from seer.processes import RankError, spawn
from seer.rundir.names import checkpoints
from tests.kit.runs import SMALL, losses, rows
from tests.kit.servers import bucket_server

SEED = int(os.environ.get("SEER_FAULT_SEED", 1))
STEPS, SPOILED_STEP = 40, 7  # more than nineteen attempts come to, each two or three steps
SETTINGS = [
    f"steps={STEPS}",
    "precision=fp64",
    "checkpoint.every=2",
    *SMALL,
]
LINES_OF_A_SAVE = 4000  # no fewer are run


@dataclass
class Fault:
    """What befalls an attempt: `name`, on one rank, after so many of its steps (or lines of code of
    its saves).
    """

    name: str
    rank: int
    after: int
    processes: int


def fill_the_disk() -> None:
    """From now on this process can make no file longer than 100 kB, and does not wait for that to
    change.
    """
    checkpointer.PAUSES = ()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# What happens to a rank at the end of a step; of anything else, SIGKILL is the beginning.
AT_A_STEP = {
    "the disk is full": fill_the_disk,
    "SIGTERM": send(signal.SIGTERM),
    "SIGUSR1": send(signal.SIGUSR1),
    "SIGUSR2": send(signal.SIGUSR2),
}
EXPECTED = {
    "the disk is full": UnsavedError,
    **dict.fromkeys(("SIGTERM", "SIGUSR1", "SIGUSR2"), StoppedError),
}


def flip_a_bit(path: Path, draw: random.Random) -> None:
    file = draw.choice(sorted(p for p in path.rglob("*") if p.is_file()))
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    file = draw.choice(sorted(p for p in path.rglob("*") if p.is_file()))
    os.truncate(file, draw.randrange(file.stat().st_size))


def lose_a_shard(path: Path, draw: random.Random) -> None:
    draw.choice(sorted((path / "state").iterdir())).unlink()


# What happens to the newest checkpoint after the job was killed.
AFTERWARDS = {
    "a bit flips": flip_a_bit,
    "a file is truncated": truncate,
    "a shard is lost": lose_a_shard,
}


def faults(draw: random.Random) -> tuple[list[Fault], list[Fault]]:
    """Fifteen with two processes, in any order; then four while their number goes to 1 and back to
    2.
    """
    others = [
        *AFTERWARDS,
        "SIGUSR2",
        *2 * ["a rank is killed", "the job is killed", "the disk is full"],
    ]
    others += 3 * ["killed in a save"]
    draw.shuffle(others)
    # These two leave a checkpoint each, so that no other hits the only one.
    names = ["SIGTERM", "SIGUSR1", *others]
    later = {"killed in a save": 1, "the job is killed": 1, "SIGTERM": 2, "a rank is killed": 2}
    places = [*((name, 2) for name in names), *later.items()]
    drawn = [
        Fault(name, draw.randrange(count), draw.randint(2, 3), count) for name, count in places
    ]
    for fault in drawn:
        if fault.name == "killed in a save":
            fault.rank, fault.after = 0, draw.randint(1, LINES_OF_A_SAVE)
    return drawn[: len(names)], drawn[len(names) :]


def attempt(config: Pretrain, fault: Fault | None) -> None:
    """In each rank: go on with the run until the fault."""
    spoil_a_batch()
    if fault is not None and (
        fault.rank == distributed.rank() or fault.name == "the job is killed"
    ):
        if fault.name == "killed in a save":
            die_in_a_save(fault.after)
        else:
            strike_after(fault.after, AT_A_STEP.get(fault.name, send(signal.SIGKILL)))
    run(config)


def spoil_a_batch() -> None:
    """The crops of one step are not numbers on rank 0: no rank applies that step."""
    iterate = Loader.iterate

    def spoiled(self, start, stop, *more):
        for number, views in enumerate(iterate(self, start, stop, *more), start):
            if number + 1 == SPOILED_STEP and distributed.rank() == 0:
                views.crops[0][0, 0] = torch.nan
            yield views

    Loader.iterate = spoiled  # type: ignore[method-assign]


def strike_after(steps: int, strike: Callable[[], None]) -> None:
    step, done = RunLog.step, []

    def counted(self, *arguments, **more):
        values = step(self, *arguments, **more)
        done.append(1)
        if len(done) == steps:
            strike()
        return values

    RunLog.step = counted  # type: ignore[method-assign]


def die_in_a_save(line: int) -> None:
    """Be killed before that line of what saves run in the background."""
    files, left = {module.__file__ for module in (checkpointer, integrity, tensorfile)}, [line]

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)


@pytest.fixture
def train(tiny, shards):
    def train(run_dir: Path, processes: int, fault: Fault | None = None) -> None:
        mode = "fsdp" if processes > 1 else "none"
        config = load_config(
            tiny, [f"data={shards}", f"run_dir={run_dir}", f"parallel.mode={mode}", *SETTINGS]
        )
        spawn(attempt, processes, config, fault, device="cpu")

    return train


@pytest.mark.slow
def test_a_run_survives_twenty_faults(train, tmp_path):
    """Nineteen that end the run, and a batch that is not finite, which the undisturbed run has as
    well.
    """
    train(tmp_path / "undisturbed", 2)
    undisturbed = losses(tmp_path / "undisturbed")
    assert [step for step, loss in enumerate(undisturbed, 1) if loss is None] == [SPOILED_STEP]

    run_dir, draw = tmp_path / "run", random.Random(SEED)
    first, last = faults(draw)
    for fault in first:
        suffer(train, run_dir, fault, draw)
    so_far = losses(run_dir)
    assert len(so_far) > SPOILED_STEP
    assert so_far == undisturbed[: len(so_far)]  # bit for bit: the number of processes was the same

    for fault in last:
        suffer(train, run_dir, fault, draw)
    train(run_dir, 2)
    assert losses(run_dir) == pytest.approx(undisturbed, abs=1e-9)
    found = audit(run_dir)
    assert found.exact
    assert (found.steps, found.fingerprints) == (STEPS, STEPS)
    warnings = [
        line
        for line in (run_dir / "seer.log").read_text().splitlines()
        if "; going on from step-" in line
    ]
    assert len(warnings) >= 3


def suffer(train, run_dir: Path, fault: Fault, draw: random.Random) -> None:
    with pytest.raises(EXPECTED.get(fault.name, RankError)):
        train(run_dir, fault.processes, fault)
    if fault.name in AFTERWARDS:
        AFTERWARDS[fault.name](checkpoints(run_dir)[-1], draw)


@pytest.mark.slow
def test_a_run_goes_on_from_a_store_where_its_directory_is_lost(
    tiny, shards, tmp_path, monkeypatch
):
    with bucket_server(monkeypatch) as bucket:
        settings = [
            f"data={shards}",
            "steps=4",
            "checkpoint.every=2",
            f"checkpoint.store={bucket}/lost",
        ]
        run(load_config(tiny, [*settings, f"run_dir={tmp_path / 'a'}"]))
        # As if it had been killed before.
        Mirror(f"{bucket}/lost", World()).remove("step-000000004")
        run(load_config(tiny, [*settings, f"run_dir={tmp_path / 'b'}"]))
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / "b")] == [
        (row["step"], row["loss"]) for row in rows(tmp_path / "a")[2:]
    ]
    found = audit(tmp_path / "b")
    assert found.exact
    assert (found.steps, found.fingerprints) == (4, 2)
