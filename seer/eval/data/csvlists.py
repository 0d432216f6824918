"""Data sets that are listed in CSV or JSON, a table of one's own (`path,label[,split]`) among them."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from seer.data.labelled import Labelled
from seer.errors import InputError, first_line, nearest
from seer.eval.data.rows import LARGEST_LIST, Row, labelled, read_list
from seer.inputs import UnreadableError, read_json
from seer.schema import Integer, ListOf, Record, Text

Columns = Mapping[str, str]  # of one line, by their names
OWN_COLUMNS = ("path", "label", "split")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "": "",
}  # fmt: skip
COCO = Record(
    {
        "images": ListOf(Record({"id": Integer(), "file_name": Text()})),
        "annotations": ListOf(Record({"image_id": Integer(), "category_id": Integer()})),
    }
)


class Place(NamedTuple):
    """Where a table's columns stand, for an error."""

    path: Path
    line: int

    def refuse(self, problem: str) -> UnreadableError:
        return UnreadableError(f"{self.path}, line {self.line}: {problem}")


def table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[Columns, Place]]:
    """The lines of a CSV file with a header, as a mapping each, and their places.

    Raises:
        UnreadableError: a column is missing, or a line has more or fewer than the header.
    """
    reader = csv.DictReader(io.StringIO(read_list(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        for name in columns:
            if name not in header:
                hint = nearest(name, header) if header else ""
                raise UnreadableError(f"{path}: its first line names no column '{name}'{hint}")
        for row in reader:
            place = Place(path, reader.line_num)
            if None in row or None in row.values():
                raise place.refuse(f"has another number of columns than the header's {len(header)}")
            yield row, place
    except csv.Error as error:
        raise Place(path, reader.line_num).refuse(first_line(error)) from None


@dataclass(frozen=True)
class Tables:
    """A CSV file of all images.

    Attributes:
        columns: those that `row` reads.
        row: columns and place of a line → the image, or None for one that does not belong to the data set.
    """

    file: str
    columns: tuple[str, ...]
    row: Callable[[Columns, Place], Row | None]

    def __call__(self, folder: Path) -> dict[str, Labelled]:
        rows = (
            self.row(columns, place) for columns, place in table(folder / self.file, self.columns)
        )
        return labelled(folder, (row for row in rows if row))


def own_table(path: Path) -> dict[str, Labelled]:
    """The images of a table with the columns `path` (below the table's folder), `label`, and
    perhaps `split`.
    """
    return labelled(Path(os.path.abspath(path)).parent, own_rows(path))  # not ".", in errors


def own_rows(path: Path) -> Iterator[Row]:
    """The lines of such a table."""
    for columns, place in table(path, OWN_COLUMNS[:2]):
        split = columns.get("split", "").strip().lower()
        if split not in SPLIT_NAMES:
            raise place.refuse(f"split '{split[:40]}' is unknown{nearest(split, SPLIT_NAMES)}")
        if not columns["label"].strip():
            raise place.refuse("names no class")
        yield Row(SPLIT_NAMES[split], columns["path"].strip(), columns["label"].strip())


def one_hot(classes: tuple[str, ...], name: str, image: str) -> Callable[[Columns, Place], Row]:
    """Rows whose class is the column that holds 1."""

    def row(columns: Columns, place: Place) -> Row:
        chosen = [label for label in classes if columns[label].strip() in ("1", "1.0")]
        if len(chosen) != 1:
            raise place.refuse(f"is of {len(chosen)} classes; each image has one")
        return Row("", image.format(columns[name].strip()), chosen[0])

    return row


def only_one_of(
    classes: tuple[str, ...], name: str, labels: str, image: str
) -> Callable[[Columns, Place], Row | None]:
    """Rows whose column `labels` (`A|B`) is one of the classes and nothing else; others are left
    out.
    """

    def row(columns: Columns, place: Place) -> Row | None:
        label = columns[labels].strip()
        return Row("", image.format(columns[name].strip()), label) if label in classes else None

    return row


@dataclass(frozen=True)
class JsonLists:
    """A JSON file for each split, as COCO's: images with their files' names, annotations with their
    categories' numbers.
    """

    files: Mapping[str, str]

    def __call__(self, folder: Path) -> dict[str, Labelled]:
        return labelled(folder, self._rows(folder))

    def _rows(self, folder: Path) -> Iterator[Row]:
        for split, file in self.files.items():
            path = folder / file
            try:
                content = read_json(path, COCO, LARGEST_LIST)
            except FileNotFoundError:
                raise UnreadableError(
                    f"{path} is missing; get it from the data set's owner"
                ) from None
            names = {image["id"]: image["file_name"] for image in content["images"]}
            for annotation in content["annotations"]:
                number = annotation["image_id"]
                if number not in names:
                    raise InputError(f"{path}: annotates image {number}, which it does not list")
                yield Row(split, names[number], str(annotation["category_id"]))
