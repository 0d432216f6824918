"""The curves of one run or several, each with what bounds it: the most that a batch allows, and the
thresholds by which health is judged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from seer.report.diagnosis import JUDGED, SIGNS, judged_from
from seer.report.plots import Mark, Series, line_chart, number
from seer.report.runfiles import RunFiles, at, common, count_at, number_at
from seer.rundir.thresholds import (
    FLATTEST,
    LEAST_PERPLEXITY,
    LEAST_RANK,
    LEAST_SPREAD,
    MOST_UNEQUAL,
)

# Metrics that have a chart of their own, or say nothing as a curve.
FAMILIAR = {"step", "loss", "lr", "prototypes_used", "images_per_second", "data_wait", "time_step"}
FAMILIAR |= {"samples", "epoch", "seconds", "seen", "log_prototypes"}
MOST_CHARTS = 100  # of what a method logged besides
LONGEST_NAME = 60
PERCENTS = range(101)
WIDEST = 512  # dimensions of embeddings that a rank is taken of


@dataclass
class Chart:
    """A chart of the page.

    Attributes:
        last: the newest value of a single run.
        note: what is to be known besides: runs that did not measure it, curves that are not comparable.
    """

    title: str
    unit: str
    last: str
    svg: Markup
    note: str = ""


def training_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """Loss, learning rate, prototypes in use and throughput, over steps. Rates of several runs may
    lie powers of ten apart, so their axis is logarithmic.
    """
    several = len(runs) > 1
    charts = [
        *_losses(runs),
        _chart(runs, "lr", "Learning rate", from_zero=not several, log=several),
        _chart(runs, "prototypes_used", "Prototypes in use", "per batch", from_zero=True, marks=_most_prototypes(runs)),
        _chart(runs, "images_per_second", "Throughput", "images per second", from_zero=True, smooth=True),
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def sign_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """Curves of the signs of health that the runs have measured, with their thresholds."""
    thresholds = _thresholds(runs)
    charts = []
    for key, (title, unit) in SIGNS.items():
        unit += _at_most(runs) if key == "effective_rank" else ""
        marks = thresholds.get(key, [])
        charts.append(_chart(runs, key, title, unit, from_zero=True, marks=marks))
    return [chart for chart in charts if chart]


def precision_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """How precise detectors are by how much of what there is they find, for each measure."""
    charts = []
    for name in dict.fromkeys(name for run in runs for name in run.precision):
        curves = [Series(run.name, PERCENTS, run.precision.get(name, [])) for run in runs]
        shown = [curve if curve.y else Series(curve.name, [], []) for curve in curves]
        means = [sum(curve.y) / len(curve.y) for curve in curves if curve.y]  # type: ignore[arg-type]
        words = ", ".join(f"{mean:.1%} on average" for mean in means)
        title = f"Precision, {name}"
        svg = line_chart(shown, f"{title}: {words}", from_zero=True, x_label="recall in %")
        last = f"{means[0]:.1%}" if len(runs) == 1 else ""
        charts.append(Chart(title, "by recall, mean of the classes", last, Markup(svg)))
    return charts


def further_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """Whatever else the methods logged."""
    keys = {key: None for run in runs for row in run.metrics for key in row}
    others = [key for key in keys if key not in FAMILIAR | SIGNS.keys()]
    charts = [_chart(runs, key, *_title(key), smooth=True) for key in others[:MOST_CHARTS]]
    return [chart for chart in charts if chart]


def _losses(runs: Sequence[RunFiles]) -> list[Chart | None]:
    """A chart of the losses of each method: those of different methods are not comparable."""
    methods = [str(at(run.config, "method", "name") or at(run.config, "name")) for run in runs]
    names = list(dict.fromkeys(methods))
    charts = []
    for name in names:
        own = [run for run, method in zip(runs, methods, strict=True) if method == name]
        # A run keeps its place among all, and so its colour.
        shown = [run.series("loss") if run in own else Series(run.name, [], []) for run in runs]
        chance = common([run.last("log_prototypes") for run in own])
        marks = [Mark(chance, "ln K: tells no image from another")] if chance else []
        unit = "running mean" if len(names) == 1 else f"{name[:LONGEST_NAME]}, running mean"
        label = _in_words("Loss", own, "loss")
        svg = line_chart(shown, label, smooth=True, marks=marks, until=last_step(runs))
        note = " ".join(filter(None, [_unlike(own), _unmeasured(own, "loss")]))
        charts.append(_drawn(svg, "Loss", unit, own, "loss", note))
    return charts


def _unlike(runs: Sequence[RunFiles]) -> str:
    """A warning where the losses of one method differ by what scales them."""
    scaling = ("prototypes", "temperature", "epsilon")
    unequal = [
        f"method.{key}"
        for key in scaling
        if len({repr(at(run.config, "method", key)) for run in runs}) > 1
    ]
    if not unequal:
        return ""
    return f"Heights are not comparable: the runs differ in {' and '.join(unequal)}."


def _thresholds(runs: Sequence[RunFiles]) -> dict[str, list[Mark]]:
    """What is drawn into the chart of each sign."""
    # Neither a method without prototypes nor a training without signs takes another's threshold away.
    with_signs = [run for run in runs if any(run.last(sign) is not None for sign in JUDGED)]
    with_prototypes = [run for run in runs if run.last("log_prototypes") is not None]
    since = max(judged_from(run.config) for run in with_signs or runs)
    images = common([_images(run) for run in with_prototypes])
    flat = common([run.last("log_prototypes") for run in with_prototypes])
    clip = common([number_at(run.config, "optim", "clip_grad") for run in runs])
    marks = {
        "embedding_std": [
            Mark(LEAST_SPREAD, f"below {LEAST_SPREAD:g}: collapse", "below", since),
            Mark(1.0, ""),  # as the unit says
        ],
        "effective_rank": [
            Mark(LEAST_RANK, f"below {LEAST_RANK:g}: dimensional collapse", "below", since)
        ],
        "perplexity": [
            Mark(mark.value, mark.name, always=False) for mark in _most_prototypes(runs)
        ],
        "sinkhorn_imbalance": [
            Mark(MOST_UNEQUAL, f"above {MOST_UNEQUAL:g}: unequal prototypes", "above", since)
        ],
    }
    if flat and flat < math.log(2**53):
        name = f"above {100 * FLATTEST:g} % of ln K: flat"
        marks["assignment_entropy"] = [Mark(FLATTEST * flat, name, "above", since)]
        least = LEAST_PERPLEXITY * min(math.exp(flat), images or math.inf)
        few = Mark(least, f"below {number(least)}: few prototypes", "below", since)
        marks["perplexity"].append(few)
    if clip:
        marks["grad_norm"] = [Mark(clip, f"clipped to {number(clip)}", always=False)]
    return marks


def last_step(runs: Sequence[RunFiles]) -> int:
    """Where all charts of a page end, so that they can be read side by side."""
    return max((run.metrics[-1]["step"] for run in runs if run.metrics), default=0)


def _images(run: RunFiles) -> int | None:
    return count_at(run.config, "batch_size")


def _most_prototypes(runs: Sequence[RunFiles]) -> list[Mark]:
    """How many prototypes a batch can use: no more than there are, and none without a view."""
    runs = [run for run in runs if at(run.config, "method", "prototypes")]
    total = common([count_at(run.config, "method", "prototypes") for run in runs])
    views = common([_views(run) for run in runs])
    if views and views < (total or math.inf):
        return [Mark(float(views), f"{views:,} views in a batch")]
    return [Mark(float(total), f"all {total:,}")] if total else []


def _views(run: RunFiles) -> int | None:
    """The views that are assigned to prototypes at once, over all processes."""
    images = _at_once(run)
    assign = at(run.config, "method", "assign")
    return images * len(assign) if images and isinstance(assign, list) and assign else None


def _at_once(run: RunFiles) -> int | None:
    """The images of a micro-batch, over all processes."""
    images = _images(run)
    return images // (count_at(run.config, "accumulate") or 1) if images else None


def _at_most(runs: Sequence[RunFiles]) -> str:
    """What an effective rank cannot exceed, where it is known."""
    most = common([_dimensions(run) for run in runs])
    return f", of at most {most:,}" if most else ""


def _dimensions(run: RunFiles) -> int | None:
    images = _at_once(run)
    head = at(run.config, "method", "head")
    if (
        not images
        or not isinstance(head, list)
        or not head
        or type(head[-1]) is not int
        or head[-1] < 1
    ):
        return None
    return min(images, head[-1], WIDEST)


def _chart(
    runs: Sequence[RunFiles], key: str, title: str, unit: str = "", **options: Any
) -> Chart | None:
    label = _in_words(title, runs, key)
    series = [run.series(key) for run in runs]
    svg = line_chart(series, label, until=last_step(runs), **options)
    return _drawn(svg, title, unit, runs, key, _unmeasured(runs, key))


def _drawn(
    svg: str, title: str, unit: str, runs: Sequence[RunFiles], key: str, note: str
) -> Chart | None:
    if not svg:
        return None
    last = runs[0].last(key) if len(runs) == 1 else None
    return Chart(title, unit, number(last) if last is not None else "", Markup(svg), note)


def _unmeasured(runs: Sequence[RunFiles], key: str) -> str:
    """Which of several runs have no such curve."""
    names = [run.name for run in runs if run.last(key) is None]
    return f"Not measured: {', '.join(names)}." if names and len(runs) > 1 else ""


def _in_words(title: str, runs: Sequence[RunFiles], key: str) -> str:
    """A chart for those who do not see it: where each curve begins and ends."""
    courses = []
    for run in runs:
        curve = run.series(key)
        if curve.x:
            first, last = (number(curve.y[i] or 0.0) for i in (0, -1))
            who = f"{run.name} " if len(runs) > 1 else ""
            courses.append(f"{who}from {first} at step {curve.x[0]:,} to {last} at {curve.x[-1]:,}")
    return f"{title}: {'; '.join(courses)}"


def _title(name: str) -> tuple[str, str]:
    """A heading and a unit for what has none of its own."""
    title = name[:LONGEST_NAME].removesuffix("_gib").replace("_", " ").capitalize()
    if name.endswith("_gib"):
        return title, "GiB"
    return title, "share of the time" if name.startswith("time_") else ""
