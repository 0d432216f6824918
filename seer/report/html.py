"""report.html: what a run learned, how it went and what it was, on one page that needs no network."""

import base64
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from seer import __version__, inputs, outputs
from seer.jsonl import Row
from seer.report.diagnosis import SIGNS, in_words
from seer.report.plots import COLOURS, line_chart, number
from seer.report.runfiles import (
    RunFiles,
    at,
    describe_run,
    duration,
    progress,
    read_run,
    where_time_went,
)
from seer.results import shown, title_of
from seer.rundir.names import CROPS, NEIGHBOURS, REPORT

# Metrics that have a chart of their own, or say nothing as a curve.
FAMILIAR = {"step", "loss", "lr", "prototypes_used", "images_per_second", "data_wait", "time_step"}
FAMILIAR |= {"samples", "epoch", "seconds", "seen", "log_prototypes"}
MOST_CHARTS = 100  # of what a method logged besides
MOST_SCORES = 1_000
LONGEST_TEXT = 2_000  # characters of one value


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
        runs = [replace(run, name=str(run.path)) for run in runs]
    outputs.write(out, render(runs), "the report")
    return out


def render(runs: Sequence[RunFiles]) -> str:
    """The page as a text."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    single = runs[0] if len(runs) == 1 else None
    return environment.get_template("page.html.j2").render(
        title=_cut(single.config.get("name") or single.name, 200)
        if single
        else f"{len(runs)} runs compared",
        subtitle=describe_run(single) if single else "",
        progress=progress(single) if single else "",
        remarks=[_cut(remark) for run in runs for remark in run.remarks],
        legend=[(run.name, i % COLOURS, describe_run(run)) for i, run in enumerate(runs)]
        if not single
        else [],
        headlines=headlines(single) if single else [],
        scores=score_groups(runs),
        charts=charts(runs),
        health=[
            (run.name if not single else "", in_words(run.events)) for run in runs if measured(run)
        ],
        signs=signs(runs),
        more=further_charts(runs),
        times=[(run.name, where_time_went(run)) for run in runs if run.metrics],
        pictures=pictures(single) if single else [],
        config=sections(single.config) if single else [],
        environment=sections(single.environment) if single else [],
        version=__version__,
        when=max((run.environment.get("time", "") for run in runs), default="")[:10],
    )


@dataclass
class Headline:
    label: str
    value: str
    note: str = ""


def headlines(run: RunFiles) -> list[Headline]:
    """The numbers that answer first: is it any good, did it learn, how fast, how long."""
    return _score_headlines(run) + (_training_headlines(run) if run.metrics else [])


def _score_headlines(run: RunFiles) -> list[Headline]:
    """Of each task the last measured value, not the best: nothing is chosen by looking at the test
    images.
    """
    found = []
    for task in dict.fromkeys(row["task"] for row in run.results):
        rows = [row for row in run.results if row["task"] == task and is_headline(row)]
        ours = [row for row in rows if kind(row) == "pretrained"]
        if ours:
            same = [
                row
                for row in rows
                if (row["metric"], row["data"]) == (ours[-1]["metric"], ours[-1]["data"])
            ]
            others = [f"{kind(row)} {shown(row)}" for row in same if kind(row) != "pretrained"]
            found.append(
                Headline(_cut(title_of(ours[-1]), 200), shown(ours[-1]), " · ".join(others))
            )
    return found


def is_headline(row: Row) -> bool:
    """Whether a result stands for its task; older ones do not say so."""
    return row.get("headline", row["metric"].startswith("top1"))


def _training_headlines(run: RunFiles) -> list[Headline]:
    losses = run.series("loss").finite().y
    rates = run.series("images_per_second").finite().y
    waiting = dict(where_time_went(run)).get("waiting for data", 0.0)
    epochs = run.last("epoch")
    found = [
        Headline(
            "Images seen",
            number(run.last("samples") or 0.0),
            f"{epochs:.3g} epochs" if epochs else "",
        ),
        Headline("Time", duration(run.last("seconds") or 0.0), _machine(run.environment)),
    ]
    if rates:
        rate = number(statistics.median(rate for rate in rates if rate is not None))
        found.insert(
            0,
            Headline(
                "Images per second", rate, f"{_percent(waiting)} of the time waiting for data"
            ),
        )
    if losses:
        found.insert(0, Headline("Loss", f"{losses[-1]:.3f}", f"from {losses[0]:.3f}"))
    return found


@dataclass
class ScoreRow:
    model: str
    colour: int
    value: str
    interval: str
    share: float
    low: float
    high: float


def score_groups(runs: Sequence[RunFiles]) -> list[tuple[str, str, list[ScoreRow]]]:
    """Results by what was measured: (measure, data, one row a model, best first)."""
    groups: dict[tuple[str, str, str], list[tuple[int, str, Row]]] = {}
    pixels = set()  # the same for every run that measured them
    for i, run in enumerate(runs):
        for row in run.results[-MOST_SCORES:]:
            if kind(row) == "pixels":
                same = (row["task"], row["metric"], row["data"], row["model"], row["value"])
                if same in pixels:
                    continue
                pixels.add(same)
            name = re.sub(
                r" step-0*(\d+)$", lambda match: f", step {int(match[1]):,}", row["model"]
            )
            if len(runs) > 1 and kind(row) != "pixels" and run.name not in name:
                name = f"{run.name}: {name}"
            groups.setdefault((row["task"], row["metric"], row["data"]), []).append((i, name, row))
    table = []
    for (_, _, data), rows in groups.items():
        first = rows[0][2]
        rows.sort(
            key=lambda item: item[2]["value"], reverse=first.get("better", "higher") == "higher"
        )
        largest = (
            1.0
            if first.get("unit", "share") == "share"
            else max(abs(row["high"]) for _, _, row in rows)
        )
        lines = []
        for i, name, row in rows:
            # Class s6: baselines, in grey.
            colour = i % COLOURS if kind(row) == "pretrained" else COLOURS
            interval = (
                f"{shown(row, 'low', with_unit=False)} – {shown(row, 'high', with_unit=False)}"
            )
            bar = [
                min(1.0, max(0.0, row[key] / (largest or 1.0))) for key in ("value", "low", "high")
            ]
            lines.append(ScoreRow(_cut(name, 200), colour, shown(row), interval, *bar))
        table.append((_cut(title_of(first), 200), Path(data).name, lines))
    return table


def kind(row: Row) -> str:
    """`pretrained`, or which baseline a result's model is."""
    if row["model"].startswith("pixels"):
        return "pixels"
    return "untrained" if row["model"].endswith(("untrained", ":random")) else "pretrained"


