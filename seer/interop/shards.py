"""Shards of fairscale's FSDP, put together without fairscale, without a GPU, and with one shard in
memory at a time.

A shard is what one rank had: of each parameter, or of several laid end to end, one piece, padded so
that all ranks' are equally long. Beside it stands what the pieces are
(`FullyShardedDataParallel.local_metadata_dict` of fairscale 0.4).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from seer.errors import InputError
from seer.interop.modelfile import reason
from seer.interop.pickles import load_pickle
from seer.interop.published import Published, base_model, unwrapped
from seer.interop.spec import SHARDS
from seer.interop.weights import FLOATING, Form, form, is_plain

METADATA = "param_metadata"


@dataclass(frozen=True)
class Piece:
    """Some parameters that were sharded as one.

    Attributes:
        key: what the shards call it.
        names, shapes: of the parameters, which lie in it end to end.
        padding: how many values at the end of this rank's piece mean nothing.
        whole: whether the first rank has all of it.
    """

    key: str
    names: list[str]
    shapes: list[tuple[int, ...]]
    padding: int
    whole: bool

    @property
    def sizes(self) -> list[int]:
        return [prod(shape) for shape in self.shapes]


@dataclass(frozen=True)
class Shard:
    """What one rank had: `pieces`, their values and other tensors in `weights`, and the names of
    `buffers`, which every rank has.
    """

    pieces: list[Piece]
    weights: Mapping[str, Tensor]
    buffers: list[str]


def open_index(path: Path, content: dict[str, Any], ignore_code: bool) -> Published:
    """Open VISSL's list of shards, which lie beside it. Raises `InputError` where some do not."""
    names = content.get("shards")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path}: a list of shards that lists none; copy it anew")
    files = [path.with_name(PurePosixPath(name).name or "-") for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} of {len(files):,} shards are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); copy them into {path.parent}"
        )
    return _open(path, files, ignore_code)


def open_folder(folder: Path) -> Published:
    """Open a folder that holds the shards of one network and nothing else, numbered from 0."""
    ranks = {}
    for file in folder.iterdir():
        numbers = re.findall(r"\d+", file.stem)
        if file.suffix in SHARDS and numbers:
            ranks[int(numbers[-1])] = file
    if not ranks:
        raise InputError(
            f"{folder}: holds neither a model of Hugging Face's (config.json) nor shards, numbered from 0"
        )
    missing = [str(rank) for rank in range(max(ranks) + 1) if rank not in ranks]
    if missing:
        raise InputError(f"{folder}: shard {', '.join(missing[:10])} is missing")
    return _open(folder, [ranks[rank] for rank in sorted(ranks)], False)


def is_shard(content: Any) -> bool:
    return isinstance(content, dict) and _metadata(content) is not None


def _open(path: Path, files: Sequence[Path], ignore_code: bool) -> Published:
    first = _read(files[0], ignore_code)
    forms = {
        name: Form(shape, FLOATING)
        for piece in first.pieces
        for name, shape in zip(piece.names, piece.shapes, strict=True)
    }
    forms |= {name: form(first.weights[name]) for name in first.buffers}
    names = unwrapped(forms, path)

    @cache
    def tensors() -> dict[str, Tensor]:
        network = Network(path)
        for rank, file in enumerate(files):
            network.add(rank, _read(file, ignore_code))
        return network.tensors()

    return Published(
        {name: forms[theirs] for name, theirs in names.items()},
        lambda name: tensors()[names[name]],
    )


