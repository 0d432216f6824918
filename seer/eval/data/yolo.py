"""YOLO's text files: one for each image, a line for each object: its class's number, then the box's
centre and sides, or the corners of a polygon, all as shares of the image's.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from seer.data.folders import images_under
from seer.errors import InputError
from seer.eval.data.collector import ABSENT, NO_NUMBERS, Collector
from seer.eval.data.masks import FAR
from seer.eval.data.objects import NO_CLASS, Annotated, Object
from seer.eval.data.rows import NAMES
from seer.inputs import MEGABYTE, UnreadableError, read_text, read_yaml
from seer.schema import ListOf, MismatchError, Record, Text

LARGEST = 16 * MEGABYTE


class Names:
    """Names of classes, as a list or by their numbers from 0; a list."""

    def check(self, value: Any, where: str = "") -> list[str]:
        if isinstance(value, dict):
            if sorted(map(str, value)) != sorted(map(str, range(len(value)))):
                raise MismatchError(where, f"its numbers are not 0 to {len(value) - 1}")
            value = [value.get(number, value.get(str(number))) for number in range(len(value))]
        return ListOf(Text(), distinct=True).check(value, where)

    def says(self) -> str:
        return "a list of names, or names by their numbers"


def read(folder: Path, images: str, labels: str, classes: list[str] | None) -> Annotated:
    """The images below `folder/images`, and their objects of the files below `folder/labels`. An image
    without a file has no objects.

    Args:
        classes: their names; None: the numbers that occur.

    Raises:
        InputError: a line is none; there are no images.
    """
    collector = Collector(folder)
    paths = images_under(folder / images)
    files = {f"{os.path.splitext(path)[0]}.txt" for path in paths} | {NAMES}
    collector.counts[ABSENT] += sum(
        file.is_file() and file.relative_to(folder / labels).as_posix() not in files
        for file in (folder / labels).rglob("[!.]*.txt")
    )
    things: list[tuple[int, int, Object]] = []
    for path in paths:
        image = collector.image(f"{images}/{path}", None)
        if image is None:
            continue
        file = folder / labels / f"{os.path.splitext(path)[0]}.txt"
        for label, thing in _objects(file, collector.shapes[image][:2], collector):
            things.append((image, label, thing))
    if not collector.paths:
        raise InputError(f"{folder / images}: holds no image")
    if classes is None:
        numbers = sorted({label for _, label, _ in things})
        classes = [str(number) for number in numbers]
        places = {number: place for place, number in enumerate(numbers)}
    else:
        places = {number: number for number in range(len(classes))}
    for image, label, thing in things:
        if label not in places:
            collector.counts[NO_CLASS] += 1
        else:
            collector.add(image, thing._replace(label=places[label]))
    return collector.finish(classes)


def names_in(folder: Path) -> list[str] | None:
    """The names of the classes in the folder's .yaml file, a list or a mapping from numbers; None where
    it has none.
    """
    for name in sorted(os.listdir(folder)):
        if name.endswith((".yaml", ".yml")):
            names = read_yaml(folder / name, Record({}, {"names": Names()})).get("names")
            if names is not None:
                return names
    return None


def _objects(path: Path, size: tuple[int, int], collector: Collector) -> list[tuple[int, Object]]:
    try:
        text = read_text(path, LARGEST)
    except FileNotFoundError:
        return []
    things = []
    height, width = size
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if not words[0].isdecimal() or len(words[0]) > 9 or len(words) < 5:
            raise UnreadableError(
                f"{path}, line {number}: '{line[:80]}' is not a class's number and a box or polygon"
            )
        try:
            shares = np.array([float(word) for word in words[1:]])
        except ValueError:
            shares = np.full(4, np.nan)
        thing = _object(shares, height, width)
        if thing is None:
            collector.counts[NO_NUMBERS] += 1
        else:
            things.append((int(words[0]), thing))
    return things


def _object(shares: np.ndarray, height: int, width: int) -> Object | None:
    """A box of four shares, or a polygon of six or more; None of any others."""
    if len(shares) == 4:
        centre = shares[:2] * [width, height]
        half = shares[2:] * [width, height] / 2
        return Object(0, np.concatenate([centre - half, centre + half]))
    if len(shares) < 6 or len(shares) % 2 or not (np.abs(shares) < FAR).all():
        return None
    corners = shares.reshape(-1, 2) * [width, height]
    box = np.concatenate([corners.min(0), corners.max(0)])
    x = corners[:, 0]
    y = corners[:, 1]
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    return Object(0, box, area=float(area), polygons=(corners.astype(np.float32),))
