"""transfer.json: what a transfer benchmark found, from its results alone: scores and whether they
differ by more than chance, ranks, correlations, costs, what is missing.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seer import __version__
from seer.config import incidental, layer, significant
from seer.data.folders import readable
from seer.errors import InputError
from seer.eval.literature import beside
from seer.eval.protocols import protocols
from seer.eval.tasks import TASKS, Task, is_pixels
from seer.eval.transfer.agenda import DataPlace
from seer.eval.transfer.benchmark import Plan, arguments, gaps
from seer.eval.transfer.lineage import Learned, Overlap, learned, overlap
from seer.eval.transfer.matrix import Column, Scored, beyond_chance, columns_of, difference
from seer.eval.transfer.remarks import remarks
from seer.eval.transfer.verdicts import correlations, needs, rankings
from seer.interop.spec import INIT, RANDOM, without_size
from seer.jsonl import Row
from seer.results import title_of
from seer.rundir.names import RESULTS

FORMAT = "seer-transfer/1"
CALIBRATION = "calibration"  # the task that draws how reliable a model is

# How a score stands beside the best of its column.
BEST = "best"
ALIKE = "alike"  # not told apart from it
BEHIND = "behind"


def summarize(work: Plan, data: Path) -> dict[str, Any]:
    """Everything that the page shows."""
    columns = columns_of(work)
    main = [column for column in columns if column.row.get("headline", True)]
    titles = {spec: model.title for spec, model in work.models.items()}
    lessons = {spec: learned(spec) for spec in work.models}
    overlaps = overlaps_of(work, lessons)
    return {
        "format": FORMAT,
        "seer": __version__,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": work.agenda.suite.name,
        "about": work.agenda.suite.about,
        "data": readable(str(data)),
        "models": [_model(work, spec, lessons[spec], main) for spec in work.models],
        "speeds": asdict(work.timing),
        "data_sets": [_place(work, place) for place in work.agenda.places],
        "needs": needs(main, titles),
        "remarks": remarks(columns, titles, overlaps),
        "terms": _terms(columns),
        "columns": [_column(column, titles, overlaps) for column in columns],
        "ranks": rankings(main, titles),
        "correlations": correlations(main, titles),
        "minutes": _minutes(columns, titles),
        "pictures": _pictures(work),
        "missing": [asdict(gap) | {"model": _title(work, gap.model)} for gap in gaps(work)],
    }


def overlaps_of(work: Plan, lessons: Mapping[str, Learned]) -> dict[tuple[str, str], Overlap]:
    """Of the models, by their `--model`, and the names of data sets that they have learned from."""
    overlaps = {}
    for place in work.agenda.places:
        with suppress(InputError):  # which the tasks have said
            images = work.journal.images(place, _reading(place))
            for spec, lesson in lessons.items():
                if found := overlap(lesson, place, images):
                    overlaps[spec, place.name] = found
    return overlaps


def _terms(columns: Sequence[Column]) -> dict[str, str]:
    """What the tasks do, by their titles."""
    tasks = [TASKS[name] for name in dict.fromkeys(column.task for column in columns)]
    return {task.title: task.about for task in tasks if task.about}


def _column(
    column: Column, titles: dict[str, str], overlaps: Mapping[tuple[str, str], Overlap]
) -> dict[str, Any]:
    row = column.row
    seen = [titles[spec] for spec in column.scores if (spec, column.place.name) in overlaps]
    best = next(iter(column.scores.values()))
    return {
        "data_set": readable(column.place.name),
        "task": column.task,
        "task_title": TASKS[column.task].title,
        "metric": column.metric,
        "title": title_of(row),
        "unit": row.get("unit", "share"),
        "better": row.get("better", "higher"),
        "headline": row.get("headline", True),
        "chance": row.get("chance"),
        "images": row.get("details", {}).get("images"),
        "learned_from": seen,
        "published": _published(column),
        "scores": [_score(titles[spec], scored, best) for spec, scored in column.scores.items()],
    }


def _published(column: Column) -> list[dict[str, Any]]:
    """What others have published of the very same images by the very same protocol, best first."""
    rows = [scored.row for scored in column.scores.values()]
    dataset = common([row.get("dataset", "") for row in rows])
    protocol = common([row.get("protocol", "") for row in rows])
    if not dataset or protocol is None or TASKS[column.task].trained:
        return []
    if protocol and protocol not in protocols(column.task):  # a file of one's own
        return []
    layers = [layer({"protocol": protocol})] if protocol else []
    usual = options_of_protocol(TASKS[column.task].resolve(*layers))
    if not all(row["options"] == {**usual, **split_of(row)} for row in rows):
        return []
    references = beside(column.task, protocol, dataset, column.metric)
    references.sort(key=lambda reference: reference.value, reverse=column.higher_is_better)
    return [
        {
            "model": f"{reference.model} {reference.network}".strip(),
            "value": reference.value,
            "source": f"{reference.source}: {reference.about}",
        }
        for reference in references
    ]


def options_of_protocol(config: Any) -> dict[str, Any]:
    """What a result's options are where nothing but the protocol was given."""
    return significant(asdict(config), incidental(type(config)))


