"""What a run will need, how long it will take and what it will cost, before it is submitted.

Memory, arithmetic and messages are those of the real step (`footprint.py`). Time is a model with
one free number: no operation can be faster than its arithmetic at the processor's peak or its
traffic at the memory's full speed, whichever takes longer; the sum over a step's operations,
divided by an efficiency, is the time of the step. The efficiency was measured or published
(`efficiency.py`), or comes from a run of one's own (`--calibrate`).
"""

import os
import shlex
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from seer import config as configuration
from seer import inputs, outputs
from seer.engine.options import RunConfig, check_batch, check_parallel
from seer.errors import InputError
from seer.eval.trained.options import TrainedConfig
from seer.hardware import HARDWARE, PER_NODE, Hardware, find
from seer.jsonl import Row
from seer.methods import METHOD_CONFIGS
from seer.planning.asked import check, load, with_steps
from seer.planning.efficiency import ON_CPU, Efficiency, efficiencies
from seer.planning.footprint import Footprint
from seer.planning.work import work_of
from seer.pretrain.recipe import Pretrain
from seer.report.plots import Series, line_chart
from seer.rundir.names import CONFIG
from seer.rundir.rundir import RunDir
from seer.schema import Record

GIB = 2**30

# Assumed, not measured: what CUDA, its libraries and NCCL take for themselves, and the share lost
# between the allocator's blocks; the share of a link's rate that collectives reach; the seconds
# that a short one takes.
RESERVED = 1.5 * GIB
FRAGMENTED = 0.05
BUS = 0.8
SHORT_IN_NODE = 20e-6
SHORT_BEYOND = 60e-6

ROUGH = "  rough: cores differ more than GPUs do; --calibrate RUN takes what a run of 20 steps with log.every=1 reached"


@dataclass(frozen=True)
class Options:
    """What the user says beyond the recipe: the price of a GPU-hour, a run to calibrate by, images
    that one core makes ready per second, whether to go over GPU counts, whether the recipe may read
    the environment, and how many images there are, where the data are not here."""

    price: float | None = None
    calibrate: Path | None = None
    images_per_core: float = 100.0
    sweep: bool = False
    allow_env: bool = False
    images: int = 0


@dataclass(frozen=True)
class Estimate:
    """A run on so many GPUs of one kind; memory is per GPU, in GiB, and `why_not` empty where it
    fits.

    `kwh` takes every GPU at its thermal design power, and nothing but GPUs. `cost` is None without
    a price.
    """

    gpu: str
    gpus: int
    memory: float
    capacity: float
    why_not: str
    compute_seconds: float
    exchange_seconds: float
    step_seconds: float
    images_per_second: float
    hours: float
    gpu_hours: float
    kwh: float
    cost: float | None
    loader_cores: float

    @property
    def unit(self) -> str:
        """What there are `gpus` of: on a CPU a process has a core."""
        return "process" if self.gpu == "cpu" else "GPU"


