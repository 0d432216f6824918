"""What a build leaves in its directory: its plan and its finished shards, so that it can be
continued or refused.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from seer import files
from seer.data.storage.index import LARGEST_TAR, MANIFEST, MOST_SAMPLES, SHARD, Manifest
from seer.errors import InputError, printable
from seer.inputs import read_json
from seer.schema import DIGEST, Flag, Integer, ListOf, MapOf, Plain, Record, Text
from shards.records.quarantine import ENTRY

STATE = ".build"  # beside the shards while they are built
PLAN = "plan.json"
LOCK = "lock"
TRIES = 1000  # to open a lock that others remove
# Of writers that were killed.
LEFTOVERS = (".shard-*", ".manifest.*", ".quarantine.*", ".contamination.*")
NO_WRITING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
# A folder, link or pipe where our file should be.
IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
Progress = Callable[[int, int], Any]  # called with what is done and what there is in all
LARGEST_RECORD = 2**30  # bytes: most of it are the entries of its quarantine
PLAN_KIND = Record(
    {"options": MapOf(Plain())},
    {"sources": ListOf(Plain()), "samples": Integer(0), "listing": Text()},
)
RECORD = Record(
    {
        "shard": SHARD,
        "samples": Integer(0, MOST_SAMPLES),
        "bytes": Integer(0, LARGEST_TAR),
        "sha256": DIGEST,
        "labels": Integer(0, 2**31),
        "quarantine": ListOf(ENTRY, MOST_SAMPLES),
    },
    {
        "pruned": Flag(),
        "staged": Flag(),
        "contamination": ListOf(Record({"key": Text(2**20), "sha256": DIGEST}), MOST_SAMPLES),
    },
)


class AnotherBuildError(InputError):
    """A folder that holds another build, or something else: what is to be built belongs elsewhere."""


def file_of(out: Path, state: str, name: str) -> Path:
    """A file of the state that stands in `out`.

    Raises InputError where it, or its folder, is a link: what is written and deleted there is ours,
    and nothing else.
    """
    for path in (out / state, out / state / name):
        if path.is_symlink():
            raise InputError(f"{path} is a link, and would lead out of {out}; remove it")
    return out / state / name


def recorded_plan(out: Path) -> dict[str, Any] | None:
    """The plan of the build in `out`, finished or not; None where there is none.

    Raises InputError when `out` holds something else, which a build would mix with its shards.
    """
    # In this order, since parts may be at it: a plan comes before the shards and goes after the
    # manifest has come.
    filled = out.is_dir() and any(not entry.name.startswith(".") for entry in os.scandir(out))
    begun = None
    with suppress(FileNotFoundError):
        path = file_of(out, STATE, PLAN)
        begun = read_json(path, PLAN_KIND) if path.parent.is_dir() else None
    if (out / MANIFEST).exists():
        plan = Manifest.load(out).build
        if "options" not in plan:
            raise AnotherBuildError(
                f"{out} holds shards that were indexed, not built; give another --out"
            )
        return plan
    if begun is not None:
        return begun
    if out.is_file():
        raise AnotherBuildError(f"{out} is a file; give a folder as --out")
    if filled:
        raise AnotherBuildError(
            f"{out} is not empty and holds no build; give a new or empty folder as --out"
        )
    return None


def refuse_another(out: Path, plan: dict[str, Any]) -> None:
    """Raise InputError that says how the build in `out` differs from `plan` (which may still lack
    its last items).
    """
    recorded = recorded_plan(out)
    if recorded is None:
        return
    then = _facts(recorded)
    now = _facts(plan)
    # What an earlier version did not know is as if it had not been asked for.
    changed = [key for key in now if (then.get(key) or None) != (now[key] or None)]
    if changed:
        facts = [
            f"{key} was {_show(then.get(key))}, now {_show(now[key])}"
            for key in changed
            if key != "listing"
        ]
        facts = facts or ["names or sizes of its source files have changed"]
        raise AnotherBuildError(
            f"{out} holds another build: {'; '.join(facts)}; give another --out, or delete it first"
        )


def is_complete(out: Path) -> bool:
    """Whether the build in `out` is finished: its manifest is the last file it writes."""
    return (out / MANIFEST).exists()


def record_path(out: Path, shard: str) -> Path:
    """Where it is recorded that `shard` is finished."""
    return out / STATE / f"{shard}.json"


def record_of(out: Path, shard: str) -> dict[str, Any] | None:
    """What was recorded when `shard` was finished; None if it was not, or if its files have gone
    since.
    """
    record = read_record(out, shard)
    if record is None or not record["samples"]:
        return record
    path = out / shard
    return record if path.is_file() and path.stat().st_size == record["bytes"] else None


def read_record(out: Path, shard: str) -> dict[str, Any] | None:
    """What was recorded of `shard`; None where there is nothing that a build wrote."""
    try:
        record = read_json(
            file_of(out, STATE, record_path(out, shard).name), RECORD, LARGEST_RECORD
        )
    except (OSError, InputError):
        return None
    return record if record["shard"] == shard else None


def unfinished(out: Path, shards: Sequence[str]) -> list[str]:
    """Those that are still to be written: none of a complete build, whose records are gone."""
    return [] if is_complete(out) else [shard for shard in shards if record_of(out, shard) is None]


def finished(out: Path, shard: str) -> dict[str, Any]:
    """What was recorded of a shard that is known to be finished."""
    record = record_of(out, shard)
    assert record is not None, f"{shard} was written without its record"
    return record


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Make a finished shard, whose files are in place, count."""
    files.write(record_path(out, record["shard"]), json.dumps(record))


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Raise InputError when the system refuses to write: no permission, no space, a read-only disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_WRITING | IN_THE_WAY:
            raise
        cause = os.strerror(error.errno).lower()
        where = Path(error.filename) if error.errno in IN_THE_WAY and error.filename else where
        raise InputError(
            f"{where} cannot be written ({cause}); mend that and run the same command again"
        ) from None


