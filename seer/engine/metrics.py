"""What a run tells: metrics.jsonl, TensorBoard, seer.log, the console, and what it ran on
(environment.json).
"""

import json
import logging
import math
import os
import platform
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from torch import Tensor

from seer import __version__, files, jsonl
from seer.data.ledger import over_ranks
from seer.distributed import World, all_reduce_mean
from seer.engine.options import LogConfig
from seer.errors import InputError
from seer.hardware import usable_cores
from seer.rundir.kinds import finite, metric_row
from seer.rundir.names import ENVIRONMENT, LOG, METRICS, TENSORBOARD, check_written
from seer.rundir.rundir import read_plan

logger = logging.getLogger("seer")

# Steps of a process after each of which its pace is measured anew.
WARM_UPS = (1, 10)

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "webdataset",
    "simplejpeg",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
)


@contextmanager
def log_file(run_dir: Path) -> Iterator[None]:
    """While entered, what seer logs goes to RUN/seer.log, and warnings to stderr, too."""
    check_written(run_dir)
    # A log takes every name; what a terminal makes of it is the terminal's.
    file = logging.FileHandler(run_dir / LOG, encoding="utf-8", errors="backslashreplace")
    warnings = logging.StreamHandler()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    warnings.setLevel(logging.WARNING)
    for handler in (file, warnings):
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in (file, warnings):
            logger.removeHandler(handler)
            handler.close()


