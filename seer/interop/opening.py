"""Checkpoints as others publish them: one file, a folder of Hugging Face's, or many files of which
one is the index.

A network of any size is copied with one of its files in memory.
"""

import os
from pathlib import Path

from seer.errors import InputError
from seer.interop import hub, shards, slices
from seer.interop.native import is_native
from seer.interop.pickles import load_pickle
from seer.interop.published import Published, of_safetensors, of_tensors, state_of


def own_file(path: Path) -> Path | None:
    """The file of seer's that is meant by `path`, itself or in a folder of Hugging Face's layout."""
    if os.path.isdir(path):
        return hub.native_file(path)
    return path if os.path.isfile(path) and is_native(path) else None


def open_published(path: Path, ignore_code: bool = False) -> Published:
    """Open a file or a folder of weights.

    Args:
        ignore_code: as `load_pickle` takes it.

    Raises:
        InputError: what is wrong with it, or which of its files are missing.
    """
    if path.is_dir():
        return hub.open_folder(path) if hub.is_folder(path) else shards.open_folder(path)
    if path.suffix.lower() == ".safetensors":
        return of_safetensors(path)
    content = load_pickle(path, ignore_code)
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "slice_list":
        return slices.open_index(path, content)
    if kind == "shard_list":
        return shards.open_index(path, content, ignore_code)
    if shards.is_shard(content):
        raise InputError(
            f"{path}: is one shard of several; give their index, or a folder that holds them alone"
        )
    return of_tensors(state_of(content, path), path)
