"""safetensors files written block by block, hashed on the way, and read back in whatever cut is
wanted.

The format is eight bytes with the length of a JSON header, the header (type, shape and place of
each tensor), and the tensors' bytes. Where a tensor is a block of a larger one, the file's metadata
say where the block begins, in the words of `torch.distributed.checkpoint`, whose
`HuggingFaceStorageReader` reads these files, too.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from seer.files import sha256

CHUNK = 2**24  # bytes hashed or copied at a time
PART = 2**20  # bytes written and looked at, which stay in a core's cache between the two
BLOCKS = "DCP_SHARDING_INFO"  # the metadata's key
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ITEM_SIZES = {code: dtype.itemsize for dtype, code in CODES.items()}


class NotFiniteError(ValueError):
    """The tensor of this name holds infinities, or what is no number."""


class Block(NamedTuple):
    """Part of a tensor: where in the whole it begins, and its values."""

    offset: Sequence[int]
    values: Tensor


@dataclass(frozen=True)
class Entry:
    """A block in a file: of which tensor, where in it the block begins, its shape, and its bytes
    from `start` on.
    """

    file: str
    name: str
    offset: list[int]
    shape: list[int]
    code: str
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_SIZES[self.code]


def write(path: Path, blocks: Mapping[str, Block]) -> dict[str, Any]:
    """Write blocks (on the CPU) by the names of their tensors, and have them on the disk; no bytes
    are held twice.

    Returns:
        The file's `bytes` and `sha256`.

    Raises:
        NotFiniteError: a block is not finite; the file is left unfinished.
    """
    # Wide types first, so that every tensor lies on a multiple of its item's size.
    ordered = sorted(blocks, key=lambda name: -blocks[name].values.itemsize)
    tensors = {
        name: (CODES[blocks[name].values.dtype], list(blocks[name].values.shape))
        for name in ordered
    }
    offsets = {name: {"saved_offsets": list(block.offset)} for name, block in blocks.items()}
    head, _ = _layout(tensors, {BLOCKS: json.dumps(offsets)})
    digest = hashlib.sha256(head)
    with open(path, "wb") as file, ThreadPoolExecutor(1) as pool:
        file.write(head)
        for name in ordered:
            for chunk in _chunks(blocks[name].values, CHUNK):
                # Beside writing: both leave Python's lock alone. It takes longer than what is done
                # meanwhile.
                hashed = pool.submit(digest.update, _bytes(chunk))
                for part in _chunks(chunk, PART):
                    file.write(_bytes(part))
                    if not is_finite(part):
                        raise NotFiniteError(name)
                hashed.result()
        flush(file)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def join(
    path: Path,
    folder: Path,
    names: Mapping[str, str],
    shapes: Mapping[str, list[int]],
    metadata: dict[str, str],
) -> dict[str, Any]:
    """Write whole tensors out of the blocks in a folder's files, which are read one after the
    other, chunk by chunk.

    Args:
        names: what the tensors are called in the folder → in the new file.
        shapes: of the whole tensors, by their names in the folder. Blocks are cut along the first axis.

    Returns:
        The new file's `bytes` and `sha256`.
    """
    files = sorted(folder.glob("*.safetensors"))
    entries = {file: [e for e in read_entries(file) if e.name in names] for file in files}
    codes = {entry.name: entry.code for found in entries.values() for entry in found}
    ordered = sorted(names, key=lambda name: -ITEM_SIZES[codes[name]])
    head, starts = _layout({names[name]: (codes[name], shapes[name]) for name in ordered}, metadata)
    copied = 0
    with open(path, "wb") as out:
        out.write(head)
        for file, found in entries.items():
            with open(file, "rb") as source:
                for entry in found:
                    assert entry.shape[1:] == shapes[entry.name][1:], (
                        f"{entry.name} is not cut along its first axis"
                    )
                    row = prod(entry.shape[1:]) * ITEM_SIZES[entry.code]
                    out.seek(starts[names[entry.name]] + sum(entry.offset[:1]) * row)
                    source.seek(entry.start)
                    copied += _copy(source, out, entry.nbytes)
        assert copied == sum(prod(shapes[name]) * ITEM_SIZES[codes[name]] for name in names), (
            "blocks are missing"
        )
        flush(out)
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def stream(
    path: Path,
    shapes: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    read: Callable[[str], Tensor],
    metadata: dict[str, str],
) -> None:
    """Write whole tensors of the types and shapes given, each of which `read` gives when its turn
    comes: one is in memory at a time.
    """
    ordered = sorted(shapes, key=lambda name: -shapes[name][0].itemsize)
    tensors = {name: (CODES[shapes[name][0]], list(shapes[name][1])) for name in ordered}
    head, _ = _layout(tensors, metadata)
    with open(path, "wb") as file:
        file.write(head)
        for name in ordered:
            # In a function of its own, which holds no tensor while the next is read.
            _append(file, read(name), *shapes[name])
        flush(file)


def read_entries(path: Path) -> list[Entry]:
    """What is in a file. Raises `OSError`, `ValueError` or `KeyError` where it is none of ours."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("truncated")
        header = json.loads(file.read(length))
    offsets = json.loads(header.pop("__metadata__", {}).get(BLOCKS, "{}"))
    entries = []
    for name, about in header.items():
        offset = offsets[name]["saved_offsets"] if name in offsets else [0] * len(about["shape"])
        start = 8 + length + about["data_offsets"][0]
        entries.append(Entry(path.name, name, offset, about["shape"], about["dtype"], start))
    return entries


