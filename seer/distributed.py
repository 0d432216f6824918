"""The process group: who we are, and the few collectives that methods and the engine use.

Every function works, unchanged, in a single process without a process group.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import default_pg_timeout
from torch.distributed.tensor import DTensor

from seer.errors import InputError, nearest
from seer.rendezvous import meet, read_place, whole_number
from seer.schema import DEVICE

Group = dist.ProcessGroup | None  # None: all ranks
T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among its peers. `local_*` count within the host."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        return self.rank == 0


STEP_VARIABLES = (
    "SLURM_JOB_ID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID",
)  # fmt: skip

_world: World | None = None


def init(device: str = "auto") -> World:
    """Join the processes that torchrun, SLURM or `spawn` started; alone when none did. A second
    call changes nothing.

    Args:
        device: `auto` (CUDA where there is any), `cpu` or `cuda`.

    Raises:
        InputError: CUDA was asked for and there is none, or fewer devices than processes on this host; an unknown
            device; an environment whose numbers make no sense.
        InUseError: another process listens on the port where the ranks were to meet, or some never came.
    """
    global _world
    if _world is not None:
        return _world
    place = read_place(_export_slurm())
    chosen = pick_device(device, place.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if place.size > 1:
        store = meet(place)
        store.set_timeout(default_pg_timeout)
        # Gloo beside NCCL: checkpoints and error messages travel between CPUs.
        backend, bound = ("cpu:gloo,cuda:nccl", chosen) if chosen.type == "cuda" else ("gloo", None)
        own = dist.PrefixStore("default_pg", store)
        dist.init_process_group(
            backend, store=own, rank=place.rank, world_size=place.size, device_id=bound
        )
    _world = World(place.rank, place.size, place.local_rank, place.local_size, chosen)
    return _world


def shutdown() -> None:
    """Leave the process group. `init` may be called again afterwards."""
    global _world
    _world = None
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process, the `local_rank`th on its host. Raises `InputError` as `init`
    does.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in DEVICE.values:
        choices = ", ".join(map(str, DEVICE.values))
        raise InputError(f"device={name} is unknown{nearest(name, DEVICE.values)}; use {choices}")
    if name == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise InputError(
            "device=cuda, but PyTorch sees no CUDA device here; use device=cpu or device=auto"
        )
    # A launcher that gives each task one device of its own shows it as number 0 to every task.
    devices = torch.cuda.device_count()
    if local_rank >= devices > 1:
        raise InputError(
            f"{local_rank + 1} or more processes on a host with {devices} CUDA devices; start {devices}"
        )
    return torch.device("cuda", local_rank if devices > 1 else 0)


def _export_slurm() -> str:
    """Translate the environment of an `srun` step to torchrun's, unless torchrun runs inside the
    step.

    Returns:
        The variables that say how many processes there are, separated by blanks.
    """
    env = os.environ
    alone = "unset SLURM_STEP_NUM_TASKS to run alone"
    # SLURM_STEP_NUM_TASKS exists in a step only: a plain process in an allocation of many tasks is
    # alone.
    if "RANK" in env or whole_number("SLURM_STEP_NUM_TASKS", 1, alone) <= 1:
        return "RANK WORLD_SIZE"
    missing = [name for name in STEP_VARIABLES if name not in env]
    if missing:
        raise InputError(f"{missing[0]} is not in the environment of this SLURM step; {alone}")
    step = whole_number("SLURM_JOB_ID", 0, alone) + whole_number("SLURM_STEP_ID", 0, alone)
    # Another port each time: the last one may not be free yet.
    step += 997 * whole_number("SLURM_RESTART_COUNT", 0, alone)
    # "8(x2),4" is 8, 8, 4.
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", env["SLURM_STEP_TASKS_PER_NODE"])
    tasks_per_node = [tasks for tasks, nodes in runs for _ in range(int(nodes or 1))]
    node = whole_number("SLURM_NODEID", 0, alone)
    if node >= len(tasks_per_node):
        told = f"SLURM_STEP_TASKS_PER_NODE='{env['SLURM_STEP_TASKS_PER_NODE']}' has no node {node}"
        raise InputError(f"{told}, which SLURM_NODEID says; {alone}")
    env.update(
        RANK=env["SLURM_PROCID"],
        WORLD_SIZE=env["SLURM_STEP_NUM_TASKS"],
        LOCAL_RANK=env["SLURM_LOCALID"],
    )
    env.setdefault("LOCAL_WORLD_SIZE", tasks_per_node[node])
    env.setdefault("MASTER_ADDR", first_host(env["SLURM_STEP_NODELIST"]))
    env.setdefault("MASTER_PORT", str(20_000 + step % 10_000))
    return "SLURM_STEP_NUM_TASKS"


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list: `gpu[003-007,9],cpu1` → `gpu003`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodelist)
    assert first, f"not a SLURM node list: {nodelist!r}"
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group())


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size(group: Group = None) -> int:
    return dist.get_world_size(group) if dist.is_initialized() else 1


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor (the same memory), or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Every rank's loss depends on every rank's addend; the loss of all is the sum of losses.
        return all_reduce_sum(grads[0], ctx.group), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        ctx.rows = len(tensor)
        gathered = tensor.new_empty(size(group) * len(tensor), *tensor.shape[1:])
        dist.all_gather(list(gathered.chunk(size(group))), tensor.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        mine = dist.get_rank(ctx.group) * ctx.rows
        return all_reduce_sum(grads[0], ctx.group)[mine : mine + ctx.rows], None


def all_reduce_sum(tensor: Tensor, group: Group = None) -> Tensor:
    """The sum over ranks, as a new tensor (alone: the tensor itself). The gradient is summed over
    ranks likewise.
    """
    return tensor if size(group) == 1 else _Sum.apply(tensor, group)


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean over ranks, as a new tensor, differentiable like `all_reduce_sum`."""
    return all_reduce_sum(tensor) / size()


