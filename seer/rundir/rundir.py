"""A run directory as people are shown it.

Somebody else may have written any of it: another seer, another tool, or a stranger. `RunDir` gives
what can be read and says in `notes` what cannot. Nothing that a link leads out of the directory for
is read.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from seer import __version__, inputs, jsonl
from seer.errors import InputError
from seer.inputs import MEGABYTE, UnreadableError
from seer.jsonl import Row, Unread
from seer.rundir.kinds import (
    CONFIG_KIND,
    ENVIRONMENT_KIND,
    PASSED_OVER,
    PLAN_KIND,
    PRECISION_KIND,
    RESULT,
    SCORED,
    Named,
    event,
    is_newer,
    numbers,
)
from seer.rundir.names import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    HEALTH,
    IMAGES,
    METRICS,
    NAMES,
    PLAN,
    POINTS,
    PRECISION,
    RESULTS,
    SCORES,
    SKIPPED,
    complete,
    step_of,
)
from seer.schema import MismatchError, Record

# Of a file's rows; of a longer one every second, third, ... is read.
MOST_ROWS = 100_000
MOST_BYTES = 64 * MEGABYTE
SMALL = MEGABYTE  # environment.json and plan.json have thousands of bytes
LARGEST_PICTURE = 32 * MEGABYTE
MOST_PIXELS = 2**26
ENDS = ("paused", "diverged")  # events after which a run does not go on by itself
PNG = b"\x89PNG\r\n\x1a\n"

T = TypeVar("T")


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
        """`missing`; `empty`: no run, or not yet; `foreign`: other files; `run`: a configuration or
        metrics.
        """
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
            raise InputError(
                f"{named}: cannot be read ({error.strerror}); check its permissions"
            ) from None
        if state == "missing":
            what = "it is no folder" if self.path.exists() else "there is no such folder"
            raise InputError(f"{named}: not a run directory, {what}; name a run directory")
        if state != "run":
            raise InputError(
                f"{named}: not a run directory, it has neither {CONFIG} nor {METRICS}; name another"
            )
        return self

    def file(self, name: str) -> Path:
        """The path of a file of the run. Raises `UnreadableError` where a link leads out of the
        directory.
        """
        return inputs.inside(self.path, name)

    def remarks(self) -> list[str]:
        """All that could not be read so far: whole files, and rows of files."""
        return self.notes + [str(unread) for unread in self._counted if unread.rows]

    def config(self) -> dict[str, Any]:
        """The configuration, untyped; what seer looks at is of the right kind, or left out and
        noted.
        """
        values: Row = self._noting(lambda: inputs.read_yaml(self.file(CONFIG), Named()), {})
        return self._fitting(CONFIG, values, CONFIG_KIND)

    def environment(self) -> dict[str, Any]:
        """What the run ran on, likewise."""
        values: Row = self._noting(
            lambda: inputs.read_json(self.file(ENVIRONMENT), Named(), SMALL), {}
        )
        environment = self._fitting(ENVIRONMENT, values, ENVIRONMENT_KIND)
        if is_newer(version := environment.get("seer", "")):
            self.notes.append(
                f"{self.path}: written by seer {version}, this is {__version__}; update seer to see all"
            )
        return environment

    def precision(self) -> dict[str, list[float]]:
        """Of a detector: precision at recalls of 0, 0.01, … 1, by what it is of."""
        return self._noting(
            lambda: inputs.read_json(self.file(PRECISION), PRECISION_KIND, SMALL), {}
        )

    def metrics(self) -> list[Row]:
        """The rows of numbers by rising step, the last of each; of a very long file, some evenly
        spread.
        """
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

    def scores(self) -> list[Row]:
        """The scores of checkpoints and of what they are compared with, as they were measured."""
        return self._rows(SCORES, SCORED.check)

    def events(self) -> list[Row]:
        """What befell the run's health, in the order in which it did."""
        return self._rows(HEALTH, event)

    def ended(self, events: Sequence[Row]) -> str:
        """The last of the run's events if that has stopped it; "" if the run has been continued since."""
        if not events or events[-1]["event"] not in ENDS:
            return ""
        # A continued run writes its configuration when it starts, and then metrics; no event.
        continued = max(self.written(name) for name in (CONFIG, METRICS))
        return events[-1]["event"] if self.written(HEALTH) >= continued else ""

    def passed_over(self) -> int:
        """How many steps the run passed over."""
        return len({row["step"] for row in self._rows(SKIPPED, PASSED_OVER.check)})

    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints that look complete, rising; nothing of them is read."""
        nothing: list[Path] = []
        found = self._noting(lambda: complete(self.file(CHECKPOINTS)), nothing)
        return [step_of(checkpoint.name) for checkpoint in found]

    def picture(self, name: str) -> bytes:
        """The content of a picture in `images/`: a whole PNG of bounded size; b"" where there is
        none.
        """
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
        """What `read` returns; where there is nothing to read, `instead`, and a note where it is
        not readable.
        """
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
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error) if type(error) is ValueError else "it is damaged, or too large"
        raise UnreadableError(f"{path}: {reason}; not shown") from None
    return content


def read_plan(run_dir: Path) -> dict[str, Any]:
    """What RUN/plan.json predicts. Raises FileNotFoundError, or `UnreadableError`."""
    return inputs.read_json(inputs.inside(run_dir, PLAN), PLAN_KIND, SMALL)


def last_step(run_dir: Path) -> int:
    """The last step in a run's metrics, or those of a grid's points together, before its final run;
    -1 where there is none.
    """
    rows = RunDir(run_dir).newest_metrics(2 * inputs.LONGEST_LINE)
    if rows:
        return rows[-1]["step"]
    steps = 0
    for path in (run_dir / POINTS).glob("*"):
        with suppress(UnreadableError):
            point = RunDir(inputs.inside(run_dir, f"{POINTS}/{path.name}"))
            rows = point.newest_metrics(2 * inputs.LONGEST_LINE)
            steps += rows[-1]["step"] if rows else 0
    return steps or -1
