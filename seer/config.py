"""Configurations: a YAML recipe and dotted overrides → one typed dataclass, and back.

A recipe may start from another (`base: swav_regnety_128.yaml`); later layers win. Every value is checked against its
dataclass, an unknown key fails and names the nearest right one, and nothing is inferred afterwards.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from seer import files
from seer.errors import InputError, first_line, nearest

T = TypeVar("T")

# Keys (with all below them) that change where and how fast a run goes, never what it learns: two commands that differ
# only here continue one run, and their results bear one hash.
FREE = (
    "run_dir",
    "name",
    "device",
    "log",
    "checkpoint",
    "health",
    "parallel.mode",
    "parallel.checkpointing",
    "parallel.shard_group",
    "parallel.compile",
    "parallel.channels_last",
    "loader.workers",
    "loader.mode",
    "loader.prefetch",
    "loader.fetch",
    "loader.cache_dir",
    "loader.cache_gb",
)

_PACKAGE = Path(__file__).parent
# An installed package carries the recipes inside; a checkout has them at its top.
RECIPES = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE / "configs")


def recipes() -> dict[str, Path]:
    """Every recipe that comes with seer, by name."""
    return {path.stem: path for path in sorted(RECIPES.rglob("*.yaml")) if path.parent.name != "clusters"}


def find_recipe(name: str) -> Path:
    """The file of a recipe given by its name or as a path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"recipe {name}: no such file")
        return path
    known = recipes()
    name = name.removesuffix("gf") if name not in known else name  # swav_regnety_256gf, as the network is called
    if name not in known:
        raise InputError(f"recipe '{name}' is unknown{nearest(name, known)}; or give the path of a .yaml file")
    return known[name]


def read_layers(path: Path, seen: tuple[Path, ...] = ()) -> DictConfig:
    """The YAML file merged over the chain of its `base`s, still untyped."""
    path = path.resolve()
    if path in seen:
        raise InputError(f"{path}: its base leads back to itself")
    try:
        with _explained(str(path)):
            layer = OmegaConf.load(path)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(layer, DictConfig):
        raise InputError(f"{path}: expected keys with values at the top")
    base = layer.pop("base", None)
    if base is None:
        return layer
    base_path = path.parent / base if str(base).endswith((".yaml", ".yml")) else find_recipe(str(base))
    if not base_path.is_file():
        raise InputError(f"{path}: base {base} does not exist")
    merged = OmegaConf.merge(read_layers(base_path, (*seen, path)), layer)
    assert isinstance(merged, DictConfig)
    return merged


def parse_overrides(overrides: list[str]) -> DictConfig:
    """`["optim.lr=0.1", "views.small.count=0"]` as a nested config."""
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key or key != key.strip():
            raise InputError(f"override '{item}': expected key=value, for instance steps=1000")
    try:
        with _explained(f"overrides {' '.join(overrides)}"):
            return OmegaConf.from_dotlist(list(overrides))
    except YAMLError as error:
        raise InputError(f"overrides {' '.join(overrides)}: {first_line(error)}") from error


def resolve(schema: type[T], layers: list[DictConfig], variants: dict[str, dict[str, type]] | None = None) -> T:
    """Merge `layers` over the dataclass `schema`, check every key and type, and return an instance.

    Args:
        variants: for a key whose shape depends on its `name` (`method`): the dataclass of each name.
    """
    with _explained("configuration"):
        merged = OmegaConf.merge(_typed(schema, layers, variants), *layers)
        if missing := sorted(OmegaConf.missing_keys(merged)):
            raise InputError(
                f"{', '.join(missing)}: not set; give {missing[0]}=... on the command line or in the recipe"
            )
        resolved = OmegaConf.to_object(merged)
    assert isinstance(resolved, schema)
    return resolved


def _typed(schema: type, layers: list[DictConfig], variants: dict[str, dict[str, type]] | None) -> DictConfig:
    """The schema's defaults, with each variant that the layers name in its place."""
    typed, given = OmegaConf.structured(schema), OmegaConf.merge(*layers)
    for key, choices in (variants or {}).items():
        name = OmegaConf.select(given, f"{key}.name", default=OmegaConf.select(typed, f"{key}.name"))
        if name not in choices:
            raise InputError(f"{key}.name: '{name}' is unknown{nearest(str(name), choices)}")
        typed[key] = OmegaConf.structured(choices[name])
    return typed


def load(schema: type[T], recipe: str, overrides: list[str], variants: dict[str, dict[str, type]] | None = None) -> T:
    """The typed configuration of a recipe (name or path) under `key=value` overrides."""
    layer, given = read_layers(find_recipe(recipe)), parse_overrides(overrides)
    with _explained(recipe):
        _check_entries(OmegaConf.merge(_typed(schema, [layer, given], variants), layer), given)
    return resolve(schema, [layer, given], variants)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars."""
    return asdict(config)


def read(path: Path) -> dict[str, Any]:
    """A saved configuration as plain values; `InputError` if it is not readable."""
    with _explained(str(path)):
        values = OmegaConf.to_container(read_layers(path), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def save(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML, visible only when complete."""
    files.write(path, OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))


def config_hash(values: dict[str, Any]) -> str:
    """Twelve hex digits that name a configuration, given as plain values, but for what is `FREE`."""
    named = {key: value for key, value in flatten(values).items() if not _under(key, FREE)}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where two configurations given as plain values disagree, but for what is `FREE`."""
    a, b = flatten(old), flatten(new)
    keys = [key for key in sorted(a.keys() | b.keys()) if not _under(key, FREE)]
    return [f"{key} is {a.get(key)!r} there and {b.get(key)!r} here" for key in keys if a.get(key) != b.get(key)]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _check_entries(recipe: Any, given: Any, path: str = "") -> None:
    """An override may change the entries of a recipe's free-form dicts (`views.large`), not misspell a new one."""
    if not (OmegaConf.is_dict(recipe) and OmegaConf.is_dict(given)):
        return
    for key in map(str, given):
        if key in recipe:
            _check_entries(recipe[key], given[key], f"{path}{key}.")
        elif OmegaConf.get_type(recipe) is dict:
            raise InputError(f"{path}{key}: unknown key{nearest(key, recipe)}")


def _under(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == p or key.startswith(f"{p}.") for p in prefixes)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """OmegaConf's errors as the user's, about a key or, if none is to blame, about `where`."""
    try:
        yield
    except ConfigKeyError as error:
        kind, key = error.object_type, str(error.full_key).rpartition(".")[2]
        known = [f.name for f in fields(kind)] if is_dataclass(kind) else []
        raise InputError(f"{error.full_key}: unknown key{nearest(key, known)}") from error
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key or where}: {first_line(error)}") from error
