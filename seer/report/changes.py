"""What was set: where a run departs from its recipe, and where several runs differ."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seer import config as configuration
from seer.errors import InputError
from seer.report.runfiles import RunFiles, at

UNSET = "–"
OF_THE_PLACE = {"name", "run_dir"}  # what a run is called is told elsewhere
FIRST = {"data", "init", "method.name", "backbone.name", "steps", "batch_size"}
LAST = {"device", "loader", "parallel", "checkpoint", "health", "log"}
MOST = 200  # keys of a table
LONGEST = 500  # characters of a value


@dataclass(frozen=True)
class Changes:
    """Where a run departs from its recipe.

    Attributes:
        recipe: its name; "" where it is none of those that come with seer.
        rows: key, value, and the recipe's value, or what stands in its place.
    """

    recipe: str
    rows: list[tuple[str, str, str]]


def changes(run: RunFiles) -> Changes:
    """The keys in which a run differs from its recipe, and those that were given on its command
    line. A recipe in a file of its own is not read: a stranger's run directory may name any file.
    """
    config = _settings(run)
    words = _words(run.environment.get("command", ""))
    recipe = _recipe(run, words)
    values = _values(recipe)
    recipe = recipe if values else ""
    rows = []
    for key, value in config.items():
        if key in OF_THE_PLACE:
            continue
        if key in values and value != values[key]:
            rows.append((key, text_of(value), text_of(values[key])))
        elif key not in values and _is_given(key, words):
            rows.append((key, text_of(value), "not set" if recipe else UNSET))
    return Changes(recipe, sorted(rows, key=lambda row: _importance(row[0]))[:MOST])


Rows = list[tuple[str, list[str]]]  # a key, and its value in every run


def differing(runs: Sequence[RunFiles]) -> Rows:
    """The keys in which those runs differ that have them, and those that matter most."""
    rows = [
        (key, values)
        for key, values in _unlike(runs)
        if key in FIRST or len(set(values) - {UNSET}) > 1
    ]
    return rows[:MOST]


def partial(runs: Sequence[RunFiles]) -> Rows:
    """The keys that only some runs have, with one value: of another method, of views that are not
    used.
    """
    shown = {key for key, _ in differing(runs)}
    return [row for row in _unlike(runs) if row[0] not in shown][:MOST]


def _unlike(runs: Sequence[RunFiles]) -> Rows:
    configs = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if key not in OF_THE_PLACE)
    rows = []
    for key in sorted(keys, key=_importance):
        values = [text_of(config[key]) if key in config else UNSET for config in configs]
        if len(set(values)) > 1:
            rows.append((key, values))
    return rows


def _settings(run: RunFiles) -> dict[str, Any]:
    """A run's configuration by dotted keys; of views that are not used, their count alone."""
    views = run.config.get("views", {})
    used = {
        name: view if view.get("count") else {"count": view.get("count", 0)}
        for name, view in views.items()
    }
    return configuration.flatten({**run.config, "views": used} if views else run.config)


def _importance(key: str) -> int:
    """What is learned, from what and how comes before where and how fast."""
    section = key.partition(".")[0]
    return 0 if key in FIRST else 2 if section in LAST else 1


def sections(values: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A nested dict as titled lists: its own scalars first, then each inner dict with dotted keys."""
    plain = [(key, text_of(value)) for key, value in values.items() if not isinstance(value, dict)]
    inner = [
        (key, [(name, text_of(item)) for name, item in configuration.flatten(value).items()])
        for key, value in values.items()
        if isinstance(value, dict) and value
    ]
    return [("", plain), *inner] if values else []


def text_of(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, list):
        return cut(", ".join(map(text_of, value)), LONGEST) or UNSET
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return UNSET if value in (None, "", {}) else cut(str(value), LONGEST)


def cut(text: str, longest: int) -> str:
    """A text that may be of any length, as a page can show it."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"


def _words(command: str) -> list[str]:
    """The words after `pretrain` of a command line; none of another command."""
    try:
        words = shlex.split(command)
    except ValueError:  # an open quote
        return []
    return words[words.index("pretrain") + 1 :] if "pretrain" in words else []


def _recipe(run: RunFiles, words: Sequence[str]) -> str:
    """The name of the recipe, if it comes with seer: as the command has it, or the run's name."""
    given = [word for word in words if not word.startswith("-") and "=" not in word]
    name = given[0] if given else at(run.config, "name")
    return name if name in configuration.recipes() else ""


def _values(recipe: str) -> dict[str, Any]:
    """What a recipe says, by dotted keys."""
    if not recipe:
        return {}
    try:
        values = configuration.read(configuration.find_recipe(recipe))
    except InputError:  # somebody changed the installed file
        return {}
    return configuration.flatten(values)


def _is_given(key: str, words: Sequence[str]) -> bool:
    """Whether a command line gives a key, or a section around it."""
    named = {word.partition("=")[0] for word in words if "=" in word and not word.startswith("-")}
    parts = key.split(".")
    return any(".".join(parts[:length]) in named for length in range(1, len(parts) + 1))
