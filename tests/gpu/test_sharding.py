"""FSDP and DDP with one rank, over NCCL on a GPU: what the plain module does, and checkpoints that
each reads from the others.
"""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from seer import distributed
from seer.distributed import World
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.learner import Learner, Step
from seer.engine.optim import OptimConfig, build_optimizer
from seer.engine.parallel import ParallelConfig, find_backbones, parallelize, shard
from seer.engine.step import train_step
from tests.gpu.small import batch, distance, group_of_one, learner

STEPS = 3
WAYS = ("ddp", "fsdp")


@pytest.fixture(autouse=True)
def group(device):
    with group_of_one(device):
        yield


def laid_out(way: str, made: Learner, device: torch.device) -> nn.Module:
    """The module to call. Of one rank `parallelize` makes neither, so it is told of two."""
    layout = ParallelConfig(way if way == "ddp" else "none", channels_last=False)
    if way == "ddp":
        return parallelize(made, layout, World(0, 2, 0, 2, device))
    parallelize(made, layout, World(device=device))
    if way == "fsdp":
        shard(made, find_backbones(made), init_device_mesh(device.type, (1,)))
    return made


def train(way: str, name: str, device: torch.device):
    """A trained learner, its optimizer and its losses."""
    made = learner(name)
    module = laid_out(way, made, device)
    assert isinstance(module, DistributedDataParallel) == (way == "ddp")
    assert isinstance(next(made.parameters()), DTensor) == (way == "fsdp")
    optimizer = build_optimizer(made, OptimConfig(larc=False))
    losses = []
    for number in range(STEPS):
        step = Step(number, STEPS)
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        output = train_step(made, module, optimizer, batch(name, number).to(device), step)
        losses.append(output.loss.item())
    return made, optimizer, losses


def whole(module: nn.Module) -> dict[str, torch.Tensor]:
    tensors = module.state_dict().items()
    return {
        name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().cpu().double()
        for name, t in tensors
    }


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], limit: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).norm() <= limit * max(tensor.norm(), 1e-3), name


@pytest.mark.parametrize("name", ["swav-queue", "byol"])
@pytest.mark.parametrize("way", WAYS)
def test_one_rank_is_the_plain_module(device, way, name, measured):
    plain, _, expected = train("plain", name, device)
    ours, _, losses = train(way, name, device)
    measured("loss", max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True)))
    assert losses == pytest.approx(expected, rel=1e-5)
    same(whole(ours), whole(plain), 1e-4)


@pytest.mark.parametrize(
    ("saving", "loading"), [("fsdp", "plain"), ("plain", "fsdp"), ("ddp", "fsdp")]
)
def test_checkpoints_are_read_by_each_other(device, tmp_path, saving, loading):
    saved, optimizer, _ = train(saving, "swav-queue", device)
    world = World(device=device)
    with Checkpointer(tmp_path, CheckpointConfig(), world) as saves:
        saves.save(STEPS, saved, optimizer)
    made = learner("swav-queue", seed=1)
    module = laid_out(loading, made, device)
    again = build_optimizer(made, OptimConfig(larc=False))
    assert Checkpointer(tmp_path, CheckpointConfig(), world).load(made, again) == {"step": STEPS}
    same(whole(made), whole(saved), 0)
    results = []
    modules = {saved: saved, made: module}
    for trained, its in ((saved, optimizer), (made, again)):
        for group in its.param_groups:
            group["lr"] = 0.02
        views = batch("swav-queue", STEPS).to(device)
        results.append(
            train_step(trained, modules[trained], its, views, Step(STEPS, 10)).loss.item()
        )
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    same(whole(made), whole(saved), 1e-4)  # momentum was loaded, too


def test_collectives_of_one_rank_change_nothing(device):
    x = torch.randn(4, 3, device=device, requires_grad=True)
    weight = torch.arange(12.0, device=device).view(4, 3)
    for function in (distributed._Sum, distributed._Gather):
        y = function.apply(x, None)
        assert torch.equal(y, x)
        (gradient,) = torch.autograd.grad((y * weight).sum(), x)
        assert torch.equal(gradient, weight)
    copy = deepcopy(x.detach())
    assert distance(distributed.all_reduce_mean(copy), x.detach()) == 0
