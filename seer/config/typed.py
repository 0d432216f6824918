"""Trees of texts → dataclasses of options: each text is read as what its option is declared to be."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from seer.config.layers import (
    Scalar,
    Tree,
    opened,
    opened_list,
    plain,
    read_flag,
    read_number,
    read_whole,
)
from seer.config.references import References
from seer.errors import InputError, nearest
from seer.schema import (
    Flag,
    Integer,
    Kind,
    ListOf,
    Location,
    Number,
    Plain,
    Text,
    check_options,
    default_of,
    join,
    kind_of,
    refuse,
)

T = TypeVar("T")
Variants = Mapping[str, Mapping[str, type]]

READERS: dict[type, Any] = {bool: read_flag, int: read_whole, float: read_number}
ANY_LIST = ListOf(Plain())
KINDS: dict[type, Kind] = {bool: Flag(), int: Integer(), float: Number(), str: Text()}


def instance(schema: type[T], tree: dict[str, Tree], variants: Variants, allow_env: bool) -> T:
    """The options that a tree describes, checked; those that it does not name keep their defaults."""
    chosen = _chosen(schema, tree, variants)
    declared = fields(schema)  # type: ignore[arg-type]
    defaults = {f.name: chosen[f.name]() if f.name in chosen else default_of(f) for f in declared}
    reader = _Reader(References(tree, defaults, allow_env), chosen, variants)
    options = reader.options(schema, tree, defaults, "")
    check_options(options)
    return options


def check_entries(schema: type, recipe: dict[str, Tree], given: dict[str, Tree]) -> None:
    """An override may change the entries of a recipe's free-form options (`views.large`), not
    misspell a new one.
    """
    hints = get_type_hints(schema)
    for declared in fields(schema):
        if not _is_entries(hints[declared.name]) or declared.name not in given:
            continue
        entries = opened(given[declared.name], declared.name)
        own = recipe.get(declared.name)
        names = {*default_of(declared), *(own if isinstance(own, dict) else {})}
        for unknown in (
            [name for name in entries if name not in names] if isinstance(entries, dict) else []
        ):
            raise InputError(
                f"{join(declared.name, unknown)}: unknown key{nearest(unknown, names)}"
            )


def _is_entries(hint: Any) -> bool:
    """Whether a type is that of names with a dataclass of options each."""
    return get_origin(hint) is dict and is_dataclass(get_args(hint)[1])


def _chosen(schema: type, tree: dict[str, Tree], variants: Variants) -> dict[str, type]:
    """The dataclass of each key that has several, by the `name` that it is given."""
    chosen = {}
    declared = {f.name: f for f in fields(schema)}
    for key, choices in variants.items():
        below = tree.get(key)
        if below is not None:
            below = opened(below, key)
        name = below.get("name") if isinstance(below, dict) else None
        text = name.text if isinstance(name, Scalar) else default_of(declared[key]).name
        if text not in choices:
            raise InputError(f"{key}.name: {text!r:.60} is unknown{nearest(text, choices)}")
        chosen[key] = choices[text]
    return chosen


class _Reader:
    """Reads one tree. `chosen` are the dataclasses of the keys whose own type says nothing, out of
    `variants`.
    """

    def __init__(self, references: References, chosen: Mapping[str, type], variants: Variants):
        self.references = references
        self.chosen = chosen
        self.variants = variants

    def options(self, schema: type, tree: Tree, default: Any, where: str) -> Any:
        """An instance of `schema`. `default`: an instance, a mapping of its values, or None."""
        entries = self._entries(tree, where)
        declared = {f.name: f for f in fields(schema)}
        for unknown in [name for name in entries if name not in declared]:
            # A base may be any file that a stranger's recipe names: what is no name of an option
            # may be its secret.
            name = unknown if re.fullmatch(r"[A-Za-z_][\w-]{0,39}", unknown) else "..."
            raise InputError(f"{join(where, name)}: {self._is_unknown(name, where, declared)}")
        hints = get_type_hints(schema)
        values = {}
        for name, field in declared.items():
            hint = self.chosen.get(name, hints[name]) if not where else hints[name]
            values[name] = self._field(
                field, hint, entries.get(name), _default(default, field), join(where, name)
            )
        # Last, so that whoever misspelt a key reads which, rather than that it is not set.
        if missing := [join(where, name) for name, value in values.items() if value is MISSING]:
            example = f"give {missing[0]}=... on the command line or in the recipe"
            raise InputError(f"{', '.join(missing)}: not set; {example}")
        return schema(**values)

    def _is_unknown(self, name: str, where: str, declared: Mapping[str, Field]) -> str:
        """Why a key is refused: others of its kind may have it, as where a recipe begins from one of
        another method.
        """
        choices = self.variants.get(where, {})
        having = [
            choice for choice, schema in choices.items() if name in (f.name for f in fields(schema))
        ]
        if not having:
            return f"unknown key{nearest(name, declared)}"
        chosen = next(choice for choice, schema in choices.items() if schema is self.chosen[where])
        return (
            f"{chosen} has no such option, which is one of {', '.join(having)}; begin from a recipe of {chosen}, "
            f"or give the whole of {where} in one of your own, without a base"
        )

    def _field(self, field: Field, hint: Any, tree: Tree | None, default: Any, key: str) -> Any:
        kind = kind_of(field)
        if tree is not None:
            return self.value(hint, tree, default, key, kind)
        if isinstance(default, str) and "${" in default:
            return self.value(hint, Scalar(default), default, key, kind)
        return default

    def value(self, hint: Any, tree: Tree, default: Any, key: str, kind: Kind | None = None) -> Any:
        """What a tree means as a value of the type `hint`."""
        origin = get_origin(hint)
        if origin in (Union, UnionType):
            return self._first(get_args(hint), tree, default, key, kind)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.options(hint, tree, default, key)
        if hint == dict[str, Any]:
            return self._named(tree, key)
        if origin is dict:
            return self._mapping(get_args(hint)[1], tree, default, key)
        if origin in (list, tuple, Sequence):
            return self._list(get_args(hint)[0], tree, key, kind)
        return self._scalar(hint, tree, key, kind or KINDS[hint])

    def _first(
        self, hints: tuple[Any, ...], tree: Tree, default: Any, key: str, kind: Kind | None
    ) -> Any:
        """A value of the first of several types that takes it; `None` for null."""
        if (
            isinstance(tree, Scalar)
            and NoneType in hints
            and not tree.quoted
            and tree.text in ("null", "~", "")
        ):
            return None
        problem: Exception | None = None
        for hint in [hint for hint in hints if hint is not NoneType]:
            try:
                return self.value(hint, tree, default, key, kind)
            except InputError as error:
                problem = problem or error
        assert problem
        raise problem

    def _mapping(self, hint: Any, tree: Tree, default: Any, key: str) -> dict[str, Any]:
        values = dict(default) if isinstance(default, dict) else {}
        for name, below in self._entries(tree, key).items():
            values[name] = self.value(hint, below, values.get(name), join(key, name))
        return values

    def _named(self, tree: Tree, key: str, prefix: str = "") -> dict[str, Any]:
        """Names with plain values: `{a: {b: [1]}}`, as `key.a.b=[1]` gives it, is `{a.b: [1]}`."""
        values: dict[str, Any] = {}
        for name, below in self._entries(tree, key).items():
            if isinstance(below, dict):
                values |= self._named(below, join(key, name), f"{prefix}{name}.")
            else:
                items = opened_list(below, join(key, name))
                values[prefix + name] = plain(items, self.references.text_of, join(key, name))
        return values

    def _list(self, hint: Any, tree: Tree, key: str, kind: Kind | None) -> list[Any]:
        tree = opened_list(tree, key)
        if not isinstance(tree, list):
            value = tree.text if isinstance(tree, Scalar) else tree
            error = refuse(kind or ANY_LIST, value, key)
            raise InputError(str(error))
        below = getattr(kind, "kind", None)
        values = []
        for i, item in enumerate(tree):
            values.append(self.value(hint, item, None, f"{key}[{i}]", below))
        return values

    def _scalar(self, hint: Any, tree: Tree, key: str, kind: Kind) -> Any:
        if not isinstance(tree, Scalar):
            raise InputError(str(refuse(kind, tree, key)))
        text = self.references.text_of(tree, key)
        if hint is str:
            if tree.is_null and not tree.given:
                raise InputError(f"{key}: null is no text; write '' for an empty one, or quote it")
            return os.path.expanduser(text) if isinstance(kind, Location) else text
        try:
            return READERS[hint](text)
        except ValueError:
            raise InputError(str(refuse(kind, text, key))) from None

    def _entries(self, tree: Tree, where: str) -> dict[str, Tree]:
        tree = opened(tree, where)
        if not isinstance(tree, dict):
            raise InputError(f"{where}: expected keys with values, for instance {{key: value}}")
        return tree


def _default(default: Any, field: Field) -> Any:
    """What an option is where nothing is said of it: as in `default`, or else as its dataclass
    declares.
    """
    if isinstance(default, Mapping):
        return default[field.name]
    return (
        default_of(field) if default is None or default is MISSING else getattr(default, field.name)
    )
