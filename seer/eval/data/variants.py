"""Variants of ImageNet's test images, as their owners lay them out, and which of the classes that a
classifier knows each of their own classes is.

Recht et al. 2019 (arXiv:1902.10811, V2), Hendrycks et al. 2021 (arXiv:2006.16241, R;
arXiv:1907.07174, A), Wang et al. 2019 (arXiv:1905.13549, Sketch), Barbu et al. 2019 (NeurIPS,
ObjectNet).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seer.data.folders import readable
from seer.data.labelled import Labelled, Part, load_labelled
from seer.errors import InputError
from seer.eval.data.datasets import DATASETS, ROBUSTNESS, DataSet
from seer.eval.data.recognition import Located, folder_of_marks, words
from seer.eval.data.rows import lines
from seer.inputs import MEGABYTE, UnreadableError, read_json
from seer.schema import Integer, MapOf, Text

CLASSES = 1000  # of ImageNet, whose sorted WordNet ids some variants number
CORRUPTED = "imagenet-c"
OBJECTNET = "objectnet"
BORDER = 2  # pixels of red around ObjectNet's images, so that nobody trains on them unknowingly
NAMES = MapOf(Text())
NUMBERS = MapOf(Integer(0))


@dataclass
class Variant:
    """A variant.

    Attributes:
        images: labelled by the variant's own classes.
        numbers: of each of these, the numbers of the classes of the training images that it is; most often one.
    """

    name: str
    title: str
    images: Labelled
    numbers: list[list[int]]


class Bordered(Labelled):
    """Images whose border is no part of them."""

    def __init__(self, *known: object) -> None:
        super().__init__(*known)  # type: ignore[arg-type]
        content = f"{self.fingerprint}, without {BORDER} px"
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    def image(self, i: int) -> np.ndarray:
        whole = super().image(i)
        if min(whole.shape[:2]) <= 2 * BORDER:
            raise InputError(f"{self.source.name(i)} is nothing but a border; get it anew")
        return np.ascontiguousarray(whole[BORDER:-BORDER, BORDER:-BORDER])


def entries() -> list[DataSet]:
    """The variants, in the order of the table of data sets."""
    return [entry for entry in DATASETS.values() if ROBUSTNESS in entry.suites]


def located_in(root: Path) -> tuple[list[Located], list[str]]:
    """The variants that lie in a folder, and a line for each of which nothing or not all is there."""
    there = []
    lines = []
    for entry in entries():
        folder = folder_of_marks(entry, root)
        if folder is None:
            lines.append(
                f"{entry.title}: not there, so not measured; its owner has it: {entry.source}"
            )
            continue
        located = Located(entry, folder)
        missing = located.missing()
        if missing:
            lines.append(f"{entry.title}: not measured, {folder / words(missing[0])} is missing")
        else:
            there.append(located)
    return there, lines


def open_variant(located: Located, classes: Sequence[str]) -> Variant:
    """A variant of one class an image, ImageNet-C aside, for a classifier of these classes.

    Raises:
        InputError: a class folder or a class map is of other classes.
    """
    entry, folder = located
    if entry.name == OBJECTNET:
        return _objectnet(located, classes)
    images = load_labelled(folder)
    if all(name.isdecimal() for name in images.classes):
        numbers = by_numbers(images.classes, classes, folder)
    else:
        numbers = by_names(images.classes, classes, folder)
    return Variant(entry.name, entry.title, images, numbers)


def by_names(own: Sequence[str], classes: Sequence[str], folder: Path) -> list[list[int]]:
    """The number among the classes of each folder that is called as one. Raises `InputError` naming
    one that is not.
    """
    places = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in own if name not in places]
    if unknown:
        raise InputError(
            f"{folder}: its class folder '{unknown[0]}' is none of the {len(classes):,} classes of the training images "
            f"('{classes[0]}' …); remove it, or train on images of all of its {len(own):,} classes"
        )
    return [[places[name]] for name in own]


def by_numbers(own: Sequence[str], classes: Sequence[str], folder: Path) -> list[list[int]]:
    """The same of folders that are called by their places among ImageNet's sorted WordNet ids."""
    check_all(classes, folder)
    unknown = [name for name in own if int(name) >= CLASSES]
    if unknown:
        raise InputError(
            f"{folder}: its class folder '{unknown[0]}' is no number from 0 to {CLASSES - 1}; remove it"
        )
    return [[int(name)] for name in own]


