"""One listed sample to the bytes that go into a shard: read, checked in full, made smaller if
asked.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from seer.data.decoding.decode import JPEG_MAGIC, DamagedImage, ImageInfo, decode, probe
from seer.data.storage.index import EXTRAS, INDEX_SCHEMA
from seer.schema import SUFFIX
from shards.archives import columns, tars, zips
from shards.records.quarantine import text
from shards.sources.labels import parse_bytes
from shards.sources.listing import Container
from shards.sources.phash import phash
from shards.sources.policy import KEEP, LOOK, Policy

MAX_BYTES = 1 << 29  # a file larger than this is no photograph; reading it could exhaust the memory
RESIZED_QUALITY = 95
MAX_JPEG_SIDE = 65_500  # of libjpeg
LABEL = "cls"  # the suffix of the member that says it
SUFFIXES = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}

Extra = dict[str, Any]  # a member besides the image: suffix, offset, size


@dataclass
class Sample:
    """A sample ready to be written. `members` are `(suffix, data)`, the image first; `label` is
    what `.cls` says.
    """

    key: str
    source: str
    info: ImageInfo
    members: list[tuple[str, bytes]]
    sha256: bytes
    phash: int | None
    label: int | None

    def index_row(self, offset: int, members: Iterable[Extra]) -> dict[str, Any]:
        """Its row of `seer.data.storage.index.INDEX_SCHEMA`, when its image begins at `offset` in
        the tar, which has these other members of it.
        """
        facts = {
            "key": self.key,
            "source": self.source,
            "offset": offset,
            "size": len(self.members[0][1]),
        }
        return {
            **facts,
            **self.info._asdict(),
            "sha256": self.sha256,
            "phash": self.phash,
            "label": self.label,
            EXTRAS: extras_of(members),
        }


def row_in_tar(row: dict[str, Any], tar: Container, process: "Process") -> dict[str, Any]:
    """The index's row of a listed sample that stays where it is in its tar. Raises DamagedImage."""
    return load(row, tar, process).index_row(row["offset"], row["extras"])


def extras_of(members: Iterable[Extra]) -> list[Extra] | None:
    """What the index says of a sample's members besides its image, in the order of the tar.

    The label is left out, which has a column of its own, and what has no suffix by which it could
    be asked for. None if nothing is left.
    """
    in_order = sorted(members, key=lambda member: member["offset"])
    extras = [
        member
        for member in in_order
        if member["suffix"] != LABEL and SUFFIX.allows(member["suffix"])
    ]
    return extras or None


def with_extras(index: pa.Table, listed: Iterable[list[Extra]]) -> pa.Table:
    """An index whose samples have the members that were listed, row by row."""
    field = INDEX_SCHEMA.field(EXTRAS)
    column = pa.array([extras_of(members) for members in listed], field.type)
    rest = index.drop_columns([name for name in index.column_names if name == EXTRAS])
    return rest.append_column(field, column)


# What becomes of an image's bytes: they, what they are, and their perceptual hash if known. Raises
# DamagedImage.
Process = Callable[[bytes], tuple[bytes, ImageInfo, int | None]]


def load(
    row: dict[str, Any], container: Container, process: Process, data: bytes | None = None
) -> Sample:
    """Read the sample of one row of the listing and `process` its image. `data` is an image that
    was downloaded.

    Raises DamagedImage, also for unreadable bytes.
    """
    try:
        data = _read(row, container) if data is None else data
        extras = [
            (e["suffix"], tars.read_range(container.path, e["offset"], e["size"]))
            for e in row["extras"]
        ]
    except OSError as error:
        raise DamagedImage(f"cannot be read ({error.strerror or error})") from error
    original = data
    data, info, perceptual = process(data)
    suffix = tars.split_name(text(row["name"]))[1] if container.is_tar else ""
    if data is not original or not suffix:
        suffix = SUFFIXES.get(info.format, info.format.lower())
    extras += row.get("members", [])
    if row.get("label") is not None:
        extras = [(LABEL, str(row["label"]).encode()), *extras]
    # After re-encoding a sample's `jpg` is the image.
    extras = [extra for extra in extras if extra[0] != suffix]
    label = parse_bytes(dict(extras).get(LABEL, b"")).number
    source = container.source_of(row["name"])
    digest = hashlib.sha256(data).digest()
    return Sample(row["key"], source, info, [(suffix, data), *extras], digest, perceptual, label)


def _read(row: dict[str, Any], container: Container) -> bytes:
    if row["size"] > MAX_BYTES:
        raise DamagedImage(f"file too large ({row['size']:,} bytes)")
    return READERS[container.kind](row, container)


def _read_file(row: dict[str, Any], folder: Container) -> bytes:
    return Path(folder.path, os.fsdecode(row["name"])).read_bytes()


def _read_tar(row: dict[str, Any], tar: Container) -> bytes:
    return tars.read_range(tar.path, row["offset"], row["size"])


def _read_zip(row: dict[str, Any], archive: Container) -> bytes:
    try:
        return zips.read(archive.path, row["offset"], MAX_BYTES)
    except zips.DAMAGE as error:
        raise DamagedImage(f"cannot be read ({error})") from error


def _read_column(row: dict[str, Any], parquet: Container) -> bytes:
    data = columns.read_image(parquet.path, parquet.column, row["offset"])
    if data is None:
        raise DamagedImage("no image in the row")
    return data


# How an image is read, by the kind of its container; URLs are read by `shards.download.client`.
READERS: dict[str, Callable[[dict[str, Any], Container], bytes]] = {
    "folder": _read_file,
    "tar": _read_tar,
    "zip": _read_zip,
    "column": _read_column,
}


def fit(data: bytes, policy: Policy = KEEP) -> tuple[bytes, ImageInfo, int | None]:
    """The same bytes, unless the policy asks for a smaller image or for encoding anew.

    What is changed becomes an upright JPEG with 4:2:0 chroma, made smaller by area averaging.
    Raises DamagedImage, also for what the policy leaves out.
    """
    if not policy.check and not policy.reencode:
        info = probe(data, policy.most_pixels)
        policy.refuse(info.width, info.height)
        if policy.scale(info.width, info.height) == 1.0:
            return data, info, None
    # Every pixel, so that whatever is in a shard can be decoded.
    pixels = decode(data, policy.most_pixels)
    height, width = pixels.shape[:2]
    policy.refuse(width, height)
    scale = policy.scale(width, height)
    if scale == 1.0 and not policy.reencode:
        # Spares Pillow, which takes longer than decoding.
        known = "JPEG" if data.startswith(JPEG_MAGIC) else None
        return data, ImageInfo(width, height, known or probe(data).format), phash(pixels)
    if scale < 1.0:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_JPEG_SIDE:
        raise DamagedImage(f"too long for JPEG ({width}x{height})")
    pixels = np.ascontiguousarray(pixels)
    jpeg = simplejpeg.encode_jpeg(
        pixels, quality=policy.reencode or RESIZED_QUALITY, colorsubsampling="420"
    )
    return jpeg, ImageInfo(width, height, "JPEG"), phash(pixels)


look: Process = partial(fit, policy=LOOK)  # the same bytes, checked by their header alone
