"""One pretraining run: how data, method and engine are put together."""

import fcntl
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen

import numpy as np
import torch
from PIL import Image
from torch import nn

from seer import config as configuration
from seer import distributed, files
from seer.checks import audit
from seer.data.crops.multicrop import MultiCrop
from seer.data.decoding.decode import decode
from seer.data.ledger import over_ranks
from seer.data.loader import Loader
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.distributed import World
from seer.engine.checkpoint.checkpointer import Checkpointer
from seer.engine.health import Health, RollbackError, roll_back
from seer.engine.loop import Run, Saves, train
from seer.engine.metrics import RunLog, log_file, write_environment
from seer.engine.optim import LossScaler, build_optimizer
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.preempt import StopRequest, Watchdog
from seer.engine.schedule import describe, effective
from seer.errors import DivergedError, InputError, InUseError, StoppedError
from seer.hardware import recognise
from seer.interop.native import backbone_metadata
from seer.methods import METHODS
from seer.methods.base import Method
from seer.pretrain.picture import grid
from seer.pretrain.recipe import Pretrain, build_method, check, check_run_dir, rehearse
from seer.rundir.names import CONFIG, CROPS, IMAGES, LOCK, MANIFEST, PLAN
from seer.terminal import outlasting_terminal

logger = logging.getLogger("seer")

TOO_LARGE = (
    "the model; use a smaller backbone, method.head or method.prototypes, or parallel.mode=fsdp on more devices; "
    "seer plan tells what it needs"
)
STEP_TOO_LARGE = (
    "this step; use a smaller batch_size, accumulate=2, precision=bf16, or parallel.checkpointing; the run continues "
    "from its newest checkpoint"
)


def run(config: Pretrain) -> Path:
    """Train, or go on training, in this process of the world. What can be checked is checked before a file is written.

    Raises:
        InputError: wrong input, or a run directory that belongs to another configuration or is in use.
    """
    with outlasting_terminal():
        return _run(config)


def _run(config: Pretrain) -> Path:
    world = distributed.init(config.device)
    check_peers()
    run_dir = Path(config.run_dir)
    manifest = Manifest.load(config.data)
    check(config, manifest, world)
    rehearse(config)
    with enough_memory(world.device, TOO_LARGE):
        method = build_method(config)
        module = parallelize(method, config.parallel, world, config.precision)
    check_run_dir(config)
    distributed.barrier()  # no rank writes before every rank has looked
    with locked(run_dir, world), log_file(run_dir) if world.is_main else nullcontext():
        if world.is_main:
            (run_dir / IMAGES).mkdir(exist_ok=True)
            configuration.save(config, run_dir / CONFIG)
            write_environment(run_dir)
            announce(config)
        try:
            with enough_memory(world.device, STEP_TOO_LARGE), planned_beside(config, world), StopRequest() as asked:
                fault = train_run(config, manifest, world, method, module, asked)
                while fault is not None:
                    fault = train_run(config, manifest, world, method, module, asked, fault)
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
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        raise InputError(f"the memory of {device} is too small for {remedy}") from error


def announce(config: Pretrain) -> None:
    """Say, on stderr and in the log, what the rate becomes with this batch, and which options do nothing here."""
    line = describe(config.schedule, config.batch_size, config.steps)
    print(line, file=sys.stderr, flush=True)
    logger.info("%s", line)
    for warning in METHODS[config.method.name].warnings(config.method, config.batch_size, config.steps):
        logger.warning("%s", warning)


@contextmanager
def locked(run_dir: Path, world: World) -> Iterator[None]:
    """Hold the run directory for this run: a second run in it is refused, a killed one leaves nothing behind."""
    if not world.is_main:
        yield
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = files.open_own(run_dir / LOCK, "a+b")
    except OSError as error:
        raise InputError(f"{run_dir}: cannot be written: {error.strerror}; choose another run_dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(
                f"{run_dir}: another process is training there; wait for it, or choose another run_dir"
            ) from None
        yield