@contextmanager
def locked(out: Path, part: str = "") -> Iterator[None]:
    """Hold `out` for this process. Raises InputError when another one builds there.

    With `part` it is held together with the processes of other parts; each part has a lock of its
    own.
    """
    kind = fcntl.LOCK_SH if part else fcntl.LOCK_EX
    locks = out / STATE
    with (
        _lock(locks / LOCK, kind),
        _lock(locks / f"{LOCK}.{part}", fcntl.LOCK_EX) if part else nullcontext(),
    ):
        yield


@contextmanager
def held(out: Path, state: str) -> Iterator[None]:
    """Hold `out` for changing it, by a lock in its folder `state`. Raises InputError when another
    process does.
    """
    with _lock(out / state / LOCK, fcntl.LOCK_EX, "changed"):
        yield


@contextmanager
def _lock(path: Path, kind: int, doing: str = "built") -> Iterator[None]:
    with _acquire(path, kind, doing) as file:
        file.truncate(0)
        if kind == fcntl.LOCK_EX:
            file.write(str(os.getpid()))
            file.flush()
        yield


def _acquire(path: Path, kind: int, doing: str) -> IO:
    """The locked file of that path, whose folder may be removed at any moment by whoever ends what
    it is for.
    """
    out = path.parent.parent
    file_of(out, path.parent.name, path.name)
    for _ in range(TRIES):
        with writing(out):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = files.open_own(path, "a+")
            except (FileNotFoundError, FileExistsError):  # removed since it was there
                if path.parent.is_file():
                    raise InputError(
                        f"{path.parent} is a file, and no folder for a build's state; remove it"
                    ) from None
                continue
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                number = file.read(20)
                holder = f"process {number}" if number.isdigit() else "other processes"
            raise InputError(
                f"{out} is being {doing} by {holder}; wait for it, or stop it first"
            ) from None
        except OSError:
            return file  # a file system without locks: better an unguarded build than none
        if files.is_still(path, file.fileno()):
            return file
        file.close()
    raise InputError(
        f"{path} does not stay when it is made; give a folder on a file system that keeps files"
    )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait for the processes of other parts that are at this place, too."""
    try:
        file = files.open_own(file_of(out, STATE, "alone"), "a")
    except FileNotFoundError:  # another one has just ended the build
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def begin(out: Path, plan: dict[str, Any], shards: Sequence[str] | None = None) -> None:
    """Record the plan, and clear what a killed build had half written. Call it with the lock held.

    `shards` are those that this process will write, when others write theirs at the same time;
    None: it is alone.
    """
    leftovers = list[Path]()
    for pattern in (f"{STATE}/.*", *LEFTOVERS):
        leftovers += _files(out, pattern)
    mine = None
    if shards is not None:
        mine = {shard.removesuffix(".tar") for shard in shards}
    for leftover in leftovers:
        shard = leftover.name[1:].partition(".")[0]
        if mine is None or shard in mine:
            leftover.unlink(missing_ok=True)
    path = out / STATE / PLAN
    if shards is None or not path.exists():
        files.write(path, json.dumps(plan, indent=1))


def end(out: Path) -> None:
    """Remove the state; and `out` as well if nothing came of the build.

    Every process that was in the state calls it when it finds the build complete, and once it
    writes nothing more there: whichever comes last then leaves nothing behind.
    """
    for leftover in [path for pattern in LEFTOVERS for path in _files(out, pattern)]:
        leftover.unlink(missing_ok=True)
    drop(out / STATE)
    with suppress(OSError):
        out.rmdir()


@contextmanager
def worthwhile(out: Path) -> Iterator[None]:
    """Around what writes shards, with the lock held: where it is refused before any is finished, there is
    nothing to continue, and nothing is left.
    """
    try:
        yield
    except InputError:
        records = [path for path in (out / STATE).glob("*.json") if path.name != PLAN]
        if not records and set(os.listdir(out)) <= {STATE}:
            end(out)
        raise


def _files(out: Path, pattern: str) -> list[Path]:
    """What matches in `out` and is no folder, which no writer of ours leaves."""
    return [path for path in out.glob(pattern) if path.is_symlink() or not path.is_dir()]


def drop(folder: Path) -> None:
    """Remove the folder of a lock that is held: the lock last, since from then on the folder may be
    another's.
    """
    with suppress(FileNotFoundError):  # other parts may be at it, too
        clear(folder)
    (folder / LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def clear(folder: Path) -> None:
    """Remove what is in the folder of a lock that is held, but the lock; a link goes, and not what
    it leads to.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


def _facts(plan: dict[str, Any]) -> dict[str, Any]:
    return {
        **plan["options"],
        **{key: plan[key] for key in ("sources", "samples", "listing") if key in plan},
    }


def _show(value: Any) -> str:
    return (
        printable(", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"
    )
