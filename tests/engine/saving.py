"""Checkpoints of `tiny`: saved, loaded, looked at and damaged."""

import torch

from seer.distributed import World, init
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.optim import SGD
from seer.engine.parallel import ParallelConfig
from seer.rundir.names import checkpoints
from tests.engine import tiny
from tests.engine.tiny import Tiny


def writer(run_dir, **config):
    return Checkpointer(run_dir, CheckpointConfig(**config), init("cpu"))


def saved(run_dir, *steps, **config):
    """Save the initial state as that of these steps; which steps there are checkpoints of then."""
    method, _, optimizer = tiny.build(ParallelConfig())
    with writer(run_dir, **config) as saves:
        for step in steps:
            with torch.no_grad():
                method.centre.fill_(step)
            saves.save(step, method, optimizer, {"about": step}, {})
    return [int(path.name.removeprefix("step-")) for path in checkpoints(run_dir)]


def load_into(method, run_dir, **config):
    optimizer = SGD(method.parameters())
    return Checkpointer(run_dir, CheckpointConfig(**config), World()).load(method, optimizer)


def loaded(run_dir, **config):
    """The step that a new process goes on from; that its header and its tensors are of one step is
    checked here.
    """
    method = Tiny().double()
    extra = load_into(method, run_dir, **config)
    assert extra == {"about": extra["step"], "step": extra["step"]}
    assert method.centre.tolist() == [extra["step"]] * 5
    return extra["step"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def shard(path):
    (file,) = (path / "state").iterdir()
    return file
