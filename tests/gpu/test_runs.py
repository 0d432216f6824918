"""Whole runs: finished, asked to stop, killed, and continued to the same bits.

On a GPU that takes `torch.use_deterministic_algorithms(True)` and `CUBLAS_WORKSPACE_CONFIG=:4096:8`
(the fixture `deterministic`). Without them cuDNN may choose a convolution's backward pass that adds
in the order in which blocks finish, and cuBLAS a workspace that another stream used. What seer adds
itself comes out alike in any order: `scatter_add_` in `assignment_metrics` adds ones, and what is
put at indices is put once. Nothing here turns on `cudnn.benchmark`, which would choose by the clock.
"""

import os
import signal
from itertools import count
from pathlib import Path
from threading import Event

import pytest
import torch
from torch import nn

from seer import forkserver
from seer.distributed import World
from seer.engine import loop
from seer.engine.checkpoint import checkpointer
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.checkpoint.header import read_header
from seer.engine.optim import SGD
from seer.errors import StoppedError
from seer.pretrain import run as pretraining
from seer.pretrain.recipe import Pretrain, load_config
from seer.rundir.names import latest
from tests.kit.runs import rows

OPTIONS = ["steps=7", "checkpoint.every=2", "log.plan=none", "method.queue=16"]


def config_of(
    recipe: str, shards: Path, run_dir: Path, device: torch.device, *more: str
) -> Pretrain:
    places = [f"data={shards}", f"run_dir={run_dir}", f"device={device.type}"]
    return load_config(recipe, [*OPTIONS, *places, *more])


def course(run_dir: Path) -> tuple[list[tuple], dict[str, str]]:
    """What must be equal: loss, gradient and samples of each step, and the hashes of what was saved
    last, which hold every bit of weights, statistics, momentum and queue.
    """
    steps = [(row["step"], row["loss"], row["grad_norm"], row["seen"]) for row in rows(run_dir)]
    assert [step for step, *_ in steps] == list(range(1, 8))
    files = read_header(latest(run_dir))["files"]
    return steps, {name: about["sha256"] for name, about in files.items()}


@pytest.fixture(scope="module")
def undisturbed(tiny, shards, tmp_path_factory):
    """The course of a run that nothing happened to, by device and precision."""
    made: dict[tuple, tuple] = {}

    def of(device: torch.device, *more: str) -> tuple:
        if (device, *more) not in made:
            run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
            pretraining.run(config_of(tiny, shards, run_dir, device, *more))
            made[(device, *more)] = course(run_dir)
        return made[(device, *more)]

    return of


def at_verdict(number: int, signal_number: int) -> None:
    """From now on this process gets a signal when it agrees for the so-manieth time."""
    calls = count(1)
    agree = loop.agree

    def agree_or_die(*arguments):
        if next(calls) == number:
            os.kill(os.getpid(), signal_number)
        return agree(*arguments)

    loop.agree = agree_or_die


@pytest.mark.slow
def test_the_same_run_twice(device, deterministic, undisturbed, tiny, shards, tmp_path):
    config = config_of(tiny, shards, tmp_path / "run", device)
    pretraining.run(config)
    steps, files = course(tmp_path / "run")
    assert (steps, files) == undisturbed(device)
    assert steps[-1][1] != steps[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("precision=bf16",)], ids=["fp32", "bf16"])
def test_stopped_and_continued(
    device, deterministic, undisturbed, tiny, shards, tmp_path, monkeypatch, more
):
    config = config_of(tiny, shards, tmp_path / "run", device, *more)
    expected = undisturbed(device, *more)
    monkeypatch.setattr(loop, "agree", loop.agree)  # which is put back, too
    at_verdict(3, signal.SIGUSR1)
    with pytest.raises(StoppedError, match="SIGUSR1"):
        pretraining.run(config)
    assert 1 <= len(rows(tmp_path / "run")) < 7
    pretraining.run(config)
    assert course(tmp_path / "run") == expected


def run_and_die(config: Pretrain) -> None:
    """In a process of its own, which has neither the fixtures nor their environment."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    at_verdict(7, signal.SIGKILL)
    pretraining.run(config)


@pytest.mark.slow
def test_killed_and_continued(device, deterministic, undisturbed, tiny, shards, tmp_path):
    """`kill -9`, while a save may be under way."""
    config = config_of(tiny, shards, tmp_path / "run", device)
    process = forkserver.start(forkserver.TRAINING).Process(target=run_and_die, args=(config,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert latest(tmp_path / "run")
    pretraining.run(config)
    assert course(tmp_path / "run") == undisturbed(device)


class Layers(nn.Module):
    """What is saved in different ways: large, strided, half, counted."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.full((1 << 20,), 1.0))
        self.convolution = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
        self.register_buffer("rough", torch.ones(100, dtype=torch.bfloat16))
        self.register_buffer("count", torch.ones((), dtype=torch.int64))


def test_what_is_saved_is_what_was_there(device, tmp_path, monkeypatch):
    """The copies are complete when `save` returns: what the next step writes does not reach them,
    not even while the thread that writes the files has yet to look at them.
    """
    world = World(device=device)
    method = Layers().to(device)
    optimizer = SGD(method.parameters(), momentum=0.9)
    write = checkpointer.tensorfile.write
    overwritten = Event()

    def write_late(*arguments):
        assert overwritten.wait(60)
        return write(*arguments)

    monkeypatch.setattr(checkpointer.tensorfile, "write", write_late)
    with Checkpointer(tmp_path, CheckpointConfig(keep_last=5), world) as saves:
        for step in (1, 2):
            with torch.no_grad():
                for tensor in method.state_dict().values():
                    # On a GPU long enough that the copies begin before it is done.
                    for _ in range(20):
                        tensor.mul_(1)
                    tensor.fill_(step)
            saves.finish()  # or the thread may come to see the last step's event only once it is cleared
            overwritten.clear()
            saves.save(step, method, optimizer)
            with torch.no_grad():
                for tensor in method.state_dict().values():
                    tensor.fill_(99)
            overwritten.set()
        staged = saves._staged.values()
        assert all(tensor.is_pinned() == (device.type == "cuda") for tensor in staged)
    for step in (2, 1):
        again = Layers().to(device)
        loading = Checkpointer(tmp_path, CheckpointConfig(), world)
        header = loading.load(again, SGD(again.parameters()), until=step)
        assert header == {"step": step}
        assert all((tensor == step).all() for tensor in again.state_dict().values())
