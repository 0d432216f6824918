"""Tables of colours: which class a colour in a mask stands for."""

import re
from pathlib import Path

import numpy as np

from seer.data.folders import readable
from seer.errors import InputError
from seer.eval.data.rows import MOST_CLASSES, lines

LEVELS = 256


class Colours:
    """The colours of classes, in the order of their numbers.

    Attributes:
        names: of the classes.
    """

    def __init__(self, rgb: np.ndarray, names: list[str]):
        self.names = names
        codes = _codes(rgb)
        self._order = np.argsort(codes, kind="stable")
        self._codes = codes[self._order]

    def numbers(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """`(H, W)` int32 classes of `(H, W, 3)` uint8. Raises `InputError` for a colour that has none."""
        codes = _codes(pixels)
        places = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        wrong = self._codes[places] != codes
        if wrong.any():
            y, x = np.argwhere(wrong)[0].tolist()
            colour = " ".join(map(str, pixels[y, x].tolist()))
            raise InputError(
                f"{name}: has the colour {colour} at row {y}, column {x}, which is none of the table's; add it "
                "there, and to void= if it is no class"
            )
        return self._order[places].astype(np.int32)


def read_colours(path: Path) -> Colours:
    """A table of a line for each class: red, green, blue and a name, in either order, with blanks or
    commas between them. A line without numbers at the top is a head; `#` begins a remark.

    Raises:
        InputError: it cannot be read, a line is none, or a colour stands twice.
    """
    if not path.is_file():
        raise InputError(f"colours={readable(str(path))}: no such file")
    rgb: dict[tuple[int, ...], None] = {}
    names: list[str] = []
    for number, line in enumerate(lines(path), 1):
        text = line.partition("#")[0].strip()
        words = [word for word in re.split(r"[\s,;]+", text) if word]
        levels = tuple(int(word) for word in words if re.fullmatch(r"[0-9]{1,3}", word))
        if not words or (number == 1 and not any(re.match(r"[-+.]?\d", word) for word in words)):
            continue
        if len(levels) != 3 or max(levels) >= LEVELS:
            raise InputError(
                f"{readable(str(path))}, line {number}: is no class; give red, green, blue from 0 to 255, and a name"
            )
        if levels in rgb:
            raise InputError(f"{readable(str(path))}, line {number}: has a colour a second time")
        if len(rgb) == MOST_CLASSES:
            raise InputError(f"{readable(str(path))}: has more than {MOST_CLASSES:,} colours")
        rgb[levels] = None
        label = " ".join(word for word in words if not word.isdecimal())
        names.append(label or str(len(names)))
    if not rgb:
        raise InputError(f"{readable(str(path))}: has no colours")
    return Colours(np.array(list(rgb), np.uint8), names)


def _codes(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.int32) @ np.array([LEVELS**2, LEVELS, 1], np.int32)
