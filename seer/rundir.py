"""A run directory: its files by name, what each may hold, and how each is read.

    RUN/config.yaml            the run's configuration
    RUN/metrics.jsonl          a row of numbers per logged step
    RUN/results.jsonl          a row per score
    RUN/health.jsonl           a row per event; skipped.jsonl a row per step that was passed over
    RUN/environment.json       what it ran on; plan.json what was predicted of it
    RUN/images/*.png           pictures for its report
    RUN/checkpoints/step-NNNNNNNNN/
    RUN/manifest.parquet, damaged/, tensorboard/, seer.log, report.html, .lock, .job.json

Somebody else may have written any of it: another seer, another tool, or a stranger. `RunDir` reads for people: it gives
what can be read and says in `notes` what cannot. Nothing that a link leads out of the directory for is read.
"""

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from seer import __version__, inputs, jsonl
from seer.errors import InputError
from seer.inputs import MEGABYTE, UnreadableError
from seer.jsonl import Row, Unread
from seer.schema import (
    DEEPEST,
    INT64,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Maybe,
    MismatchError,
    Number,
    Record,
    Text,
    refuse,
)

CONFIG, METRICS, RESULTS, HEALTH = "config.yaml", "metrics.jsonl", "results.jsonl", "health.jsonl"
SKIPPED, DAMAGED = "skipped.jsonl", "damaged"
ENVIRONMENT, PLAN, MANIFEST = "environment.json", "plan.json", "manifest.parquet"
LOG, REPORT, IMAGES, CHECKPOINTS, TENSORBOARD = "seer.log", "report.html", "images", "checkpoints", "tensorboard"
LOCK, OWNER, SUBMIT = ".lock", ".job.json", ".submit"
NAMES = {CONFIG, METRICS, RESULTS, HEALTH, SKIPPED, DAMAGED, ENVIRONMENT, PLAN, MANIFEST, LOG, REPORT, IMAGES}
NAMES |= {CHECKPOINTS, TENSORBOARD}

MOST_ROWS, MOST_BYTES = 100_000, 64 * MEGABYTE  # of a file's rows; of a longer one every second, third, ... is read
WIDEST = 1_000  # values of a row
SMALL = MEGABYTE  # environment.json and plan.json have thousands of bytes
LARGEST_PICTURE, MOST_PIXELS = 32 * MEGABYTE, 2**26
PNG = b"\x89PNG\r\n\x1a\n"

STEP = Integer(1)
MEASURED = Maybe(Number(finite=False))  # a record of what happened
NAME = Text(1024)
SENTENCE = Text(4096)
FINGERPRINT = Integer(0, 2**48 - 1)  # seer.data.ledger's
SCORE = Number(-1e9, 1e9)

KNOWN = "loss", "lr", "samples", "epoch", "seconds", "images_per_second", "data_wait", "time_step", "memory_gib"
MEASUREMENTS: dict[str, Kind] = dict.fromkeys((*KNOWN, "log_prototypes", "prototypes_used"), MEASURED)
METRIC = Record({"step": STEP}, {"seen": FINGERPRINT, **MEASUREMENTS})
RESULT_FIELDS: dict[str, Kind] = {
    "task": NAME,
    "data": Text(),
    "metric": NAME,
    "value": SCORE,
    "low": SCORE,
    "high": SCORE,
    "model": Text(),
    "config_hash": NAME,
    "seconds": Number(0),
}
RESULT = Record(RESULT_FIELDS)
EVENT = Record({"step": Integer(0), "event": NAME})
EVENTS = {  # what more the events have that people are told of
    "symptom": Record({"name": NAME, "why": SENTENCE, "remedy": SENTENCE}),
    "recovered": Record({"name": NAME}),
    "rollback": Record({"why": SENTENCE, "to": Integer(0), "skipped": ListOf(Integer(0), 2, 2)}),
    "diverged": Record({"why": SENTENCE}),
}
PASSED_OVER = Record({"step": STEP})
ENVIRONMENT_KIND = Record(
    {},
    {
        "time": NAME,
        "command": Text(100_000),
        "seer": NAME,
        "processes": Integer(1, 10**6),
        "gpus": ListOf(NAME, 1024),
        "cores": Maybe(Integer(1, 10**6)),
        "packages": MapOf(Maybe(NAME)),
    },
)
PLAN_KIND = Record({"chosen": Record({"images_per_second": Number(above=0)}), "memory_gib": MapOf(Number(0))})
CONFIG_KIND = Record(
    {},
    {
        "name": Text(),
        "steps": Integer(1),
        "batch_size": Integer(1, 2**24),
        "method": Record({}, {"name": NAME}),
        "backbone": Record({}, {"name": NAME}),
        "views": MapOf(Record({}, {"count": Integer(0, 10_000), "size": Integer(1, 100_000)})),
    },
)
HEADER_KIND = Record({"step": STEP, "seen": FINGERPRINT})
OWNER_KIND = Record({"job": Text(64, 1, r"\d+(_\d+)?", "the number of a job"), "launch": Text()})

T = TypeVar("T")