def split_of(row: Row) -> dict[str, Any]:
    """How the data were split, where the row says it."""
    return {key: value for key, value in row["options"].items() if key == "split"}


def common(values: Sequence[str]) -> str | None:
    """What all of them are; None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _score(title: str, scored: Scored, best: Scored) -> dict[str, Any]:
    row = scored.row
    told: dict[str, Any] = {"model": title, "standing": BEST, "against_best": None}
    told["picture"] = scored.picture
    if scored is not best:
        paired = difference(scored, best)
        told["standing"] = BEHIND if beyond_chance(scored, best) else ALIKE
        told["against_best"] = asdict(paired) if paired else None
    return told | {key: row[key] for key in ("value", "low", "high", "seconds")}


def _model(work: Plan, spec: str, lesson: Learned, columns: Sequence[Column]) -> dict[str, Any]:
    model = work.models[spec]
    rows = [column.scores[spec].row for column in columns if spec in column.scores]
    finite = model.size > 0  # raw pixels have no network
    return {
        "title": model.title,
        "spec": readable(model.spec),
        "kind": _kind(spec),
        "learned": lesson.words,
        "size": model.size,
        "dimensions": model.dimensions,
        "images_per_second": round(model.images_per_second, 1) if finite else None,
        "weights": model.weights,
        "scores": len(rows),
    }


def _kind(spec: str) -> str:
    """`pretrained`, or which baseline a model is."""
    if is_pixels(spec):
        return "pixels"
    part = without_size(spec)[0].rpartition(":")[2]
    return {RANDOM: "untrained", INIT: "init"}.get(part, "pretrained")


def _place(work: Plan, place: DataPlace) -> dict[str, Any]:
    told = asdict(place)
    del told["data"]
    with suppress(InputError):  # which the tasks have said
        images = work.journal.images(place, _reading(place))
        told |= {"train": len(images.train), "test": len(images.test)}
    return told | {"name": readable(place.name)}


def _reading(place: DataPlace) -> Task:
    """A task that reads the place's images, for one class each where any of its tasks does."""
    return min((TASKS[task] for task in place.tasks), key=lambda task: task.several)


def _pictures(work: Plan) -> list[dict[str, Any]]:
    """The pictures of how reliable the models are, that are there, by their paths beside the page."""
    pictures = []
    for cell in work.agenda.cells:
        if cell.task == CALIBRATION:
            given = dict(
                option.partition("=")[::2] for option in arguments(cell, work.journal.out / RESULTS)
            )
            path = Path(given["picture"])
            if path.is_file() and path.is_relative_to(work.journal.out):
                beside_page = str(path.relative_to(work.journal.out))
                told = {"model": work.models[cell.model].title, "path": beside_page}
                pictures.append(told | {"data_set": readable(cell.place.name)})
    return pictures


def _minutes(columns: Sequence[Column], titles: dict[str, str]) -> list[dict[str, Any]]:
    """What each task took of each model, over all data sets; the first of them computed features."""
    seconds: dict[tuple[str, str], dict[str, float]] = {}
    for column in columns:
        for spec, scored in column.scores.items():
            of_task = seconds.setdefault((column.task, spec), {})
            of_task[column.place.data] = scored.row["seconds"]
    return [
        {"task": task, "model": titles[spec], "minutes": round(sum(of_task.values()) / 60, 3)}
        for (task, spec), of_task in seconds.items()
    ]


def _title(work: Plan, name: str) -> str:
    titles = {model.name: model.title for model in work.models.values()}
    return titles.get(name, readable(name))
