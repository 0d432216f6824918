"""report.html: what a run learned, how it went and what it was, on one page that needs no network."""

import base64
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from seer import __version__, jsonl
from seer.errors import InputError
from seer.jsonl import Row
from seer.report.plots import COLOURS, Series, interval_bar, line_chart, number
from seer.report.results import latest, read_results

# Metrics that have a chart of their own, or say nothing as a curve.
FAMILIAR = {"step", "loss", "lr", "prototypes_used", "images_per_second", "data_wait", "time_step"}
FAMILIAR |= {"samples", "epoch", "seconds", "log_prototypes"}


@dataclass
class RunFiles:
    """A run directory as the report sees it. What is missing is empty."""

    path: Path
    config: dict[str, Any]
    metrics: list[Row]
    results: list[Row]
    environment: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def series(self, key: str) -> Series:
        rows = [row for row in self.metrics if key in row]
        return Series(self.name, [row["step"] for row in rows], [row[key] for row in rows])

    def last(self, key: str) -> float | None:
        """The newest finite value of a metric."""
        values = self.series(key).finite().y
        return values[-1] if values else None


def read_run(path: Path | str) -> RunFiles:
    """Read what there is; `InputError` if `path` is no run directory."""
    path = Path(path)
    if not (path / "config.yaml").is_file() and not (path / "metrics.jsonl").is_file():
        raise InputError(f"{path}: not a run directory, it has neither config.yaml nor metrics.jsonl")
    config, environment = path / "config.yaml", path / "environment.json"
    return RunFiles(
        path,
        (yaml.safe_load(config.read_text()) or {}) if config.is_file() else {},
        [row for row in jsonl.read(path / "metrics.jsonl") if "step" in row],
        latest(read_results(path / "results.jsonl")),
        json.loads(environment.read_text()) if environment.is_file() else {},
    )


def write_report(run_dir: Path | str) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        InputError: not a run directory.
    """
    run = read_run(run_dir)
    return _write(run.path / "report.html", [run])


def write_comparison(run_dirs: Sequence[Path | str], out: Path | str) -> Path:
    """Write one page over several runs, their curves in the same charts, to `out`."""
    return _write(Path(out), [read_run(path) for path in run_dirs])


def _write(out: Path, runs: list[RunFiles]) -> Path:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    single = runs[0] if len(runs) == 1 else None
    page = environment.get_template("page.html.j2").render(
        title=single.name if single else f"{len(runs)} runs compared",
        subtitle=describe_run(single) if single else "",
        progress=progress(single) if single else "",
        legend=[(run.name, i % COLOURS, describe_run(run)) for i, run in enumerate(runs)] if not single else [],
        headlines=headlines(single) if single else [],
        scores=score_groups(runs),
        charts=charts(runs),
        more=further_charts(runs),
        times=[(run.name, where_time_went(run)) for run in runs if run.metrics],
        pictures=pictures(single) if single else [],
        config=sections(single.config) if single else [],
        environment=sections(single.environment) if single else [],
        version=__version__,
        when=max((str(run.environment.get("time", "")) for run in runs), default="")[:10],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.tmp")
    beside.write_text(page, encoding="utf-8")
    beside.replace(out)
    return out


def describe_run(run: RunFiles) -> str:
    """Method, backbone, batch and crops in one line."""
    config = run.config
    views = [view for view in (config.get("views") or {}).values() if view.get("count")]
    parts = [
        {"swav": "SwAV", "simclr": "SimCLR", "byol": "BYOL"}.get(name := _at(config, "method", "name"), name),
        _at(config, "backbone", "name"),
        " + ".join(f"{view['count']}×{view['size']}" for view in views) + " px crops" if views else "",
        f"batch {config['batch_size']}" if "batch_size" in config else "",
    ]
    return " · ".join(part for part in parts if part)


def progress(run: RunFiles) -> str:
    """How far the run is, unless it is complete."""
    done, total = int(run.last("step") or 0), int(run.config.get("steps") or 0)
    return f"step {done:,} of {total:,}" if done < total else ""


@dataclass
class Headline:
    label: str
    value: str
    note: str = ""


def headlines(run: RunFiles) -> list[Headline]:
    """The numbers that answer first: is it any good, did it learn, how fast, how long."""
    found = []
    for task, name in (("knn", "kNN top-1"), ("linear", "Linear top-1")):
        rows = [row for row in run.results if row["task"] == task and row["metric"].startswith("top1")]
        ours = [row for row in rows if kind(row) == "pretrained"]
        if ours:
            best = max((row for row in ours if row["model"] == ours[-1]["model"]), key=lambda row: row["value"])
            same = [row for row in rows if (row["metric"], row["data"]) == (best["metric"], best["data"])]
            others = [f"{kind(row)} {_percent(row['value'])}" for row in same if kind(row) != "pretrained"]
            found.append(Headline(name, _percent(best["value"]), " · ".join(others)))
    losses = run.series("loss").finite().y
    if losses:
        found.append(Headline("Loss", f"{losses[-1]:.3f}", f"from {losses[0]:.3f}"))
    if run.metrics:
        rates = [row["images_per_second"] for row in run.metrics if row.get("images_per_second")]
        waits = dict(where_time_went(run)).get("waiting for data", 0.0)
        if rates:
            rate = statistics.median(rates)
            found.append(Headline("Throughput", f"{number(rate)}/s", f"images; {_percent(waits)} of the time waiting for data"))
        epochs, seconds = run.last("epoch"), run.last("seconds") or 0.0
        seen = f"{epochs:.3g} epochs" if epochs else ""
        found.append(Headline("Images seen", number(run.last("samples") or 0.0), seen))
        found.append(Headline("Time", _duration(seconds), _machine(run.environment)))
    return found


@dataclass
class ScoreRow:
    model: str
    colour: int
    value: str
    interval: str
    bar: Markup


def score_groups(runs: Sequence[RunFiles]) -> list[tuple[str, str, list[ScoreRow]]]:
    """Results by what was measured: (measure, data, one row a model, best first)."""
    groups: dict[tuple[str, str, str], list[tuple[int, str, Row]]] = {}
    for i, run in enumerate(runs):
        for row in run.results:
            name = row["model"] if len(runs) == 1 or run.name in row["model"] else f"{run.name}: {row['model']}"
            groups.setdefault((row["task"], row["metric"], row["data"]), []).append((i, name, row))
    table = []
    for (task, metric, data), rows in groups.items():
        rows.sort(key=lambda item: -item[2]["value"])
        shown = []
        for i, name, row in rows:
            colour = i % COLOURS if kind(row) == "pretrained" else COLOURS  # class s6: baselines, in grey
            interval = f"{100 * row['low']:.1f} – {100 * row['high']:.1f}"
            bar = Markup(interval_bar(row["value"], row["low"], row["high"], colour))
            shown.append(ScoreRow(name, colour, _percent(row["value"]), interval, bar))
        table.append((measure(task, metric), Path(data).name, shown))
    return table


def kind(row: Row) -> str:
    """`pretrained`, or which baseline a result's model is."""
    if row["model"].startswith("pixels"):
        return "pixels"
    return "untrained" if row["model"].endswith(("untrained", ":random")) else "pretrained"


