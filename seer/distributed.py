"""The process group: who we are, and the few collectives that methods and the engine use.

Every function works, unchanged, in a single process without a process group.
"""

import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from seer.errors import InputError

Group = dist.ProcessGroup | None  # None: all ranks
CPU = torch.device("cpu")
# What every training process imports sooner or later.
PRELOAD = ["torch.distributed.fsdp", "torch.distributed.checkpoint", "torch._dynamo"]


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


_world: World | None = None


def init(device: str = "auto") -> World:
    """Join the processes that torchrun, SLURM or `spawn` started; alone when none did. A second call changes nothing.

    Args:
        device: `auto` (CUDA where there is any), `cpu` or `cuda`.

    Raises:
        InputError: CUDA was asked for and there is none, or fewer devices than processes on this host.
    """
    global _world
    if _world is not None:
        return _world
    _export_slurm()
    place = {k: int(os.environ.get(k.upper(), d)) for k, d in {"rank": 0, "world_size": 1, "local_rank": 0}.items()}
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", place["world_size"]))
    chosen = _device(device, place["local_rank"])
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if place["world_size"] > 1:
        # Gloo beside NCCL: checkpoints and error messages travel between CPUs.
        backend, bound = ("cpu:gloo,cuda:nccl", chosen) if chosen.type == "cuda" else ("gloo", None)
        dist.init_process_group(backend, device_id=bound)
    _world = World(place["rank"], place["world_size"], place["local_rank"], local_size, chosen)
    return _world


def shutdown() -> None:
    """Leave the process group. `init` may be called again afterwards."""
    global _world
    _world = None
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise InputError("device=cuda, but PyTorch sees no CUDA device here; use device=cpu or device=auto")
    # A launcher that gives each task one device of its own shows it as number 0 to every task.
    devices = torch.cuda.device_count()
    if local_rank >= devices > 1:
        raise InputError(f"{local_rank + 1} or more processes on a host with {devices} CUDA devices; start {devices}")
    return torch.device("cuda", local_rank if devices > 1 else 0)


