"""Tensors out of anybody's weight file. No code in it runs, none of it is half-loaded, and no claim
of it costs memory.

What a file claims (names, shapes, types) is compared with the network that is wanted before a
tensor is read.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from seer import inputs
from seer.errors import InputError, first_line
from seer.schema import join

LARGEST_HEADER = 2**24  # bytes; a network of ten thousand tensors has a header of one million
FLOATING = "floating"
WHOLE = "whole"
ELSE = "else"
NESTED = ("state_dict", "model")  # where training scripts keep a state dict among other things
DEEPEST = 4
# Bytes, or instructions; the names and shapes of ten thousand tensors take less.
LARGEST_PICKLE = 2**21
UNREADABLE = "not readable as tensors only"


class Form(NamedTuple):
    """What a tensor claims to be: its shape, and whether its values are `floating`, `whole` or
    something else.
    """

    shape: tuple[int, ...]
    values: str


class Safetensors:
    """An open safetensors file: `metadata`, the `forms` of its tensors, and the tensors one by one."""

    def __init__(self, file: Any):
        self._file = file
        self.metadata: dict[str, str] = file.metadata() or {}
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        self.forms = {name: _form_of_slice(part) for name, part in slices.items()}

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(name)


@contextmanager
def open_safetensors(path: Path) -> Iterator[Safetensors]:
    """Open a safetensors file; it is read while entered. Raises `InputError` if it is none, or
    truncated.
    """
    check_header(path)
    try:
        with safe_open(path, "pt") as file:
            yield Safetensors(file)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: not readable as safetensors, perhaps truncated ({reason(error)})"
        ) from error


def check_header(path: Path) -> None:
    """Raise `InputError` for what is no file, and for a header too long to be one: it would be read
    as a whole.
    """
    try:
        with inputs.open_data(path) as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a file of weights"
        ) from None
    if path.suffix.lower() == ".safetensors" and length > LARGEST_HEADER:
        raise InputError(
            f"{path}: not readable as safetensors (it begins with no header of a usual length)"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of anyone's `.safetensors`, or of a `.pth` that holds a state dict and nothing
    executable.
    """
    if path.suffix.lower() == ".safetensors":
        with open_safetensors(path) as file:
            return {name: file.tensor(name) for name in file.forms}
    check_header(path)
    state = _state_dict(_unpickle(path))
    if state is None:
        raise InputError(f"{path}: does not hold a state dict, a mapping from names to tensors")
    tensors = {name.removeprefix("module."): tensor.detach() for name, tensor in state.items()}
    if len(tensors) < len(state):
        raise InputError(
            f"{path}: holds tensors of the same name with and without 'module.'; save its state_dict anew"
        )
    return tensors


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], source: object, assign: bool = False
) -> None:
    """Load exactly the module's tensors, in the types that they have there.

    Raises:
        InputError: what is missing, unexpected, of another shape or type, or not finite.
    """
    expected = module.state_dict()
    check_forms(module, {name: form(tensor) for name, tensor in tensors.items()}, source)
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    check_finite(typed, source)
    module.load_state_dict(typed, strict=True, assign=assign)


def check_forms(module: nn.Module, forms: Mapping[str, Form], source: object) -> None:
    """Raise `InputError`, in one line, unless the forms are those of the module's tensors."""
    expected = {name: form(tensor) for name, tensor in module.state_dict().items()}
    missing = [name for name in expected if name not in forms]
    unexpected = [join("", name) for name in forms if name not in expected]
    both = [name for name in expected if name in forms]
    shapes = [
        _difference(name, forms[name], expected[name])
        for name in both
        if forms[name] != expected[name]
    ]
    problems = [
        f"{len(names):,} {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for names, what in (
            (missing, "tensors missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
        )
        if names
    ]
    if problems:
        name = getattr(getattr(module, "config", None), "name", type(module).__name__)
        raise InputError(f"{source}: holds another architecture than {name}: {'; '.join(problems)}")


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise `InputError` naming the first tensor that has a NaN or an infinity: no score of it
    would mean anything.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or torch.isfinite(tensor).all():
            continue
        count = int((~torch.isfinite(tensor)).sum())
        raise InputError(
            f"{source}: {count:,} of the {tensor.numel():,} values of {name} are NaN or infinite; "
            "it is damaged, or of a run that diverged: use another checkpoint"
        )


def reason(error: BaseException) -> str:
    """What a library says of a file, on one line, short, and without what a terminal would obey."""
    said = getattr(error, "strerror", None) or first_line(error)
    text = said.encode("unicode_escape").decode()
    return text if len(text) <= 160 else f"{text[:157]}..."


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


def _unpickle(path: Path) -> Any:
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive:
        _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"), _Bounded(io.FileIO(path)) as file:
            return torch.load(path if is_archive else file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # torch's own message advises to load the file with all that it may do.
        code = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        if code is None:
            raise InputError(f"{path}: {UNREADABLE} (damaged, or no file of torch.save)") from None
        raise InputError(
            f"{path}: holds code ({code[1]}): not loaded; where you trust it, save its state_dict alone as .safetensors"
        ) from None
    except Exception as error:  # whatever damaged bytes lead torch's readers to
        said = "a format with code in it" if "weights_only" in str(error) else reason(error)
        raise InputError(f"{path}: {UNREADABLE} ({said}); give a .safetensors file") from None


def _check_archive(path: Path) -> None:
    """Raise `InputError` for a zip with a huge pickle, or whose members, unpacked, would be larger
    than the file.
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


def _state_dict(state: Any) -> dict[str, Tensor] | None:
    """The mapping from names to plain tensors that was saved, or stands within what was."""
    for _ in range(DEEPEST):
        within = [
            state[key]
            for key in NESTED
            if isinstance(state, dict) and isinstance(state.get(key), dict)
        ]
        state = within[0] if within else state
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        return None
    return state if all(map(_is_plain, state.values())) else None


def _is_plain(tensor: Any) -> bool:
    """Whether it is a tensor with its values in memory, one for each place."""
    if not isinstance(tensor, Tensor) or tensor.is_nested:
        return False
    return (
        tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_quantized
    )


def form(tensor: Tensor) -> Form:
    if tensor.dtype.is_floating_point:
        return Form(tuple(tensor.shape), FLOATING)
    return Form(
        tuple(tensor.shape),
        ELSE if tensor.dtype.is_complex or tensor.dtype == torch.bool else WHOLE,
    )


def _form_of_slice(part: Any) -> Form:
    code = part.get_dtype()
    values = (
        FLOATING
        if re.match("B?F[0-9]", code)
        else WHOLE
        if re.fullmatch("[IU][0-9]+", code)
        else ELSE
    )
    return Form(tuple(part.get_shape()), values)


def _difference(name: str, given: Form, expected: Form) -> str:
    if given.shape != expected.shape:
        return f"{name} is {given.shape} instead of {expected.shape}"
    return f"{name} has {given.values} instead of {expected.values} values"
