"""What a label says, whether a `.cls` member or a list's column holds it: a class by number or by
name, or none.
"""

import re
from typing import NamedTuple

import pyarrow as pa

# Every class has an entry in the manifest; larger numbers are identifiers of something else.
MAX_CLASSES = 1 << 20
MAX_NAME = 256  # characters
NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?|nan|[+-]?inf", re.IGNORECASE
)
# JSON, lines, numbers side by side.
SEVERAL = re.compile(r"[\[{]|.*[\r\n]|[0-9]+[\s,;]+[0-9]", re.DOTALL)
LEFT_OUT = (
    f"labels left out that are no class (a number from 0 to {MAX_CLASSES - 1:,}, or one name)"
)


class Label(NamedTuple):
    """A class by `number` or by `name`, or neither; `bad` if the label is none of these."""

    number: int | None = None
    name: str | None = None
    bad: bool = False

    @property
    def text(self) -> str | None:
        """The number in digits, or the name."""
        return self.name if self.number is None else str(self.number)


def parse(text: str) -> Label:
    """The label that a text says; nothing, NaN and numbers below 0 (often -1 or -100) are none."""
    text = text.strip()
    if not text:
        return Label()
    if NUMBER.fullmatch(text):
        return _numbered(text)
    return Label(bad=True) if SEVERAL.match(text) or len(text) > MAX_NAME else Label(name=text)


def parse_bytes(data: bytes) -> Label:
    """The label that a `.cls` member says."""
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        return Label(bad=True)


def _numbered(text: str) -> Label:
    number = float(text)
    if number < 0 or number != number:
        return Label()
    if number >= MAX_CLASSES or not number.is_integer():
        return Label(bad=True)
    return Label(number=int(number))


def cleaned(column: pa.Array) -> tuple[pa.Array, list[tuple[str, int]]]:
    """A column of texts as digits, names and nulls; and which texts were left out as no class, and
    how often.
    """
    encoded = column.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    labels = [parse(text) for text in texts]
    clean = pa.array([label.text for label in labels], pa.string())
    counts = encoded.indices.value_counts().to_pylist()
    bad = [
        (texts[c["values"]], c["counts"])
        for c in counts
        if c["values"] is not None and labels[c["values"]].bad
    ]
    return clean.take(encoded.indices), bad