@dataclass(frozen=True)
class Job:
    """A configuration on a number of GPUs of one kind, and what a step of it costs one of them."""

    config: RunConfig
    gpus: int
    hardware: Hardware
    footprint: Footprint
    images: int = 0  # of the data; 0: as many as there are

    @classmethod
    def of(cls, config: RunConfig, gpus: int, hardware: Hardware, images: int = 0) -> "Job":
        """Raises `InputError` where the configuration suits neither its parts nor the number of
        GPUs.
        """
        check_batch(config, gpus)
        cost = work_of(config).measure(config, gpus, not hardware.syncs_batchnorm, samples=images)
        return cls(config, gpus, hardware, cost, images)

    @property
    def roofline(self) -> float:
        """The least seconds in which a step's operations can run, one after the other."""
        peak = self.hardware.peak
        bandwidth = 1e9 * self.hardware.bandwidth
        spent = (
            n * max(o.flops / peak(o.dtype), o.bytes / bandwidth)
            for o, n in self.footprint.operations.items()
        )
        return self.config.accumulate * sum(spent)

    @property
    def sent(self) -> int:
        """Bytes that a GPU sends in a step."""
        near = self.footprint.near
        far = self.footprint.far
        return (near.bytes + far.bytes) * self.config.accumulate + self.footprint.reduced

    @property
    def exchange(self) -> tuple[float, float]:
        """Seconds per step of transfers, which overlap with computing, and of waiting for short
        collectives.

        A node's GPUs pass on to each other what has come in, so the whole network of a node serves
        each of them.
        """
        near = self.footprint.near
        far = self.footprint.far
        hardware = self.hardware
        times = self.config.accumulate
        bytes_near = near.bytes * times
        bytes_far = far.bytes * times
        # Gradients are reduced once, however many backward passes there are.
        if self.gpus <= PER_NODE:
            bytes_near += self.footprint.reduced
        else:
            bytes_far += self.footprint.reduced
        bulk = bytes_near / hardware.link
        bulk += bytes_far / min(hardware.link, hardware.network)
        waiting = near.messages * SHORT_IN_NODE + far.messages * SHORT_BEYOND
        return bulk / (1e9 * BUS), times * waiting

    def efficiency(self, seconds: float) -> float:
        """The share of the roofline at which a step takes so many seconds."""
        return self.roofline / max(seconds - self.exchange[1], 1e-9)

    def estimate(self, efficiency: float | None = None, options: Options | None = None) -> Estimate:
        """Without an efficiency, that which is to be expected."""
        efficiency = (
            efficiency
            or efficiencies(work_of(self.config).network(self.config), self.hardware)[0].share
        )
        options = options or Options()
        hardware = self.hardware
        bulk, short = self.exchange
        compute = self.roofline / efficiency
        memory = self.footprint.peak * (1 + FRAGMENTED) + RESERVED
        step = max(compute, bulk) + short
        rate = self.config.batch_size / step
        gpu_hours = self.gpus * step * self.config.steps / 3600
        why_not = "" if memory <= hardware.memory * GIB else "memory"
        if not hardware.has(self.config.precision):
            why_not = f"no {self.config.precision}"
        return Estimate(
            gpu=hardware.name,
            gpus=self.gpus,
            memory=memory / GIB,
            capacity=hardware.memory,
            why_not=why_not,
            compute_seconds=compute,
            exchange_seconds=bulk + short,
            step_seconds=step,
            images_per_second=rate,
            hours=gpu_hours / self.gpus,
            gpu_hours=gpu_hours,
            kwh=gpu_hours * hardware.watts / 1e3,
            cost=None if options.price is None else options.price * gpu_hours,
            loader_cores=rate / self.gpus / options.images_per_core,
        )


@dataclass
class Plan:
    """The answer to `seer plan`: the run as asked for, the same on other hardware, and what would
    make it fit.

    `otherwise` are seconds of a step by what else was seen of the efficiency. `kept_gib` is what the
    forward pass keeps of the backbone's activations, without and with checkpointing: as the recipe has it,
    or else of every block.
    """

    recipe: str
    precision: str
    mode: str
    batch_per_gpu: int
    parameters: int
    flops_per_image: float
    sent_gb: float
    loader_gib_per_node: float
    efficiency: float
    efficiency_source: str
    otherwise: dict[str, float]
    memory_gib: dict[str, float]
    kept_gib: tuple[float, float]
    chosen: Estimate
    others: list[Estimate]
    advice: list[str]
    sweep: list[Estimate]

    def lines(self) -> list[str]:
        """For a terminal."""
        c = self.chosen
        plain, checkpointed = self.kept_gib
        found = [
            f"{self.recipe}: {c.gpus} × {c.gpu}, {self.batch_per_gpu} images each, {self.precision}, {self.mode}",
            f"{self.parameters / 1e6:,.1f}M parameters, {_figure(self.flops_per_image / 1e9)} GFLOP per image; "
            f"each {c.unit} sends {self.sent_gb:.3g} GB per step",
            f"memory per {c.unit} at the worst moment, GiB",
            *(f"  {kind:16}{size:8.2f}" for kind, size in self.memory_gib.items() if size >= 0.005),
            f"  {'with allowances':16}{c.memory:8.2f} of {c.capacity:.4g}: "
            + (f"does not fit ({c.why_not})" if c.why_not else "fits"),
            f"  activations kept for the backward pass: {checkpointed:.2f} with checkpointing, {plain:.2f} without",
            f"step: {c.step_seconds:.3g} s; computing {c.compute_seconds:.3g} s at {self.efficiency:.1%} of the "
            f"roofline, exchanging {c.exchange_seconds:.3g} s, mostly at the same time",
            f"  efficiency {self.efficiency_source}",
            *([ROUGH] if self.efficiency_source == ON_CPU.source else []),
            *(
                f"  {seconds:.3g} s with the efficiency {source}"
                for source, seconds in self.otherwise.items()
            ),
            f"loader: {c.loader_cores:.2f} cores per {c.unit}, "
            f"{self.loader_gib_per_node:.1f} GiB of host memory per node",
            *table([c, *self.others]),
        ]
        if c.why_not:
            larger = "more GPUs, or larger ones" if c.unit == "GPU" else "a host with more memory"
            cure = shlex.join(self.advice) or f"none found: take {larger}"
            found.append(f"smallest change that makes it fit: {cure}")
        return found + (["", *table(self.sweep)] if self.sweep else [])


