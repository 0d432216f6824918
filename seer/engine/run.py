"""The life of a run: lock → log → resume → train → roll back → save → stop. Everything that is
trained lives it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from seer import distributed
from seer.data.ledger import over_ranks
from seer.distributed import World
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.health import Health, HealthConfig, RollbackError, roll_back
from seer.engine.learner import B, Batches, Learner
from seer.engine.loop import Run, Saves, train
from seer.engine.metrics import LogConfig, RunLog, log_file, write_environment
from seer.engine.optim import LossScaler, OptimConfig, build_optimizer
from seer.engine.parallel import ParallelConfig
from seer.engine.preempt import StopRequest, Watchdog
from seer.engine.schedule import ScheduleConfig, effective
from seer.errors import DivergedError, InputError, StoppedError
from seer.precision import PRECISIONS
from seer.rundir.lock import locked
from seer.schema import DEVICE, SEED, WORD, Choice, Integer, Location, option, required

INCIDENTAL = {"incidental": True}
STEP_TOO_LARGE = (
    "this step; use a smaller batch_size, accumulate=2, precision=bf16, or parallel.checkpointing; the run continues "
    "from its newest checkpoint"
)


@dataclass
class RunConfig:
    """What is to be said of every run.

    Attributes:
        name: what the run is called.
        run_dir: where everything of the run lies; the same command continues the run that is there.
        seed: of initial weights, order and crops.
        steps: updates of the weights.
        batch_size: images of a step, over all processes.
        accumulate: micro-batches that a step's batch is cut into, one after the other; each is a batch of its own for
            BatchNorm and for what a loss compares.
        precision: of the backbone's arithmetic; `fp16` scales the loss.
        device: `auto` is a GPU where there is one.
    """

    name: str = option("run", WORD, incidental=True)
    run_dir: str = option("runs/${name}", Location(shortest=1), incidental=True)
    seed: int = option(0, SEED)
    steps: int = required(Integer(1, 10**8))
    batch_size: int = option(256, Integer(1, 2**24))
    accumulate: int = option(1, Integer(1, 2**16))
    precision: str = option("fp32", Choice(*PRECISIONS))
    device: str = option("auto", DEVICE, incidental=True)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=INCIDENTAL)
    health: HealthConfig = field(default_factory=HealthConfig, metadata=INCIDENTAL)
    log: LogConfig = field(default_factory=LogConfig, metadata=INCIDENTAL)


@dataclass(kw_only=True)
class Training(Generic[B]):
    """What a run is made of. The main process calls `prepare` and `begin`.

    Attributes:
        module: `learner` as `parallelize` wrapped it.
        prepare: write what the directory says of the run; called once the directory is this run's.
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
    begin: Callable[[int], None] = lambda start: None
    end: Callable[[], None] = lambda: None
    weights: Callable[[int], dict[str, str] | None] = lambda step: None
    keys_of: Callable[[int], list[str]] = lambda step: []
    beside: Callable[[], AbstractContextManager[Any]] = nullcontext


def check_batch(config: RunConfig, ranks: int) -> None:
    """Whether the batch divides among `ranks` processes; raises `InputError`."""
    batch = config.batch_size
    if batch % (ranks * config.accumulate):
        parts = (
            f"{ranks} processes × {config.accumulate} micro-batches"
            if config.accumulate > 1
            else f"{ranks} processes"
        )
        unit = ranks * config.accumulate
        below = batch // unit * unit
        above = (batch // unit + 1) * unit
        raise InputError(
            f"batch_size={batch} does not divide among {parts}; use {below or above} or {above}"
        )


def fit(training: Training[B], world: World) -> Path:
    """Train, or go on training, on all ranks together. Returns the run directory.

    Raises:
        InputError: the directory belongs to a run on other data, is in use, or cannot be written; too little memory.
        StoppedError, DivergedError: as `loop.train` raises them.
    """
    run_dir = Path(training.config.run_dir)
    with (
        locked(run_dir) if world.is_main else nullcontext(),
        log_file(run_dir) if world.is_main else nullcontext(),
    ):
        if world.is_main:
            training.prepare()
            write_environment(run_dir)
        try:
            with (
                enough_memory(world.device, STEP_TOO_LARGE),
                training.beside(),
                StopRequest() as asked,
            ):
                fault = attempt(training, world, asked)
                while fault is not None:
                    fault = attempt(training, world, asked, fault)
            training.end()
        except (StoppedError, DivergedError):
            distributed.barrier()  # whoever left first would take a launcher's leave to end the others
            distributed.shutdown()
            raise
    distributed.shutdown()
    return run_dir


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
