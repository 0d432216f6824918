"""seer: pretrain vision backbones on uncurated images, and prove what they are worth.

`seer.build_shards`, `pretrain`, `evaluate`, `embed`, `load_model` and `load_shards` are imported when
they are first used, and torch with them: docs/python.md.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "InputError": "seer.errors",
    "build_shards": "seer.api",
    "embed": "seer.api",
    "evaluate": "seer.api",
    "load_model": "seer.api",
    "load_shards": "seer.api",
}
__all__ = [*_HOMES, "pretrain"]


def __getattr__(name: str) -> Any:
    if name == "pretrain":
        return import_module("seer.pretrain")  # a folder of that name, which can be called
    if name not in _HOMES:
        raise AttributeError(f"module 'seer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
