"""Features of every image of a folder or of shards, written as a table."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from seer import files
from seer.data.decoding.decode import DamagedImage
from seer.data.folders import readable
from seer.errors import InputError
from seer.eval import pixels
from seer.eval.pile import SHOWN, TABLES, Pile, check_table, open_pile
from seer.eval.probes.features import FeatureConfig, stack, stream
from seer.interop.models import Model

logger = logging.getLogger("seer.eval")


@dataclass(frozen=True)
class Embedded:
    """Features of images, row by row.

    Attributes:
        keys, sources, labels: N texts each, as `Pile` has them.
        features: `(N, D)` float32.
        model: what reports call the backbone.
        damaged: how many images could not be read or decoded, and are left out.
        unread_folders: how many folders could not be read.
    """

    keys: list[str]
    sources: list[str]
    labels: list[str]
    features: np.ndarray
    model: str
    damaged: int
    unread_folders: int


def embed(
    model_spec: str, data: Path | str | Pile, out: Path | str, config: FeatureConfig | None = None
) -> dict[str, Any]:
    """Write key, source, label and features of each image to `out`, `.parquet` or `.npz`.

    Returns:
        `{"out", "samples", "dimensions", "damaged", "unread_folders", "model"}`.

    Raises:
        InputError: as `compute`; a file that cannot be written.
    """
    embedded = compute(model_spec, data, config, out)
    write(embedded, out)
    return {
        "out": readable(str(out)),
        "samples": len(embedded.features),
        "dimensions": embedded.features.shape[1],
        "damaged": embedded.damaged,
        "unread_folders": embedded.unread_folders,
        "model": embedded.model,
    }


def compute(
    model_spec: str,
    data: Path | str | Pile,
    config: FeatureConfig | None = None,
    out: Path | str | None = None,
) -> Embedded:
    """The features of each image. Images that cannot be read or decoded are left out, counted, and
    the first of them named in warnings.

    Args:
        out: where they will be written, which is looked at before the work.

    Raises:
        InputError: wrong model, data or kind of file, or no image that can be decoded.
    """
    config = config or FeatureConfig()
    if out is not None:
        check_table(Path(out))
    pile = data if isinstance(data, Pile) else open_pile(data)
    model = pixels.load(model_spec, pile)
    parts = list(of_decodable(model, pile, config))
    if not parts:
        raise InputError(f"{pile.place}: none of its {len(pile)} images can be decoded")
    rows = [i for numbers, _ in parts for i in numbers]
    return Embedded(
        keys=[pile.keys[i] for i in rows],
        sources=[pile.sources[i] for i in rows],
        labels=[pile.labels[i] for i in rows],
        features=torch.cat([features for _, features in parts]).numpy(),
        model=model.label,
        damaged=len(pile) - len(rows),
        unread_folders=pile.unread,
    )


def of_decodable(
    model: Model, pile: Pile, config: FeatureConfig
) -> Iterator[tuple[list[int], Tensor]]:
    """The features of those images that can be decoded, as `stream` has them; the first of the others
    are named in warnings at the end.
    """
    damaged: dict[int, str] = {}  # why, by the number of the image

    def load(rows: list[int]) -> tuple[list[int], Tensor]:
        images = {}
        for i in rows:
            try:
                images[i] = pile.image(i)
            except DamagedImage as error:
                damaged[i] = error.reason
        return list(images), stack(list(images.values()), model.size, config.crop)

    yield from stream(model, len(pile), load, config, "images", pile.source.name)
    for i in sorted(damaged)[:SHOWN]:
        logger.warning("left out %s: %s", pile.source.name(i), damaged[i])
    if len(damaged) > SHOWN:
        logger.warning("left out %s images in all", f"{len(damaged):,}")


def write(embedded: Embedded, out: Path | str) -> None:
    """Write features to a `.parquet` or `.npz`, as a whole or not at all. Raises `InputError`."""
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(out) as beside, open(beside, "wb") as file:
            WRITERS[out.suffix](file, embedded)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(
            f"--out {out}: cannot be written ({reason}); make room there, or give another path"
        ) from None


def _write_parquet(file: BinaryIO, embedded: Embedded) -> None:
    values = embedded.features
    features = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    texts = {
        "key": embedded.keys,
        "source": embedded.sources,
        "label": embedded.labels,
    }
    pq.write_table(pa.table({**texts, "features": features}), file)


def _write_npz(file: BinaryIO, embedded: Embedded) -> None:
    np.savez(
        file,
        keys=np.array(embedded.keys),
        sources=np.array(embedded.sources),
        labels=np.array(embedded.labels),
        features=embedded.features,
    )


WRITERS = dict(zip(TABLES, (_write_parquet, _write_npz), strict=True))
