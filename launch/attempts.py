"""How the attempts of a job ended, and whether there is to be another.

FOLDER/attempts/NAME.jsonl             one row per attempt, once it is over
FOLDER/attempts/NAME/ATTEMPT-RANK.json how each process of it ended; a killed one writes nothing
"""

import json
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from seer import files, inputs, jsonl
from seer.errors import InputError, StoppedError
from seer.inputs import UnreadableError
from seer.rundir import rundir
from seer.schema import Integer, Number, Record, Text
from seer.start import ASKED

TOLD = Text(100_000)
ATTEMPT = Record(
    {
        "id": Text(200),
        "when": Number(0),
        "code": Integer(-255, 255),
        "told": TOLD,
        "step": Integer(-1),
    }
)
ENDING_NOTE = Record(
    {"when": Number(0), "host": Text(255), "code": Integer(-255, 255), "told": TOLD}
)
SAME_STEP = 3  # failures at one step that are no accident


@dataclass(frozen=True)
class Attempt:
    """One attempt that is over. `step`: the last step in the run's metrics; -1 where there is none."""

    id: str
    when: float
    code: int
    told: str
    step: int

    @property
    def failed(self) -> bool:
        return self.code not in (0, StoppedError.exit_code)


@dataclass(frozen=True)
class Verdict:
    """Whether to try again, after how many seconds, and why (or why not)."""

    again: bool
    wait: float
    why: str


def this_attempt() -> str:
    """What tells one attempt from another: SLURM's job and how often it was requeued, or a number
    the launcher gave.
    """
    env = os.environ
    job = f"{env.get('SLURM_JOB_ID', 'local')}.{env.get('SLURM_RESTART_COUNT', 0)}"
    return env.get("SEER_ATTEMPT", job)


def note(folder: str | Path, name: str, code: int, told: str) -> None:
    """Write how this process ended, for `conclude`."""
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    path = Path(folder) / "attempts" / name / f"{this_attempt()}-{rank}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(
        path,
        json.dumps({"when": time.time(), "host": socket.gethostname(), "code": code, "told": told}),
    )


def read(folder: str | Path, name: str) -> list[Attempt]:
    """All attempts that are over, in order. What is no attempt is passed over."""
    with suppress(UnreadableError):
        rows = jsonl.read(inputs.inside(Path(folder), f"attempts/{name}.jsonl"), ATTEMPT.check)
        return [Attempt(**{field: row[field] for field in ATTEMPT.required}) for row in rows]
    return []


def endings(folder: str | Path, name: str) -> list[Attempt]:
    """How the processes of a job ended that nobody has drawn a conclusion from yet, the worst last."""
    noted = _endings(Path(folder), name, "*")
    found = [Attempt("", ending["when"], ending["code"], ending["told"], -1) for ending in noted]
    return sorted(found, key=lambda attempt: (attempt.failed, attempt.code))


def _endings(folder: Path, name: str, attempt: str) -> list[dict]:
    """What the processes of a job noted, the first first. What is no such note is passed over."""
    found = []
    for path in sorted((folder / "attempts" / name).glob(f"{attempt}-*.json")):
        with suppress(FileNotFoundError, UnreadableError):
            path = inputs.inside(folder, str(path.relative_to(folder)))
            found.append(inputs.read_json(path, ENDING_NOTE, inputs.MEGABYTE))
    return sorted(found, key=lambda ending: ending["when"])


def conclude(
    folder: str | Path, name: str, run_dir: str, code: int, told: str = ""
) -> list[Attempt]:
    """Enter the attempt that has just ended with exit code `code`; all attempts so far.

    A process that failed makes its peers fail, so the earliest failure counts. A killed process
    noted nothing; `code` (or `told`, where the caller knows more) then says so.
    """
    noted = _endings(Path(folder), name, this_attempt())
    cause = next((e for e in noted if e["code"] not in (0, StoppedError.exit_code)), None)
    stopped = next((e for e in noted if e["code"] == StoppedError.exit_code), None)
    if code == 0:
        cause = {"code": 0, "told": "done", "host": ""}
    elif cause is None and code - 128 in ASKED:
        # Without a note: before there was a handler for it.
        cause = stopped or {
            "code": StoppedError.exit_code,
            "told": f"stopped by {signal.Signals(code - 128).name}",
            "host": "",
        }
    elif cause is None and code == StoppedError.exit_code:
        cause = stopped
    if cause is None:  # whoever else was told to stop then, was so because of this
        how = f"killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
        cause = {
            "code": code,
            "told": f"a process was {how} and told nothing" if code > 128 else how,
            "host": "",
        }
    told = told or (f"{cause['host']}: {cause['told']}" if cause["host"] else cause["told"])
    attempt = Attempt(this_attempt(), time.time(), cause["code"], told, last_step(run_dir))
    path = Path(folder) / "attempts" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    jsonl.append(path, [asdict(attempt)])
    return read(folder, name)


def last_step(run_dir: str) -> int:
    """The last step in a run's metrics; -1 where there is none."""
    return rundir.last_step(Path(run_dir)) if run_dir else -1


def verdict(attempts: list[Attempt], retries: int, backoff: float) -> Verdict:
    """What follows from a job's attempts. A request to stop is followed at once; a failure only so
    often, and later.
    """
    last = attempts[-1]
    if last.code == 0:
        return Verdict(False, 0, "done")
    if last.code == InputError.exit_code:
        return Verdict(False, 0, f"{last.told}; another attempt would end alike")
    here = list(takewhile(lambda attempt: attempt.step == last.step, reversed(attempts)))
    failures = sum(attempt.failed for attempt in here)
    in_a_row = len(list(takewhile(lambda attempt: attempt.failed, reversed(attempts))))
    where = f"after step {last.step}" if last.step >= 0 else "before its first step"
    if failures >= SAME_STEP:
        return Verdict(False, 0, f"failed {failures} times {where}, the last time: {last.told}")
    if max(len(here), in_a_row) > retries:
        return Verdict(
            False, 0, f"ended {max(len(here), in_a_row)} times in a row, {where} now: {last.told}"
        )
    return Verdict(True, backoff * 2 ** (failures - 1) if last.failed else 0.0, last.told)
