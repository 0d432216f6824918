"""Configurations: a YAML recipe and dotted overrides → one typed dataclass, and back.

A recipe may start from another (`base: swav_regnety_128gf.yaml`); later layers win. A value is read
as what its option is declared to be, so a text stays as it was written; its range stands beside the
option (`seer.schema`). An unknown key fails and names the nearest right one, and nothing is
inferred afterwards.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from seer import files
from seer.config.layers import Scalar, Tree, merge, parse, plain, read_layer
from seer.config.references import References, escaped
from seer.config.typed import Variants, check_entries, instance
from seer.errors import InputError, nearest
from seer.schema import shown

T = TypeVar("T")

# By the network's gigaflops; once by the digits of SEER's files, which timm gives to smaller networks.
RENAMED = {
    "swav_regnety_008": "swav_regnety_8gf",
    "swav_regnety_016": "swav_regnety_16gf",
    "swav_regnety_032": "swav_regnety_32gf",
    "swav_regnety_064": "swav_regnety_64gf",
    "swav_regnety_128": "swav_regnety_128gf",
    "swav_regnety_256": "swav_regnety_256gf",
}
OTHER_FILES = {
    "clusters",
    "eval",
    "hpt",
    "speedrun",
    "study",
}  # folders of files that are no pretraining recipes
LONGEST_CHAIN = 16  # of bases
DEEPEST_KEY = 16  # parts of a dotted key

_PACKAGE = Path(__file__).parent.parent
# An installed package carries the recipes inside; a checkout has them at its top.
RECIPES = next(
    (p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()),
    _PACKAGE / "configs",
)


def recipes() -> dict[str, Path]:
    """Every pretraining recipe that comes with seer, by name."""
    return {
        path.stem: path
        for path in sorted(RECIPES.rglob("*.yaml"))
        if path.parent.name not in OTHER_FILES
    }


def find_recipe(name: str) -> Path:
    """The file of a recipe given by its name or as a path."""
    path = Path(os.path.expanduser(name))
    if path.suffix in (".yaml", ".yml"):
        return path
    _refuse_renamed(name)
    paths = recipes()
    if name not in paths:
        hint = nearest(name, paths)
        raise InputError(f"recipe {shown(name)} is unknown{hint}; or give the path of a .yaml file")
    return paths[name]


def _refuse_renamed(name: str) -> None:
    """Raise `InputError` with the new name of a recipe that was renamed, and how its runs go on."""
    if name in RENAMED:
        raise InputError(
            f"recipe {name} is called {RENAMED[name]} now "
            f"(a run begun under the old name goes on with run_dir=runs/{name})"
        )


def read_layers(path: Path) -> dict[str, Tree]:
    """The YAML file merged over the chain of its `base`s, still untyped."""
    merged: dict[str, Tree] = {}
    chain: list[str] = []
    while True:
        real = os.path.realpath(path)
        if real in chain:
            raise InputError(f"{path}: its base leads back to itself")
        if len(chain) == LONGEST_CHAIN:
            raise InputError(f"{chain[0]}: a chain of more than {LONGEST_CHAIN} bases")
        chain.append(real)
        layer = _read(path)
        base = layer.pop("base", None)
        merged = _merged(layer, merged)
        if base is None:
            return merged
        if not isinstance(base, Scalar) or base.is_null:
            raise InputError(
                f"{path}: base: expected the name of a recipe or the path of a .yaml file"
            )
        path = _base_path(path, base.text)


def parse_overrides(overrides: list[str]) -> dict[str, Tree]:
    """`["optim.lr=0.1", "views.small.count=0"]` as a layer; the values stay the texts that they
    are.
    """
    layer: dict[str, Tree] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        parts = key.split(".")
        if not equals or not all(parts) or key != key.strip():
            raise InputError(f"{shown(item)}: expected key=value, for instance steps=1000")
        if len(parts) > DEEPEST_KEY:
            raise InputError(f"{shown(item)}: no key has so many parts")
        nested: Tree = Scalar(text, given=True)
        for part in reversed(parts):
            nested = {part: nested}
        layer = _merged(layer, nested)
    return layer


def resolve(
    schema: type[T],
    layers: list[dict[str, Tree]],
    variants: Variants | None = None,
    allow_env: bool = False,
) -> T:
    """Merge `layers` over the dataclass `schema`, check every key, type and range, and return an
    instance.

    Args:
        variants: for a key whose shape depends on its `name` (`method`): the dataclass of each name.
        allow_env: let `${oc.env:NAME}` in files stand for a variable of the environment.
    """
    merged: dict[str, Tree] = {}
    for layer in layers:
        merged = _merged(merged, layer)
    return instance(schema, merged, variants or {}, allow_env)


def load(
    schema: type[T],
    recipe: str,
    overrides: list[str],
    variants: Variants | None = None,
    allow_env: bool = False,
) -> T:
    """The typed configuration of a recipe (name or path) under `key=value` overrides."""
    layer = read_layers(find_recipe(recipe))
    given = parse_overrides(overrides)
    check_entries(schema, layer, given)
    return resolve(schema, [layer, given], variants, allow_env)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars."""
    return asdict(config)


