"""What a build leaves in its directory: its plan and its finished shards, so that it can be continued or refused."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seer.data.index import MANIFEST, Manifest
from seer.errors import InputError

STATE = ".build"  # beside the shards while they are built
PLAN = "plan.json"
NO_WRITING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
Progress = Callable[[int, int], Any]  # called with what is done and what there is in all


def recorded_plan(out: Path) -> dict[str, Any] | None:
    """The plan of the build in `out`, finished or not; None where there is none.

    Raises InputError when `out` holds something else, which a build would mix with its shards.
    """
    if (out / MANIFEST).exists():
        plan = Manifest.load(out).build
        if "options" not in plan:
            raise InputError(f"{out} holds shards that were indexed, not built; give another --out")
        return plan
    if (out / STATE / PLAN).exists():
        return json.loads((out / STATE / PLAN).read_text())
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder as --out")
    if out.exists() and any(not entry.name.startswith(".") for entry in os.scandir(out)):
        raise InputError(f"{out} is not empty and holds no build; give a new or empty folder as --out")
    return None


def refuse_another(out: Path, plan: dict[str, Any]) -> None:
    """Raise InputError that says how the build in `out` differs from `plan` (which may still lack its last items)."""
    recorded = recorded_plan(out)
    if recorded is None:
        return
    then, now = _facts(recorded), _facts(plan)
    changed = [key for key in now if then.get(key) != now[key]]
    if changed:
        facts = [f"{key} was {_show(then.get(key))}, now {_show(now[key])}" for key in changed if key != "listing"]
        facts = facts or ["names or sizes of its source files have changed"]
        raise InputError(f"{out} holds another build: {'; '.join(facts)}; give another --out, or delete it first")


def is_complete(out: Path) -> bool:
    """Whether the build in `out` is finished: its manifest is the last file it writes."""
    return (out / MANIFEST).exists()


def record_of(out: Path, shard: str) -> dict[str, Any] | None:
    """What was recorded when `shard` was finished; None if it was not, or if its files have gone since."""
    try:
        record = json.loads((out / STATE / f"{shard}.json").read_text())
    except (OSError, ValueError):
        return None
    path = out / shard
    return record if not record["samples"] or (path.exists() and path.stat().st_size == record["bytes"]) else None


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Make a finished shard, whose files are in place, count."""
    write_atomic(out / STATE / f"{record['shard']}.json", json.dumps(record))


def sealed(classes: list[str] | None, build: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a manifest, with a checksum: Parquet has them for its pages only."""
    return {"classes": classes, "build": {**build, "checksum": checksum(classes, build)}}


def checksum(classes: list[str] | None, build: dict[str, Any]) -> str:
    """16 hex digits of the metadata of a manifest, less what it has for its checksum."""
    content = json.dumps([classes, {**build, "checksum": None}], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def write_atomic(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all, also after a power failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Raise InputError when the system refuses to write: no permission, no space, a read-only disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_WRITING:
            raise
        cause = os.strerror(error.errno).lower()
        raise InputError(f"{where} cannot be written ({cause}); mend that and run the same command again") from None


def sync(path: Path) -> None:
    """Have a file that was just written reach the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def locked(out: Path, state: str = STATE) -> Iterator[None]:
    """Hold `out` for this process, by a lock in its folder `state`. Raises InputError when another one works there."""
    with writing(out):
        (out / state).mkdir(parents=True, exist_ok=True)
        file = open(out / state / "lock", "a+")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            doing = "being built" if state == STATE else "being changed"
            raise InputError(f"{out} is {doing} by process {file.read()}; wait for it, or stop it first") from None
        except OSError:
            pass  # a file system without locks: better an unguarded build than none
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def begin(out: Path, plan: dict[str, Any]) -> None:
    """Record the plan, and clear what a killed build had half written. Call it with the lock held."""
    patterns = f"{STATE}/.*", ".shard-*", ".manifest.*", ".quarantine.*", ".contamination.*"
    for leftover in [path for pattern in patterns for path in out.glob(pattern)]:
        leftover.unlink(missing_ok=True)
    write_atomic(out / STATE / PLAN, json.dumps(plan, indent=1))


def end(out: Path) -> None:
    """Remove the state; and `out` as well if nothing came of the build."""
    shutil.rmtree(out / STATE)
    with suppress(OSError):
        out.rmdir()


def _facts(plan: dict[str, Any]) -> dict[str, Any]:
    return {**plan["options"], **{key: plan[key] for key in ("sources", "samples", "listing") if key in plan}}


def _show(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
