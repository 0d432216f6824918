"""What can be said of a run: the options of the engine's parts. They stand apart from these, which
import torch, so that a wrong value is told at once.
"""

from dataclasses import dataclass, field

from seer.engine.schedule import ScheduleConfig
from seer.errors import InputError
from seer.rundir.names import step_of
from seer.schema import (
    COUNT,
    DEVICE,
    SEED,
    WORD,
    Choice,
    Flag,
    Integer,
    ListOf,
    Location,
    Number,
    check_options,
    option,
)

ENOUGH = 32  # losses, before any is called a spike
INCIDENTAL = {"incidental": True}


@dataclass
class OptimConfig:
    """How parameters are updated. The learning rate comes from the schedule, every step.

    Attributes:
        name: `sgd`, `lars` or `adamw`.
        momentum: `sgd`, `lars`: the share of the last direction that the next one keeps.
        weight_decay: times the weight is added to its gradient (`adamw`: times the rate is taken from the weight).
        nesterov: `sgd`: look a step of the momentum ahead.
        larc: `sgd`: scale every parameter's rate by the ratio of its norm to its gradient's.
        larc_trust: LARC's and LARS's trust coefficient.
        larc_clip: `sgd`: never let LARC raise a parameter's rate above the schedule's.
        larc_eps: added to the denominator of LARC's and LARS's ratio.
        lars_joint_norm: `lars`: the ratio is to the norm of the decayed gradient, ‖g + decay · p‖, as in SimCLR's,
            BYOL's and MoCo v3's code; false: to ‖g‖ + decay · ‖p‖, the paper's equation 6, and LARC's.
        rate_in_momentum: `sgd`, `lars`: momentum sums what was subtracted, rates and all, as in the paper of LARS and
            in SimCLR's code; false: it sums gradients, and the rate of the step multiplies the sum (BYOL's, torch's).
        decay_norm_and_bias: `sgd`, `adamw`: decay vectors (BatchNorm, biases) too. LARS never does.
        betas: `adamw`: decay of the means of the gradient and of its square.
        eps: `adamw`: added to the denominator.
        clip_grad: the largest norm of the whole gradient; 0 leaves it alone.
    """

    name: str = option("sgd", Choice("sgd", "lars", "adamw"))
    momentum: float = option(0.9, Number(0, below=1))
    weight_decay: float = option(1e-6, Number(0, 100))
    nesterov: bool = False
    larc: bool = True
    larc_trust: float = option(0.001, Number(above=0, high=1))
    larc_clip: bool = False
    larc_eps: float = option(1e-8, Number(0, 1))
    lars_joint_norm: bool = True
    rate_in_momentum: bool = False
    decay_norm_and_bias: bool = True
    betas: list[float] = option([0.9, 0.999], ListOf(Number(0, below=1), 2, 2))
    eps: float = option(1e-8, Number(above=0, high=1))
    clip_grad: float = option(0.0, Number(0, 1e30))


@dataclass
class ParallelConfig:
    """How the work is spread over processes; it changes memory and speed, not what is learned.

    Attributes:
        mode: `ddp` copies the method to every process, `fsdp` shards it, `none` is for one process. With one process
            all three are the same.
        checkpointing: for each stage of the backbone, where its groups of blocks end; of a group only the input is kept
            for the backward pass, which computes the rest again. `[[2], [7], [9, 17], []]`, SEER's, makes the first
            stages one group each, the third two groups, and leaves the fourth alone; `[]` leaves all alone.
        shard_group: `fsdp`: processes that share one copy of the method: 0 all, n every n consecutive ones. A node's
            number of GPUs keeps the gathering of parameters inside the node, and costs memory.
        bn_group: processes whose batches BatchNorm takes as one: 0 all, 1 each its own, n every n consecutive ones.
        compile: compile the backbone's blocks, where there is a compiler.
        channels_last: keep images and convolution weights in channels-last order (fsdp keeps weights as they are).
        deferred_init: build the method without memory and initialise each process's shards only: for methods too big
            for one process. The weights then depend on the number of processes.
    """

    mode: str = option("none", Choice("none", "ddp", "fsdp"), incidental=True)
    checkpointing: list[list[int]] = option(
        [], ListOf(ListOf(Integer(1, 1000), 1000), 100), incidental=True
    )
    shard_group: int = option(0, Integer(0, 2**24), incidental=True)
    bn_group: int = option(0, Integer(0, 2**24))
    compile: bool = option(False, Flag(), incidental=True)
    channels_last: bool = option(True, Flag(), incidental=True)
    deferred_init: bool = False


