"""The life of a run: lock → log → resume → train → roll back → save → stop. Everything that is
trained lives it.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from seer import distributed
from seer.data.ledger import over_ranks
from seer.distributed import World
from seer.engine.checkpoint.checkpointer import Checkpointer
from seer.engine.health import Health, RollbackError, roll_back
from seer.engine.learner import B, Batches, Learner
from seer.engine.loop import Run, Saves, train
from seer.engine.metrics import RunLog, log_file, write_environment
from seer.engine.optim import LossScaler, build_optimizer
from seer.engine.options import RunConfig
from seer.engine.preempt import StopRequest, Watchdog
from seer.engine.schedule import effective
from seer.engine.threads import keep_threads
from seer.errors import DivergedError, InputError, StoppedError, printable
from seer.rundir.lock import locked

logger = logging.getLogger("seer")

STEP_TOO_LARGE = (
    "this step; use a smaller batch_size, accumulate=2, precision=bf16, or parallel.checkpointing; the run continues "
    "from its newest checkpoint"
)
SLOW_HALF = (
    "precision=fp16 is for GPUs: on a CPU a convolution's backward pass can take a hundred times as long; use "
    "precision=fp32 or bf16, in a new run_dir"
)


@dataclass(kw_only=True)
class Training(Generic[B]):
    """What a run is made of. The main process calls `prepare` and `begin`.

    Attributes:
        module: `learner` as `parallelize` wrapped it.
        prepare: write what the directory says of the run; called once the directory is this run's.
        sees: what the learner sees of an image, for `opening`.
        announce: say what is to be known of the run beyond `opening`, which is said before.
        begin: keep what is to be kept of the data; called with the number of steps that are done already.
        end: called on all ranks after the last step, while the directory is still this run's.
        weights: the metadata of the whole backbone beside a checkpoint, by its step; None: no such file.
        keys_of: the keys of the samples of a step (from 1), for the ledger of steps that were passed over.
        beside: entered while the run trains.
    """

    config: RunConfig
    learner: Learner[B]
    module: nn.Module
    batches: Batches[B]
    prepare: Callable[[], None]
    sees: str = ""
    announce: Callable[[], None] = lambda: None
    begin: Callable[[int], None] = lambda start: None
    end: Callable[[], None] = lambda: None
    weights: Callable[[int], dict[str, str] | None] = lambda step: None
    keys_of: Callable[[int], list[str]] = lambda step: []
    beside: Callable[[], AbstractContextManager[Any]] = nullcontext


def fit(training: Training[B], world: World) -> Path:
    """Train, or go on training, on all ranks together, as the last thing that these processes do.
    Returns the run directory.

    Raises: as `live`.
    """
    with parting():
        live(training, world)
    return Path(training.config.run_dir)


@contextmanager
def parting() -> Iterator[None]:
    """What is done within is the last that these processes do together: they part afterwards."""
    try:
        yield
    except (StoppedError, DivergedError):
        distributed.barrier()  # whoever left first would take a launcher's leave to end the others
        distributed.shutdown()
        raise
    distributed.shutdown()


def live(training: Training[B], world: World) -> None:
    """Train, or go on training, on all ranks together; another run may follow.

    Raises:
        InputError: the directory belongs to a run on other data, is in use, or cannot be written; too little memory.
        StoppedError, DivergedError: as `loop.train` raises them, on all ranks.
    """
    run_dir = Path(training.config.run_dir)
    with (
        locked(run_dir) if world.is_main else nullcontext(),
        log_file(run_dir) if world.is_main else nullcontext(),
    ):
        keep_threads(run_dir, world)
        if world.is_main:
            training.prepare()
            write_environment(run_dir)
        with (
            enough_memory(world.device, STEP_TOO_LARGE),
            training.beside(),
            StopRequest() as asked,
        ):
            fault = attempt(training, world, asked)
            while fault is not None:
                fault = attempt(training, world, asked, fault)
        training.end()


def opening(config: RunConfig, batches: Batches[B], sees: str, start: int) -> str:
    """What a run is, in one line: images and what is seen of them, length, directory, and where it
    begins.
    """
    epochs = config.steps * config.batch_size / batches.samples
    seen = start * config.batch_size / batches.samples
    seen_as = f"{sees} · " if sees else ""
    begun = f"continued after step {start:,} (epoch {seen:.3g})" if start else "new"
    return (
        f"{batches.samples:,} images in {batches.name} · {seen_as}{epochs:.3g} epochs: {config.steps:,} steps of "
        f"{config.batch_size:,} · {config.run_dir}, {begun}"
    )


def tell(*lines: str) -> None:
    """Say lines on stderr and in the log."""
    for line in lines:
        print(printable(line), file=sys.stderr, flush=True)
        logger.info("%s", line)


@contextmanager
def enough_memory(device: torch.device, remedy: str) -> Iterator[None]:
    """Raise `InputError` where what is done within needs more memory than there is."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search(
            "out of memory|allocate memory", str(error)
        ):
            raise
        raise InputError(f"the memory of {device} is too small for {remedy}") from error