@dataclass
class Chart:
    title: str
    unit: str
    last: str
    svg: Markup


def charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """Loss, learning rate, prototypes in use and throughput, over steps."""
    chance = _common([run.last("log_prototypes") for run in runs])
    total = _common([_count(at(run.config, "method", "prototypes")) for run in runs])
    ln_k = (chance, "ln K: tells no image from another") if chance else None
    every = (float(total), f"all {total:,}") if total else None
    found = [
        _chart(runs, "loss", "Loss", "running mean", smooth=True, reference=ln_k),
        _chart(runs, "lr", "Learning rate", "", from_zero=True),
        _chart(runs, "prototypes_used", "Prototypes in use", "per batch", from_zero=True, reference=every),
        _chart(runs, "images_per_second", "Throughput", "images per second", from_zero=True, smooth=True),
    ]  # fmt: skip
    return [chart for chart in found if chart]


def signs(runs: Sequence[RunFiles]) -> list[Chart]:
    """Curves of the signs of health that the runs have measured."""
    chance = _common([run.last("log_prototypes") for run in runs])
    flat = (chance, "ln K: all prototypes alike") if chance else None
    found = [
        _chart(
            runs,
            key,
            title,
            unit,
            from_zero=True,
            reference=flat if key == "assignment_entropy" else None,
        )
        for key, (title, unit) in SIGNS.items()
    ]
    return [chart for chart in found if chart]


def measured(run: RunFiles) -> bool:
    """Whether anything is known of a run's health."""
    return bool(run.events) or run.last("effective_rank") is not None


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def further_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """Whatever else the method logged."""
    keys = {
        key: None
        for run in runs
        for row in run.metrics
        for key in row
        if key not in FAMILIAR | SIGNS.keys()
    }
    found = [
        _chart(runs, key, _title(_cut(key, 60)), "", smooth=True)
        for key in list(keys)[:MOST_CHARTS]
    ]
    return [chart for chart in found if chart]


def _chart(
    runs: Sequence[RunFiles], key: str, title: str, unit: str, **options: Any
) -> Chart | None:
    svg = line_chart([run.series(key) for run in runs], title, **options)
    last = runs[0].last(key) if len(runs) == 1 else None
    return (
        Chart(title, unit, number(last) if last is not None else "", Markup(svg)) if svg else None
    )


def pictures(run: RunFiles) -> list[tuple[str, str, str]]:
    """(title, caption, data URI) of the pictures that the run has."""
    captions = {
        CROPS: (
            "Crops",
            "What the method is shown: one image and random crops of it, altered as configured.",
        ),
        NEIGHBOURS: (
            "Nearest neighbours",
            "Left: images not seen in training. Right of each: the five training images whose features are nearest; "
            "green where the label agrees, red where it does not.",
        ),
    }
    return [
        (*captions[name], "data:image/png;base64," + base64.b64encode(picture).decode())
        for name, picture in run.pictures.items()
    ]


def sections(values: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A nested dict as titled lists: its own scalars first, then each inner dict with dotted keys."""
    plain = [(key, _text(value)) for key, value in values.items() if not isinstance(value, dict)]
    inner = [
        (key, _flat(value)) for key, value in values.items() if isinstance(value, dict) and value
    ]
    return [("", plain), *inner] if values else []


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, value in values.items():
        pairs += (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else [(f"{prefix}{key}", _text(value))]
        )
    return pairs


def _text(value: Any) -> str:
    if isinstance(value, list):
        return _cut(", ".join(map(_text, value))) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value in (None, "") else _cut(str(value))


def _cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text that may be of any length, as a page can show it."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"


def _count(value: Any) -> int | None:
    """A count, where a configuration has one in this place."""
    return value if type(value) is int and 0 < value < 2**53 else None


def _common(values: list[Any]) -> Any:
    """The value that all share, or None."""
    return values[0] if all(value == values[0] for value in values) else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _machine(environment: dict[str, Any]) -> str:
    """`8 × NVIDIA A100`, or `2 CPU cores`."""
    gpus = environment.get("gpus")
    if gpus:
        return f"{environment.get('processes', 1)} × {gpus[0]}"
    cores = environment.get("cores")
    return f"{cores} CPU cores" if cores else ""