def table(estimates: list[Estimate]) -> list[str]:
    """Estimates side by side."""
    hours = "GPU-hours" if estimates[0].unit == "GPU" else "core-hours"
    columns = ("GiB", "fits", "s/step", "images/s", "hours", hours, "MWh", "cost")
    titles = "".join(f"{name:>11}" for name in columns)
    lines = [f"{estimates[0].unit:>14}{titles}"]
    for estimate in estimates:
        cells = (
            f"{estimate.memory:.1f}",
            estimate.why_not or "yes",
            f"{estimate.step_seconds:.3g}",
            f"{estimate.images_per_second:,.0f}",
            f"{estimate.hours:,.{2 if estimate.hours < 10 else 1}f}",
            _figure(estimate.gpu_hours),
            f"{estimate.kwh / 1e3:.2f}",
            "" if estimate.cost is None else f"{estimate.cost:,.0f}",
        )
        figures = "".join(f"{cell:>11}" for cell in cells)
        lines.append(f"{estimate.gpus:>5} {estimate.gpu:>8}{figures}")
    return lines


def _figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plan(
    recipe: str, overrides: list[str], gpus: int, gpu: str, options: Options | None = None
) -> Plan:
    """Plan a run of a recipe under overrides. Raises `InputError` as the run itself would."""
    options = options or Options()
    hardware = find(gpu)
    if hardware.name == "cpu":  # processes of this host, rather than of a server somewhere
        hardware = replace(
            hardware, memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB / gpus
        )
    config = _foreseen(recipe, overrides, options)
    work = work_of(config)
    job = Job.of(config, gpus, hardware, options.images)
    calibrated = calibrate(options.calibrate, hardware, type(config)) if options.calibrate else None
    expected, *less_likely = efficiencies(work.network(config), hardware)
    if calibrated:
        less_likely = [expected, *less_likely]
        expected = Efficiency(calibrated, f"as {options.calibrate} reached it")
    chosen = job.estimate(expected.share, options)
    footprint = job.footprint
    checkpointed = any(config.parallel.checkpointing)
    layout = replace(
        config.parallel, checkpointing=[] if checkpointed else work.every_block(config)
    )
    otherwise = work.measure(
        replace(config, parallel=layout),
        gpus,
        not hardware.syncs_batchnorm,
        forward_only=True,
        samples=options.images,
    ).kept
    kept = (otherwise, footprint.kept) if checkpointed else (footprint.kept, otherwise)
    others = [
        other
        for other in HARDWARE.values()
        if "cpu" not in (other.name, hardware.name) and other != hardware
    ]
    return Plan(
        recipe=config.name, precision=config.precision, mode=config.parallel.mode,
        batch_per_gpu=config.batch_size // gpus, parameters=footprint.parameters,
        flops_per_image=footprint.flops / footprint.batch, sent_gb=job.sent / 1e9,
        loader_gib_per_node=work.loader_bytes(config, gpus) * min(gpus, PER_NODE) / GIB, efficiency=expected.share,
        efficiency_source=expected.source,
        otherwise={each.source: job.estimate(each.share).step_seconds for each in less_likely},
        memory_gib={kind: size / GIB for kind, size in footprint.memory.items()},
        kept_gib=(kept[0] / GIB, kept[1] / GIB), chosen=chosen,
        others=[replace(job, hardware=other).estimate(calibrated, options) for other in others],
        advice=advise(recipe, overrides, gpus, hardware, options) if chosen.why_not else [],
        sweep=[job.estimate(calibrated, options) for job in jobs_around(job)] if options.sweep else [],
    )  # fmt: skip


def calibrate(run_dir: Path, hardware: Hardware, kind: type[RunConfig] = Pretrain) -> float:
    """The efficiency that a run on `hardware` reached, by its metrics. Raises `InputError` if they
    do not tell.
    """
    run = RunDir(run_dir).check("--calibrate")
    path = run.file(CONFIG)
    if not path.exists():
        raise InputError(f"--calibrate {run_dir}: it has no {CONFIG}")
    inputs.read_yaml(path, Record({}))  # a regular file, of plain values
    config = configuration.resolve(
        kind, [configuration.read_layers(path)], {"method": METHOD_CONFIGS}
    )
    rows = [row for row in run.metrics() if _is_timed(row)]
    processes = run.environment().get("processes", 1)
    if len(rows) < 4:
        remark = "".join(f"; {remark}" for remark in run.remarks()[:1])
        raise InputError(
            f"--calibrate {run_dir}: {len(rows)} logged rows are too few; log.every=1 steps=10 give enough{remark}"
        )
    # `time_step` is the share of the time not spent waiting for data; the first row pays for
    # starting up.
    seconds = [config.batch_size / row["images_per_second"] * row["time_step"] for row in rows[1:]]
    return Job.of(config, processes, hardware).efficiency(statistics.median(seconds))


