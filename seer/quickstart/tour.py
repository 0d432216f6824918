"""`seer quickstart`: from a bare install to a report, by running only the commands that a user
would run.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seer.errors import InputError
from seer.eval.tasks import TASKS
from seer.outputs import check_folder_writable
from seer.quickstart.pictures import write_quickstart
from seer.results import read_results
from seer.rundir.names import CONFIG, REPORT, RESULTS
from seer.rundir.rundir import RunDir

Say = Callable[..., None]
Verb = Callable[..., None]

PROBE_STEPS = 12


def quickstart(out: Path, minutes: float, say: Say, verb: Verb) -> dict[str, Any]:
    """Write the sample images under `out`, then build, pretrain, evaluate and report.

    Args:
        out: a new or an earlier quickstart's folder; what is already there is continued.
        minutes: how long the pretraining may take; its number of steps follows from a short measured run.
        say, verb: print lines; show a command as a user would type it, word by word, and run it.

    Returns:
        `{"report": path, "scores": {metric: {"pretrained": value, "untrained": value}}, "seconds": total}`.
    """
    began = time.perf_counter()
    check_folder_writable(out, "--out")
    if out.exists() and any(out.iterdir()) and not (out / "images").is_dir():
        raise InputError(
            f"{out}: not empty and not an earlier quickstart; choose another folder with --out"
        )
    images = out / "images"
    shards = out / "shards"
    run = out / "run"
    results = out / "run" / RESULTS

    say(
        "Photographs from scikit-image and scikit-learn, cut into patches (test patches from other parts of each):"
    )
    counts = write_quickstart(images)
    say("  " + ", ".join(f"{count} {split}" for split, count in counts.items()))

    verb("shards", "build", str(images / "train"), "--out", str(shards))
    steps = steps_of(run) or steps_within(minutes, shards, out / "probe", verb)
    length = [f"steps={steps}", f"schedule.warmup={steps // 20}"]
    verb("pretrain", "quickstart", f"data={shards}", f"run_dir={run}", *length)
    if results.exists():
        results.unlink()  # a repeated quickstart measures again, rather than adding the same rows
    for task in (name for name, task in TASKS.items() if task.quick):
        for model in (str(run), f"{run}:random"):
            verb("eval", task, "--model", model, "--data", str(images), "--out", str(results))
    verb("report", str(run))

    scores = compare(results)
    say("", f"{'':24}{'pretrained':>12}{'untrained':>12}")
    say(
        *(
            f"{name:24}{s['pretrained']:>11.1f}%{s['untrained']:>11.1f}%"
            for name, s in scores.items()
        )
    )
    seconds = time.perf_counter() - began
    say("", f"{seconds / 60:.1f} minutes. Report: {(run / REPORT).resolve()}")
    return {"report": str((run / REPORT).resolve()), "scores": scores, "seconds": seconds}


def steps_of(run: Path) -> int | None:
    """The number of steps that an earlier quickstart chose for `run`, if there was one."""
    from seer.config import read  # here: slow to import

    path = run / CONFIG
    if not path.is_file():
        return None
    steps = read(path).get("steps")
    if not isinstance(steps, int):
        raise InputError(f"{path}: not of an earlier quickstart, it has no steps; remove {run}")
    return steps


def steps_within(minutes: float, shards: Path, probe: Path, verb: Verb) -> int:
    """How many steps of the recipe fit into `minutes` on this machine, by running a few."""
    length = [f"steps={PROBE_STEPS}", "schedule.warmup=0", "log.every=1"]
    verb("pretrain", "quickstart", f"data={shards}", f"run_dir={probe}", *length)
    rows = RunDir(probe).metrics()
    if not rows:
        raise InputError(f"{probe}: the run left no metrics to tell the time from; remove it")
    steady = rows[len(rows) // 2 :]  # the first steps pay for warming up
    rate = sum(row["images_per_second"] for row in steady) / len(steady)
    batch = rows[0]["samples"] / rows[0]["step"]
    return max(20, round(minutes * 60 * rate / batch))


def compare(results: Path) -> dict[str, dict[str, float]]:
    """The scores in percent: of the pretrained run beside the same network untrained."""
    scores: dict[str, dict[str, float]] = {}
    for row in read_results(results):
        who = "untrained" if row["model"].endswith(" untrained") else "pretrained"
        scores.setdefault(f"{row['task']} {row['metric']}", {})[who] = 100 * row["value"]
    return {name: both for name, both in scores.items() if len(both) == 2}
