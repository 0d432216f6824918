"""Features of every image of a folder or of shards, written as a table."""

import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from seer import files
from seer.data.decode import DamagedImage, decode
from seer.data.index import MANIFEST, Manifest, index_path, read_index
from seer.data.labelled import Files, Samples, Source, images_under
from seer.data.reader import UNLABELLED, Reader
from seer.data.store import Url, place
from seer.errors import InputError
from seer.eval import models
from seer.eval.features import FeatureConfig, stack, stream

logger = logging.getLogger("seer.eval")


class Pile:
    """Images to embed, labelled or not.

    Attributes:
        keys: each image's path, relative to its folder or as the shards' index has it.
        labels: each image's class, or "" where there is none: the shards' label, or the first folder of its path.
    """

    def __init__(self, source: Source, keys: list[str], labels: list[str]):
        self.source, self.keys, self.labels = source, keys, labels

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, i: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB. Raises `DamagedImage`."""
        return decode(self.source.bytes(i))


def open_pile(data: Path | str) -> Pile:
    """The images of shards (a folder with a manifest) or of a folder of any depth; `InputError` if there are none."""
    root = place(data)
    if isinstance(root, Url) or (root / MANIFEST).is_file():
        return _from_shards(Manifest.load(root))
    if not root.is_dir():
        raise InputError(f"{data}: no such folder; give a folder of images or of shards")
    if not (paths := images_under(root)):
        raise InputError(f"{data}: holds no images; give a folder of images or of shards")
    return Pile(Files(root, paths), paths, [path.partition(os.sep)[0] if os.sep in path else "" for path in paths])


def _from_shards(manifest: Manifest) -> Pile:
    reader, keys = Reader(manifest), []
    for shard in manifest.shards:
        table = read_index(index_path(manifest.directory / shard), ["key", "source"])
        keys += [source or key for key, source in zip(*map(pa.ChunkedArray.to_pylist, table.columns), strict=True)]
    ids = np.arange(len(reader))
    names = dict(enumerate(manifest.classes or [])) | {UNLABELLED: ""}
    return Pile(Samples(reader, ids), keys, [names.get(i, str(i)) for i in reader.labels(ids).tolist()])


def embed(model_spec: str, data: Path | str, out: Path | str, config: FeatureConfig | None = None) -> dict[str, Any]:
    """Write key, label and features of each image to `out`, `.parquet` or `.npz`. Damaged images are left out.

    Returns:
        `{"out", "samples", "dimensions", "damaged", "model"}`.

    Raises:
        InputError: wrong model, data or kind of file, or no image that can be decoded.
    """
    out, config = Path(out), config or FeatureConfig()
    if out.suffix not in WRITERS:
        raise InputError(f"{out}: expected a name that ends in {' or '.join(WRITERS)}")
    pile = open_pile(data)
    model = models.load(model_spec, pile)
    kept: list[bool] = [True] * len(pile)

    def load(rows: list[int]) -> Tensor:
        images = []
        for i in rows:
            try:
                images.append(pile.image(i))
            except (DamagedImage, OSError) as error:
                kept[i] = False
                logger.warning("left out %s: %s", pile.source.name(i), error)
        return stack(images, model.size)

    parts = list(stream(model, len(pile), load, config, "images"))
    if not parts:
        raise InputError(f"{data}: none of its {len(pile)} images can be decoded")
    values = torch.cat(parts).numpy()
    keys, labels = (
        [item for item, keep in zip(items, kept, strict=True) if keep] for items in (pile.keys, pile.labels)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as beside, open(beside, "wb") as file:
        WRITERS[out.suffix](file, keys, labels, values)
    damaged = len(pile) - len(values)
    return {
        "out": str(out),
        "samples": len(values),
        "dimensions": values.shape[1],
        "damaged": damaged,
        "model": model.label,
    }


def _write_parquet(file: BinaryIO, keys: list[str], labels: list[str], values: np.ndarray) -> None:
    features = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    pq.write_table(pa.table({"key": keys, "label": labels, "features": features}), file)


def _write_npz(file: BinaryIO, keys: list[str], labels: list[str], values: np.ndarray) -> None:
    np.savez(file, keys=np.array(keys), labels=np.array(labels), features=values)


WRITERS = {".parquet": _write_parquet, ".npz": _write_npz}
