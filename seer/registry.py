"""What there is by name, each imported when it is first asked for: names are known before torch is
there, which takes seconds to import.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from functools import partial
from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Later:
    """A class by its dotted name, with its first arguments if there are any."""

    def __init__(self, name: str, *arguments: Any):
        self.name = name
        self.arguments = arguments

    def load(self) -> Any:
        """The class itself; with arguments, what makes an instance of it from the others."""
        module, _, attribute = self.name.rpartition(".")
        loaded = getattr(import_module(module), attribute)
        return partial(loaded, *self.arguments) if self.arguments else loaded


class Registry(MutableMapping[str, T], Generic[T]):
    """Names, and what they stand for: a `T`, or where one is found `Later`."""

    def __init__(self, entries: Mapping[str, T | Later]):
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        return entry.load() if isinstance(entry, Later) else entry

    def __setitem__(self, name: str, entry: T | Later) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # not by looking it up, which imports