def fill(folder: Path, entries: Iterable[Entry], targets: Mapping[str, Block]) -> None:
    """Read the values of `targets` from the blocks in a folder's files, however those are cut."""
    wanted: dict[str, list[tuple[Entry, list[slice], list[slice]]]] = {}
    for entry in entries:
        if (target := targets.get(entry.name)) is not None and (
            overlap := _overlap(entry, target)
        ) is not None:
            wanted.setdefault(entry.file, []).append((entry, *overlap))
    for file, overlaps in wanted.items():
        with safe_open(folder / file, "pt") as tensors:
            for entry, there, here in overlaps:
                targets[entry.name].values[tuple(here)].copy_(
                    tensors.get_slice(entry.name)[tuple(there)]
                )


def flush(file: BinaryIO) -> None:
    """Have what was written on the disk before going on."""
    file.flush()
    os.fsync(file.fileno())


def is_finite(values: Tensor) -> bool:
    """Whether all of a tensor is finite. Takes no memory; on CPUs it is done in this thread alone."""
    if not values.is_floating_point() or not values.numel():
        return True
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        array = values.detach().numpy()
        with np.errstate(all="ignore"):  # NaN is both the largest and the smallest
            smallest = array.min()
            largest = array.max()
        return bool(np.isfinite(smallest) and np.isfinite(largest))
    # What is not finite stays so in any sum; a sum of finite numbers may overflow, which is looked
    # into.
    total = float(values.sum(dtype=torch.float32))
    return isfinite(total) or bool(values.isfinite().all())


def _layout(
    tensors: Mapping[str, tuple[str, list[int]]], metadata: dict[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a file with these tensors (type and shape), and where in the file each
    will start.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    begins = {}
    end = 0
    for name, (code, shape) in tensors.items():
        begins[name] = end
        end += prod(shape) * ITEM_SIZES[code]
        header[name] = {
            "dtype": code,
            "shape": shape,
            "data_offsets": [begins[name], end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    first_bytes = len(text).to_bytes(8, "little") + text
    places = {name: len(first_bytes) + begin for name, begin in begins.items()}
    return first_bytes, places


def _append(file: BinaryIO, tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    assert tensor.shape == torch.Size(shape)
    for chunk in _chunks(tensor.to(dtype), CHUNK):
        file.write(_bytes(chunk))


def _chunks(tensor: Tensor, size: int) -> Sequence[Tensor]:
    """The values of a tensor in a row, cut into parts of `size` bytes."""
    return tensor.contiguous().reshape(-1).split(size // tensor.itemsize)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.view(torch.uint8).numpy().data


def _copy(source: BinaryIO, out: BinaryIO, count: int) -> int:
    for done in range(0, count, CHUNK):
        out.write(source.read(min(CHUNK, count - done)))
    return count


def _overlap(entry: Entry, target: Block) -> tuple[list[slice], list[slice]] | None:
    """What `target` needs of a block, as slices of the block and of the target; None where that is
    nothing.
    """
    there, here = [], []
    for begin, size, first, count in zip(
        entry.offset, entry.shape, target.offset, target.values.shape, strict=True
    ):
        low, high = max(begin, first), min(begin + size, first + count)
        if low >= high:
            return None
        there.append(slice(low - begin, high - begin))
        here.append(slice(low - first, high - first))
    return there, here
