"""Files of `torch.save`, of which tensors and plain containers are taken and nothing is run.

Some training programs save objects of their own beside the weights: VISSL its configuration, others
numbers of numpy's. Those of programs that are known to do so are replaced by empty ones; what any
other file names is refused, unless it is to be left out.
"""

import io
import re
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.serialization import safe_globals

from seer.errors import InputError
from seer.interop.modelfile import check_header, reason

# Bytes, or instructions; the names and shapes of ten thousand tensors take less.
LARGEST_PICKLE = 2**21
UNREADABLE = "not readable as tensors only"
CHUNK = 2**20  # bytes that are compared at once
LARGE = 2**31  # bytes of a file whose tensors are not read before they are used
MOST_NAMES = 100  # of classes that one file may have left out
# Programs whose objects stand beside the weights that they publish.
TRAINERS = (
    "argparse.", "classy_vision.", "collections.defaultdict", "fvcore.", "lightning.", "numpy.",
    "omegaconf.", "pathlib.", "pytorch_lightning.", "set", "typing.", "vissl.", "yacs.",
)  # fmt: skip


class Emptied:
    """What an object of another program becomes: a mapping, which takes any items and attributes."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class Opaque:
    """The same of an object whose state is no mapping, such as numpy's: nothing of it is kept."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def load_pickle(path: Path, ignore_code: bool = False, mapped: bool = False) -> Any:
    """What `torch.save` wrote, without what is neither a tensor nor a plain container.

    Args:
        ignore_code: leave out whatever classes and functions are named, not only those of `TRAINERS`.
        mapped: leave the tensors in the file until they are used, as is done with a large one. They are then not
            compared with the file's checksums.

    Raises:
        InputError: it is damaged, too large to be what it claims, or names code.
    """
    check_header(path)
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive:
        _check_archive(path, compare=not mapped and path.stat().st_size <= LARGE)
    emptied: list[str] = []
    while True:
        try:
            return _load(path, is_archive, mapped or path.stat().st_size > LARGE, emptied)
        except UnpicklingError as error:
            # torch's own message advises to load the file with all that it may do.
            code = re.search(r"GLOBAL ([\w.]{1,160})", str(error))
            if code is None:
                raise InputError(
                    f"{path}: {UNREADABLE} (damaged, or no file of torch.save)"
                ) from None
            may_be_emptied = ignore_code or code[1].startswith(TRAINERS)
            if not may_be_emptied or code[1] in emptied or len(emptied) == MOST_NAMES:
                raise InputError(
                    f"{path}: holds code ({code[1][:80]}): not loaded; save its state_dict alone as .safetensors, "
                    "where you trust it, or let seer import --ignore-code leave out what is no tensor"
                ) from None
            emptied.append(code[1])
        except Exception as error:  # whatever damaged bytes lead torch's readers to
            said = "a format with code in it" if "weights_only" in str(error) else reason(error)
            raise InputError(f"{path}: {UNREADABLE} ({said}); give a .safetensors file") from None


def _load(path: Path, is_archive: bool, mapped: bool, emptied: list[str]) -> Any:
    """What is in the file; classes and functions of the names `emptied` become empty objects."""
    replaced: list[Any] = []
    for name in emptied:
        kind = Opaque if name.startswith("numpy.") else Emptied
        # torch tells the names of built-in classes without their module.
        replaced += [(kind, name), (kind, f"builtins.{name}")]
    with warnings.catch_warnings(action="ignore"), safe_globals(replaced):
        if is_archive:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        with _Bounded(io.FileIO(path)) as file:
            return torch.load(file, map_location="cpu", weights_only=True)


class _Bounded(io.BufferedReader):
    """A file that may be read in so many pieces: torch's unpickler takes a piece for each
    instruction of a pickle.

    Tensors' values are read in one piece each. Without a bound, a pickle of a gigabyte would take
    hours.
    """

    pieces = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.pieces += 1
        if self.pieces > LARGEST_PICKLE:
            raise ValueError(f"a pickle of more than {LARGEST_PICKLE:,} instructions")
        return super().read(size)


def _check_archive(path: Path, compare: bool) -> None:
    """Raise `InputError` for a zip with a huge pickle, or whose members, unpacked, would be larger
    than the file; and if wished, for one whose bytes are not those of its checksums, which torch
    does not look at.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # as above
        raise InputError(f"{path}: {UNREADABLE} ({reason(error)}), perhaps truncated") from None
    if any(m.file_size > LARGEST_PICKLE for m in members if m.filename.endswith(".pkl")):
        raise InputError(
            f"{path}: {UNREADABLE} (its pickle has more than {LARGEST_PICKLE:,} bytes)"
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(
            f"{path}: {UNREADABLE} (its members are packed, which torch.save never does)"
        )
    if compare and (damaged := _damaged_member(path)):
        raise InputError(f"{path}: {UNREADABLE} (damaged: {damaged}); get it again")


def _damaged_member(path: Path) -> str:
    """The first tensor of a zip whose bytes are not those of its CRC-32, and why; "" if all are.

    Of the pickle nothing is believed that the tensors do not bear out.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # torch writes 0 where it was told to compute none.
            if member.CRC == 0 or member.filename.endswith(".pkl"):
                continue
            try:
                with archive.open(member) as file:
                    while file.read(CHUNK):
                        pass
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                return f"{member.filename[:80]}, {reason(error)}"
    return ""