def read(path: Path) -> dict[str, Any]:
    """A saved configuration as plain values; `InputError` if it is not readable."""
    layer = read_layers(path)
    return plain(layer, References(layer).text_of)


def save(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML, visible only when complete."""
    files.write(path, _written(to_dict(config)))


def layer(values: dict[str, Any]) -> dict[str, Tree]:
    """Plain values as a layer, as if a file that `save` wrote had them. Raises `InputError`."""
    tree = parse(_written(values), "values")
    assert isinstance(tree, dict)
    return tree


def incidental(options: type, prefix: str = "") -> frozenset[str]:
    """The keys (with all below them) of a dataclass of options that are declared `incidental`.

    They change where and how fast a run goes, never what it learns: two commands that differ only
    here continue one run, and their results bear one hash.
    """
    keys = frozenset[str]()
    for declared in fields(options):
        key = prefix + declared.name
        if declared.metadata.get("incidental"):
            keys |= {key}
        elif isinstance(declared.type, type) and is_dataclass(declared.type):
            keys |= incidental(declared.type, f"{key}.")
    return keys


def significant(values: dict[str, Any], free: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Nested plain values without the `free` keys."""
    return {
        key: significant(value, free, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in free
    }


def config_hash(values: dict[str, Any], free: Collection[str] = ()) -> str:
    """Twelve hex digits that name a configuration, given as plain values, but for the `free` keys."""
    named = {key: value for key, value in flatten(values).items() if not _under(key, free)}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]


def identity(config: Any) -> str:
    """Twelve hex digits that name a configuration, but for what is incidental."""
    return config_hash(to_dict(config), incidental(type(config)))


def differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()) -> list[str]:
    """Where two configurations given as plain values disagree, but for the `free` keys."""
    a = flatten(old)
    b = flatten(new)
    keys = [key for key in sorted(a.keys() | b.keys()) if not _under(key, free)]
    return [
        f"{key} is {a.get(key)!r} there and {b.get(key)!r} here"
        for key in keys
        if a.get(key) != b.get(key)
    ]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def _written(values: dict[str, Any]) -> str:
    return yaml.dump(
        escaped(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31 - 1
    )


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `seer.config.layers`, or an older reader, would take for something
    else.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if plain(Scalar(text)) != text else None
    # In double quotes, line breaks and what a terminal obeys are escaped.
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=style if text.isprintable() else '"'
    )


_Dumper.add_representer(str, _represent_text)


def _read(path: Path) -> dict[str, Tree]:
    try:
        return read_layer(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def _base_path(path: Path, base: str) -> Path:
    """The file that a recipe's `base` names, relative to the recipe if it is a path."""
    if not base.endswith((".yaml", ".yml")):
        return find_recipe(base)
    base_path = path.parent / os.path.expanduser(base)
    if not os.path.exists(base_path):  # which, unlike Path's, takes any name
        _refuse_renamed(base_path.stem)
        raise InputError(f"{path}: base {shown(base)} does not exist")
    return base_path


def _merged(below: Mapping[str, Tree], above: Tree) -> dict[str, Tree]:
    merged = merge(dict(below), above)
    assert isinstance(merged, dict)
    return merged


def _under(key: str, prefixes: Collection[str]) -> bool:
    return any(key == p or key.startswith(f"{p}.") for p in prefixes)