def check_all(classes: Sequence[str], folder: Path) -> None:
    """Raise `InputError` unless a number names the same class here as in ImageNet."""
    if len(classes) != CLASSES:
        raise InputError(
            f"{folder}: numbers ImageNet's {CLASSES:,} classes, and the training images have {len(classes):,}; train "
            "on all of ImageNet, or name its folders by WordNet ids"
        )


def _objectnet(located: Located, classes: Sequence[str]) -> Variant:
    """The images of those objects that ImageNet has, too."""
    entry, folder = located
    images = load_labelled(folder / "images")
    known = objects(folder / "mappings", classes)
    unknown = [name for name in images.classes if name not in known]
    if unknown:
        raise InputError(
            f"{folder}: its class folder '{unknown[0]}' is not in mappings/folder_to_objectnet_label.json; remove it, "
            "or get both from the same archive"
        )
    shared = [number for number, name in enumerate(images.classes) if known[name]]
    if not shared:
        raise InputError(f"{folder}: no class folder is of an object that ImageNet has")
    rows = np.flatnonzero(np.isin(images.labels, shared))
    labels = np.searchsorted(shared, images.labels[rows])
    names = [images.classes[number] for number in shared]
    kept = Bordered(Part(images.source, rows), labels, names)
    return Variant(entry.name, entry.title, kept, [known[name] for name in names])


def objects(mappings: Path, classes: Sequence[str]) -> dict[str, list[int]]:
    """Of each of ObjectNet's folders the classes of ImageNet that its object is; none of most.

    `folder_to_objectnet_label.json` names the folders' objects, `objectnet_to_imagenet_1k.json` the objects' classes
    (`A; B`), line i of `imagenet_to_label_2012_v2` the class whose number in `pytorch_to_imagenet_2012_id.json` is i,
    under its place among the sorted WordNet ids.

    Raises:
        InputError: they are no such maps, or of other classes.
    """
    check_all(classes, mappings)
    labels = _map(mappings / "folder_to_objectnet_label.json", NAMES)
    named = _map(mappings / "objectnet_to_imagenet_1k.json", NAMES)
    places = _map(mappings / "pytorch_to_imagenet_2012_id.json", NUMBERS)
    place_of = {number: place for place, number in places.items()}
    numbers = {}
    for line, name in enumerate(lines(mappings / "imagenet_to_label_2012_v2")):
        place = place_of.get(line, "")
        if not place.isdecimal() or int(place) >= len(classes):
            raise InputError(
                f"{mappings}: class {line} of ImageNet, '{name[:60]}', has no place from 0 to {len(classes) - 1} in "
                "pytorch_to_imagenet_2012_id.json; these maps are of other classes"
            )
        numbers[name] = int(place)
    found: dict[str, list[int]] = {}
    for folder, label in labels.items():
        wanted = [name.strip() for name in named.get(label, "").split(";") if name.strip()]
        unknown = [name for name in wanted if name not in numbers]
        if unknown:
            raise InputError(
                f"{mappings}: '{label}' is '{unknown[0][:60]}' of ImageNet, which imagenet_to_label_2012_v2 does "
                "not list; these maps are of other classes"
            )
        found[readable(folder)] = [numbers[name] for name in wanted]
    return found


def _map(path: Path, kind: MapOf) -> dict:
    try:
        return read_json(path, kind, MEGABYTE)
    except FileNotFoundError:
        raise UnreadableError(f"{path} is missing; get it from the data set's owner") from None
