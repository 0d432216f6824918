"""report.html: what a run learned, how it went and what it was, on one page that needs no network."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seer import __version__, inputs, outputs
from seer.eval.curves import REMEDY, below_pixels, curves
from seer.report.changes import changes, cut, differing, partial, sections
from seer.report.charts import (
    further_charts,
    precision_charts,
    sign_charts,
    training_charts,
)
from seer.report.diagnosis import JUDGED, alarms, in_words
from seer.report.gallery import linked, pictures
from seer.report.plots import number, style_of
from seer.report.runfiles import (
    RunFiles,
    describe_run,
    duration,
    progress,
    read_run,
    tails,
    where_time_went,
)
from seer.report.scoreboard import boards
from seer.report.scorecurves import score_charts
from seer.report.verdict import against_beginning, against_first, baseline, standing
from seer.results import shown, title_of
from seer.rundir.names import REPORT
from seer.templates import template

LONGEST_NAME = 200  # characters
LONGEST_REMARK = 2_000
MOST_TILES = 12
PATH_PARTS = 4  # of a run's path that are shown, from its end


def write_report(run_dir: Path | str) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        InputError: not a run directory, or one that cannot be written to.
    """
    run = read_run(run_dir)
    return write_page([run], inputs.inside(run.path, REPORT))


def write_comparison(run_dirs: Sequence[Path | str], out: Path | str) -> Path:
    """Write one page over several runs, their curves in the same charts, to `out`."""
    return write_page([read_run(path) for path in run_dirs], Path(out))


def write_page(runs: Sequence[RunFiles], out: Path) -> Path:
    """Write the page over one run or several, and return its path."""
    if len({run.name for run in runs}) < len(runs):
        names = tails(str(run.path.absolute()) for run in runs)
        runs = [replace(run, name=names[str(run.path.absolute())]) for run in runs]
    outputs.write(out, render(runs, out.parent), "the report")
    return out


def render(runs: Sequence[RunFiles], folder: Path | None = None) -> str:
    """The page as a text; `folder` is where it will lie, from which pictures are linked."""
    page = template(Path(__file__).parent, "page.html.j2")
    shown = _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)
    return page.render(_of_all(runs) | shown | {"linked": linked(runs, folder) if folder else []})


def _of_all(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """What the page shows of one run as of several."""
    scores = boards(runs)
    return {
        "remarks": [cut(remark, LONGEST_REMARK) for run in runs for remark in run.remarks],
        "boards": scores,
        "curves": score_charts(runs),
        "charts": training_charts(runs) + precision_charts(runs),
        "health": _healths(runs),
        "signs": sign_charts(runs),
        "more": further_charts(runs),
        "times": [(_cut(run.name), style_of(i), times(run)) for i, run in enumerate(runs)],
        "version": __version__,
        "when": max((run.environment.get("time", "") for run in runs), default="")[:10],
    }


def _of_one(run: RunFiles) -> dict[str, Any]:
    return {
        "title": _cut(run.name),
        "place": "/".join(run.path.resolve().parts[-PATH_PARTS:]),
        "subtitle": describe_run(run),
        "progress": progress(run),
        "verdict": against_beginning(run),
        "alarms": alarms(run.events) + [what for what, _ in below(run)],
        "headlines": headlines(run),
        "pictures": pictures(run),
        "changes": changes(run),
        "config": sections(run.config),
        "environment": sections(run.environment),
    }


def _of_several(runs: Sequence[RunFiles]) -> dict[str, Any]:
    return {
        "title": f"{len(runs)} runs compared",
        "legend": [(_cut(run.name), style_of(i), _about(run)) for i, run in enumerate(runs)],
        "verdict": against_first(runs),
        "differing": differing(runs),
        "partial": partial(runs),
    }


def _about(run: RunFiles) -> str:
    """What a run is, how far, and what it is worth by itself, in one line."""
    worth = [*alarms(run.events), *(what for what, _ in below(run)), against_beginning(run).title]
    words = [f"{word[0].lower()}{word[1:]}" for word in worth]
    parts = (describe_run(run), progress(run), *words)
    return " · ".join(filter(None, parts))


def _healths(runs: Sequence[RunFiles]) -> list[tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """`(runs by name and style, their health)`: runs of which the same is to be said together."""
    groups: dict[tuple[tuple[str, str], ...], list[tuple[str, str]]] = {}
    for place, run in enumerate(runs):
        groups.setdefault(tuple(health(run)), []).append((_cut(run.name), style_of(place)))
    return [(names, list(told)) for told, names in groups.items()]


def health(run: RunFiles) -> list[tuple[str, str]]:
    """A run's health in words; of a run that measured nothing, so much."""
    if not run.events and not any(run.last(sign) is not None for sign in JUDGED):
        nothing = "the metrics hold nothing that a collapse could be told by."
        return [*below(run), ("Not measured", nothing)]
    return below(run) + in_words(run.events, run.config, run.metrics)


def below(run: RunFiles) -> list[tuple[str, str]]:
    """Which of a run's newest scores are worse than raw pixels': (what, by how much and what helps)."""
    told = []
    for curve in curves(run.scores):
        if warning := below_pixels(curve.newest, run.config.get("steps")):
            what = f"{_cut(curve.title)}: below raw pixels at step {curve.newest['step']:,}"
            told.append((what, f"{warning}. What helps: {REMEDY}."))
    return told


@dataclass
class Headline:
    label: str
    value: str
    note: str = ""


def headlines(run: RunFiles) -> list[Headline]:
    """The numbers that answer first: is it any good, did it learn, how fast, how long."""
    return _score_headlines(run) + (_training_headlines(run) if run.metrics else [])


def _score_headlines(run: RunFiles) -> list[Headline]:
    tiles = []
    for row in standing(run)[:MOST_TILES]:
        beside = [(which, baseline(run, row, which)) for which in ("init", "untrained", "pixels")]
        notes = [f"{which} {shown(other)}" for which, other in beside if other]
        tiles.append(Headline(_cut(title_of(row)), shown(row), " · ".join(notes)))
    return tiles


def _training_headlines(run: RunFiles) -> list[Headline]:
    losses = run.series("loss").y
    rates = [rate for rate in run.series("images_per_second").y if rate is not None]
    waiting = dict(where_time_went(run)).get("waiting for data", 0.0)
    epochs = run.last("epoch")
    tiles = []
    if losses:
        tiles.append(Headline("Loss", f"{losses[-1]:.3f}", f"from {losses[0]:.3f}"))
    if rates:
        note = f"{100 * waiting:.1f} % of the time waiting for data"
        tiles.append(Headline("Images per second", number(statistics.median(rates)), note))
    seen = number(run.last("samples") or 0.0)
    tiles.append(Headline("Images seen", seen, f"{epochs:.3g} epochs" if epochs else ""))
    taken = duration(run.last("seconds") or 0.0)
    tiles.append(Headline("Time", taken, _machine(run.environment)))
    return tiles


def times(run: RunFiles) -> list[tuple[str, float]]:
    """Shares of the logged time; none where no time was logged."""
    return where_time_went(run) if run.metrics else []


def _cut(text: str) -> str:
    return cut(text, LONGEST_NAME)


def _machine(environment: dict[str, Any]) -> str:
    """`8 × NVIDIA A100`, or `2 CPU cores`."""
    gpus = environment.get("gpus")
    if gpus:
        return f"{environment.get('processes', 1)} × {gpus[0]}"
    cores = environment.get("cores")
    return f"{cores} CPU cores" if cores else ""