def measure(task: str, metric: str) -> str:
    """`knn`, `top1_k20` → `kNN top-1, k = 20`."""
    name, _, k = metric.partition("_k")
    name = f"top-{name[3:]}" if name.startswith("top") and name[3:].isdigit() else name
    return f"{ {'knn': 'kNN', 'linear': 'Linear'}.get(task, task) } {name}" + (f", k = {k}" if k else "")


@dataclass
class Chart:
    title: str
    unit: str
    last: str
    svg: Markup


def charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """Loss, learning rate, prototypes in use and throughput, over steps."""
    chance = runs[0].last("log_prototypes")
    total = _at(runs[0].config, "method", "prototypes")
    found = [
        _chart(runs, "loss", "Loss", "", smooth=True, reference=(chance, "ln K: tells no image from another") if chance else None),
        _chart(runs, "lr", "Learning rate", "", from_zero=True),
        _chart(runs, "prototypes_used", "Prototypes in use", "per batch", from_zero=True,
               reference=(float(total), f"all {int(total):,}") if total else None),
        _chart(runs, "images_per_second", "Throughput", "images per second", from_zero=True, smooth=True),
    ]  # fmt: skip
    return [chart for chart in found if chart]


def further_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """Whatever else the method logged."""
    keys = {key: None for run in runs for row in run.metrics for key in row if key not in FAMILIAR}
    found = [_chart(runs, key, key.replace("_", " ").capitalize(), "", smooth=True) for key in keys]
    return [chart for chart in found if chart]


def _chart(runs: Sequence[RunFiles], key: str, title: str, unit: str, **options: Any) -> Chart | None:
    svg = line_chart([run.series(key) for run in runs], title, **options)
    last = runs[0].last(key) if len(runs) == 1 else None
    return Chart(title, unit, number(last) if last is not None else "", Markup(svg)) if svg else None


def where_time_went(run: RunFiles) -> list[tuple[str, float]]:
    """Shares of the logged time, adding up to 1."""
    spent = {"training steps": 0.0, "waiting for data": 0.0, "checkpoints and the rest": 0.0}
    before = 0.0
    for row in run.metrics:
        window = max(0.0, row.get("seconds", 0.0) - before)
        before = row.get("seconds", 0.0)
        waited, busy = row.get("data_wait") or 0.0, row.get("time_step") or 0.0
        spent["training steps"] += window * busy
        spent["waiting for data"] += window * waited
        spent["checkpoints and the rest"] += window * max(0.0, 1 - busy - waited)
    total = sum(spent.values())
    return [(name, seconds / total) for name, seconds in spent.items()] if total else []


def pictures(run: RunFiles) -> list[tuple[str, str, str]]:
    """(title, caption, data URI) of the pictures that the run has."""
    known = {
        "crops.png": ("Crops", "What the method is shown: one image and random crops of it, altered as configured."),
        "neighbours.png": (
            "Nearest neighbours",
            "Left: images not seen in training. Right of each: the five training images whose features are nearest; "
            "green where the label agrees, red where it does not.",
        ),
    }
    found = []
    for file, (title, caption) in known.items():
        path = run.path / "images" / file
        if path.is_file():
            found.append((title, caption, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()))
    return found


def sections(values: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A nested dict as titled lists: its own scalars first, then each inner dict with dotted keys."""
    plain = [(key, _text(value)) for key, value in values.items() if not isinstance(value, dict)]
    inner = [(key, _flat(value)) for key, value in values.items() if isinstance(value, dict) and value]
    return [("", plain), *inner] if values else []


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", _text(value))]
    return pairs


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value in (None, "") else str(value)


def _at(values: dict[str, Any], *keys: str) -> Any:
    """A nested value, or "" where it is missing."""
    for key in keys:
        values = values.get(key, "") if isinstance(values, dict) else ""
    return values


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    """`42 s`, `7 min 05 s`, `3 h 20 min`, `8 d 02 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"


def _machine(environment: dict[str, Any]) -> str:
    """`8 × NVIDIA A100`, or `2 CPU cores`."""
    processes, gpus = int(environment.get("processes") or 1), environment.get("gpus") or []
    if gpus:
        return f"{max(processes, 1)} × {gpus[0]}"
    cores = environment.get("cores")
    return f"{cores} CPU cores" if cores else ""
