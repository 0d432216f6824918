"""A run's tensors by name, and which rank looks after which block of them."""

from heapq import heapify, heapreplace
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from seer.engine.bank import banks_of
from seer.engine.checkpoint.tensorfile import Block
from seer.errors import InputError

State = dict[str, Tensor]
Shapes = dict[str, list]  # name → [dtype, shape]


def named_state(method: nn.Module, optimizer: Optimizer) -> State:
    """Every tensor of a run by name: `method.<name>` and `optimizer.<parameter's name>.<key>`."""
    state = _method_state(method)
    for parameter, name in _names(method, optimizer).items():
        kept = optimizer.state.get(parameter, {})
        for key, value in kept.items():
            assert isinstance(value, Tensor), f"optimizer state {key} of {name} is no tensor"
            state[f"optimizer.{name}.{key}"] = value
    return state


def _method_state(method: nn.Module) -> State:
    """The method's own: parameters, buffers and banks."""
    state = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    banks = {f"method.{name}.rows": bank.whole() for name, bank in banks_of(method).items()}
    return state | banks


def describe(state: State) -> Shapes:
    return {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in state.items()}


def block(tensor: Tensor) -> Block | None:
    """What this rank holds of a tensor (the same memory); None where that is nothing."""
    if not isinstance(tensor, DTensor):
        return Block([0] * tensor.dim(), tensor.detach())
    chunks = tensor.__create_chunk_list__()
    values = tensor.to_local().detach()
    return Block(list(chunks[0].offsets), values) if values.numel() else None


def share(state: State, rank: int, ranks: int) -> dict[str, Block]:
    """The blocks that `rank` saves. Every block is saved once, and all ranks save about as many
    bytes.

    Of what several ranks hold alike, one saves it: all come to the same answer without a word
    between them.
    """
    mine: dict[str, Block] = {}
    loads = [(0, r) for r in range(ranks)]
    heapify(loads)
    turns = count()
    for name in sorted(state, key=lambda name: (-state[name].nbytes, name)):
        tensor = state[name]
        if isinstance(tensor, DTensor):
            copy, copies = _copy(tensor)
            chosen = next(turns) % copies == copy
        else:
            load, lightest = loads[0]
            heapreplace(loads, (load + tensor.nbytes, lightest))
            chosen = lightest == rank
        if chosen and (held := block(tensor)) is not None:
            mine[name] = held
    return mine


def _copy(tensor: DTensor) -> tuple[int, int]:
    """Which copy of its shard this rank holds, and of how many (hybrid sharding replicates shards)."""
    mesh, copy, copies = tensor.device_mesh, 0, 1
    for axis, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            copy, copies = (
                copy * mesh.size(axis) + mesh.get_local_rank(axis),
                copies * mesh.size(axis),
            )
    return copy, copies


def check_names(path: Path, saved: Shapes, method: nn.Module) -> None:
    """Raise `InputError` unless the checkpoint's names and shapes are the method's."""
    own = _method_state(method)
    stored = [name for name in saved if name.startswith("method.")]
    problems = []
    for name, tensor in own.items():
        shape = list(tensor.shape)
        if name in saved and saved[name][1] != shape:
            problems.append(f"{name} is {saved[name][1]} there and {shape} here")
    problems += [f"{name} is missing there" for name in own if name not in saved]
    problems += [f"{name} is only there" for name in stored if name not in own]
    if problems:
        first = "; ".join(problems[:3])
        if len(problems) > 3:
            first += f" (and {len(problems) - 3} more)"
        raise InputError(f"{path}: of another architecture: {first}; use another run_dir")


def allocate(method: nn.Module, optimizer: Optimizer, saved: Shapes) -> State:
    """The tensors that a checkpoint fills: the method's, and those of the optimizer's state, made
    here as yet empty.
    """
    state = _method_state(method)
    parameters = {name: parameter for parameter, name in _names(method, optimizer).items()}
    optimizer.state.clear()
    for full_name, (dtype_name, shape) in saved.items():
        name, _, key = full_name.removeprefix("optimizer.").rpartition(".")
        if full_name.startswith("optimizer.") and name in parameters:
            parameter, dtype = parameters[name], getattr(torch, dtype_name)
            # What has the parameter's shape is sharded like it; the rest is small, such as a count
            # of steps.
            same = shape == list(parameter.shape)
            tensor = (
                torch.zeros_like(parameter, dtype=dtype)
                if same
                else torch.zeros(shape, dtype=dtype)
            )
            state[full_name] = optimizer.state[parameter][key] = tensor.detach()
    return state


def _names(method: nn.Module, optimizer: Optimizer) -> dict[nn.Parameter, str]:
    """The names of the parameters that the optimizer updates."""
    names = {parameter: name for name, parameter in method.named_parameters()}
    return {
        parameter: names[parameter]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
