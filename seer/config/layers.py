"""A layer of a configuration: what a YAML file or the command line says, as it was written.

A layer is a tree of mappings, lists and scalars whose text nobody has interpreted yet: whether
`0123`, `on` or `12:30` is a text, a number or a flag is for the option that it is given to
(`seer.config`). Files go through `seer.inputs`, so aliases, depth and size are bounded, and no tag
makes an object.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from seer.inputs import (
    LARGEST_YAML,
    YAML_LOADER,
    UnreadableError,
    read_text,
    yaml_of,
)
from seer.schema import MismatchError, join

CORE = "tag:yaml.org,2002:"
# What a scalar may look like without an explicit tag; only `<<` means anything to us.
TAGS = {
    CORE + name
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
}

NULLS = {"", "~", "null", "Null", "NULL"}
FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WHOLE = re.compile(r"[+-]?(0|[1-9](_?[0-9])*)")
DIGITS = r"[0-9](_?[0-9])*"
DECIMAL = re.compile(
    rf"[+-]?({DIGITS}\.?({DIGITS})?|\.{DIGITS})([eE][+-]?[0-9]+)?|[+-]?\.?inf|\.?nan", re.IGNORECASE
)
LONGEST_NUMBER = 400  # characters


@dataclass(frozen=True)
class Scalar:
    """A single value, as written.

    Attributes:
        quoted: in quotes or as a block, so that it is a text whatever it looks like.
        given: on the command line, which is the user's own: `${` means nothing there.
    """

    text: str
    quoted: bool = False
    given: bool = False

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text in NULLS


Tree = Scalar | list["Tree"] | dict[str, "Tree"]


def read_layer(path: Path) -> dict[str, Tree]:
    """What a YAML file of keys and values says; an empty file says nothing.

    Raises:
        FileNotFoundError, UnreadableError
    """
    tree = parse(read_text(path, LARGEST_YAML), str(path))
    if isinstance(tree, Scalar) and tree.is_null:
        return {}
    if not isinstance(tree, dict):
        raise UnreadableError(f"{path}: expected keys with values at the top")
    return tree


def parse(text: str, where: str, given: bool = False) -> Tree:
    """The tree that a YAML text means. `UnreadableError` names `where` and the line, and quotes
    nothing but keys.
    """
    with yaml_of(text, where):
        node = yaml.compose(text, Loader=YAML_LOADER)
        return Scalar("") if node is None else _tree(node, given)


def merge(below: Tree, above: Tree, key: str = "") -> Tree:
    """The tree `above` laid over another: mappings key by key, anything else as a whole."""
    # Only where one of them is a mapping can a word that begins with a brace be meant as one.
    below = opened(below, key) if isinstance(above, dict) else below
    above = opened(above, key) if isinstance(below, dict) else above
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    merged = dict(below)
    for name, tree in above.items():
        merged[name] = merge(merged[name], tree, join(key, name)) if name in merged else tree
    return merged


def opened(tree: Tree, key: str) -> Tree:
    """The mapping that was given as one word on the command line; anything else as it is."""
    return parse(tree.text, key, given=True) if _is_flow(tree, "{") else tree


def opened_list(tree: Tree, key: str) -> Tree:
    """The same for a list."""
    return parse(tree.text, key, given=True) if _is_flow(tree, "[") else tree


def _is_flow(tree: Tree, bracket: str) -> TypeGuard[Scalar]:
    return (
        isinstance(tree, Scalar)
        and tree.given
        and not tree.quoted
        and tree.text.lstrip().startswith(bracket)
    )


def flow(tree: Tree) -> str:
    """A tree as one word of the command line, every scalar as it was written."""
    return tree.text if isinstance(tree, Scalar) else _flow(tree)


def _flow(tree: Tree) -> str:
    if isinstance(tree, Scalar):
        return json.dumps(tree.text, ensure_ascii=False) if tree.quoted else tree.text
    if isinstance(tree, list):
        return f"[{', '.join(map(_flow, tree))}]"
    entries = [
        f"{json.dumps(name, ensure_ascii=False)}: {_flow(below)}" for name, below in tree.items()
    ]
    return f"{{{', '.join(entries)}}}"


def plain(tree: Tree, text_of: Any = lambda scalar, key: scalar.text, key: str = "") -> Any:
    """The values that a tree without declared types means: what looks like a number or a flag and
    is unquoted is one.

    `text_of(scalar, key)` gives the text that a scalar stands for, its references replaced.
    """
    if isinstance(tree, dict):
        return {name: plain(below, text_of, join(key, name)) for name, below in tree.items()}
    if isinstance(tree, list):
        return [plain(below, text_of, f"{key}[{i}]") for i, below in enumerate(tree)]
    text = text_of(tree, key)
    if tree.quoted:
        return text
    return _plain_value(text)


def _plain_value(text: str) -> Any:
    if text in NULLS:
        return None
    for read in (read_flag, read_whole, read_number):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def read_flag(text: str) -> bool:
    """true, yes, on; false, no, off, in any case. ValueError for anything else."""
    try:
        return FLAGS[text.strip().lower()]
    except KeyError:
        raise ValueError(text) from None


def read_whole(text: str) -> int:
    """A whole number in decimal digits, perhaps with `_` between them; no leading zeros, which YAML
    takes for octal.
    """
    text = text.strip()
    if len(text) > LONGEST_NUMBER or not WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text)


def read_number(text: str) -> float:
    """A decimal number, or infinity or NaN (which options refuse by their range)."""
    text = text.strip()
    if len(text) > LONGEST_NUMBER or not DECIMAL.fullmatch(text):
        raise ValueError(text)
    return float(re.sub(r"^([+-]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE))


def _tree(node: yaml.Node, given: bool) -> Tree:
    if node.tag not in TAGS:
        raise MismatchError(_line(node), "a tag (!) is not read here; write plain values")
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, bool(node.style), given)
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, given) for item in node.value]
    return _mapping(node, given)


def _mapping(node: yaml.Node, given: bool) -> dict[str, Tree]:
    merged: dict[str, Tree] = {}
    own: dict[str, Tree] = {}
    for key_node, value_node in node.value:
        if key_node.tag == CORE + "merge":
            merged = _merged(value_node, given) | merged
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise MismatchError(_line(key_node), "a key must be a single word")
        if key_node.value in own:
            # YAML would silently take the last.
            raise MismatchError(_line(key_node), "a key that stands there already")
        own[key_node.value] = _tree(value_node, given)
    return merged | own


def _merged(node: yaml.Node, given: bool) -> dict[str, Tree]:
    """What `<<` brings into a mapping: another one's entries, or several ones', of which the first
    wins.
    """
    tree = _tree(node, given)
    mappings = tree if isinstance(tree, list) else [tree]
    merged: dict[str, Tree] = {}
    for mapping in mappings:
        if not isinstance(mapping, Mapping):
            raise MismatchError(_line(node), "<< takes a mapping, or a list of them")
        merged = mapping | merged
    return merged


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