def attempt(
    training: Training[B], world: World, asked: StopRequest, fault: RollbackError | None = None
) -> RollbackError | None:
    """Go on from the newest checkpoint, if there is one, or from the one before `fault`, and train.

    Returns:
        None at the end of the run; or why it has to go back.
    """
    config = training.config
    learner = training.learner
    batches = training.batches
    run_dir = Path(config.run_dir)
    optimizer = build_optimizer(learner, config.optim)
    scaler = LossScaler(enabled=config.precision == "fp16")
    checkpointer = Checkpointer(run_dir, config.checkpoint, world, asked)

    def check_data(header: dict[str, Any]) -> None:
        if header["data"] != batches.identity:
            raise InputError(
                f"{batches.name}: the images have changed since {run_dir} began; give another run_dir"
            )

    load = partial(checkpointer.load, learner, optimizer, check=check_data)
    if fault is None:
        header = load()
    else:
        header = roll_back(fault, load, run_dir, config.health.rollbacks, world, training.keys_of)
    schedule = effective(config.schedule, config.batch_size, config.steps)
    health = Health(
        config.health, run_dir, world, config.log.every, int(schedule.warmup), learner.symptoms
    )
    start = 0
    batches.seen = 0
    if header is not None:
        scaler.load_state_dict(header["scaler"])
        health.load_state_dict(header.get("health", {}))
        start = header["step"]
        batches.seen = header["seen"] if world.is_main else 0
    if world.is_main:
        if fault is None:
            tell(opening(config, batches, training.sees, start))
            if config.precision == "fp16" and world.device.type == "cpu":
                logger.warning("%s", SLOW_HALF)
            training.announce()
        training.begin(start)

    def save(done: int) -> None:
        """Begin to save the state after `done` finished steps, the whole backbone beside the
        shards.
        """
        header = {
            "samples": done * config.batch_size,
            "seen": over_ranks(batches.seen, world.device),
            "scaler": scaler.state_dict(),
            "health": health.state_dict(),
            "data": batches.identity,
        }
        checkpointer.save(done, learner, optimizer, header, training.weights(done), proven=False)

    saves = Saves(
        save, config.checkpoint.every, checkpointer.late, checkpointer.confirm, checkpointer.finish
    )
    try:
        with (
            RunLog(run_dir, config.log, world, config.steps, start) as log,
            Watchdog() as watchdog,
            checkpointer,
        ):
            run = Run(
                learner=learner,
                module=training.module,
                optimizer=optimizer,
                scaler=scaler,
                batches=batches,
                schedule=schedule,
                log=log,
                health=health,
                world=world,
                saves=saves,
                steps=config.steps,
                batch_size=config.batch_size,
                samples_per_epoch=batches.samples,
                seed=config.seed,
                precision=config.precision,
                accumulate=config.accumulate,
                clip_grad=config.optim.clip_grad,
                asked=asked,
                watchdog=watchdog,
            )
            train(run, start)
    except RollbackError as fault:
        return fault.with_traceback(None)  # which would hold on to the step's memory
    return None
