"""A checkpoint that is open: what tensors it claims to have, each of which is read when it is
wanted; and the names that training programs put around those of a network.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from seer.errors import InputError
from seer.interop.weights import Form, form, is_plain, kept_open, state_dict_of

# What training programs put between a network and the names of its tensors: DataParallel, VISSL,
# fairscale's FSDP, and VISSL's groups of blocks under FSDP.
WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:module|trunk|base_model|_fsdp_wrapped_module|_fpw_module|block\d+-part\d+)\."
)
FAMILY = re.compile(r"^(?:regnet|resnet)\.")  # Hugging Face's, beside a classifier
DEEPEST = 4  # levels of heads within heads
NO_STATE = "does not hold a state dict, a mapping from names to tensors"


@dataclass(frozen=True)
class Published:
    """A checkpoint that is open.

    Attributes:
        forms: what its tensors claim to be, by their names without wrappers.
        read: reads one.
        images: `size`, `mean` and `std` of its images, where it says so.
    """

    forms: Mapping[str, Form]
    read: Callable[[str], Tensor]
    images: Mapping[str, Any] = field(default_factory=dict)


def of_safetensors(path: Path) -> Published:
    tensors = kept_open(path)
    names = unwrapped(tensors.forms, path)
    forms = {name: tensors.forms[theirs] for name, theirs in names.items()}
    return Published(forms, lambda name: tensors.tensor(names[name]))


def of_tensors(tensors: Mapping[str, Tensor], path: Path) -> Published:
    names = unwrapped(tensors, path)
    forms = {name: form(tensors[theirs]) for name, theirs in names.items()}
    return Published(forms, lambda name: tensors[names[name]].detach())


def state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a training program's checkpoint, a VISSL or ClassyVision one included."""
    state = _classy_state(content)
    if state is None:
        state = state_dict_of(content)
    if state is None:
        raise InputError(f"{path}: {NO_STATE}")
    return state


def base_model(content: Any) -> Any:
    """Where VISSL and ClassyVision keep a model: `model`, which has `trunk` and `heads`, and
    perhaps `meta`. None if it is not there.
    """
    for key in ("classy_state_dict", "base_model"):
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None


def _classy_state(content: Any) -> dict[str, Tensor] | None:
    model = (base_model(content) or {}).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("trunk"), dict):
        return None
    parts = {part: model[part] for part in ("trunk", "heads") if part in model}
    tensors = dict(_leaves(parts, DEEPEST))
    return tensors if all(map(is_plain, tensors.values())) else None


def _leaves(content: Any, depth: int, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """What is in nested mappings and lists, by dotted names. VISSL has a list of heads under FSDP."""
    if isinstance(content, list):
        content = dict(enumerate(content))
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict | list) and depth:
            yield from _leaves(value, depth - 1, f"{name}.")
        else:
            yield name, value


def unwrapped(names: Iterable[str], path: Path) -> dict[str, str]:
    """The names as they are in the file, by those without wrappers."""
    given = list(names)
    plain = {FAMILY.sub("", WRAPPERS.sub("", name)): name for name in given}
    if len(plain) < len(given):
        raise InputError(
            f"{path}: holds tensors of the same name with and without 'module.'; save its state_dict anew"
        )
    return plain