def all_reduce_max(tensor: Tensor) -> Tensor:
    """The elementwise maximum over ranks, as a new tensor without gradient (alone: the tensor
    itself).
    """
    if size() == 1:
        return tensor
    highest = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest


def gather(tensor: Tensor, group: Group = None) -> Tensor:
    """Concatenate `(n, ...)` of all ranks to `(size * n, ...)` in rank order; every rank must hold
    the same shape.

    Gradients flow to all ranks: what comes back to a rank is the sum over ranks of the gradient for
    its rows. A mean of gradients over ranks (DDP, FSDP) then equals the gradient of the mean of the
    ranks' losses.
    """
    return tensor if size(group) == 1 else _Gather.apply(tensor, group)


def exchange(tensor: Tensor) -> Tensor:
    """Of `(size * n, ...)` send the r-th n rows to rank r; what all ranks send here, in rank order.
    Without gradient.
    """
    if size() == 1:
        return tensor
    received = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, tensor.contiguous())
    return received


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Overwrite `tensor` with rank `source`'s, in place, and return it."""
    if size() > 1:
        dist.broadcast(tensor, source)
    return tensor


def broadcast_object(value: Any, source: int = 0, group: Group = None) -> Any:
    """Rank `source`'s small Python value, on every rank."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box, source, group)
    return box[0]


def on_main(action: Callable[[], T], group: Group = None) -> T:
    """What `action` returns on rank 0, on every rank; what it raises there, raised on every rank."""
    outcome = _outcome(action) if rank() == 0 else None
    return _agreed([broadcast_object(outcome, group=group)])[0]


def on_all(action: Callable[[], T], group: Group = None) -> list[T]:
    """What `action` returns on each rank, in rank order, on every rank; what it raises on one,
    raised on every rank.
    """
    outcomes = [_outcome(action)] * size(group)
    if size() > 1:
        dist.all_gather_object(outcomes, outcomes[0], group)
    return _agreed(outcomes)


def _outcome(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return action(), None
    except Exception as error:
        return None, error


def _agreed(outcomes: list[tuple[Any, Exception | None]]) -> list[Any]:
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [value for value, _ in outcomes]


def barrier() -> None:
    if size() > 1:
        dist.barrier()
