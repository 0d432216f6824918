"""`seer quickstart`: from a bare install to a report, by running only the commands that a user
would run.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seer.distributed import pick_device
from seer.errors import InputError
from seer.eval.tasks import TASKS
from seer.outputs import check_folder_writable
from seer.quickstart.pictures import write_few, write_quickstart
from seer.results import read_results
from seer.rundir.names import CONFIG, REPORT, RESULTS
from seer.rundir.rundir import RunDir

Say = Callable[..., None]
Verb = Callable[..., None]

PROBE_STEPS = 12
MINUTES = {"cpu": 4.0, "cuda": 1.0}  # of pretraining
# Of each photograph's training patches. With labels for all of them colours alone would do, which an
# untrained network keeps and crops of altered colours teach to leave aside.
LABELLED = 10


def quickstart(out: Path, minutes: float | None, say: Say, verb: Verb) -> dict[str, Any]:
    """Write the sample images under `out`, then build, pretrain on all of them without labels,
    evaluate with labels for a few, and report.

    Args:
        out: a new or an earlier quickstart's folder; what is already there is continued.
        minutes: how long the pretraining may take, None for `MINUTES`; its number of steps follows from a short
            measured run.
        say, verb: print lines; show a command as a user would type it, word by word, and run it.

    Returns:
        `{"report": path, "scores": {metric: {"pretrained": value, "untrained": value, "gain": difference}},
        "seconds": total}`, in percent.
    """
    began = time.perf_counter()
    check_folder_writable(out, "--out")
    if out.exists() and any(out.iterdir()) and not (out / "images").is_dir():
        raise InputError(
            f"{out}: not empty and not an earlier quickstart; choose another folder with --out"
        )
    images = out / "images"
    labelled = out / "labelled"
    for folder in (images, labelled):
        for split in ("train", "test"):
            check_folder_writable(folder / split, "--out")
    shards = out / "shards"
    run = out / "run"
    results = out / "run" / RESULTS

    counts = write_quickstart(images)
    few = write_few(images, labelled, LABELLED)
    say(
        f"Photographs from scikit-image and scikit-learn, cut into {counts['train']:,} patches without labels,",
        f"{few['train']} of them with labels, too, and {few['test']} of other parts of each to test",
    )

    verb("shards", "build", str(images / "train"), "--out", str(shards))
    minutes = minutes or MINUTES[pick_device("auto").type]
    steps = steps_of(run) or steps_within(minutes, shards, out / "probe", verb)
    length = [f"steps={steps}", f"schedule.warmup={steps // 20}"]
    verb("pretrain", "quickstart", f"data={shards}", f"run_dir={run}", *length)
    if results.exists():
        results.unlink()  # a repeated quickstart measures again, rather than adding the same rows
    for task in (name for name, task in TASKS.items() if task.quick):
        for model in (str(run), f"{run}:random"):
            verb("eval", task, "--model", model, "--data", str(labelled), "--out", str(results))
    verb("report", str(run))

    scores = compare(results)
    say("", f"with {LABELLED} labels a photograph, %", *table(results))
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
    scores = {}
    for name, (pretrained, untrained) in pairs(results).items():
        values = {
            "pretrained": 100 * pretrained["value"],
            "untrained": 100 * untrained["value"],
        }
        scores[name] = values | {"gain": values["pretrained"] - values["untrained"]}
    return scores


def table(results: Path) -> list[str]:
    """The same in lines of text, with the intervals."""
    lines = [f"{'':18}{'gain':>7}  {'pretrained':>20}  {'untrained':>20}"]
    for name, (pretrained, untrained) in pairs(results).items():
        gain = 100 * (pretrained["value"] - untrained["value"])
        both = "  ".join(
            f"{100 * row['value']:5.1f} [{100 * row['low']:5.1f}, {100 * row['high']:5.1f}]"
            for row in (pretrained, untrained)
        )
        lines.append(f"{name:18}{gain:>+7.1f}  {both}")
    return lines


def pairs(results: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of each score the row of the pretrained run and that of the network untrained."""
    rows: dict[str, dict[bool, dict[str, Any]]] = {}
    for row in read_results(results):
        is_untrained = row["model"].endswith(" untrained")
        rows.setdefault(f"{row['task']} {row['metric']}", {})[is_untrained] = row
    return {name: (both[False], both[True]) for name, both in rows.items() if len(both) == 2}
