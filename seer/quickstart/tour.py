"""`seer demo` and `seer quickstart`: from a bare install to a picture and to a report, by running
only the commands that a user would run.

Both begin with the same short run, which is there in half a minute; the quickstart takes from it how
fast this machine is, and goes on with a longer one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer.distributed import pick_device
from seer.errors import InputError
from seer.eval.probes.neighbours import GAP, SIDE
from seer.eval.tasks import TASKS
from seer.outputs import check_folder_writable
from seer.quickstart.pictures import write_few, write_quickstart
from seer.results import read_results
from seer.rundir.names import CONFIG, IMAGES, NEIGHBOURS, REPORT, RESULTS
from seer.rundir.rundir import RunDir

Verb = Callable[..., None]

SHORT_STEPS = 30
MINUTES = {"cpu": 4.0, "cuda": 1.0}  # of pretraining
# On a machine that is busy, minutes are not enough: a linear probe gains later than neighbours do.
FEWEST_STEPS = 160
# Of each photograph's training patches. With labels for all of them colours alone would do, which an
# untrained network keeps and crops of altered colours teach to leave aside.
LABELLED = 10
# Of the picture of neighbours: rows of different photographs.
ROWS = (0, 2, 4)
BANDS = [(row * (SIDE + GAP), row * (SIDE + GAP) + SIDE) for row in ROWS]
OPTIONS = {"knn": [f"k=[{LABELLED}]"]}  # more neighbours than a photograph has would be of others


@dataclass
class Terminal:
    """What a tour is told and shown with.

    Attributes:
        say: prints lines.
        verb: shows a command as a user would type it, word by word, and runs it.
        show: shows bands of a picture where the terminal can, and returns whether it could.
    """

    say: Callable[..., None]
    verb: Verb
    show: Callable[[Path, list[tuple[int, int]]], bool]


def demo(out: Path, seed: int, terminal: Terminal) -> dict[str, Any]:
    """Write the sample images under `out`, then build, pretrain for `SHORT_STEPS`, and show the
    neighbours that the run finds for patches that it has not seen.

    Args:
        out: a new folder, or one of an earlier demo or quickstart; what is already there is continued.
        seed: of the pretraining, and of the network untrained.

    Returns:
        `{"report": path, "scores": {metric: {"pretrained": value, "untrained": value, "gain": difference}},
        "seconds": total}`, in percent.
    """
    began = time.perf_counter()
    prepare(out, terminal)
    scores = first_results(out, seed, terminal)
    report = (out / "first" / REPORT).resolve()
    seconds = time.perf_counter() - began
    terminal.say("", f"{seconds:.0f} seconds. Report: {report}")
    return {"report": str(report), "scores": scores, "seconds": seconds}


def quickstart(out: Path, minutes: float | None, seed: int, terminal: Terminal) -> dict[str, Any]:
    """The demo, then a longer run, which is evaluated by every quick task.

    Args:
        out, seed: as those of `demo`.
        minutes: how long the pretraining may take, None for `MINUTES`; its number of steps follows from the
            speed of the demo's run.

    Returns:
        As `demo`, of the longer run, and `"first_seconds"`: when the demo's results were there.
    """
    began = time.perf_counter()
    prepare(out, terminal)
    first_results(out, seed, terminal)
    first_seconds = time.perf_counter() - began
    terminal.say("", f"first results after {first_seconds:.0f} seconds; now the longer run")

    run = out / "run"
    minutes = minutes or MINUTES[pick_device("auto").type]
    steps = steps_of(run) or steps_within(minutes, out / "first")
    pretrain(out, run, steps, seed, terminal)
    measure(out, run, [name for name, task in TASKS.items() if task.quick], terminal)

    seconds = time.perf_counter() - began
    report = (run / REPORT).resolve()
    terminal.say("", f"{seconds / 60:.1f} minutes. Report: {report}")
    return {
        "report": str(report),
        "scores": compare(run / RESULTS),
        "seconds": seconds,
        "first_seconds": first_seconds,
    }


def prepare(out: Path, terminal: Terminal) -> None:
    """Write images and shards, unless `out` is somebody else's folder, which is told."""
    check_folder_writable(out, "--out")
    images = out / "images"
    labelled = out / "labelled"
    if out.exists() and any(out.iterdir()) and not images.is_dir():
        raise InputError(
            f"{out}: not empty and not an earlier quickstart; choose another folder with --out"
        )
    for folder in (images, labelled):
        for split in ("train", "test"):
            check_folder_writable(folder / split, "--out")

    counts = write_quickstart(images)
    few = write_few(images, labelled, LABELLED)
    terminal.say(
        f"Photographs from scikit-image and scikit-learn, cut into {counts['train']:,} patches without labels,",
        f"{few['train']} of them with labels, too, and {few['test']} of other parts of each to test",
    )
    terminal.verb("shards", "build", str(images / "train"), "--out", str(out / "shards"))


def first_results(out: Path, seed: int, terminal: Terminal) -> dict[str, dict[str, float]]:
    """Train for `SHORT_STEPS`, show what is nearest to what, and return the scores."""
    run = out / "first"
    pretrain(out, run, SHORT_STEPS, seed, terminal, "log.every=5")
    measure(out, run, ["knn"], terminal)
    if terminal.show(run / IMAGES / NEIGHBOURS, BANDS):
        terminal.say(
            "left: patches that training has not seen; right: the five nearest labelled ones",
            "green: of the same photograph; red: of another",
        )
    return compare(run / RESULTS)


def pretrain(
    out: Path, run: Path, steps: int, seed: int, terminal: Terminal, *overrides: str
) -> None:
    length = [f"steps={steps}", f"schedule.warmup={steps // 20}"]
    which = [f"seed={seed}"] if seed else []
    paths = [f"data={out / 'shards'}", f"run_dir={run}"]
    terminal.verb("pretrain", "quickstart", *paths, *length, *which, *overrides)


def measure(out: Path, run: Path, tasks: list[str], terminal: Terminal) -> None:
    """Evaluate a run and the same network untrained with few labels, and report."""
    results = run / RESULTS
    if results.exists():
        results.unlink()  # a repeated tour measures again, rather than adding the same rows
    for task in tasks:
        for model in (str(run), f"{run}:random"):
            words = ["--model", model, "--data", str(out / "labelled"), "--out", str(results)]
            terminal.verb("eval", task, *words, *OPTIONS.get(task, []))
    terminal.verb("report", str(run))
    terminal.say("", f"with {LABELLED} labels a photograph, %", *table(results))


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


def steps_within(minutes: float, short_run: Path) -> int:
    """How many steps of the recipe fit into `minutes` on this machine, by a short run's speed."""
    rows = RunDir(short_run).metrics()
    if not rows:
        raise InputError(f"{short_run}: the run left no metrics to tell the time from; remove it")
    steady = rows[len(rows) // 2 :]  # the first steps pay for warming up
    rate = sum(row["images_per_second"] for row in steady) / len(steady)
    batch = rows[0]["samples"] / rows[0]["step"]
    return max(FEWEST_STEPS, round(minutes * 60 * rate / batch))


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
