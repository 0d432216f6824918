"""Files that somebody else may have written, read within limits and checked against what their
owner declared.

Every reader of a small file of a data folder, a run directory, a recipe or a model goes through
here; `docs/trust.md` lists them. A file is read only if it is a regular one of bounded size, so
neither a pipe nor a device nor a bomb holds a command up; what it holds is checked by a kind of
`seer.schema`; what is wrong is one line.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from seer.errors import InputError, first_line
from seer.schema import Kind, MismatchError

MEGABYTE = 2**20
LARGEST_JSON = 64 * MEGABYTE
LARGEST_YAML = MEGABYTE // 4
LONGEST_LINE = MEGABYTE
# Libyaml's, where it is there: 20 times as fast.
YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
IRREGULAR = "not a regular file"
# Of a YAML file, its aliases written out.
NODES = 100_000
DEEPEST = 50


class UnreadableError(InputError):
    """A file that is not what it should be: one line says what is wrong with it and where."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises FileNotFoundError, or
    `UnreadableError`.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, limit) + 1)  # for which room is made at once
    if size > limit:
        raise UnreadableError(
            f"{path}: larger than {limit:,} bytes, which no such file is; remove or replace it"
        )
    return content


def read_text(path: Path, limit: int = LARGEST_JSON) -> str:
    """The same as text in UTF-8, without a byte order mark."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}: not a text in UTF-8 ({first_line(error)})") from None


def read_json(path: Path, kind: Kind, limit: int = LARGEST_JSON) -> Any:
    """The value of a JSON file, as `kind` declares it. Raises FileNotFoundError, or
    `UnreadableError`.
    """
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


def read_rows(path: Path, kind: Kind, torn: bool = False) -> Iterator[Any]:
    """The rows of a file of one JSON value a line, as `kind` declares them, the first first; none
    of a missing file.

    What a killed writer left at the end is passed over. With `torn` so is any line that is no JSON:
    where others write on after a killed one, its half line stands in the middle.

    Raises:
        UnreadableError: names the first line that is something else.
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
            if not line.strip() or (torn and not _is_json(line)):
                continue
            try:
                yield parse_json(line, kind, f"{path}, line {number}")
            except UnreadableError:
                if not line.endswith(b"\n"):
                    return
                raise


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except RecursionError:
        return True  # and refused as such
    except ValueError:
        return False
    return True


def read_yaml(path: Path, kind: Kind, limit: int = LARGEST_YAML) -> Any:
    """The value of a YAML file, as `kind` declares it. Raises FileNotFoundError, or
    `UnreadableError`.
    """
    return parse_yaml(read_text(path, limit), kind, str(path))


def parse_yaml(text: str, kind: Kind, where: str) -> Any:
    """The value of a YAML text, as `kind` declares it; `where` is what an `UnreadableError` names."""
    with yaml_of(text, where):
        return kind.check(yaml.safe_load(text))


@contextmanager
def yaml_of(text: str, where: str) -> Iterator[None]:
    """Around what reads a YAML text, which is bounded first; what is wrong with it becomes an
    `UnreadableError` that names `where`.
    """
    try:
        check_yaml(text)
        yield
    except MismatchError as error:
        raise UnreadableError(f"{where}: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = yaml_problem(error, text)
        raise UnreadableError(f"{where}: not readable as YAML ({problem})") from None


def yaml_problem(error: Exception, text: str) -> str:
    """What is wrong with a YAML text, and in which line; nothing of the text itself, which may be
    anybody's secret.
    """
    if isinstance(error, yaml.reader.ReaderError):
        character = (
            error.character if isinstance(error.character, int) else ord(error.character[:1] or " ")
        )
        return f"it holds the character #x{character:x}, which YAML does not take"
    if not isinstance(error, yaml.MarkedYAMLError):
        return "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
    mark = error.problem_mark or error.context_mark
    # What it quotes is of the text, unless it is a mere sign (',') or a sort of token ('<scalar>').
    problem = re.sub(r"'([^']*)'", _if_harmless, error.problem or "")
    # The mark of what is missing is after the last line.
    line = min(mark.line, text.count("\n")) + 1 if mark else 1
    return f"line {line}: {' '.join(problem.split())}"


def check_yaml(text: str) -> None:
    """Raise `MismatchError` for a text that is small and means something huge, deep or endless:
    aliases of aliases.
    """
    sizes: dict[str, int] = {}  # of the values that have an anchor and are complete, in nodes
    begun: list[
        tuple[str | None, int]
    ] = []  # collections that are open: anchor, and nodes before it
    count = 0
    for event in yaml.parse(text, Loader=YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise MismatchError(
                    _line(event), "an alias (*) stands within what it means, or means nothing"
                )
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
            raise MismatchError(
                "", f"it has more than {NODES:,} values, aliases written out, or {DEEPEST} levels"
            )


def _if_harmless(quoted: re.Match) -> str:
    return quoted[0] if re.fullmatch(r"\W{1,3}|<[a-z ]+>", quoted[1]) else "..."


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else ""


def inside(folder: Path, name: str) -> Path:
    """The file of that name in a folder, of which no link leads out of it. Raises
    `UnreadableError`.
    """
    path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead to themselves
        within = False
    if not within:
        raise UnreadableError(f"{path}: leads out of {folder}; nothing outside of it is read")
    return path


def open_file(path: Path) -> BufferedReader:
    """A regular file, to be read. Opening a pipe waits for its writer; this does not.

    Raises:
        FileNotFoundError: there is none. UnreadableError: it is something else, or may not be read.
    """
    return open(open_regular(path), "rb")


def open_regular(path: Path) -> int:
    """A descriptor of what `open_file` opens. Raises as it does."""
    try:
        return _descriptor(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        if reason == IRREGULAR:
            raise UnreadableError(f"{path}: {IRREGULAR}; remove or replace it") from None
        raise UnreadableError(f"{path}: cannot be read ({reason}); check its permissions") from None


def open_data(path: Path | str) -> BufferedReader:
    """The same for readers to whom a file that they cannot read is damage. Raises OSError, for a
    pipe as well.
    """
    return open(_descriptor(path), "rb")


def _descriptor(path: Path | str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, IRREGULAR, str(path))
    return descriptor
