"""What a value may be: kinds that are declared beside a file's format or an option's default, and
checked here.

Whatever stands in a data folder, a run directory, a recipe or a model file is input: somebody else
may have written it. Its reader declares what it may hold by these kinds, and `seer.inputs` reads
it. An option's range stands beside its default (`peak: float = option(0.1, Number(0))`) and is
checked by `check_options`, for every dataclass of options.

A kind has `check(value, where)`, which returns the value or raises `MismatchError`, and `says()`,
what it asks for.
"""

import math
import re
import sys
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Protocol

from seer.errors import InputError, nearest

INT64 = 2**63 - 1
LONGEST_NAME = 255  # bytes: what Linux's file systems take
DEEPEST = 32  # levels of lists and mappings within a value of any kind
KIND = "kind"  # the metadata's key, of a dataclass's field


class MismatchError(ValueError):
    """A value that is not what was declared: where it stands in its file, and what is wrong with
    it.
    """

    def __init__(self, where: str, problem: str):
        super().__init__(f"{where}: {problem}" if where else problem)


class Kind(Protocol):
    """What a value may be."""

    def check(self, value: Any, where: str = "") -> Any: ...

    def says(self) -> str: ...


def refuse(kind: Kind, value: Any, where: str) -> MismatchError:
    """The error that a value of another kind is; what a stranger wrote is shown short and escaped."""
    return MismatchError(where, f"{shown(value)} is not {kind.says()}")


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, where: str = "") -> bool:
        if not isinstance(value, bool):
            raise refuse(self, value, where)
        return value

    def says(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`."""

    low: int = -INT64
    high: int = INT64

    def check(self, value: Any, where: str = "") -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not self.low <= value <= self.high
        ):
            raise refuse(self, value, where)
        return value

    def says(self) -> str:
        return f"a whole number{_range(self.low, self.high, -INT64, INT64)}"


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`; `above` and `below` are bounds that it must not reach.

    With `finite=False`, infinities and NaN may stand there as well: in a record of what happened,
    not in an option.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    finite: bool = True

    def check(self, value: Any, where: str = "") -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or _is_huge(value):
            raise refuse(self, value, where)
        if not self.finite and not math.isfinite(value):
            return value
        within = self.low <= value <= self.high and math.isfinite(value)
        strictly = (value > self.above or math.isinf(self.above)) and (
            value < self.below or math.isinf(self.below)
        )
        if not (within and strictly):
            raise refuse(self, value, where)
        return value

    def says(self) -> str:
        if self.above == -math.inf and self.below == math.inf:
            return f"a number{_range(self.low, self.high)}"
        lower = (
            f"above {self.above:g}"
            if self.above > -math.inf
            else f"{self.low:g} or more" * (self.low > -math.inf)
        )
        upper = (
            f"below {self.below:g}"
            if self.below < math.inf
            else f"{self.high:g} or less" * (self.high < math.inf)
        )
        return f"a number, {' and '.join(filter(None, (lower, upper)))}"


@dataclass(frozen=True)
class Text:
    """Characters that UTF-8 can hold, `shortest` to `longest` of them; `pattern` must match all of
    it.
    """

    longest: int = 4096
    shortest: int = 0
    pattern: str = ""
    asked: str = ""  # what `says` says of a pattern

    def check(self, value: Any, where: str = "") -> str:
        if (
            not isinstance(value, str)
            or not self.shortest <= len(value) <= self.longest
            or not _is_unicode(value)
        ):
            raise refuse(self, value, where)
        if self.pattern and not re.fullmatch(self.pattern, value, re.DOTALL):
            raise refuse(self, value, where)
        return value

    def allows(self, value: str) -> bool:
        """Whether a text is of the kind."""
        try:
            self.check(value)
        except MismatchError:
            return False
        return True

    def says(self) -> str:
        if self.asked:
            return self.asked
        return f"a text of {self.shortest} to {self.longest:,} characters"


@dataclass(frozen=True)
class Location(Text):
    """A path or an address. `~` at its start is the user's home: no shell replaces it after `data=`
    or in a recipe.
    """

    pattern: str = r"[^\x00]*"

    def says(self) -> str:
        return f"a path or address of {self.shortest} to {self.longest:,} characters"


@dataclass(frozen=True)
class FileName:
    """The plain name of a file beside the file that names it: never a path, so that it leads
    nowhere else.

    `suffix` is in lower case; names may have it in any.
    """

    suffix: str = ""

    def check(self, value: Any, where: str = "") -> str:
        if (
            not isinstance(value, str)
            or not _is_unicode(value)
            or not value.lower().endswith(self.suffix)
        ):
            raise refuse(self, value, where)
        plain = value not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f\x7f]", value)
        if not plain or value.lower() == self.suffix or len(value.encode()) > LONGEST_NAME:
            raise refuse(self, value, where)
        return value

    def says(self) -> str:
        ending = f" that ends in {self.suffix}" if self.suffix else ""
        return f"the plain name of a file{ending} (no folders)"


