"""VISSL's sliced checkpoints, in which SEER's network of ten billion parameters was published: an
index, and a file for each tensor (vissl's `SlicedCheckpointLoader`)."""

from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from seer.errors import InputError
from seer.interop.pickles import load_pickle
from seer.interop.published import Published, unwrapped
from seer.interop.weights import form, is_plain


def open_index(path: Path, content: dict[str, Any]) -> Published:
    """Open a sliced checkpoint by its index, which has been read.

    The index names the files as they lay on the machine that wrote them. They are looked for in
    `NAME_layers` beside it, as VISSL calls that folder, and right beside it.

    Raises:
        InputError: slices are missing, or are none.
    """
    layers = content.get("layers")
    if not isinstance(layers, dict) or not all(
        isinstance(word, str) for pair in layers.items() for word in pair
    ):
        raise InputError(f"{path}: an index of slices that does not list them; copy it anew")
    folder = path.with_name(f"{path.stem}_layers")
    files = {}
    missing = []
    for name, written in layers.items():
        file_name = PurePosixPath(written).name
        places = [place / file_name for place in (folder, path.parent)]
        there = [place for place in places if file_name and place.is_file()]
        if there:
            files[name] = there[0]
        else:
            missing.append(f"{name} in {file_name}")
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise InputError(
            f"{path}: {len(missing):,} of {len(layers):,} slices are missing "
            f"({', '.join(missing[:3])}{more}); copy them into {folder}"
        )
    names = unwrapped(files, path)
    forms = {name: form(_weight(files[theirs], mapped=True)) for name, theirs in names.items()}
    return Published(forms, lambda name: _weight(files[names[name]]))


def _weight(path: Path, mapped: bool = False) -> Tensor:
    content = load_pickle(path, mapped=mapped)
    weight = content.get("weight") if isinstance(content, dict) else None
    if weight is None or not is_plain(weight):
        raise InputError(
            f"{path}: is no slice of a checkpoint, which holds one 'weight'; copy it anew"
        )
    return weight.detach()
