"""Checkpoints: staged in an instant, written in the background, visible only when whole, verified when read.

    RUN/checkpoints/step-000122070/
        header.json           step, samples and whatever else is small; type and shape of every tensor; what every file
                              hashes to, and the header itself
        state/*.safetensors   the method's parameters and buffers and the optimizer's state, by name, a file per rank
        backbone.safetensors  the whole backbone, for evaluation and export

Nothing here is unpickled: a checkpoint from elsewhere can be wrong, but it cannot run code.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from torch.optim import Optimizer

from seer.data.store import in_background
from seer.distributed import Group, World, broadcast_object, gather_objects
from seer.engine import tensorfile
from seer.engine.mirror import HEADER, Mirror
from seer.engine.preempt import StopRequest
from seer.engine.state import Shapes, State, allocate, block, check_names, describe, named_state, share
from seer.engine.tensorfile import Block, Entry
from seer.errors import DivergedError, InputError, StoppedError

T = TypeVar("T")
Header = dict[str, Any]

log = logging.getLogger(__name__)

FORMAT = "seer-checkpoint/2"
UNHASHED = "seer-checkpoint/1"  # the same without hashes; read, not written
BACKBONE = "backbone.safetensors"


class DamagedError(InputError):
    """A checkpoint that is not, or no longer, what was written."""


@dataclass
class CheckpointConfig:
    """When to save and what to keep.

    Attributes:
        every: steps between checkpoints; 0 saves only at the end.
        keep_last: how many of the newest stay.
        keep_every: checkpoints of steps divisible by this stay for good; 0 none.
        store: a folder in an object store (`s3://…`, `gs://…`), this run's alone, to copy checkpoints to, and to fetch
            them from where the run directory has none as new; empty: none.
    """

    every: int = 1000
    keep_last: int = 2
    keep_every: int = 0
    store: str = ""

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep_last < 1 or self.keep_every < 0:
            raise InputError("checkpoint: every and keep_every must be 0 or more, keep_last 1 or more")

    def surplus(self, names: list[str]) -> list[str]:
        """Which of the checkpoints, oldest first, need not stay."""
        return [n for n in names[: -self.keep_last] if not self.keep_every or step_of(n) % self.keep_every]


def step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d{9}", path.name) and (path / HEADER).is_file())


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none."""
    return next(reversed(checkpoints(run_dir)), None)