class Choice:
    """One of some values."""

    def __init__(self, *values: Hashable):
        self.values = values

    def check(self, value: Any, where: str = "") -> Any:
        if not isinstance(value, Hashable) or not any(
            value == v and type(value) is type(v) for v in self.values
        ):
            if isinstance(value, str) and 0 < len(value) < LONGEST_NAME:
                raise MismatchError(
                    where, f"{shown(value)} is unknown{nearest(value, self.values)}"
                )
            raise refuse(self, value, where)
        return value

    def says(self) -> str:
        return f"one of: {', '.join(str(value) or repr('') for value in self.values)}"


@dataclass(frozen=True)
class Maybe:
    """Nothing (`null`), or a value of a kind."""

    kind: Kind

    def check(self, value: Any, where: str = "") -> Any:
        return None if value is None else self.kind.check(value, where)

    def says(self) -> str:
        return f"null or {self.kind.says()}"


@dataclass(frozen=True)
class ListOf:
    """`shortest` to `longest` values of one kind; no two alike if `distinct`, none below the last
    if `rising`.
    """

    kind: Kind
    longest: int = 1_000_000
    shortest: int = 0
    distinct: bool = False
    rising: bool = False

    def check(self, value: Any, where: str = "") -> list[Any]:
        if not isinstance(value, list | tuple):
            raise refuse(self, value, where)
        if not self.shortest <= len(value) <= self.longest:
            raise refuse(self, value, where)
        items = [self.kind.check(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if self.distinct and len(set(items)) < len(items):
            raise MismatchError(where, "it holds something twice")
        if self.rising and items != sorted(items):
            raise MismatchError(where, "its values must rise")
        return items

    def says(self) -> str:
        if self.shortest == self.longest:
            return f"a list of {self.shortest}, each {self.kind.says()}"
        return f"a list of {self.shortest:,} to {self.longest:,}, each {self.kind.says()}"


@dataclass(frozen=True)
class MapOf:
    """Names, each with a value of one kind."""

    kind: Kind
    key: Kind = Text(1024)
    longest: int = 100_000

    def check(self, value: Any, where: str = "") -> dict[str, Any]:
        if not isinstance(value, Mapping) or len(value) > self.longest:
            raise refuse(self, value, where)
        return {
            self.key.check(k, where): self.kind.check(v, join(where, k)) for k, v in value.items()
        }

    def says(self) -> str:
        return f"names with values, each {self.kind.says()}"


@dataclass(frozen=True)
class Plain:
    """Anything that JSON can say, `deepest` levels deep: what is kept or shown, and never acted
    upon.
    """

    deepest: int = DEEPEST

    def check(self, value: Any, where: str = "") -> Any:
        if self.deepest == 0:
            raise MismatchError(where, "it is nested too deeply")
        below = Plain(self.deepest - 1)
        if isinstance(value, Mapping):
            return {
                Text().check(k, where): below.check(v, join(where, k)) for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [below.check(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, str):
            return Text(10_000_000).check(value, where)
        if value is None or isinstance(value, bool | int | float):
            return value
        raise refuse(self, value, where)

    def says(self) -> str:
        return "a plain value"


@dataclass(frozen=True)
class Record:
    """Names with values of their own kinds. What is not declared is of kind `extra`: a newer seer
    may have added it.
    """

    required: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    extra: Kind | None = Plain()  # None: nothing else may stand there

    def check(self, value: Any, where: str = "") -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise refuse(self, value, where)
        if missing := sorted(self.required.keys() - value.keys()):
            raise MismatchError(where, f"'{missing[0]}' is missing")
        return {
            key: self._kind(key, where).check(item, join(where, key)) for key, item in value.items()
        }

    def _kind(self, key: Any, where: str) -> Kind:
        Text().check(key, where)
        kind = self.required.get(key) or self.optional.get(key) or self.extra
        if kind is None:
            raise MismatchError(where, f"{shown(key)} is not known here")
        return kind

    def says(self) -> str:
        return f"names with values ({', '.join(self.required) or 'any'})"


# Kinds that many share.
DIGEST = Text(64, 64, "[0-9a-f]{64}", "64 hex digits (a SHA-256)")
# What follows the key in the name of a tar's member: `mask.png`.
SUFFIX = Text(255, 1, r"[a-z0-9_+.-]+", "a suffix: a-z, 0-9, '_', '+', '-' and dots")
# What stands in one line of a table, a log or a batch script.
LINE = Text(
    1024, 0, r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*", "a text of one line, up to 1,024 characters"
)
WORD = Text(255, 1, LINE.pattern, "a text of one line, 1 to 255 characters")
POSITIVE = Integer(1, 2**40)
COUNT = Integer(0, 10**9)  # of steps, images, things to keep: nobody has more of them
SEED = Integer(0, 2**40)  # times a million, it still is a seed to torch
SHARE = Number(0, 1)
TEMPERATURE = Number(1e-4, 1e4)  # below it, exponentials overflow
RATE = Number(0, 1e30)  # above it, a step in single precision overflows
AREAS = ListOf(Number(above=0, high=1), 2, 2, rising=True)  # shares of an image's: lowest, highest
DEVICE = Choice("auto", "cpu", "cuda")
PROTOCOL = Text(4096)  # the name of one, or the path of a file


def option(default: Any, kind: Kind, **more: Any) -> Any:
    """A dataclass's field with the kind of its values; a list or mapping as default is copied for
    each instance.

    `incidental=True` says that it changes no result, as `config.incidental` has it.
    """
    metadata = {KIND: kind, **more}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def required(kind: Kind, **more: Any) -> Any:
    """The same without a default: whoever makes the options names a value."""
    return field(kw_only=True, metadata={KIND: kind, **more})


def kind_of(declared: Field) -> Kind | None:
    """The kind of an option, as declared or told by a type that says it all; None of one that has
    options itself.
    """
    if KIND in declared.metadata:
        return declared.metadata[KIND]
    return Flag() if declared.type in (bool, "bool") else None


def check_options(options: Any, where: str = "", flags: bool = False) -> None:
    """Check every value of a dataclass of options, and of those below it, against its field's kind.

    Args:
        where: the key that the options stand under.
        flags: name them as the command line does, `--shard-size`, or as the field's `flag` says.

    Raises:
        InputError: the first that is out of range, by its dotted key, with what may stand there.
    """
    for declared in fields(options):
        value = getattr(options, declared.name)
        key = flag_of(declared) if flags else join(where, declared.name)
        if kind := kind_of(declared):
            try:
                kind.check(value, key)
            except MismatchError as error:
                raise InputError(str(error)) from None
        for name, below in value.items() if isinstance(value, dict) else [("", value)]:
            if is_dataclass(below):
                check_options(below, join(key, name) if name else key, flags)


def flag_of(declared: Field) -> str:
    """The command line's option that fills a field."""
    return declared.metadata.get("flag") or f"--{declared.name.replace('_', '-')}"


def join(where: str, key: Any) -> str:
    """The dotted name of what stands under `key`; shown short and escaped where a stranger chose
    it.
    """
    name = key if isinstance(key, str) and key.isprintable() and len(key) <= 60 else shown(key)
    return f"{where}.{name}" if where else name


def default_of(declared: Field) -> Any:
    """A field's default; `dataclasses.MISSING` where it has none."""
    return (
        declared.default_factory() if declared.default_factory is not MISSING else declared.default
    )


def _range(low: float, high: float, lowest: float = -math.inf, highest: float = math.inf) -> str:
    if low > lowest and high < highest:
        return f" from {_figure(low)} to {_figure(high)}"
    if low > lowest:
        return f", {_figure(low)} or more"
    return f", {_figure(high)} or less" if high < highest else ""


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"


def _is_unicode(value: str) -> bool:
    return not re.search("[\ud800-\udfff]", value)


def _is_huge(value: float) -> bool:
    """Whether it is a whole number that no double holds."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def shown(value: Any) -> str:
    """A value as an error shows it: on one line, short, and without what a terminal would obey."""
    if isinstance(value, Mapping):
        return f"a mapping of {len(value):,}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length():,} bits"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
