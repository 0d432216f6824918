"""Checkpoints: written in shards by all ranks, visible only when whole, read back by any number of ranks.

    RUN/checkpoints/step-000122070/
        header.json          step, samples and whatever else is small; name, type and shape of every tensor
        state/*.safetensors  the method's parameters and buffers and the optimizer's state, by name, a file per rank
        ...                  what the caller adds, such as the consolidated backbone

Nothing here is unpickled: a checkpoint from elsewhere can be wrong, but it cannot run code.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from seer.distributed import World, broadcast_object, rank
from seer.errors import InputError

T = TypeVar("T")
State = dict[str, Tensor]
Header = dict[str, Any]

HEADER = "header.json"
FORMAT = "seer-checkpoint/1"


@dataclass
class CheckpointConfig:
    """When to save and what to keep.

    Attributes:
        every: steps between checkpoints; 0 saves only at the end.
        keep_last: how many of the newest stay.
        keep_every: checkpoints of steps divisible by this stay for good; 0 none.
    """

    every: int = 1000
    keep_last: int = 2
    keep_every: int = 0


def checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d{9}", path.name) and (path / HEADER).is_file())


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none."""
    return next(reversed(checkpoints(run_dir)), None)


class Checkpointer:
    """Saves and loads one run's checkpoints. Every rank calls every method; all see one file system."""

    def __init__(self, run_dir: Path, config: CheckpointConfig, world: World):
        if config.every < 0 or config.keep_last < 1 or config.keep_every < 0:
            raise InputError("checkpoint: every and keep_every must be 0 or more, keep_last 1 or more")
        self.run_dir, self.config, self.world = Path(run_dir), config, world
        self.folder = self.run_dir / "checkpoints"

    def due(self, step: int) -> bool:
        return self.config.every > 0 and step % self.config.every == 0

    def save(
        self,
        step: int,
        method: nn.Module,
        optimizer: Optimizer,
        extra: Header | None = None,
        add: Callable[[Path], None] | None = None,
    ) -> None:
        """Write the checkpoint of `step` finished steps; where it exists already, leave it.

        Plain tensors must be equal on all ranks (one of them writes each); DTensors are written in shards.

        Args:
            extra: small values for JSON, which `load` returns.
            add: called on rank 0 with the checkpoint's folder before it becomes visible, to put more files there.
        """
        target, hidden = self.folder / f"step-{step:09d}", self.folder / f".step-{step:09d}.tmp"
        if self._on_main((target / HEADER).exists):
            return
        state = {name: tensor.contiguous() for name, tensor in named_state(method, optimizer).items()}
        header = {"format": FORMAT, **(extra or {}), "step": step, "tensors": _describe(state)}
        try:
            self._on_main(lambda: self._prepare(hidden))
            writer = dcp.HuggingFaceStorageWriter(str(hidden / "state"), save_distributed=True)
            with warnings.catch_warnings(action="ignore"):  # that this is a single process
                dcp.save(state, storage_writer=writer)
            self._on_main(lambda: self._publish(hidden, target, header, add))
        except (OSError, CheckpointException) as error:
            raise InputError(f"{target}: cannot be written ({_reason(error)}); earlier ones are whole") from error

    def _prepare(self, hidden: Path) -> None:
        self._sweep()
        hidden.mkdir(parents=True)

    def _publish(self, hidden: Path, target: Path, header: Header, add: Callable[[Path], None] | None) -> None:
        if add is not None:
            add(hidden)
        (hidden / HEADER).write_text(json.dumps(header))
        for path in [*(p for p in hidden.iterdir() if p.is_file()), hidden / "state", hidden]:
            _flush(path)
        hidden.rename(target)
        _flush(self.folder)
        self._prune()

    def _prune(self) -> None:
        kept = self.config.keep_every
        for path in checkpoints(self.run_dir)[: -self.config.keep_last]:
            if not kept or int(path.name.removeprefix("step-")) % kept:
                # Out of sight first: what is half deleted must not be taken for a checkpoint.
                path.rename(path.with_name(f".{path.name}.old"))
        self._sweep()

    def _sweep(self) -> None:
        """Remove what interrupted saves and deletions left behind."""
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path)

    def load(self, method: nn.Module, optimizer: Optimizer, until: int | None = None) -> Header | None:
        """Continue from the newest checkpoint: fill `method` and `optimizer` in place.

        Args:
            until: take none of a later step, and remove those: what led there is taken back.

        Returns:
            What `save` was given as `extra`, and `step`; None when there is no checkpoint.

        Raises:
            InputError: the checkpoint is damaged, or of a method with other parameters.
        """
        path = self._on_main(lambda: latest(self.run_dir) if until is None else self._take_back(until))
        if path is None:
            return None
        header = self._on_main(lambda: read_header(path))
        _check_names(path, header["tensors"], method)
        self._on_main(lambda: _check_shards(path, header["tensors"]))
        state = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
        state |= _allocate(optimizer, _names(method, optimizer), header["tensors"])
        try:
            with warnings.catch_warnings(action="ignore"):  # as above
                dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(path / "state")))
        except (OSError, ValueError, SafetensorError, CheckpointException) as error:
            raise _damaged(path, _reason(error)) from error
        return {key: value for key, value in header.items() if key not in ("format", "tensors")}

    def _take_back(self, until: int) -> Path | None:
        """The newest checkpoint until a step; those of later steps are removed if there is one."""
        earlier = [path for path in checkpoints(self.run_dir) if path.name <= f"step-{until:09d}"]
        for path in checkpoints(self.run_dir)[len(earlier) :] if earlier else []:
            path.rename(path.with_name(f".{path.name}.old"))
        self._sweep()
        return earlier[-1] if earlier else None

    def _on_main(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, on every rank; what it raises there, raised on every rank."""
        outcome: tuple[T | None, Exception | None] = None, None
        if self.world.is_main:
            try:
                outcome = action(), None
            except Exception as error:
                outcome = None, error
        value, failure = broadcast_object(outcome)
        if failure is not None:
            raise failure
        return value


def read_header(path: Path) -> Header:
    """The header of the checkpoint at `path`; `InputError` when it is not one."""
    try:
        header = json.loads((path / HEADER).read_text())
        known = header["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{HEADER} cannot be read") from error
    if not known:
        raise InputError(f"{path}: checkpoint format {header['format']!r}; this version of seer reads {FORMAT!r}")
    return header


def full_backbone_state(method: nn.Module) -> State:
    """The backbone's whole state dict on the CPU of rank 0, gathered tensor by tensor; `{}` on other ranks."""
    state = {}
    for name, tensor in method.backbone.state_dict().items():  # type: ignore[union-attr]
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            state[name] = whole.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return state


def named_state(method: nn.Module, optimizer: Optimizer) -> State:
    """Every tensor of a run by name: `method.<name>` and `optimizer.<parameter's name>.<key>`."""
    state: State = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    for parameter, name in _names(method, optimizer).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            assert isinstance(value, Tensor), f"optimizer state {key} of {name} is no tensor"
            state[f"optimizer.{name}.{key}"] = value
    return state


def _names(method: nn.Module, optimizer: Optimizer) -> dict[nn.Parameter, str]:
    """The names of the parameters that the optimizer updates."""
    names = {parameter: name for name, parameter in method.named_parameters()}
    return {parameter: names[parameter] for group in optimizer.param_groups for parameter in group["params"]}


def _describe(state: State) -> dict[str, list]:
    return {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in state.items()}


def _check_names(path: Path, saved: dict[str, list], method: nn.Module) -> None:
    """Raise `InputError` unless the checkpoint's names and shapes are the method's."""
    here = {f"method.{name}": list(tensor.shape) for name, tensor in method.state_dict().items()}
    there = {name: shape for name, (_, shape) in saved.items() if name.startswith("method.")}
    wrong = [f"{n} is {there[n]} there and {s} here" for n, s in here.items() if n in there and there[n] != s]
    wrong += [f"{n} is missing there" for n in here if n not in there]
    wrong += [f"{n} is only there" for n in there if n not in here]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise InputError(f"{path}: of another architecture: {'; '.join(wrong[:3])}{more}; use another run_dir")


def _check_shards(path: Path, saved: dict[str, list]) -> None:
    """Raise `InputError` unless every file is whole and every tensor in one."""
    found: set[str] = set()
    for file in (path / "state").glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as tensors:
                found |= set(tensors.keys())
        except (OSError, SafetensorError) as error:
            raise _damaged(path, f"{file.name}: {_reason(error)}") from error
    if missing := saved.keys() - found:
        raise _damaged(path, f"{min(missing)} is in none of its files")


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: damaged ({why}); delete it to continue from the one before")


def _allocate(optimizer: Optimizer, names: dict[nn.Parameter, str], saved: dict[str, list]) -> State:
    """Give the optimizer the state that the checkpoint has, as yet empty, and return its tensors by name."""
    parameters = {name: parameter for parameter, name in names.items()}
    optimizer.state.clear()
    state = {}
    for full_name, (dtype_name, shape) in saved.items():
        name, _, key = full_name.removeprefix("optimizer.").rpartition(".")
        if full_name.startswith("optimizer.") and name in parameters:
            parameter, dtype = parameters[name], getattr(torch, dtype_name)
            # What has the parameter's shape is sharded like it; the rest is small, such as a count of steps.
            same = shape == list(parameter.shape)
            tensor = torch.zeros_like(parameter, dtype=dtype) if same else torch.zeros(shape, dtype=dtype)
            state[full_name] = optimizer.state[parameter][key] = tensor.detach()
    return state


def _flush(path: Path) -> None:
    """Have a file or folder on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The first line of an error; of many ranks' errors, the first."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
