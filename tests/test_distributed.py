import os

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from seer import distributed
from seer.distributed import World
from seer.errors import InputError
from seer.processes import spawn


def test_alone_everything_is_the_identity():
    t = torch.randn(3, 2, requires_grad=True)
    assert (distributed.rank(), distributed.size()) == (0, 1)
    for name in (
        "gather",
        "all_reduce_sum",
        "all_reduce_mean",
        "all_reduce_max",
        "broadcast",
        "local",
    ):
        assert torch.equal(getattr(distributed, name)(t), t)
    assert distributed.broadcast_object("x") == "x"
    distributed.barrier()


@pytest.fixture
def fresh(monkeypatch):
    """An environment without launchers, and no world before or after."""
    for name in [n for n in os.environ if n.startswith("SLURM_")] + [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
    ]:
        monkeypatch.delenv(name, raising=False)
    distributed.shutdown()
    yield monkeypatch
    distributed.shutdown()


def test_a_single_process_has_no_process_group(fresh):
    world = distributed.init("cpu")
    assert world == World() == distributed.init()
    assert world.is_main
    assert not dist.is_initialized()


def test_a_missing_gpu_is_the_users_error(fresh):
    fresh.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device=cpu"):
        distributed.init("cuda")


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (4, 3)])
def test_each_local_rank_has_a_device_of_its_own(fresh, count, expected):
    """A launcher may also show each task just its one device."""
    fresh.setattr(torch.cuda, "is_available", lambda: True)
    fresh.setattr(torch.cuda, "device_count", lambda: count)
    assert distributed.pick_device("auto", 3) == torch.device("cuda", expected)
    fresh.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="2 CUDA devices"):
        distributed.pick_device("auto", 3)


STEP = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "12", "SLURM_STEP_NODELIST": "gpu[007-009]",
    "SLURM_STEP_TASKS_PER_NODE": "5(x2),2", "SLURM_PROCID": "11", "SLURM_LOCALID": "1", "SLURM_NODEID": "2",
}  # fmt: skip


def test_a_slurm_step_is_understood(fresh):
    for name, value in STEP.items():
        fresh.setenv(name, value)
    fresh.setattr(os, "environ", dict(os.environ))
    distributed._export_slurm()
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"]
    assert [os.environ[n] for n in names] == ["11", "12", "1", "2", "gpu007"]
    assert 1024 < int(os.environ["MASTER_PORT"]) < 32768  # below the ports that systems hand out


def test_a_plain_process_in_a_slurm_allocation_is_alone(fresh):
    fresh.setenv("SLURM_NTASKS", "12")
    fresh.setenv("SLURM_PROCID", "0")
    assert distributed.init("cpu").size == 1


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n1", "n1"),
        ("gpu[003-007,9],cpu1", "gpu003"),
        ("a-b[5,7]", "a-b5"),
        ("x1,x2", "x1"),
        ("r[1-2]n[03-04]", "r1n03"),
    ],
)
def test_first_host_of_a_node_list(nodes, host):
    assert distributed.first_host(nodes) == host


def _collectives(factor):
    world = distributed.init()
    t = torch.full((2, 1), float(world.rank + 1), requires_grad=True)
    weights = torch.arange(1.0, 5.0).view(4, 1)
    gathered = distributed.gather(t)
    (gathered * weights * (world.rank + 1)).sum().backward()
    (summed,) = torch.autograd.grad(distributed.all_reduce_sum(t).sum() * (world.rank + 1), t)
    sharded = distribute_tensor(torch.arange(4.0), init_device_mesh("cpu", (2,)), [Shard(0)])
    distributed.barrier()
    return {
        "world": world,
        "gathered": gathered.flatten().tolist(),
        "gradient": t.grad.flatten().tolist(),
        "sum": distributed.all_reduce_sum(t.detach()).flatten().tolist(),
        "sum's gradient": summed.flatten().tolist(),
        "mean": distributed.all_reduce_mean(t.detach()).flatten().tolist(),
        "max": distributed.all_reduce_max(-t).flatten().tolist(),
        "broadcast": distributed.broadcast(t.detach().clone(), 1).flatten().tolist(),
        "object": distributed.broadcast_object({"rank": world.rank * factor}, 1),
        "local": distributed.local(sharded).tolist(),
    }  # fmt: skip


def test_collectives_and_their_gradients():
    """Rank r's loss has weight r + 1, so gradients that forget other ranks' losses are off by a
    factor.
    """
    results = spawn(_collectives, 2, 7, device="cpu")
    for r, result in enumerate(results):
        assert result == {
            "world": World(r, 2, r, 2),
            "gathered": [1, 1, 2, 2],
            "gradient": [[3, 6], [9, 12]][r],
            "sum": [3, 3],
            "sum's gradient": [3, 3],
            "mean": [1.5, 1.5],
            "max": [-1, -1],
            "broadcast": [2, 2],
            "object": {"rank": 7},
            "local": [[0, 1], [2, 3]][r],
        }