class Named:
    """Names with whatever values: each is checked by itself, so that one that is wrong leaves others to be shown."""

    def check(self, value: Any, where: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            raise refuse(self, value, where)
        return {str(key): _named(item) for key, item in value.items()}

    def says(self) -> str:
        return "names with values"


def _named(value: Any, deepest: int = DEEPEST) -> Any:
    """A value in which all keys are texts: YAML takes `off` for false, and `1` for a number."""
    if isinstance(value, dict) and deepest:
        return {str(key): _named(item, deepest - 1) for key, item in value.items()}
    if isinstance(value, list) and deepest:
        return [_named(item, deepest - 1) for item in value]
    return value


class RunDir:
    """A run directory, read for people.

    Attributes:
        notes: what could not be read, one line each, in the order in which it was asked for.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.notes: list[str] = []
        self._counted: list[Unread] = []

    @property
    def state(self) -> str:
        """`missing`; `empty`: no run, or not yet; `foreign`: other files; `run`: a configuration or metrics."""
        if not self.path.is_dir():
            return "missing"
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        if names & {CONFIG, METRICS}:
            return "run"
        return "foreign" if names - NAMES else "empty"

    def check(self, option: str = "") -> "RunDir":
        """Raise `InputError` unless there is a run; `option` is what named it."""
        named = f"{option} {self.path}" if option else f"{self.path}"
        try:
            state = self.state
        except OSError as error:
            raise InputError(f"{named}: cannot be read ({error.strerror}); check its permissions") from None
        if state == "missing":
            what = "it is no folder" if self.path.exists() else "there is no such folder"
            raise InputError(f"{named}: not a run directory, {what}; name a run directory")
        if state != "run":
            raise InputError(f"{named}: not a run directory, it has neither {CONFIG} nor {METRICS}; name another")
        return self

    def file(self, name: str) -> Path:
        """The path of a file of the run. Raises `UnreadableError` where a link leads out of the directory."""
        return inputs.inside(self.path, name)

    def remarks(self) -> list[str]:
        """All that could not be read so far: whole files, and rows of files."""
        return self.notes + [str(unread) for unread in self._counted if unread.rows]

    def config(self) -> dict[str, Any]:
        """The configuration, untyped; what seer looks at is of the right kind, or left out and noted."""
        values: Row = self._noting(lambda: inputs.read_yaml(self.file(CONFIG), Named()), {})
        return self._fitting(CONFIG, values, CONFIG_KIND)

    def environment(self) -> dict[str, Any]:
        """What the run ran on, likewise."""
        values: Row = self._noting(lambda: inputs.read_json(self.file(ENVIRONMENT), Named(), SMALL), {})
        environment = self._fitting(ENVIRONMENT, values, ENVIRONMENT_KIND)
        if is_newer(version := environment.get("seer", "")):
            self.notes.append(f"{self.path}: written by seer {version}, this is {__version__}; update seer to see all")
        return environment

    def metrics(self) -> list[Row]:
        """The rows of numbers by rising step, the last of each; of a very long file, some evenly spread."""
        return self._noting(self._metrics, [])

    def _metrics(self) -> list[Row]:
        path = self.file(METRICS)
        rows = jsonl.scan(path, numbers, self._unread(METRICS), self._sparseness(path))
        by_step = {row["step"]: row for row in rows}
        return [by_step[step] for step in sorted(by_step)]

    def newest_metrics(self, size: int) -> list[Row]:
        """The rows within the last `size` bytes, as written."""
        unread = self._unread(f"the last {METRICS}")
        return self._noting(lambda: jsonl.tail(self.file(METRICS), size, numbers, unread), [])

    def results(self) -> list[Row]:
        """All scores, in the order in which they were measured."""
        return self._rows(RESULTS, RESULT.check)

    def events(self) -> list[Row]:
        """What befell the run's health, in the order in which it did."""
        return self._rows(HEALTH, event)

    def passed_over(self) -> int:
        """How many steps the run passed over."""
        return len({row["step"] for row in self._rows(SKIPPED, PASSED_OVER.check)})

    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints that look complete, rising; nothing of them is read."""
        nothing: list[Path] = []
        headers = self._noting(lambda: sorted(self.file(CHECKPOINTS).glob("step-*/header.json")), nothing)
        names = [re.fullmatch(r"step-(\d{9})", header.parent.name) for header in headers]
        return sorted(int(name[1]) for name in names if name)

    def picture(self, name: str) -> bytes:
        """The content of a picture in `images/`: a whole PNG of bounded size; b"" where there is none."""
        return self._noting(lambda: read_png(self.file(f"{IMAGES}/{name}")), b"")

    def written(self, name: str) -> float:
        """When a file was last written; 0 if there is none."""
        path = self.path / name
        return path.stat().st_mtime if path.is_file() else 0.0

    def _rows(self, name: str, check: jsonl.Check) -> list[Row]:
        def read() -> list[Row]:
            path = self.file(name)
            return list(jsonl.scan(path, check, self._unread(name), self._sparseness(path)))

        return self._noting(read, [])

    def _sparseness(self, path: Path) -> int:
        """Each how many-th row is read so that neither rows nor bytes are too many."""
        size = path.stat().st_size if path.is_file() else 0
        if size <= MOST_ROWS:
            return 1
        lines = 0
        with inputs.open_file(path) as file:
            while block := file.read(MEGABYTE):
                lines += block.count(b"\n")
        every = max(-(-lines // MOST_ROWS), -(-size // MOST_BYTES), 1)
        if every > 1:
            self.notes.append(f"{path.name}: of {lines:,} rows one in {every:,} is shown")
        return every

    def _unread(self, name: str) -> Unread:
        self._counted.append(Unread(name))
        return self._counted[-1]

    def _noting(self, read: Callable[[], T], instead: T) -> T:
        """What `read` returns; where there is nothing to read, `instead`, and a note where it is not readable."""
        try:
            return read()
        except FileNotFoundError:
            return instead
        except UnreadableError as error:
            self.notes.append(str(error))
            return instead

    def _fitting(self, name: str, values: dict[str, Any], kind: Record) -> dict[str, Any]:
        """The values that are of their kinds; a note for each other one."""
        fitting: Row = {}
        for key, value in values.items():
            try:
                fitting |= Record({}, kind.optional).check({key: value})
            except MismatchError as error:
                self.notes.append(f"{name}: {error}; not shown")
        return fitting


def metric_row(row: Any) -> Row:
    """A row of metrics.jsonl with all that stands in it."""
    if _is_plain(row):  # most rows: as `METRIC` would have it, at a tenth of the time
        return row
    if isinstance(row, dict) and len(row) > WIDEST:
        raise MismatchError("", f"it has more than {WIDEST:,} values")
    return METRIC.check(row)


def numbers(row: Any) -> Row:
    """The numbers of a row of metrics.jsonl, by name. What else a newer seer may have written there is left out."""
    if _is_plain(row):
        return row
    return {key: value for key, value in metric_row(row).items() if value is None or _is_number(value)}


def _is_plain(row: Any) -> bool:
    """Whether a row holds nothing but a step, numbers within bounds, and nulls, under short names."""
    if type(row) is not dict or len(row) > WIDEST or type(row.get("step")) is not int or row["step"] < 1:
        return False
    seen = row.get("seen", 0)
    if type(seen) is not int or not 0 <= seen <= FINGERPRINT.high:
        return False
    named = all(key.isascii() and len(key) <= 100 for key in row)
    return named and all(
        value is None or type(value) is float or (type(value) is int and -INT64 <= value <= INT64)
        for value in row.values()
    )


def _is_number(value: Any) -> bool:
    try:
        Number(finite=False).check(value)
    except MismatchError:
        return False
    return True


def finite(value: float | None) -> float:
    """A measured number that is not negative; 0 for everything else that may stand in its place."""
    return value if value is not None and 0 <= value < 1e100 else 0.0


def event(row: Any) -> Row:
    """A row of health.jsonl. Events that only a newer seer knows are taken as they are."""
    row = EVENT.check(row)
    return EVENTS[row["event"]].check(row) if row["event"] in EVENTS else row


def read_png(path: Path) -> bytes:
    """A picture as it is, if all of it is a PNG. Raises FileNotFoundError, or `UnreadableError`."""
    content = inputs.read_bytes(path, LARGEST_PICTURE)
    try:
        if not content.startswith(PNG):
            raise ValueError("it is not a PNG")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
                image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = str(error) if type(error) is ValueError else "it is damaged, or too large"
        raise UnreadableError(f"{path}: {reason}; not shown") from None
    return content


def read_plan(run_dir: Path) -> dict[str, Any]:
    """What RUN/plan.json predicts. Raises FileNotFoundError, or `UnreadableError`."""
    return inputs.read_json(inputs.inside(run_dir, PLAN), PLAN_KIND, SMALL)


def check_written(run_dir: Path) -> None:
    """Raise `InputError` where a link would lead what a run writes out of its directory, onto another's file."""
    for name in (*sorted(NAMES), LOCK, OWNER, SUBMIT):
        try:
            inputs.inside(run_dir, name)
        except UnreadableError:
            path = run_dir / name
            remedy = "remove the link, or choose another run_dir"
            raise InputError(f"{path}: leads out of {run_dir}, where nothing is written; {remedy}") from None


def last_step(run_dir: Path) -> int:
    """The last step in a run's metrics; -1 where there is none."""
    rows = RunDir(run_dir).newest_metrics(2 * inputs.LONGEST_LINE)
    return rows[-1]["step"] if rows else -1


def is_newer(version: str) -> bool:
    """Whether this is a version of a seer to come."""
    return _release(version) > _release(__version__)


def _release(version: str) -> tuple[int, ...]:
    """The numbers at the beginning: `0.2.1.dev3` is (0, 2, 1)."""
    numbers_ = re.match(r"\d{1,6}(\.\d{1,6}){0,3}", version)
    return tuple(map(int, numbers_[0].split("."))) if numbers_ else ()