class Network:
    """The network whose shards are added, rank by rank."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pieces: list[Piece] = []
        self.wholes: dict[str, Tensor] = {}
        self.filled: dict[str, int] = {}
        self.buffers: dict[str, Tensor] = {}

    def add(self, rank: int, shard: Shard) -> None:
        """Copy what the next rank had. Raises `InputError` where it is not of the same network."""
        if rank == 0:
            self._begin(shard)
        for piece in shard.pieces:
            if rank and piece.whole:
                continue
            values = shard.weights[piece.key].reshape(-1)
            values = values[: len(values) - piece.padding]
            whole = self.wholes.get(piece.key, values[:0])
            start = self.filled.get(piece.key, 0)
            if start + len(values) > len(whole):
                raise InputError(f"{self.path}: shard {rank} is of another network than shard 0")
            whole[start : start + len(values)] = values
            self.filled[piece.key] = start + len(values)

    def _begin(self, shard: Shard) -> None:
        self.pieces = shard.pieces
        self.buffers = {name: shard.weights[name].clone() for name in shard.buffers}
        for piece in shard.pieces:
            dtype = shard.weights[piece.key].dtype
            size = sum(piece.sizes)
            try:
                self.wholes[piece.key] = torch.empty(size, dtype=dtype)
            except RuntimeError as error:  # more than the machine has
                raise InputError(
                    f"{self.path}: claims {size:,} values of {piece.key} ({reason(error)})"
                ) from None

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors. Raises `InputError` where values are missing."""
        tensors = dict(self.buffers)
        for piece in self.pieces:
            whole = self.wholes[piece.key]
            count = self.filled[piece.key]
            if count < len(whole):
                raise InputError(
                    f"{self.path}: of {piece.key}, {count:,} of {len(whole):,} values are in the shards; "
                    "the last ones are missing"
                )
            parts = whole.split(piece.sizes)
            for name, part, shape in zip(piece.names, parts, piece.shapes, strict=True):
                tensors[name] = part.view(shape)
        return tensors


def _read(path: Path, ignore_code: bool) -> Shard:
    """One shard, its metadata as they must be."""
    content = load_pickle(path, ignore_code)
    metadata = _metadata(content)
    if metadata is None:
        raise InputError(
            f"{path}: has no metadata of fairscale's, without which a shard cannot be read; save "
            "local_metadata_dict() beside local_state_dict()"
        )
    try:
        pieces = [piece for entry in metadata[METADATA] for piece in _pieces(entry)]
        buffers = list(metadata["buffer_names"])
        weights = _weights(content, {piece.key for piece in pieces} | set(buffers))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: its metadata are not fairscale's ({type(error).__name__})"
        ) from None
    return Shard(pieces, weights, buffers)


def _metadata(content: Any) -> dict[str, Any] | None:
    """What fairscale noted of a shard, where VISSL puts it or wherever else."""
    meta = (base_model(content) or {}).get("meta")
    places = [content, meta, meta.get("trunk") if isinstance(meta, dict) else None]
    places += content.values() if isinstance(content, dict) else []
    for place in places:
        if isinstance(place, dict) and METADATA in place:
            return place
    return None


def _weights(content: dict[str, Any], keys: set[str]) -> dict[str, Tensor]:
    """The tensors of a shard, where VISSL puts them or wherever else."""
    model = (base_model(content) or {}).get("model")
    places = [content, model.get("trunk") if isinstance(model, dict) else None, *content.values()]
    for place in places:
        if isinstance(place, dict) and keys <= place.keys():
            weights = {key: place[key].detach() for key in keys}
            if all(map(is_plain, weights.values())):
                return weights
    raise KeyError("weights")


def _pieces(entry: dict[str, Any]) -> Iterator[Piece]:
    if entry["shared_param_info"]:
        raise ValueError("shared parameters")
    prefix = f"{entry['fsdp_path']}." if entry["fsdp_path"] else ""
    for key, about in entry["params"].items():
        shapes = [tuple(map(int, shape)) for shape in about["shapes"]]
        names = [f"{prefix}{name}" for name in about["names"]]
        padding = int(about["padding"])
        if (
            padding < 0
            or len(names) != len(shapes)
            or min(map(min, filter(None, shapes)), default=0) < 0
        ):
            raise ValueError("sizes")
        yield Piece(
            f"{prefix}{key}", names, shapes, padding, bool(entry["no_broadcast_optim_state"])
        )
