"""What each option means, from where it is declared: the docstring of its dataclass says it in a
sentence, its kind says what it may be.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any

from seer.errors import InputError, nearest, quoted
from seer.schema import join, kind_of

# What everybody sets, or looks for, first.
FIRST = (
    "data",
    "run_dir",
    "epochs",
    "steps",
    "batch_size",
    "init",
    "backbone.name",
    "views.large.size",
    "schedule.peak",
)

# A line of a docstring's list of attributes: `mean, std: of the images' channels`.
ATTRIBUTE = re.compile(r"^( +)((?:\w+(?:\.\w+)*, )*\w+(?:\.\w+)*): (.*)$")


@dataclass(frozen=True)
class Meaning:
    """An option: its dotted key, its value, what it means and what it may be; texts are empty where
    nothing is said.
    """

    key: str
    value: Any
    meaning: str
    allowed: str

    def lines(self) -> list[str]:
        """For a terminal; the first as it is given on a command line."""
        texts = [text for text in (self.meaning, self.allowed) if text]
        return [quoted(f"{self.key}={_written(self.value)}"), *(f"    {text}" for text in texts)]


def meanings(
    options: Any, prefix: str = "", said_above: Mapping[str, str] = MappingProxyType({})
) -> list[Meaning]:
    """Every option of a dataclass's instance and of those within, in the order of declaration.

    Args:
        said_above: what the dataclass around it says of its options, by dotted key.
    """
    texts = {**said_above, **attributes(type(options))}
    rows: list[Meaning] = []
    for field in fields(options):
        key = join(prefix, field.name)
        value = getattr(options, field.name)
        if is_dataclass(value):
            above = f"{field.name}."
            below = {
                name.removeprefix(above): text
                for name, text in texts.items()
                if name.startswith(above)
            }
            rows += meanings(value, key, below)
        elif isinstance(value, dict):
            for name, entry in value.items():
                rows += meanings(entry, join(key, name))
        else:
            kind = kind_of(field)
            rows.append(Meaning(key, value, texts.get(field.name, ""), kind.says() if kind else ""))
    return rows


def first_ones_first(rows: Sequence[Meaning]) -> list[Meaning]:
    """The options with those of `FIRST` before the others, which stay in order."""
    return sorted(rows, key=lambda row: FIRST.index(row.key) if row.key in FIRST else len(FIRST))


def under(names: Sequence[str], rows: Sequence[Meaning]) -> list[Meaning]:
    """The options that are named, or stand below a key that is; all of them where none is.

    Raises:
        InputError: there is no such key.
    """
    keys = {name for row in rows for name in _with_parents(row.key)}
    if unknown := next((name for name in names if name not in keys), None):
        raise InputError(f"{unknown}: unknown key{nearest(unknown, keys)}")
    return [row for row in rows if not names or set(names) & set(_with_parents(row.key))]


def _with_parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _written(value: Any) -> str:
    """A value as an override has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return "null" if value is None else str(value)


def attributes(options: type) -> dict[str, str]:
    """What the docstring of a dataclass of options, and those of its bases, say of each field.

    That is its text under `Attributes:`, or else a sentence that has its name in backticks.
    """
    texts: dict[str, str] = {}
    for base in reversed(options.__mro__[:-1]):
        document = inspect.cleandoc(base.__doc__ or "")
        summary, *listed = re.split(r"^Attributes.*:$", document, maxsplit=1, flags=re.MULTILINE)
        own = _listed("".join(listed))
        for text in (*own.values(), " ".join(summary.split())):
            for sentence in re.split(r"(?<=[.;])\s+", text):
                texts |= dict.fromkeys(re.findall(r"`([a-z_]\w*)`", sentence), sentence)
        texts |= own
    return texts


def _listed(document: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    names: list[str] = []
    indent = None
    for line in document.splitlines():
        match = ATTRIBUTE.match(line)
        if match and (indent is None or len(match[1]) == indent):
            indent = len(match[1])
            names = match[2].split(", ")
            texts |= dict.fromkeys(names, match[3])
        elif names and line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts
