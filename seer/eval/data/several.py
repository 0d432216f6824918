"""Images of several classes at once, as the challenges of PASCAL VOC list them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seer.data.labelled import ImageSet, Source
from seer.errors import InputError
from seer.eval.data.rows import check_path, lines, of_files
from seer.inputs import UnreadableError

YES, NO, DIFFICULT = 1, 0, -1
# What stands in a list: −1 for no, and 0 for what is too difficult to count either way.
MEANINGS = {"1": YES, "-1": NO, "0": DIFFICULT}
LISTS = "ImageSets/Main"


class MultiLabelled(ImageSet):
    """Images of any number of classes each.

    Attributes:
        labels: `(N, C)` int8: 1 of the class, 0 not, −1 where the image does not count for the class.
    """

    def __init__(self, source: Source, labels: np.ndarray, classes: Sequence[str]):
        self.labels = np.asarray(labels, dtype=np.int8)
        assert self.labels.shape[1] == len(classes)
        super().__init__(source, self.labels, classes)


@dataclass(frozen=True)
class ClassLists:
    """A list for each class and split of VOC's classification task: an image's name and 1, −1, or 0
    where all that is to be seen of the class is difficult.
    """

    splits: tuple[str, ...]
    image: str = "JPEGImages/{}.jpg"

    def __call__(self, folder: Path) -> dict[str, MultiLabelled]:
        suffix = f"_{self.splits[0]}.txt"
        names = sorted(path.name for path in (folder / LISTS).glob(f"*{suffix}"))
        classes = [name.removesuffix(suffix) for name in names]
        if not classes:
            raise InputError(
                f"{folder / LISTS} has no list of a class (*{suffix}); unpack it again"
            )
        return {split: self._split(folder, split, classes) for split in self.splits}

    def _split(self, folder: Path, split: str, classes: list[str]) -> MultiLabelled:
        images: list[str] = []
        columns: list[list[int]] = []
        for name in classes:
            path = folder / LISTS / f"{name}_{split}.txt"
            rows = [line.split() for line in lines(path)]
            wrong = [row for row in rows if len(row) != 2 or row[1] not in MEANINGS]
            if wrong:
                line = " ".join(wrong[0])[:80]
                raise UnreadableError(f"{path}: '{line}' is no image's name and 1, 0 or -1")
            listed = [image for image, _ in rows]
            if columns and listed != images:
                raise UnreadableError(f"{path}: lists other images than {classes[0]}_{split}.txt")
            images = listed
            columns.append([MEANINGS[mark] for _, mark in rows])
        paths = [self.image.format(image) for image in images]
        for path_of_image in paths:
            check_path(path_of_image, folder)
        labels = np.array(columns, dtype=np.int8).T
        return of_files(folder, paths, lambda files: MultiLabelled(files, labels, classes))
