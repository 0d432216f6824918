"""How the verbs are parsed, where typer's own way leaves people in doubt."""

import inspect
import os
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from seer.errors import InputError, quoted

USAGE_ERROR: Any = typer.BadParameter.__base__  # Click's, whether that is typer's own copy or not


def unwrap_help(app: typer.Typer) -> None:
    """Have each paragraph of the verbs' docstrings, which are wrapped for readers of the code, be one
    line: terminals wrap by themselves.
    """
    for command in app.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance:
            unwrap_help(group.typer_instance)


class RecipeCommand(TyperCommand):
    """A verb with a recipe, whose keys people try as options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            unparsed = super().parse_args(ctx, args)
        except USAGE_ERROR as error:
            option = getattr(error, "option_name", "")
            if type(error).__name__ != "NoSuchOption" or not option.startswith("--"):
                raise
            raise InputError(
                f"{option}: no such option; keys of a recipe have no dashes: {as_key(option, words)}"
            ) from None
        for word in ctx.params.get("overrides") or ():
            if "=" not in word and os.path.exists(word):
                raise InputError(
                    f"{word}: not a key of a recipe; if these are the data, {quoted(f'data={word}')}"
                )
        return unparsed


def as_key(option: str, words: Sequence[str]) -> str:
    """What was meant by an option, as a key of a recipe: `data=x` for `--data x`."""
    key = option.lstrip("-").replace("-", "_")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith(f"{option}="):
            return quoted(f"{key}={word.partition('=')[2]}")
        if word == option and following and not following.startswith("-"):
            return quoted(f"{key}={following}")
    return f"{key}=VALUE"
