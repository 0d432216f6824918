"""What a folder of results has of an agenda already: the same task, options, images and weights are
not measured twice.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seer import jsonl
from seer.config import incidental, layer, parse_overrides, significant
from seer.data.folders import readable
from seer.data.labelled import ImageSet
from seer.errors import InputError
from seer.eval import outcomes
from seer.eval.pixels import own_size
from seer.eval.task import kept_options
from seer.eval.tasks import PIXELS, TASKS, Task
from seer.eval.transfer.agenda import Cell, DataPlace, Gap
from seer.eval.transfer.contestants import Contestant
from seer.jsonl import Row
from seer.results import read_results
from seer.rundir.names import RESULTS
from seer.schema import Record, Text

FAILURES = "failures.jsonl"
FAILURE = Record({name: Text() for name in ("dataset", "task", "model", "reason")})
# Of a training: known only when it begins, or what the fingerprints of images and weights say.
LATER = {"data", "weights", "steps", "split"}
AUTO = "auto"  # likewise: what the images decide
LABELLED = TASKS["logreg"]  # a task that takes images of one class, and of several


def results_name(part: str = "") -> str:
    """The file that one process of several writes, or the only one."""
    return f"results-{part}.jsonl" if part else RESULTS


@dataclass
class Loaded:
    """The images of a data set as the tasks see them."""

    train: ImageSet
    test: ImageSet


class Journal:
    """The results in a folder, by whichever process of an array, read once; `enter` adds to them."""

    def __init__(self, out: Path):
        self.out = out
        self._rows: dict[tuple[str, str], list[tuple[Path, Row]]] = {}
        for path in sorted(out.glob("results*.jsonl")) if out.is_dir() else []:
            self.enter(path, read_results(path))
        self._images: dict[tuple[str, str, bool], Loaded | InputError] = {}
        self._pixels: dict[str, int] = {}
        self._keys: dict[tuple[str, str, tuple[str, ...]], str] = {}

    def enter(self, path: Path, rows: list[Row]) -> None:
        for row in rows:
            self._rows.setdefault(_key_of(row), []).append((path, row))

    def images(self, place: DataPlace, task: Task) -> Loaded:
        """Training and test images of a task. Raises `InputError` where it would."""
        key = (place.data, task.images, task.several)
        if key not in self._images:
            try:
                read = task.splitting().train_and_test
                self._images[key] = Loaded(*read(place.data, task.several))
            except InputError as error:
                self._images[key] = error
        found = self._images[key]
        if isinstance(found, InputError):
            raise found
        return found

    def rows_of(self, cell: Cell, model: Contestant) -> list[tuple[Path, Row]]:
        """The newest results of a cell, each with the file that it stands in; none where it was not
        measured, or with other images, options or weights, or with intervals of another meaning.
        """
        try:
            candidates = self._candidates(cell)
            pixels = self.pixels(cell.place) if candidates and model.spec == PIXELS else 0
        except InputError:  # the data or options are wrong, which the task will say
            return []
        newest = {
            row["metric"]: (path, row)
            for path, row in candidates
            if model.made(row, pixels) and not is_over_episodes(row)
        }
        return list(newest.values())

    def pixels(self, place: DataPlace) -> int:
        """The side that raw pixels take of a data set's images, if none is given."""
        if place.data not in self._pixels:
            images = self.images(place, LABELLED)
            self._pixels[place.data] = own_size(images.train)
        return self._pixels[place.data]

    def _candidates(self, cell: Cell) -> list[tuple[Path, Row]]:
        """The results of a cell, of whichever model."""
        if not TASKS[cell.task].trained:
            return self._rows.get((cell.task, self.comparable(cell)), [])
        asked = self._training(cell)
        left_out = LATER | {key for key, value in asked.items() if value == AUTO}
        options = _options(asked, left_out)
        return [
            (path, row)
            for path, row in self._rows.get((cell.task, ""), [])
            if row["data"] == readable(cell.place.data)
            and _options(row.get("options", {}), left_out) == options
        ]

    def comparable(self, cell: Cell) -> str:
        """The key of a probe's results. Raises `InputError` for data or options that are wrong."""
        key = (cell.place.data, cell.task, cell.options)
        if key not in self._keys:
            task = TASKS[cell.task]
            config = task.resolve(parse_overrides(list(cell.options)))
            images = self.images(cell.place, task)
            options = kept_options(cell.task, cell.place.data, config)
            self._keys[key] = outcomes.comparability(cell.task, options, images.train, images.test)
        return self._keys[key]

    def _training(self, cell: Cell) -> dict[str, Any]:
        given = layer({"model": cell.model, "data": cell.place.data})
        config = TASKS[cell.task].resolve(given, parse_overrides(list(cell.options)))
        return significant(asdict(config), incidental(type(config)))

    def gaps(self) -> list[Gap]:
        """What failed, the newest reason of each."""
        rows = jsonl.read(self.out / FAILURES, FAILURE.check)
        return [Gap(**{name: row[name] for name in FAILURE.required}) for row in rows]

    def fail(self, gap: Gap) -> None:
        """Record what failed. Raises `InputError` if that cannot be."""
        try:
            jsonl.append(self.out / FAILURES, [asdict(gap)], anywhere=True)
        except OSError as error:
            raise InputError(
                f"{self.out / FAILURES}: cannot be written ({error.strerror}); {gap.reason}"
            ) from None


def _key_of(row: Row) -> tuple[str, str]:
    """By what results are found: their task and, of probes, which images and options."""
    trained = row["task"] in TASKS and TASKS[row["task"]].trained
    return row["task"], "" if trained else row.get("comparable", "")


def is_over_episodes(row: Row) -> bool:
    """Whether an older seer measured few-shot episodes, with an interval that is over these alone, and
    not as those of all other tasks over images.
    """
    return row["task"] == "fewshot" and "images" not in row.get("details", {})


def _options(options: dict[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in left_out}
