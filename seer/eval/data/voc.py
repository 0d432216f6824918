"""Pascal VOC's XML (Everingham et al. 2010, IJCV 88, 303-338): a file for each image, boxes of whole
pixels counted from 1, the last one included.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from seer.errors import InputError, first_line
from seer.eval.data.collector import NO_NUMBERS, Collector
from seer.eval.data.objects import NO_CLASS, Annotated, Object
from seer.eval.data.rows import check_path, lines
from seer.inputs import MEGABYTE, UnreadableError, read_bytes

ANNOTATIONS = "Annotations"
IMAGES = "JPEGImages"
LISTS = "ImageSets/Main"
ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp")
EDGES = ("xmin", "ymin", "xmax", "ymax")
DECLARATION = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


def read(folder: Path, names: Iterable[tuple[str, str]]) -> Annotated:
    """The images of some names, each below a folder `within` (`""`, `VOC2007`), and their objects, of all
    classes that occur, sorted.

    Raises:
        InputError: an annotation is missing or is none; no image is there.
    """
    names = list(names)
    if not names:
        raise InputError(f"{folder}: a list in {LISTS}/ names no image, or only such as are tested")
    collector = Collector(folder)
    listed: list[list[tuple[str, Object]]] = []
    for within, name in names:
        check_path(name, folder)
        root = f"{within}/" if within else ""
        path = folder / f"{root}{ANNOTATIONS}/{name}.xml"
        tree = _parsed(path)
        image = collector.image(_image(folder, root, name, tree), _size(tree))
        if image is None:
            continue
        listed.append([])
        for element in tree.iter("object"):
            thing = _object(element, collector)
            label = _text(element, "name")
            if thing is not None and label:
                listed[-1].append((label, thing))
            elif thing is not None:
                collector.counts[NO_CLASS] += 1
    if not collector.paths:
        raise InputError(f"{folder}: none of its images is there; put them into {IMAGES}/")
    classes = sorted({name for things in listed for name, _ in things})
    for image, things in enumerate(listed):
        for name, thing in things:
            collector.add(image, thing._replace(label=classes.index(name)))
    return collector.finish(classes)


def names_of(folder: Path, within: str, splits: Sequence[str]) -> list[tuple[str, str]] | None:
    """The names of the first list that is there, of several, each once; None where there is none of them."""
    for split in splits:
        path = folder / within / LISTS / f"{split}.txt"
        if path.is_file():
            names = dict.fromkeys(line.split()[0] for line in lines(path))
            return [(within, name) for name in names]
    return None


def all_names(folder: Path, within: str) -> list[tuple[str, str]]:
    """The names of all annotations, sorted."""
    files = os.listdir(folder / within / ANNOTATIONS)
    return [(within, name[:-4]) for name in sorted(files) if name.endswith(".xml")]


def _parsed(path: Path) -> ElementTree.Element:
    try:
        text = read_bytes(path, MEGABYTE)
    except FileNotFoundError:
        raise UnreadableError(f"{path} is missing; a list names it") from None
    if DECLARATION.search(text.replace(b"\0", b"")):  # in UTF-16 as well
        raise UnreadableError(f"{path}: declares a type or entities, which no annotation does")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableError(f"{path}: not readable as XML ({first_line(error)})") from None


def _image(folder: Path, root: str, name: str, tree: ElementTree.Element) -> str:
    """Where the image of an annotation lies: by its own name, else as the annotation says."""
    path = f"{root}{IMAGES}/{name}"
    for ending in ENDINGS:
        if os.path.isfile(folder / (path + ending)):
            return path + ending
    said = _text(tree, "filename") or f"{name}{ENDINGS[0]}"
    check_path(said, folder)
    return f"{root}{IMAGES}/{said}"


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    sides = [_text(tree, f"size/{side}") for side in ("height", "width")]
    if not all(side and side.isdecimal() and len(side) < 10 and int(side) for side in sides):
        return None
    height, width = sides
    return int(height or 0), int(width or 0)


def _object(element: ElementTree.Element, collector: Collector) -> Object | None:
    try:
        edges = [float(_text(element, f"bndbox/{edge}") or "") for edge in EDGES]
    except ValueError:
        collector.counts[NO_NUMBERS] += 1
        return None
    # The first pixel is 1 and goes from 0 to 1.
    box = np.array(edges, np.float64) - [1, 1, 0, 0]
    return Object(0, box, difficult=_text(element, "difficult") == "1")


def _text(element: ElementTree.Element, path: str) -> str | None:
    text = element.findtext(path)
    return text.strip() if text else None