def _export_slurm() -> None:
    """Translate the environment of an `srun` step to torchrun's, unless torchrun runs inside the step."""
    env = os.environ
    # SLURM_STEP_NUM_TASKS exists in a step only: a plain process in an allocation of many tasks is alone.
    if "RANK" in env or int(env.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return
    step = int(env["SLURM_JOB_ID"]) + int(env.get("SLURM_STEP_ID", 0))
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", env["SLURM_STEP_TASKS_PER_NODE"])  # "8(x2),4" is 8, 8, 4
    tasks_per_node = [tasks for tasks, nodes in runs for _ in range(int(nodes or 1))]
    env.update(RANK=env["SLURM_PROCID"], WORLD_SIZE=env["SLURM_STEP_NUM_TASKS"], LOCAL_RANK=env["SLURM_LOCALID"])
    env.setdefault("LOCAL_WORLD_SIZE", tasks_per_node[int(env["SLURM_NODEID"])])
    env.setdefault("MASTER_ADDR", first_host(env["SLURM_STEP_NODELIST"]))
    env.setdefault("MASTER_PORT", str(20_000 + step % 10_000))


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
    def forward(ctx, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, *grads: Tensor):
        # Every rank's loss depends on every rank's addend; the loss of all is the sum of losses.
        return all_reduce_sum(grads[0], ctx.group), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.rows = group, len(tensor)
        gathered = tensor.new_empty(size(group) * len(tensor), *tensor.shape[1:])
        dist.all_gather(list(gathered.chunk(size(group))), tensor.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx, *grads: Tensor):
        mine = dist.get_rank(ctx.group) * ctx.rows
        return all_reduce_sum(grads[0], ctx.group)[mine : mine + ctx.rows], None


def all_reduce_sum(tensor: Tensor, group: Group = None) -> Tensor:
    """The sum over ranks, as a new tensor (alone: the tensor itself). The gradient is summed over ranks likewise."""
    return tensor if size(group) == 1 else _Sum.apply(tensor, group)


def all_reduce_mean(tensor: Tensor, group: Group = None) -> Tensor:
    """The mean over ranks, as a new tensor, differentiable like `all_reduce_sum`."""
    return all_reduce_sum(tensor, group) / size(group)


def all_reduce_max(tensor: Tensor, group: Group = None) -> Tensor:
    """The elementwise maximum over ranks, as a new tensor without gradient (alone: the tensor itself)."""
    if size(group) == 1:
        return tensor
    highest = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
    return highest


def gather(tensor: Tensor, group: Group = None) -> Tensor:
    """Concatenate `(n, ...)` of all ranks to `(size * n, ...)` in rank order; every rank must hold the same shape.

    Gradients flow to all ranks: what comes back to a rank is the sum over ranks of the gradient for its rows. A mean of
    gradients over ranks (DDP, FSDP) then equals the gradient of the mean of the ranks' losses.
    """
    return tensor if size(group) == 1 else _Gather.apply(tensor, group)


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Overwrite `tensor` with rank `source`'s, in place, and return it."""
    if size() > 1:
        dist.broadcast(tensor, source)
    return tensor


def broadcast_object(value: Any, source: int = 0) -> Any:
    """Rank `source`'s small Python value, on every rank."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box, source)
    return box[0]


def barrier() -> None:
    if size() > 1:
        dist.barrier()


class RankError(RuntimeError):
    """A rank that `spawn` started failed; the message holds its rank and traceback."""


def spawn(function: Callable, nproc: int, *args, device: str = "auto") -> list[Any]:
    """Run `function(*args)` in `nproc` processes of this host, joined in a process group.

    The first failure ends all of them; they end, too, when this process dies, however it dies.

    Returns:
        What each rank returned (by pickle), in rank order.

    Raises:
        InputError: a rank raised it.
        RankError: a rank raised anything else, or died.
    """
    # A server that has imported torch once forks ranks in milliseconds; importing takes each of them many seconds.
    # Where forks are unsafe (CUDA, macOS) they take them.
    forks = sys.platform == "linux" and _device(device, 0).type == "cpu"
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    multiprocessing.set_forkserver_preload([__name__, *PRELOAD])
    # The store lives here, on a port that the system picks, so no two runs ever ask for the same one.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    env = {**os.environ, "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    env |= {"WORLD_SIZE": str(nproc), "LOCAL_WORLD_SIZE": str(nproc), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    processes, pipes = [], []
    try:
        for r in range(nproc):
            ours, theirs = context.Pipe(duplex=False)
            place = {**env, "RANK": str(r), "LOCAL_RANK": str(r)}
            process = context.Process(target=_run_rank, args=(theirs, place, device, function, args))
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        values = _collect(processes, pipes)
        for process in processes:
            process.join(10)
        return values
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run_rank(pipe: Connection, env: dict[str, str], device: str, function: Callable, args: tuple) -> None:
    """The body of a rank: sends `(time, succeeded, value or exception)` once."""
    _die_with_parent()
    os.environ.update(env)
    if "OMP_NUM_THREADS" not in env:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(env["LOCAL_WORLD_SIZE"])))
    try:
        init(device)
        value = function(*args)
        shutdown()
        pipe.send_bytes(pickle.dumps((time.time(), True, value)))
    except BaseException as error:
        told = error if isinstance(error, InputError) else RankError(f"rank {env['RANK']}: {traceback.format_exc()}")
        pipe.send_bytes(pickle.dumps((time.time(), False, told)))


def _die_with_parent() -> None:
    """End this process when its parent does, SIGKILL included: the pipe that the parent holds then closes."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _collect(processes: list, pipes: list[Connection], grace: float = 2.0) -> list[Any]:
    """Wait for every rank's report; raise what went wrong first.

    One rank's failure makes its peers fail in their next collective, so later errors, which may arrive sooner, are
    consequences: after the first, wait `grace` seconds for the others and choose by time of failure.
    """
    reports: dict[int, tuple[float, bool, Any]] = {}
    deadline = None
    while len(reports) < len(pipes):
        pending = [p for r, p in enumerate(pipes) if r not in reports]
        ready = wait(pending, None if deadline is None else max(0.0, deadline - time.time()))
        for pipe in ready:
            r = pipes.index(pipe)  # type: ignore[arg-type]
            reports[r] = _report(r, processes[r], pipes[r])
        if not ready:
            break
        if deadline is None and not all(ok for _, ok, _ in reports.values()):
            deadline = time.time() + grace
    failures = [(when, error) for when, ok, error in reports.values() if not ok]
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
    return [reports[r][2] for r in range(len(pipes))]


def _report(r: int, process, pipe: Connection) -> tuple[float, bool, Any]:
    with suppress(EOFError):
        return pickle.loads(pipe.recv_bytes())
    process.join()
    code = process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return 0.0, False, RankError(f"rank {r} {how}")  # it told nothing, so it is the cause of all else
