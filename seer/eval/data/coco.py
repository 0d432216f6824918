"""COCO's JSON (Lin et al. 2014, arXiv:1405.0312): images, boxes `[x, y, width, height]`, masks as
polygons or run lengths, crowds.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seer.errors import InputError
from seer.eval.data.collector import ABSENT, FEW_CORNERS, NO_MASK, NO_NUMBERS, Collector
from seer.eval.data.masks import polygons_of, runs_of
from seer.eval.data.objects import NO_CLASS, Annotated, Object
from seer.eval.data.rows import LARGEST_LIST, check_path
from seer.inputs import UnreadableError, read_json
from seer.schema import MismatchError, Text, refuse

NUMBERS = (int, float)
NAME = Text(shortest=1)
FAR = 2**31  # beyond which no coordinate is one


class Rows:
    """A list of mappings, whose values whoever reads them checks."""

    def check(self, value: Any, where: str = "") -> list[dict[str, Any]]:
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise refuse(self, value, where)
        return value

    def says(self) -> str:
        return "a list of mappings"


class Lists:
    """The three lists of a COCO file."""

    def check(self, value: Any, where: str = "") -> dict[str, list[dict[str, Any]]]:
        if not isinstance(value, dict):
            raise refuse(self, value, where)
        for name in ("images", "annotations", "categories"):
            if name not in value:
                raise MismatchError(where, f"'{name}' is missing, so it is no COCO file")
            Rows().check(value[name], name)
        return value

    def says(self) -> str:
        return "a mapping with images, annotations and categories"


def read(path: Path, folder: Path, roots: Sequence[str]) -> Annotated:
    """The images and objects of a file.

    Args:
        folder: below which the images lie, in one of `roots`: the first in which a name is found.

    Raises:
        InputError: it is no COCO file; an image or a category is there twice; no image is there.
    """
    content = read_json(path, Lists(), LARGEST_LIST)
    classes = _classes(content["categories"], path)
    names = list(classes.values())
    numbers = {id: names.index(name) for id, name in classes.items()}
    collector = Collector(folder)
    places = _images(content["images"], path, collector, roots)
    known = set(places)
    for row in content["annotations"]:
        image = row.get("image_id")
        if not isinstance(image, int | str) or image not in known:
            collector.counts[ABSENT] += 1
        elif (place := places[image]) is not None:
            category = row.get("category_id")
            add(row, place, numbers.get(category) if type(category) is int else None, collector)
    if not collector.paths:
        raise InputError(
            f"{path}: none of its {len(places):,} images is there; put them into {folder / roots[0]}"
        )
    return collector.finish(names)


def _classes(rows: list[dict[str, Any]], path: Path) -> dict[int, str]:
    """Names by id. The ids may have gaps, and their order is that of the classes."""
    classes: dict[int, str] = {}
    for row in rows:
        id = row.get("id")
        name = row.get("name")
        if not isinstance(id, int) or not isinstance(name, str) or not NAME.allows(name):
            raise UnreadableError(f"{path}: a category has no id, a whole number, and name")
        if id in classes or name in classes.values():
            raise InputError(
                f"{path}: category {id} ({name[:80]}) is there twice; keep one of them"
            )
        classes[id] = name
    if not classes:
        raise InputError(f"{path}: has no categories; name the classes of its objects")
    return dict(sorted(classes.items()))


def _images(
    rows: list[dict[str, Any]], path: Path, collector: Collector, roots: Sequence[str]
) -> dict[int | str, int | None]:
    """The numbers of the images by their ids; None of those that are left out."""
    places: dict[int | str, int | None] = {}
    for row in rows:
        id = row.get("id")
        name = row.get("file_name")
        if not isinstance(id, int | str) or not isinstance(name, str):
            raise UnreadableError(f"{path}: an image has no id and file_name")
        if id in places:
            raise InputError(
                f"{path}: two images have the id {id}, so it is not told whose its boxes are; number them anew"
            )
        check_path(name, path.parent)
        size = (row.get("height"), row.get("width"))
        told = None if size == (None, None) else size  # what is no number is no image's size
        candidates = [f"{root}/{name}" if root else name for root in roots]
        there = [each for each in candidates if os.path.isfile(collector.folder / each)]
        places[id] = collector.image((there or candidates)[0], told)  # type: ignore[arg-type]
    return places


def add(row: dict[str, Any], place: int, label: int | None, collector: Collector) -> None:
    """Take an annotation of an image and a class in, or count why not; None is a class that is not known."""
    if label is None:
        collector.counts[NO_CLASS] += 1
        return
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_coordinate, box)):
        collector.counts[NO_NUMBERS] += 1
        return
    x, y, width, height = box
    area = row.get("area")
    thing = Object(
        label,
        np.array([x, y, x + width, y + height], np.float64),
        crowd=row.get("iscrowd") == 1,
        difficult=row.get("difficult") == 1,
        area=float(area) if isinstance(area, NUMBERS) and 0 < area < FAR**2 else 0.0,
    )
    collector.add(place, _with_mask(thing, row.get("segmentation"), place, collector))


def _is_coordinate(value: Any) -> bool:
    return type(value) in NUMBERS and abs(value) < FAR


def _with_mask(thing: Object, mask: Any, place: int, collector: Collector) -> Object:
    """The object with its mask, if that is one."""
    if not mask:
        return thing
    if isinstance(mask, list):
        polygons, few = polygons_of(mask)
        collector.counts[FEW_CORNERS] += few
        return thing._replace(polygons=tuple(polygons))
    shape = collector.shapes[place]
    if isinstance(mask, dict):
        size = mask.get("size")
        for height, width in (shape[:2], shape.stored):
            if size == [height, width]:
                runs = runs_of(mask.get("counts"), height, width)
                if runs is not None:
                    return thing._replace(runs=runs)
    collector.counts[NO_MASK] += 1
    return thing
