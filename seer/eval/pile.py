"""Images to embed, labelled or not, and the file for their features: what can be wrong with either is
told here, without torch.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seer import outputs
from seer.data.decoding.decode import decode
from seer.data.folders import Files, images_under, left_out, readable
from seer.data.labelled import Samples, Source
from seer.data.storage.index import MANIFEST, Manifest
from seer.data.storage.reader import UNLABELLED, Reader
from seer.data.storage.store import Url, place
from seer.errors import InputError

logger = logging.getLogger("seer.eval")

SHOWN = 5  # damaged images and folders that are named; of the others the number is told
TABLES = (".parquet", ".npz")


@dataclass
class Pile:
    """Images to embed, labelled or not.

    Attributes:
        place: where they are.
        keys: of shards the index's keys, which `seer shards remove --keys` and `seer audit --key` take; of a folder
            each image's path relative to it, which is the `source` of shards that are built from it.
        sources: each image's original, as the shards' index has it; of a folder the same as `keys`.
        labels: each image's class, or "" where there is none: the shards' label, or the first folder of its path.
        unread: folders that could not be read.
    """

    source: Source
    place: str
    keys: list[str]
    sources: list[str]
    labels: list[str]
    unread: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, i: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB. Raises `DamagedImage`."""
        return decode(self.source.bytes(i))


def open_pile(data: Path | str) -> Pile:
    """The images of shards (a folder with a manifest) or of a folder of any depth; `InputError` if
    there are none.
    """
    root = place(data)
    if isinstance(root, Url) or os.path.isfile(root / MANIFEST):
        return _from_shards(Manifest.load(root))
    if not os.path.isdir(root):
        raise InputError(f"{data}: no such folder; give a folder of images or of shards")
    unread: list[OSError] = []
    other_kinds: list[str] = []
    paths = images_under(root, unread.append, other_kinds.append)
    for error in unread[:SHOWN]:
        logger.warning("left out the folder %s: %s", readable(str(error.filename)), error.strerror)
    if other_kinds:
        logger.warning("%s", left_out(other_kinds))
    if not paths:
        raise InputError(
            f"{data}: holds no images that can be read; give a folder of images or of shards"
        )
    names = [readable(path) for path in paths]
    labels = [readable(path.partition(os.sep)[0]) if os.sep in path else "" for path in paths]
    return Pile(Files(root, paths), str(data), names, names, labels, len(unread))


def _from_shards(manifest: Manifest) -> Pile:
    reader = Reader(manifest)
    keys: list[str] = []
    sources: list[str] = []
    for shard in range(len(manifest.shards)):
        table = manifest.index(shard, ["key", "source"])
        keys += [key or "" for key in table["key"].to_pylist()]
        sources += [source or "" for source in table["source"].to_pylist()]
    ids = np.arange(len(reader))
    names = dict(enumerate(manifest.classes or []))
    names[UNLABELLED] = ""
    numbers = reader.labels(ids).tolist()
    labels = [names.get(number, str(number)) for number in numbers]
    return Pile(Samples(reader, ids), str(manifest.directory), keys, sources, labels)


def check_table(out: Path) -> None:
    """Raise `InputError` unless features can be written there."""
    if out.suffix not in TABLES:
        raise InputError(f"{out}: expected a name that ends in {' or '.join(TABLES)}")
    outputs.check_writable(out, "--out")