@dataclass
class CheckpointConfig:
    """When to save and what to keep.

    Attributes:
        every: steps between checkpoints; 0 saves by time and at the end.
        minutes: save as well where so many have passed since the last save, by the clock of rank 0; 0 never does.
        keep_last: how many of the newest stay.
        keep_every: checkpoints of steps divisible by this stay for good; 0 none.
        store: a folder in an object store (`s3://…`, `gs://…`), this run's alone, to copy checkpoints to, and to fetch
            them from where the run directory has none as new; empty: none.
    """

    every: int = option(1000, COUNT)
    minutes: float = option(15.0, Number(0, 1e6))
    keep_last: int = option(2, Integer(1, 10**9))
    keep_every: int = option(0, COUNT)
    store: str = option("", Location())

    def surplus(self, names: list[str]) -> list[str]:
        """Which of the checkpoints, oldest first, need not stay."""
        return [
            n
            for n in names[: -self.keep_last]
            if not self.keep_every or step_of(n) % self.keep_every
        ]


@dataclass
class HealthConfig:
    """What counts as a fault, and what follows from one.

    Attributes:
        every: steps between measurements of collapse, in rows that are logged anyhow; 0 none.
        grace: steps after the rate's warm-up before which collapse is measured and not judged.
        act: on a collapse: `none` (say so), `pause` (save and stop), `rollback`.
        spike: a loss this many robust deviations above the median of the last ones leads to a rollback; 0 never. A
            deviation is 1.4826 times the median absolute one, and at least a hundredth of the median.
        window: how many losses median and deviation are of.
        patience: steps in a row that are not finite before a rollback; measurements in a row that make a symptom.
        rollbacks: how many there may be in a run.
    """

    every: int = option(50, COUNT)
    grace: int = option(300, COUNT)
    act: str = option("none", Choice("none", "pause", "rollback"))
    spike: float = option(20.0, Number(0))
    window: int = option(128, Integer(ENOUGH, 100_000))
    patience: int = option(3, Integer(1, 1000))
    rollbacks: int = option(10, Integer(0, 1000))


@dataclass
class LogConfig:
    """What a run writes down.

    Attributes:
        every: steps between logged rows (the first and the last step are always logged).
        tensorboard: write `tensorboard/` too.
        plan: the GPU, by `seer plan`'s name, for which the run has itself planned in the background, so that metrics
            hold what was predicted beside what is; `auto` recognises it, and does nothing on CPUs; `none` never plans.
    """

    every: int = option(10, Integer(1, 10**9))
    tensorboard: bool = True
    plan: str = option("auto", WORD)


@dataclass
class RunConfig:
    """What is to be said of every run.

    Attributes:
        name: what the run is called.
        run_dir: where everything of the run lies; the same command continues the run that is there.
        seed: of initial weights, order and crops.
        steps: updates of the weights.
        epochs: passes over the images, which give the steps once the images are known; 0 where `steps` are given.
        batch_size: images of a step, over all processes.
        accumulate: micro-batches that a step's batch is cut into, one after the other; each is a batch of its own for
            BatchNorm and for what a loss compares.
        precision: of the backbone's arithmetic; `fp16` scales the loss.
        device: `auto` is a GPU where there is one.
    """

    name: str = option("run", WORD, incidental=True)
    run_dir: str = option("runs/${name}", Location(shortest=1), incidental=True)
    seed: int = option(0, SEED)
    steps: int = option(0, Integer(0, 10**8))
    epochs: float = option(0.0, Number(0, 1e6), incidental=True)
    batch_size: int = option(256, Integer(1, 2**24))
    accumulate: int = option(1, Integer(1, 2**16))
    precision: str = option("fp32", Choice("fp32", "bf16", "fp16", "fp64"))
    device: str = option("auto", DEVICE, incidental=True)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=INCIDENTAL)
    health: HealthConfig = field(default_factory=HealthConfig, metadata=INCIDENTAL)
    log: LogConfig = field(default_factory=LogConfig, metadata=INCIDENTAL)


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


def check_parallel(config: ParallelConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    check_options(config, "parallel")
    if config.mode == "none" and ranks > 1:
        raise InputError(
            f"parallel.mode=none is for one process and there are {ranks}; use ddp or fsdp"
        )
    for key in ("bn_group", "shard_group"):
        count = getattr(config, key)
        if 0 < count < ranks and ranks % count:
            raise InputError(
                f"parallel.{key}={count} does not divide {ranks} processes; 0 is all of them"
            )