class RunLog:
    """The log of one run: call `step` after every step on every rank; rank 0 writes.

    A continued run (`start` > 0 finished steps) drops the rows after `start` that a killed process
    had still written, so that each step appears once.
    """

    def __init__(
        self, run_dir: Path, config: LogConfig, world: World, total_steps: int, start: int = 0
    ):
        self.config = config
        self.world = world
        self.total = total_steps
        self.path = Path(run_dir) / METRICS
        self._waited = self._busy = 0.0
        self._work: dict[str, float] = {}
        self._seconds_before = 0.0
        self._samples = -1.0
        self._writer: Any = None
        self._planned: dict[str, float] = {}
        self._unplanned = ""  # why the plan could not be read, once it was told
        self._console = _Console(total_steps, start) if world.is_main else None
        if world.is_main:
            self._open(Path(run_dir), start)
        self._began = self._window = time.perf_counter()

    def _open(self, run_dir: Path, start: int) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._seconds_before = finite(continue_metrics(run_dir, start).get("seconds"))
        if self.config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(run_dir / TENSORBOARD), purge_step=start + 1 if start else None
            )
        logger.info("continued after step %d" if start else "started (%d steps done)", start)

    def due(self, step: int) -> bool:
        """Whether the row of `step` (1-based, finished) is logged: a function of the step alone, as
        resuming needs.
        """
        return step == 1 or step == self.total or step % self.config.every == 0

    def step(
        self,
        step: int,
        metrics: Mapping[str, Tensor],
        place: Mapping[str, float],
        seen: int,
        waited: float,
        seconds: float,
        work: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, float]:
        """Record a finished step; between logged steps this costs two additions, and no rank waits
        for another.

        Returns:
            What was logged of `metrics` and of the timers, the same on all ranks; {} for a step that is not logged.

        Args:
            step: steps finished, from 1.
            metrics: scalar tensors of this rank, `loss` among them; logged as their mean over ranks.
            place: numbers that all ranks share, such as `samples` (consumed so far), `lr` and `epoch`.
            seen: fingerprint of this rank's samples so far (`ledger.fingerprint`); logged as the sum over ranks.
            waited: seconds spent waiting for this step's data.
            seconds: seconds spent on the step itself.
            work: seconds that parts of making the batch took, by name, the same names at every step; `time_NAME` in the
                log, like `time_step` a share of the time that passed (above 1 where several workers are at it).
        """
        self._waited += waited
        self._busy += seconds
        for part, taken in work.items():
            self._work[part] = self._work.get(part, 0.0) + taken
        if (
            self._samples < 0
        ):  # a continued run's first window starts here, not at its last logged row
            self._samples = place.get("samples", 0) * (step - 1) / step
        values: dict[str, float] = {}
        if self.due(step):
            values = self._reduce(metrics)
            total = over_ranks(seen, self.world.device)
            if self.world.is_main:
                self._write(step, {**values, "seen": total}, place)
            self._waited = self._busy = 0.0
            self._work.clear()
        if self._console:
            self._console.advance(step)
        return values

    def close(self) -> None:
        """Flush and release everything; the log may not be used afterwards. A second call does
        nothing.
        """
        if self._console is None:
            return
        self._console.close()
        if self._writer:
            self._writer.close()
        self._console = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _reduce(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over ranks of the metrics and of all timers, in one collective and one copy to the
        host.
        """
        names = sorted(metrics)
        now = time.perf_counter()
        elapsed = max(now - self._window, 1e-9)
        self._window = now
        parts_of_work = sorted(self._work)
        timers = [
            self._waited / elapsed,
            self._busy / elapsed,
            elapsed,
            *(self._work[p] / elapsed for p in parts_of_work),
        ]
        device = next(
            (v.device for v in metrics.values() if isinstance(v, Tensor)), torch.device("cpu")
        )
        parts = [
            torch.as_tensor(metrics[n], device=device).detach().double().reshape(()) for n in names
        ]
        vector = torch.cat(
            [torch.stack(parts), torch.tensor(timers, dtype=torch.float64, device=device)]
        )
        keys = [
            *names,
            "data_wait",
            "time_step",
            "elapsed",
            *(f"time_{part}" for part in parts_of_work),
        ]
        return dict(zip(keys, all_reduce_mean(vector).tolist(), strict=True))

    def _write(self, step: int, values: dict[str, float], place: Mapping[str, float]) -> None:
        samples = place.get("samples", 0)
        elapsed = values.pop("elapsed")
        row = {
            "step": step,
            "loss": values.pop("loss"),
            **place,
            "images_per_second": (samples - self._samples) / elapsed,
        }
        row |= {"seconds": self._seconds_before + time.perf_counter() - self._began, **values}
        self._planned = self._planned or self._read_plan()
        row |= {"memory_gib": memory(self.world.device) / 2**30, **self._planned}
        self._samples = samples
        # JSON knows no NaN.
        jsonl.append(self.path, [{k: v if math.isfinite(v) else None for k, v in row.items()}])
        if self._writer:
            for name in row.keys() - {"step", "seen"}:
                self._writer.add_scalar(name, row[name], step)
        assert self._console
        logger.info("%s", self._console.show(row))

    def _read_plan(self) -> dict[str, float]:
        """What was planned; {} while there is no plan that can be read, which is told once."""
        try:
            return planned(self.path.parent)
        except FileNotFoundError:
            return {}
        except InputError as error:
            if not self._unplanned:
                self._unplanned = str(error)
                logger.warning(
                    "%s; until it is mended, the metrics go without what was planned", error
                )
            return {}


def continue_metrics(run_dir: Path, start: int) -> jsonl.Row:
    """Leave in metrics.jsonl the rows until step `start`, and return the last; {} where there is
    none.

    A file with rows that are not readable is kept beside.
    """
    path = run_dir / METRICS
    unread = jsonl.Unread(METRICS)
    rows = [row for row in jsonl.read(path, metric_row, unread) if row["step"] <= start]
    if unread.rows:
        kept = path.with_name(f"{METRICS}.until-{start}")
        shutil.copyfile(path, kept)
        logger.warning("%s; all of it is kept in %s, the run goes on without these", unread, kept)
    jsonl.write(path, rows)
    return rows[-1] if rows else {}


def planned(run_dir: Path) -> dict[str, float]:
    """What RUN/plan.json, which `seer plan --json` writes, predicts of a run's metrics. Raises as
    `read_plan` does.
    """
    plan = read_plan(run_dir)
    memory_gib = sum(plan["memory_gib"].values())
    return {
        "planned_images_per_second": plan["chosen"]["images_per_second"],
        "planned_memory_gib": memory_gib,
    }


def memory(device: torch.device) -> int:
    """The most bytes that this process has had on `device` at once: on a GPU tensors, on CPUs all
    that is resident.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Console:
    """A progress bar on a terminal; in a log, a plain line for every logged step, at most one a
    second.

    Time left is told from the steps after the first, and after `WARM_UPS`' last from those after
    it: the first steps of a process pay for memory, kernels, compiled code and workers.
    """

    def __init__(self, total: int, start: int):
        self.total = total
        self.start = start
        self.measured_from = start
        self.began = time.perf_counter()
        self.rows = 0
        self.last_line = 0.0
        console = Console(stderr=True)
        columns = (
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[row]}"),
        )
        self.bar = (
            Progress(TextColumn("pretraining"), *columns, console=console)
            if console.is_terminal
            else None
        )
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("", total=total, completed=start, row="")

    def advance(self, step: int) -> None:
        if step - self.start in WARM_UPS:
            self.measured_from = step
            self.began = time.perf_counter()
        if self.bar:
            self.bar.update(self.task, completed=step)

    def show(self, row: Mapping[str, Any]) -> str:
        """Show a logged row; returns it as the line that goes to seer.log."""
        step = int(row["step"])
        self.rows += 1
        text = f"loss {row['loss']:.4f} · {self._pace(step, row)}"
        line = f"step {step}/{self.total} · {text}"
        if self.bar:
            self.bar.update(self.task, completed=step, row=text)
        elif step in (1, self.total) or time.perf_counter() - self.last_line >= 1:
            self.last_line = time.perf_counter()
            print(line, file=sys.stderr, flush=True)
        return line

    def _pace(self, step: int, row: Mapping[str, Any]) -> str:
        seconds = time.perf_counter() - self.began
        if step - self.start == 1:
            return f"first step {seconds:.1f} s"
        per_step = seconds / (step - self.measured_from)
        left = timedelta(seconds=round(per_step * (self.total - step)))
        rate = row["images_per_second"]
        if self.rows == 1 and row.get("samples"):  # the row's own rate has the first step in it
            rate = row["samples"] / step / per_step
        waiting = f"waiting for data {100 * row['data_wait']:.0f} %"
        return f"{rate:.0f} images/s · {waiting} · {left} left"

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def write_environment(run_dir: Path) -> None:
    """Write environment.json: versions, machine and command. Credentials cannot get in: only
    SLURM_* is copied.
    """
    files.write(Path(run_dir) / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    """What this process runs on and with."""
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "seer": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "cuda": torch.version.cuda if gpus else None,
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "slurm": {
            k: os.environ[k] for k in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST") if k in os.environ
        },
    }


def cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