def _is_timed(row: Row) -> bool:
    """Whether a row of a run's metrics tells how long its steps took."""
    return all(0 < (row.get(key) or 0) < 1e15 for key in ("images_per_second", "time_step"))


def _foreseen(recipe: str, overrides: list[str], options: Options) -> Pretrain | TrainedConfig:
    """The configuration with as many steps as its epochs are."""
    return with_steps(load(recipe, overrides, options.allow_env), options.images)


def advise(
    recipe: str,
    overrides: list[str],
    gpus: int,
    hardware: Hardware,
    options: Options | None = None,
) -> list[str]:
    """The first of the `remedies` under which the run fits; none if nothing helps."""
    options = options or Options()
    for changes in remedies(_foreseen(recipe, overrides, options), gpus, hardware):
        changed = _foreseen(recipe, [*overrides, *changes], options)
        if isinstance(changed, TrainedConfig) and not _runs(changed, gpus):
            continue
        if not Job.of(changed, gpus, hardware, options.images).estimate().why_not:
            return changes
    return []


def _runs(config: TrainedConfig, gpus: int) -> bool:
    """Whether a training starts so: a head's BatchNorm needs more than one image."""
    try:
        check(config, gpus)
    except InputError:
        return False
    return True


def remedies(config: RunConfig, gpus: int, hardware: Hardware) -> Iterator[list[str]]:
    """Changes that make a run fit, the smallest first; those without `accumulate` alter nothing
    that is learned.
    """
    half = "precision=bf16" if hardware.has("bf16") else "precision=fp16"
    needed = [] if hardware.has(config.precision) else [half]
    if needed:
        yield needed
    stages = work_of(config).every_block(config)
    partly = (
        []
        if any(config.parallel.checkpointing) or not stages
        else [stages[:n] + [[]] * (4 - n) for n in (1, 2, 3)]
    )
    for ends in partly:  # the first stages keep most, and cost no more to recompute than others
        yield [*needed, _checkpointing(ends)]
    single = (
        [] if config.parallel.checkpointing == stages or not stages else [_checkpointing(stages)]
    )
    if config.parallel.mode != "fsdp" and gpus > 1:
        single.append("parallel.mode=fsdp")
    if config.precision == "fp32":
        single.append(half)
    yield from ([*needed, change] for change in single)
    if len(single) > 1:
        yield [*needed, *single]
    accumulate = 2 * config.accumulate
    while config.batch_size // gpus % accumulate == 0:
        yield [*needed, f"accumulate={accumulate}"]
        yield [*needed, *single, f"accumulate={accumulate}"]
        accumulate *= 2


def _checkpointing(ends: list[list[int]]) -> str:
    return f"parallel.checkpointing={ends}".replace(" ", "")


def jobs_around(job: Job) -> Iterator[Job]:
    """The same run on an eighth to eight times as many GPUs, where batch and groups divide."""
    for gpus in (job.gpus * 2**i // 8 for i in range(7) if job.gpus * 2**i % 8 == 0):
        try:
            check_batch(job.config, gpus)
            check_parallel(job.config.parallel, gpus)
        except InputError:
            continue
        yield job if gpus == job.gpus else Job.of(job.config, gpus, job.hardware, job.images)


def draw(estimates: list[Estimate], path: Path) -> None:
    """Images per second over GPU counts as SVG, where the run fits, beside a rate in proportion to
    the fewest GPUs'.
    """
    gpus = [e.gpus for e in estimates]
    first = estimates[0]
    rates = [None if e.why_not else e.images_per_second for e in estimates]
    proportional = [first.images_per_second * n / first.gpus for n in gpus]
    series = [Series("planned", gpus, rates), Series("in proportion", gpus, proportional)]
    label = "GPUs" if first.unit == "GPU" else "processes"
    chart = line_chart(series, f"images/s over {first.gpu}", from_zero=True, x_label=label)
    opening = '<svg xmlns="http://www.w3.org/2000/svg" width="960" height="472" '
    outputs.write(
        path,
        chart.replace("<svg ", opening, 1).replace(">", f"><style>{STYLE}</style>", 1),
        "the chart",
    )


STYLE = """text { font: 10px sans-serif; fill: #555 } .grid { stroke: #ddd } polyline { fill: none; stroke-width: 2 }
.s0 { stroke: #1f6feb } .s1 { stroke: #999; stroke-dasharray: 4 3 }"""
