"""Shards whose samples have `key.objects.json` beside their image: its size upright, and its objects, in
rows like COCO's that name their class. docs/detect.md has the format.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seer.data.decoding.decode import DamagedImage, orientation
from seer.data.labelled import Samples
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.errors import InputError
from seer.eval.data.coco import Rows, add
from seer.eval.data.collector import Collector
from seer.eval.data.objects import Annotated, Object
from seer.eval.data.rows import NAMES, class_names
from seer.eval.data.upright import Shape
from seer.inputs import parse_json
from seer.schema import Integer, MismatchError, Record, refuse

OBJECTS = "objects.json"  # the member's suffix
BLOCK = 4096  # samples whose members are in memory at a time
SIDE = Integer(1, 2**31 - 1)
SIZED = Record({"objects": Rows()}, {"height": SIDE, "width": SIDE})

Listed = tuple[int, Any, dict[str, Any]]  # an image, a category and an object's row


class Member:
    """What a sample's member says: a mapping with its objects, or a mere list of them."""

    def check(self, value: Any, where: str = "") -> dict[str, Any]:
        if isinstance(value, list):
            return {"objects": Rows().check(value, where)}
        if not isinstance(value, dict):
            raise refuse(self, value, where)
        content = SIZED.check(value, where)
        if ("height" in content) != ("width" in content):
            raise MismatchError(where, "has one of height and width; give both or none")
        return content

    def says(self) -> str:
        return "a list of objects, or a mapping with height, width and objects"


class SourcedSamples(Samples):
    """Samples of shards that are called as their originals were."""

    def __init__(self, reader: Reader, ids: np.ndarray, sources: list[str]):
        super().__init__(reader, ids)
        self.sources = sources

    def key(self, i: int) -> str:
        return self.sources[i]


def read(folder: Path) -> Annotated:
    """The images and objects of shards. An image without that member has no objects.

    Raises:
        InputError: there are no shards; no sample has the member, or one is damaged; categories are numbers and the
            classes have no names.
    """
    manifest = Manifest.load(folder)
    reader = Reader(manifest)
    collector = Collector(folder)
    ids: list[int] = []
    listed: list[Listed] = []
    annotated = False
    for id, source, shape, data in _samples(manifest, reader):
        where = f"{folder}: the {OBJECTS} of sample {id} ({source})"
        content = {"objects": []} if data is None else parse_json(data, Member(), where)
        annotated |= data is not None
        size = (content["height"], content["width"]) if "height" in content else None
        if size is None and content["objects"]:
            shape = _turned(shape, reader, id)
        image = collector.shaped(source, shape, size)
        if image is not None:
            ids.append(id)
            listed += [(image, row.get("category"), row) for row in content["objects"]]
    if not annotated:
        raise InputError(
            f"{folder}: no sample of its shards has a member {OBJECTS}; make such shards of images with boxes by: "
            "seer shards build --boxes"
        )
    classes = _classes(folder, manifest, listed)
    numbers = {name: number for number, name in enumerate(classes)}
    for image, category, row in listed:
        add(row, image, _label(category, numbers), collector)
    return collector.finish(classes, SourcedSamples(reader, np.array(ids), collector.paths))


def begins_with_objects(folder: Path) -> bool:
    """Whether the first sample of shards has the member. Raises `InputError` for what are no shards."""
    (sample,) = Reader(Manifest.load(folder)).read_samples(np.array([0]), (OBJECTS,), images=False)
    return sample.extras[0] is not None


def _samples(manifest: Manifest, reader: Reader) -> Iterator[tuple[int, str, Shape, bytes | None]]:
    """Id, source, upright shape and member of each sample."""
    start = 0
    for shard, size in enumerate(manifest.sizes.tolist()):
        index = manifest.index(shard, ["source", "height", "width"])
        for first in range(0, size, BLOCK):
            rows = index.slice(first, BLOCK).to_pylist()
            ids = start + first + np.arange(len(rows))
            samples = reader.read_samples(ids, (OBJECTS,), images=False)
            for id, row, sample in zip(ids.tolist(), rows, samples, strict=True):
                shape = Shape(row["height"], row["width"])
                yield id, row["source"], shape, sample.extras[0]
        start += size


def _turned(shape: Shape, reader: Reader, id: int) -> Shape:
    """The shape with the orientation that the image has: of a size that is not told, nobody knows
    whether its boxes have it, too.
    """
    try:
        return shape._replace(orientation=orientation(reader.read(np.array([id]))[0]))
    except DamagedImage:
        return shape  # as whoever decodes it will say


def _classes(folder: Path, manifest: Manifest, listed: list[Listed]) -> list[str]:
    """As a file beside the shards names them, else the manifest, else those that occur, sorted."""
    if (folder / NAMES).is_file():
        return class_names(folder / NAMES)
    if manifest.classes:
        return manifest.classes
    categories = [category for _, category, _ in listed]
    if any(type(category) is int for category in categories):
        raise InputError(
            f"{folder}: its objects have classes by number, which have no names; write {NAMES} there, a line for each "
            "from 0 on"
        )
    return sorted({category for category in categories if isinstance(category, str)})


def _label(category: Any, numbers: dict[str, int]) -> int | None:
    if isinstance(category, str):
        return numbers.get(category)
    return category if type(category) is int and 0 <= category < len(numbers) else None


def member_of(images: Annotated, i: int) -> bytes:
    """The member of an image, from which `read` has the same objects again."""
    height, width = images.objects.sizes[i].tolist()
    things = [images.objects.at(number) for number in images.objects.of(i)]
    rows = [_row(thing, images.classes[thing.label], height, width) for thing in things]
    content = {"height": height, "width": width, "objects": rows}
    return json.dumps(content, ensure_ascii=False).encode()


def _row(thing: Object, category: str, height: int, width: int) -> dict[str, Any]:
    row = {"category": category, "bbox": xywh(thing.box), "area": thing.area}
    marks = {"iscrowd": thing.crowd, "difficult": thing.difficult}
    row |= {name: 1 for name, marked in marks.items() if marked}
    return row | ({"segmentation": segmentation(thing, height, width)} if thing.masked else {})


def segmentation(thing: Object, height: int, width: int) -> Any:
    """The mask of an object as COCO has it: run lengths, or polygons."""
    if len(thing.runs):
        return {"size": [height, width], "counts": thing.runs.tolist()}
    return [polygon.astype(float).reshape(-1).tolist() for polygon in thing.polygons]


def xywh(box: np.ndarray) -> list[float]:
    """x, y, width and height of a box of two corners."""
    left, top, right, bottom = box.astype(float).tolist()
    return [left, top, right - left, bottom - top]