class Checkpointer:
    """Saves and loads one run's checkpoints. Every rank calls every method; all see one file system.

    `save` returns when this rank's share of the state is copied to the host's memory, which later saves use again. A
    thread writes it; at most one save is under way. One that fails asks the run to stop, and the next call raises why,
    on all ranks together. As a context, it finishes what is under way before it is left.
    """

    def __init__(self, run_dir: Path, config: CheckpointConfig, world: World, asked: StopRequest | None = None):
        self.run_dir, self.config, self.world = Path(run_dir), config, world
        self.folder = self.run_dir / "checkpoints"
        self.asked = asked or StopRequest()
        self.mirror = Mirror(config.store) if config.store else None
        self._damaged: set[Path] = set()
        self._staged: State = {}
        self._under_way: Future | None = None
        # The background's own: the training's collectives go on at the same time.
        self._group: Group = dist.new_group(backend="gloo") if world.size > 1 else None  # type: ignore[assignment]

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, StoppedError | DivergedError):  # which all ranks raise together
            self.finish()

    def save(
        self,
        step: int,
        method: nn.Module,
        optimizer: Optimizer,
        extra: Header | None = None,
        backbone: dict[str, str] | None = None,
    ) -> None:
        """Begin to save the state after `step` finished steps; where that is saved and intact already, do nothing.

        Plain tensors must be equal on all ranks (one of them saves each); DTensors are saved in shards.

        Args:
            extra: small values for JSON, which `load` returns.
            backbone: the metadata of `backbone.safetensors`; None: no such file.

        Raises:
            InputError: the save before failed.
        """
        self.finish()
        began = time.perf_counter()
        target = self.folder / f"step-{step:09d}"
        if self._on_main(lambda: (target / HEADER).is_file() and target not in self._damaged):
            return
        state = named_state(method, optimizer)
        header = {"format": FORMAT, **(extra or {}), "step": step, "tensors": describe(state)}
        blocks = self._stage(share(state, self.world.rank, self.world.size))
        self._under_way = in_background(self._write, target, header, blocks, backbone, began, time.perf_counter())
        self._under_way.add_done_callback(self._ask_if_failed)

    def finish(self) -> None:
        """Wait for the save under way, if there is one. Raises `InputError` if it failed."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _ask_if_failed(self, saved: Future) -> None:
        if saved.exception() is not None:
            self.asked.by = "a save that failed"

    def _stage(self, blocks: dict[str, Block]) -> dict[str, Block]:
        """Copies on the host, in memory that every save uses again."""
        for name, (_, values) in blocks.items():
            if name not in self._staged or self._staged[name].shape != values.shape:
                self._staged[name] = torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
            self._staged[name].copy_(values, non_blocking=True)
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
        return {name: Block(offset, self._staged[name]) for name, (offset, _) in blocks.items()}

    def _write(
        self,
        target: Path,
        header: Header,
        blocks: dict[str, Block],
        backbone: dict[str, str] | None,
        began: float,
        staged: float,
    ) -> None:
        """The part of a save that runs beside the training."""
        hidden, file = self.folder / f".{target.name}.tmp", f"state/rank-{self.world.rank:05d}.safetensors"

        def write() -> dict[str, Any]:
            (hidden / "state").mkdir(parents=True, exist_ok=True)
            return {file: tensorfile.write(hidden / file, blocks)}

        try:
            self._on_main(self._sweep)
            header["files"] = {name: about for files in self._on_all(write) for name, about in files.items()}
            self._on_main(lambda: self._publish(hidden, target, header, backbone))
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({_reason(error)}); earlier ones are whole") from error
        if self.world.is_main:
            took = f"training stopped for {staged - began:.2f} s, all took {time.perf_counter() - began:.2f} s"
            log.info("saved %s: %s", target.name, took)
        if self.mirror is not None:
            self._copy_to(self.mirror, target, header)

    def _publish(self, hidden: Path, target: Path, header: Header, backbone: dict[str, str] | None) -> None:
        if backbone is not None:
            names = {
                n: n.removeprefix("method.backbone.") for n in header["tensors"] if n.startswith("method.backbone.")
            }
            shapes = {name: shape for name, (_, shape) in header["tensors"].items()}
            tensorfile.join(hidden / BACKBONE, hidden / "state", names, shapes, backbone)
            header["files"][BACKBONE] = {"bytes": (hidden / BACKBONE).stat().st_size}
            header["files"][BACKBONE]["sha256"] = tensorfile.sha256(hidden / BACKBONE)
        with open(hidden / HEADER, "wb") as file:
            file.write(json.dumps({**header, "sha256": _digest(header)}).encode())
            tensorfile.flush(file)
        _flush_folder(hidden / "state")
        self._show(hidden, target)
        self._prune()

    def _show(self, hidden: Path, target: Path) -> None:
        """Make a complete checkpoint visible, in the place of a damaged one if there is one."""
        _flush_folder(hidden)
        if target.exists():
            target.rename(self.folder / f".{target.name}.old")
        hidden.rename(target)
        _flush_folder(self.folder)
        self._damaged.discard(target)

    def _prune(self) -> None:
        """Remove what need not stay, and what is damaged: something newer is intact."""
        intact = [path.name for path in checkpoints(self.run_dir) if path not in self._damaged]
        for name in {*self.config.surplus(intact), *(path.name for path in self._damaged if path.exists())}:
            # Out of sight first: what is half deleted must not be taken for a checkpoint.
            (self.folder / name).rename(self.folder / f".{name}.old")
        self._damaged.clear()
        self._sweep()

    def _sweep(self) -> None:
        """Remove what interrupted saves and deletions left behind."""
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path)

    def _copy_to(self, mirror: Mirror, target: Path, header: Header) -> None:
        """Each rank copies some of the files, rank 0 the header when all are there. If that fails, the run goes on."""

        def complete() -> None:
            mirror.put(target, [HEADER])
            for name in self.config.surplus(mirror.checkpoints()):
                mirror.remove(name)

        try:
            self._on_main(lambda: mirror.remove(target.name))
            self._on_all(lambda: mirror.put(target, self._some(header["files"])))
            self._on_main(complete)
        except (InputError, OSError) as error:
            if self.world.is_main:
                log.warning("%s is in %s only: %s", target.name, self.folder, error)

    def load(self, method: nn.Module, optimizer: Optimizer, until: int | None = None) -> Header | None:
        """Go on from the newest intact checkpoint: fill `method` and `optimizer` in place.

        Args:
            until: take none of a later step, and remove those: what led there is taken back.

        Returns:
            What `save` was given as `extra`, and `step`; None when there is no checkpoint.

        Raises:
            InputError: there are checkpoints and none is intact, or they are of a method with other parameters.
        """
        self.finish()
        damages: list[DamagedError] = []
        for path, local in self._on_main(lambda: self._candidates(until)):
            try:
                if not local:
                    self._fetch(path)
                header = self._restore(path, method, optimizer)
            except DamagedError as error:
                damages.append(error)
                self._damaged.add(path)
                continue
            if self.world.is_main:
                for damaged in damages:
                    log.warning("%s; going on from %s", damaged, path.name)
            if until is not None:
                self._on_main(lambda: self._take_back(until))
            return {key: value for key, value in header.items() if key not in ("format", "tensors", "files", "sha256")}
        if damages:
            raise InputError(f"{damages[0]}, and none before it is intact; delete {self.folder} to begin anew")
        return None

    def _candidates(self, until: int | None) -> list[tuple[Path, bool]]:
        """Where to look, newest first; with each, whether it is here (True, before the same one) or in the store."""
        found = [(path, True) for path in checkpoints(self.run_dir)]
        try:
            found += [(self.folder / name, False) for name in (self.mirror.checkpoints() if self.mirror else [])]
        except InputError as error:
            if not found:
                raise
            log.warning("only the checkpoints in %s are looked at: %s", self.folder, error)
        return sorted((f for f in found if until is None or step_of(f[0].name) <= until), reverse=True)

    def _fetch(self, path: Path) -> None:
        """Bring a checkpoint here from the store."""
        assert self.mirror is not None
        mirror, hidden = self.mirror, path.with_name(f".{path.name}.tmp")

        def header_of() -> Header:
            self._sweep()
            mirror.get(path.name, [HEADER], hidden)
            return read_header(hidden)

        header = self._on_main(header_of)
        self._on_all(lambda: mirror.get(path.name, self._some(header["files"]), hidden))
        self._on_main(lambda: self._show(hidden, path))
        self._damaged.discard(path)

    def _restore(self, path: Path, method: nn.Module, optimizer: Optimizer) -> Header:
        """Verify a checkpoint, then read it. Raises `DamagedError` on every rank, `InputError` if it is another's."""
        header = self._on_main(lambda: read_header(path))
        check_names(path, header["tensors"], method)
        entries = [e for found in self._on_all(lambda: self._verify(path, header)) for e in found]
        _check_whole(path, header["tensors"], entries)
        targets = {name: block(tensor) for name, tensor in allocate(method, optimizer, header["tensors"]).items()}
        here = {name: target for name, target in targets.items() if target is not None}

        def read() -> None:
            with damage(path):
                tensorfile.fill(path / "state", entries, here)

        self._on_all(read)
        return header

    def _verify(self, path: Path, header: Header) -> list[Entry]:
        """What is in this rank's share of the files; together the ranks read each file once."""
        files = header.get("files") or {f"state/{p.name}": {} for p in (path / "state").glob("*.safetensors")}

        def inspect(name: str) -> list[Entry]:
            if files[name] and tensorfile.sha256(path / name) != files[name]["sha256"]:
                raise DamagedError(f"{path}: damaged ({name} is not what was written)")
            return tensorfile.read_entries(path / name) if name.startswith("state/") else []

        with damage(path), ThreadPoolExecutor(4) as pool:
            return [entry for found in pool.map(inspect, self._some(files)) for entry in found]

    def _some(self, files: Iterable[str]) -> list[str]:
        """This rank's share of a checkpoint's files."""
        return sorted(files)[self.world.rank :: self.world.size]

    def _take_back(self, until: int) -> None:
        """Remove the checkpoints of later steps, here and in the store."""
        for path in checkpoints(self.run_dir):
            if step_of(path.name) > until:
                path.rename(path.with_name(f".{path.name}.old"))
        self._sweep()
        try:
            for name in self.mirror.checkpoints() if self.mirror else []:
                if step_of(name) > until:
                    self.mirror.remove(name)  # type: ignore[union-attr]
        except InputError as error:
            log.warning("later checkpoints than of step %d remain in the store: %s", until, error)

    def _on_main(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, on every rank; what it raises there, raised on every rank."""
        return _agreed([broadcast_object(_outcome(action) if self.world.is_main else None, group=self._group)])[0]

    def _on_all(self, action: Callable[[], T]) -> list[T]:
        """What `action` returns on each rank, on every rank; what it raises on one, raised on every rank."""
        return _agreed(gather_objects(_outcome(action), self._group))


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


def read_header(path: Path) -> Header:
    """The header of the checkpoint at `path`; `DamagedError` when it is none, `InputError` when of another version."""
    with damage(path, HEADER):
        header = json.loads((path / HEADER).read_text())
        version, digest = header["format"], header.pop("sha256", None)
    if version not in (FORMAT, UNHASHED):
        raise InputError(f"{path}: checkpoint format {version!r}; this version of seer reads {FORMAT!r}")
    if version == FORMAT and digest != _digest(header):
        raise DamagedError(f"{path}: damaged ({HEADER} is not what was written)")
    return header


def _digest(header: Header) -> str:
    """SHA-256 of a header, however it is spelt."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _check_whole(path: Path, saved: Shapes, entries: list[Entry]) -> None:
    """Raise `DamagedError` unless the files hold all of every tensor."""
    there = Counter[str]()
    for entry in entries:
        there[entry.name] += prod(entry.shape)
    missing = [name for name, (_, shape) in saved.items() if there[name] != prod(shape)]
    if missing:
        raise DamagedError(f"{path}: damaged ({missing[0]} is not in its files)")


@contextmanager
def damage(path: Path, what: str = "") -> Iterator[None]:
    """While entered, what reading can come to is a `DamagedError`."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = f"{what}: {_reason(error)}" if what else _reason(error)
        raise DamagedError(f"{path}: damaged ({why})") from error


def _flush_folder(path: Path) -> None:
    """Have a folder's entries on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The first line of an error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