@contextmanager
def planned_beside(config: Pretrain, world: World) -> Iterator[Popen | None]:
    """Unless it is there, have `RUN/plan.json` made by a process that takes only what time is left, as `log.plan` says.

    Yields that process; it does not outlive the context.
    """
    run_dir, on_gpu = Path(config.run_dir), world.device.type == "cuda"
    automatic = recognise(torch.cuda.get_device_name(world.device)) if on_gpu else "none"
    gpu = automatic if config.log.plan == "auto" else config.log.plan
    if not world.is_main or gpu in ("", "none") or (run_dir / PLAN).exists():
        yield None
        return
    what = [str(run_dir / CONFIG), f"name={config.name}", "--gpus", str(world.size), "--gpu", gpu]
    command = [sys.executable, "-m", "seer", "plan", *what, "--json", str(run_dir / PLAN)]
    with Popen(
        command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as child:
        os.setpriority(os.PRIO_PROCESS, child.pid, 19)
        try:
            yield child
        finally:
            child.terminate()


def train_run(
    config: Pretrain,
    manifest: Manifest,
    world: World,
    method: Method,
    module: nn.Module,
    asked: StopRequest,
    fault: RollbackError | None = None,
) -> RollbackError | None:
    """Go on from the newest checkpoint, if there is one, or from the one before `fault`, and train.

    Returns:
        None at the end of the run; or why it has to go back.
    """
    run_dir = Path(config.run_dir)
    crops = MultiCrop(config.views, config.seed, not config.loader.device_augment, config.mean, config.std)
    lanes = config.loader.lanes or config.batch_size
    order = Order(manifest.sizes, config.seed, lanes, config.loader.window)
    reader = Reader(manifest, config.loader, min(lanes, config.batch_size // world.size * world.local_size))
    loader = Loader(reader, order, crops, batch_size=config.batch_size, rank=world.rank, world_size=world.size,
                    config=config.loader, device=world.device, run_dir=run_dir)  # fmt: skip
    optimizer = build_optimizer(method, config.optim)
    scaler = LossScaler(enabled=config.precision == "fp16")
    checkpointer = Checkpointer(run_dir, config.checkpoint, world, asked)
    load = partial(checkpointer.load, method, optimizer)

    start = 0
    if fault is None:
        header = load()
    else:
        header = roll_back(fault, load, run_dir, config.health.rollbacks, world, partial(keys_of_step, run_dir))
    schedule = effective(config.schedule, config.batch_size, config.steps)
    health = Health(config.health, run_dir, world, config.log.every, int(schedule.warmup), method.symptoms)
    if header is not None:
        if header["data"] != manifest.hash:
            raise InputError(f"{config.data}: the images have changed since {run_dir} began; give another run_dir")
        scaler.load_state_dict(header["scaler"])
        health.load_state_dict(header.get("health", {}))
        start, loader.seen = header["step"], header["seen"] if world.is_main else 0
    if world.is_main and (start == 0 or not (run_dir / MANIFEST).is_file()):  # a checkpoint may come from a store
        manifest.save(run_dir)
        picture_of_crops(reader, order, crops, config).save(run_dir / IMAGES / CROPS)

    def save(done: int) -> None:
        """Begin to save the state after `done` finished steps, the whole backbone beside the shards."""
        header = {"samples": done * config.batch_size, "seen": over_ranks(loader.seen, world.device),
                  "scaler": scaler.state_dict(), "health": health.state_dict(), "data": manifest.hash}  # fmt: skip
        size = max(view.size for view in config.views.values() if view.count)
        about = {"step": done, "config_hash": configuration.config_hash(configuration.to_dict(config))}
        metadata = backbone_metadata(config.backbone, size, config.mean, config.std, about)
        checkpointer.save(done, method, optimizer, header, metadata, proven=False)

    saves = Saves(save, config.checkpoint.every, checkpointer.late, checkpointer.confirm, checkpointer.finish)
    try:
        with RunLog(run_dir, config.log, world, config.steps, start) as log, Watchdog() as watchdog, checkpointer:
            run = Run(
                learner=method,
                module=module,
                optimizer=optimizer,
                scaler=scaler,
                batches=loader,
                schedule=schedule,
                log=log,
                health=health,
                world=world,
                saves=saves,
                steps=config.steps,
                batch_size=config.batch_size,
                samples_per_epoch=manifest.samples,
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


def keys_of_step(run_dir: Path, step: int) -> list[str]:
    """The keys of the samples of a step (from 1); none where the indices of the data cannot be read now."""
    try:
        return [sample["key"] for sample in audit.batch(run_dir, step)]
    except (InputError, OSError):
        return []


def picture_of_crops(reader: Reader, order: Order, crops: MultiCrop, config: Pretrain) -> Image.Image:
    """One image and what the method sees of it: the image with its large crops, then a row for each smaller size."""
    sample = order.ids(0, 1)
    image = decode(reader.read(sample)[0])
    views = crops.finish(crops([image], np.zeros(1, np.int64), sample), "cpu")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    rows = []
    for group in views.crops:
        shown = ((group[:, 0] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        rows.append([crop.permute(1, 2, 0).numpy() for crop in shown])
    heights = [160 * group.shape[-1] // views.crops[0].shape[-1] for group in views.crops]
    return grid([[image, *rows[0]], *rows[1:]], heights)
