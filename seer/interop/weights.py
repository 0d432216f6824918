"""Tensors out of anybody's weight file. No code in it runs, none of it is half-loaded, and no claim
of it costs memory.

What a file claims (names, shapes, types) is compared with the network that is wanted before a
tensor is read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from seer.errors import InputError
from seer.interop.modelfile import check_header, reason
from seer.interop.pickles import load_pickle
from seer.schema import join

FLOATING = "floating"
WHOLE = "whole"
ELSE = "else"
# Where training scripts keep a state dict among other things; pycls says `model_state`.
NESTED = ("state_dict", "model", "model_state")
DEEPEST = 4
MOST_LISTED = 8  # names of tensors in one line


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


def kept_open(path: Path) -> Safetensors:
    """The same, to be read for as long as it is referred to."""
    with open_safetensors(path):
        return Safetensors(safe_open(path, "pt"))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of anyone's `.safetensors`, or of a `.pth` that holds a state dict and nothing
    executable.
    """
    if path.suffix.lower() == ".safetensors":
        with open_safetensors(path) as file:
            return {name: file.tensor(name) for name in file.forms}
    state = state_dict_of(load_pickle(path))
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


def load_partly(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Load tensors of the module's that have its shapes, and leave the others as they are."""
    expected = module.state_dict()
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    check_finite(typed, source)
    module.load_state_dict(typed, strict=False)


def listed(names: Sequence[str]) -> str:
    """How many tensors, and which; the first of many."""
    more = ", ..." if len(names) > MOST_LISTED else ""
    return f"{len(names):,} ({', '.join(names[:MOST_LISTED])}{more})"


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


def state_dict_of(state: Any) -> dict[str, Tensor] | None:
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
    return state if all(map(is_plain, state.values())) else None


def is_plain(tensor: Any) -> bool:
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
