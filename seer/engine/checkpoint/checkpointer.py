"""Checkpoints: staged in an instant, written in the background, visible only when whole, verified
when read.

    RUN/checkpoints/step-000122070/
        header.json           step, samples and whatever else is small; type and shape of every tensor; what every file
                              hashes to, and the header itself
        state/*.safetensors   the method's parameters and buffers and the optimizer's state, by name, a file per rank
        backbone.safetensors  the whole backbone, for evaluation and export

A checkpoint of a run becomes visible when a step after it proved it: its tensors are finite, and
loss and gradient that were computed from them, too. So whatever can be seen is good, and may take
the place of older ones.

Nothing here is unpickled: a checkpoint from elsewhere can be wrong, but it cannot run code.
"""

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from seer.background import in_background
from seer.data.storage.store import NotThereError
from seer.distributed import Group, World, on_all, on_main
from seer.engine.checkpoint import integrity, tensorfile
from seer.engine.checkpoint.header import DamagedError, Header, damage, read_header
from seer.engine.checkpoint.mirror import Mirror
from seer.engine.checkpoint.tensorfile import Block, NotFiniteError, is_finite
from seer.engine.checkpoint.tensors import (
    State,
    allocate,
    block,
    check_names,
    describe,
    named_state,
    share,
)
from seer.engine.health import RollbackError
from seer.engine.options import CheckpointConfig
from seer.engine.preempt import StopRequest
from seer.errors import DivergedError, InputError, StoppedError, UnsavedError, first_line
from seer.rundir.names import (
    BACKBONE,
    CHECKPOINTS,
    HEADER,
    STATE,
    checkpoint_name,
    checkpoints,
    step_of,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

PREFIX = "method.backbone."
# Seconds before what could not be written is tried again: network file systems recover.
PAUSES = (2.0, 20.0)


class Checkpointer:
    """Saves and loads one run's checkpoints. Every rank calls every method; all see one file
    system.

    `save` returns when this rank's share of the state is copied to the host's memory, which later
    saves use again. A thread writes it; at most one save is under way. One that fails asks the run
    to stop, and the next call raises why, on all ranks together. As a context, it finishes what is
    under way before it is left.

    What is saved with `proven=False` stays hidden until `confirm` is called; where something else
    is, it is dropped.
    """

    def __init__(
        self,
        run_dir: Path,
        config: CheckpointConfig,
        world: World,
        asked: StopRequest | None = None,
    ):
        self.run_dir, self.config, self.world = Path(run_dir), config, world
        self.folder = self.run_dir / CHECKPOINTS
        self.asked = asked or StopRequest()
        self._damaged: set[Path] = set()
        self._staged: State = {}
        self._under_way: Future | None = None
        self._proof: Future[bool] | None = None  # whether what is under way may become visible
        self._saved_at = time.monotonic()
        # The background's own: the training's collectives go on at the same time.
        self._group: Group = dist.new_group(backend="gloo") if world.size > 1 else None  # type: ignore[assignment]
        self.mirror = Mirror(config.store, world, self._group) if config.store else None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All ranks leave together with these; what is found when it is too late anyway is no news.
        if error is None or isinstance(error, StoppedError | DivergedError):
            self.finish()
        elif isinstance(error, RollbackError):
            with suppress(RollbackError):
                self.finish()

    def save(
        self,
        step: int,
        method: nn.Module,
        optimizer: Optimizer,
        extra: Header | None = None,
        backbone: dict[str, str] | None = None,
        proven: bool = True,
    ) -> None:
        """Begin to save the state after `step` finished steps; where that is saved and intact
        already, do nothing.

        Plain tensors must be equal on all ranks (one of them saves each); DTensors are saved in
        shards.

        Args:
            extra: small values for JSON, which `load` returns.
            backbone: the metadata of `backbone.safetensors`; None: no such file.
            proven: whether it is known already that a finite loss and gradient follow from this state.

        Raises:
            UnsavedError: the save before failed.
            RollbackError: the state of the save before was not finite.
        """
        began = time.perf_counter()
        self.finish()
        self._saved_at = time.monotonic()
        target = self.folder / checkpoint_name(step)
        if self._on_main(lambda: (target / HEADER).is_file() and target not in self._damaged):
            return
        state = named_state(method, optimizer)
        header = {**(extra or {}), "step": step, "tensors": describe(state)}
        blocks = self._stage(share(state, self.world.rank, self.world.size))
        stopped = time.perf_counter() - began
        self._proof = Future()
        if proven:
            self.confirm()
        self._under_way = in_background(
            self._write, target, header, blocks, backbone, stopped, self._proof
        )
        self._under_way.add_done_callback(self._ask_if_failed)

    def confirm(self) -> None:
        """A finite loss and gradient followed from the state that was saved last: it becomes
        visible once written.
        """
        if self._proof is not None and not self._proof.done():
            self._proof.set_result(True)

    def late(self) -> bool:
        """On rank 0, whether the last save is `checkpoint.minutes` ago."""
        minutes = self.config.minutes
        return self.world.is_main and 0 < 60 * minutes <= time.monotonic() - self._saved_at

    def finish(self) -> None:
        """Wait for the save under way, if there is one; what was not confirmed is dropped.

        Raises:
            UnsavedError: it failed.
            RollbackError: the state was not finite.
        """
        if self._proof is not None and not self._proof.done():
            self._proof.set_result(False)
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _ask_if_failed(self, saved: Future) -> None:
        # One that is not finite was not dropped: the next call takes the run back.
        if isinstance(saved.exception(), UnsavedError):
            self.asked.by = "a save that failed"

    def _stage(self, blocks: dict[str, Block]) -> dict[str, Block]:
        """Copies on the host, in memory that every save uses again."""
        for name, (_, values) in blocks.items():
            if name not in self._staged or self._staged[name].shape != values.shape:
                self._staged[name] = torch.empty_like(
                    values, device="cpu", pin_memory=values.is_cuda
                )
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
        stopped: float,
        proof: Future[bool],
    ) -> None:
        """The part of a save that runs beside the training, which it has `stopped` for so many
        seconds.
        """
        for pause in (*PAUSES, None):
            began = time.perf_counter()
            try:
                files = self._write_once(target, header, blocks, backbone)
                took = time.perf_counter() - began
                if not proof.result():
                    self._on_main(self._sweep)
                    return
                self._on_main(lambda: self._publish(target))
                break
            except NotFiniteError as error:  # on all ranks the same
                self._on_main(self._sweep)
                if not proof.result():
                    return
                step = step_of(target.name)
                raise RollbackError(step, step, f"{error} is not finite after this step") from None
            except OSError as error:  # on all ranks the same
                why = f"{target}: cannot be written ({first_line(error)})"
                if pause is None:
                    raise UnsavedError(f"{why}; earlier ones are whole") from error
                self._tell(logging.WARNING, "%s; once more in %g s", why, pause)
                time.sleep(pause)
        self._tell(
            logging.INFO,
            "saved %s: training stopped for %.2f s, written in %.2f s",
            target.name,
            stopped,
            took,
        )
        if self.mirror is not None:
            try:
                self.mirror.copy(target, files, self.config.surplus)
            except (InputError, OSError) as error:  # the run goes on
                self._tell(logging.WARNING, "%s is in %s only: %s", target.name, self.folder, error)

    def _write_once(
        self,
        target: Path,
        header: Header,
        blocks: dict[str, Block],
        backbone: dict[str, str] | None,
    ) -> list[str]:
        """Write the files of a checkpoint where nobody sees it yet; their names."""
        hidden = _hidden(target)
        file = f"{STATE}/rank-{self.world.rank:05d}.safetensors"

        def prepare() -> None:
            self._sweep()
            (hidden / STATE).mkdir(parents=True)

        self._on_main(prepare)
        written = self._on_all(lambda: (file, tensorfile.write(hidden / file, blocks)))
        return self._on_main(
            lambda: self._complete(hidden, {**header, "files": dict(written)}, backbone)
        )

    def _complete(self, hidden: Path, header: Header, backbone: dict[str, str] | None) -> list[str]:
        """Have the whole checkpoint on the disk. Returns the names of its files."""
        if backbone is not None:
            names = {
                name: name.removeprefix(PREFIX)
                for name in header["tensors"]
                if name.startswith(PREFIX)
            }
            shapes = {name: header["tensors"][name][1] for name in names}
            header["files"][BACKBONE] = tensorfile.join(
                hidden / BACKBONE, hidden / STATE, names, shapes, backbone
            )
        integrity.write_header(hidden, header)
        return list(header["files"])

    def _publish(self, target: Path) -> None:
        """Make a complete and proven checkpoint visible, and remove what need not stay then."""
        self._show(target)
        self._prune()

    def _show(self, target: Path) -> None:
        """Make a complete checkpoint visible, in the place of a damaged one if there is one."""
        if target.exists():
            target.rename(self.folder / f".{target.name}.old")
        _hidden(target).rename(target)
        integrity.flush_folder(self.folder)
        self._damaged.discard(target)

    def _prune(self) -> None:
        """Remove what need not stay, and what is damaged: something newer is intact."""
        intact = [path.name for path in checkpoints(self.run_dir) if path not in self._damaged]
        for name in {
            *self.config.surplus(intact),
            *(path.name for path in self._damaged if path.exists()),
        }:
            # Out of sight first: what is half deleted must not be taken for a checkpoint.
            (self.folder / name).rename(self.folder / f".{name}.old")
        self._damaged.clear()
        self._sweep()

    def _sweep(self) -> None:
        """Remove what interrupted saves and deletions left behind, as far as it goes: someone may
        be reading there.
        """
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def load(
        self,
        method: nn.Module,
        optimizer: Optimizer,
        until: int | None = None,
        check: Callable[[Header], None] = lambda header: None,
    ) -> Header | None:
        """Go on from the newest intact checkpoint: fill `method` and `optimizer` in place.

        Args:
            until: take none of a later step, and remove those: what led there is taken back.
            check: raises where what `save` was given as `extra` is not this run's; before anything is filled.

        Returns:
            What `save` was given as `extra`, and `step`; None when there is no checkpoint.

        Raises:
            InputError: there are checkpoints and none is intact, or they are of a method with other parameters.
        """
        self.finish()
        damages: list[InputError] = []
        for path, local in self._on_main(lambda: self._candidates(until)):
            try:
                if not local:
                    self._fetch(path)
                header = self._restore(path, method, optimizer, check)
            except (DamagedError, NotThereError) as error:
                damages.append(error)
                self._damaged.add(path)
                continue
            for damaged in damages:
                place = path.name if local else f"{path.name} of the store"
                self._tell(logging.WARNING, "%s; going on from %s", damaged, place)
            if until is not None:
                self._on_main(lambda: self._take_back(until))
            return {
                key: value
                for key, value in header.items()
                if key not in ("format", "tensors", "files")
            }
        if damages:
            raise InputError(
                f"{damages[0]}, and none before it is intact; delete {self.folder} to begin anew"
            )
        return None

    def _candidates(self, until: int | None) -> list[tuple[Path, bool]]:
        """Where to look, newest first; with each, whether it is here (True, before the same one) or
        in the store.
        """
        found = [(path, True) for path in checkpoints(self.run_dir)]
        try:
            found += [
                (self.folder / name, False)
                for name in (self.mirror.checkpoints() if self.mirror else [])
            ]
        except InputError as error:
            if not found:
                raise
            log.warning("only the checkpoints in %s are looked at: %s", self.folder, error)
        return sorted(
            (f for f in found if until is None or step_of(f[0].name) <= until), reverse=True
        )

    def _fetch(self, path: Path) -> None:
        """Bring a checkpoint here from the store."""
        assert self.mirror is not None
        self._on_main(self._sweep)
        self.mirror.fetch(path.name, _hidden(path))
        self._on_main(lambda: self._show(path))

    def _restore(
        self,
        path: Path,
        method: nn.Module,
        optimizer: Optimizer,
        check: Callable[[Header], None],
    ) -> Header:
        """Verify a checkpoint, then read it. Raises `DamagedError` on every rank, `InputError` if
        it is another's.
        """
        header = self._on_main(lambda: read_header(path))
        check(header)
        check_names(path, header["tensors"], method)
        verified = self._on_all(
            lambda: integrity.verify(path, header, self.world.rank, self.world.size)
        )
        entries = [entry for found in verified for entry in found]
        integrity.check_whole(path, header, entries)
        targets = {
            name: block(tensor)
            for name, tensor in allocate(method, optimizer, header["tensors"]).items()
        }
        here = {name: target for name, target in targets.items() if target is not None}

        def read() -> None:
            with damage(path):
                tensorfile.fill(path / STATE, entries, here)
                for name, target in here.items():
                    if not is_finite(target.values):
                        raise DamagedError(f"{path}: damaged ({name} is not finite)")

        self._on_all(read)
        return header

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

    def _tell(self, level: int, message: str, *values: object) -> None:
        if self.world.is_main:
            log.log(level, message, *values)

    def _on_main(self, action: Callable[[], T]) -> T:
        return on_main(action, self._group)

    def _on_all(self, action: Callable[[], T]) -> list[T]:
        return on_all(action, self._group)


def _hidden(target: Path) -> Path:
    """Where a checkpoint is written before it becomes visible."""
    return target.with_name(f".{target.name}.tmp")
