"""Files that somebody else may have written, read within limits and checked against what their owner declared.

Every reader of a small file of a data folder, a run directory, a recipe or a model goes through here; `docs/trust.md`
lists them. A file is read only if it is a regular one of bounded size, so neither a pipe nor a device nor a bomb holds
a command up; what it holds is checked by a kind of `seer.schema`; what is wrong is one line.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from seer.errors import InputError, first_line
from seer.schema import Kind, MismatchError

MEGABYTE = 2**20
LARGEST_JSON = 64 * MEGABYTE
LARGEST_YAML = MEGABYTE // 4
LONGEST_LINE = MEGABYTE
NODES, DEEPEST = 100_000, 50  # of a YAML file, its aliases written out


class UnreadableError(InputError):
    """A file that is not what it should be: one line says what is wrong with it and where."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises FileNotFoundError, or `UnreadableError`."""
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnreadableError(f"{path}: larger than {limit:,} bytes, which no such file is; remove or replace it")
    return content


def read_text(path: Path, limit: int = LARGEST_JSON) -> str:
    """The same as text in UTF-8, without a byte order mark."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}: not a text in UTF-8 ({first_line(error)})") from None


def read_json(path: Path, kind: Kind, limit: int = LARGEST_JSON) -> Any:
    """The value of a JSON file, as `kind` declares it. Raises FileNotFoundError, or `UnreadableError`."""
    return parse_json(read_text(path, limit), kind, str(path))


def parse_json(text: str | bytes, kind: Kind, where: str) -> Any:
    """The value of a JSON text, as `kind` declares it; `where` is what an `UnreadableError` names."""
    try:
        return kind.check(json.loads(text))
    except MismatchError as error:
        raise UnreadableError(f"{where}: {error}") from None
    except RecursionError:
        raise UnreadableError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise UnreadableError(f"{where}: not readable as JSON ({first_line(error)})") from None


def read_rows(path: Path, kind: Kind) -> Iterator[Any]:
    """The rows of a file of one JSON value a line, as `kind` declares them, the first first; none of a missing file.

    Raises:
        UnreadableError: names the first line that is something else; what a killed writer left at the end is passed.
    """
    try:
        file = open_file(path)
    except FileNotFoundError:
        return
    with file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UnreadableError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes")
            if line.strip():
                try:
                    yield parse_json(line, kind, f"{path}, line {number}")
                except UnreadableError:
                    if not line.endswith(b"\n"):
                        return
                    raise


def read_yaml(path: Path, kind: Kind, limit: int = LARGEST_YAML) -> Any:
    """The value of a YAML file, as `kind` declares it. Raises FileNotFoundError, or `UnreadableError`."""
    return parse_yaml(read_text(path, limit), kind, str(path))


def parse_yaml(text: str, kind: Kind, where: str) -> Any:
    """The value of a YAML text, as `kind` declares it; `where` is what an `UnreadableError` names."""
    try:
        check_yaml(text)
        return kind.check(yaml.safe_load(text))
    except MismatchError as error:
        raise UnreadableError(f"{where}: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UnreadableError(f"{where}: not readable as YAML ({' '.join(str(error).split())})") from None


def check_yaml(text: str) -> None:
    """Raise `MismatchError` for a text that is small and means something huge, deep or endless: aliases of aliases."""
    sizes: dict[str, int] = {}  # of the values that have an anchor and are complete, in nodes
    begun: list[tuple[str | None, int]] = []  # collections that are open: anchor, and nodes before it
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise MismatchError("", f"alias *{event.anchor} stands within what it means, or means nothing")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            if anchor:
                sizes[anchor] = count - before
        if count > NODES or len(begun) > DEEPEST:
            raise MismatchError("", f"it has more than {NODES:,} values, aliases written out, or {DEEPEST} levels")


def inside(folder: Path, name: str) -> Path:
    """The file of that name in a folder, of which no link leads out of it. Raises `UnreadableError`."""
    path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead to themselves
        within = False
    if not within:
        raise UnreadableError(f"{path}: leads out of {folder}; nothing outside of it is read")
    return path


def open_file(path: Path) -> BinaryIO:
    """A regular file, to be read. Opening a pipe waits for its writer; this does not.

    Raises:
        FileNotFoundError: there is none. UnreadableError: it is something else, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UnreadableError(f"{path}: cannot be read ({reason}); check its permissions") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError(f"{path}: not a regular file; remove or replace it")
    return open(descriptor, "rb")
