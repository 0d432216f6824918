"""Every command that help, documents and recipes show is one: verb, options, recipe and keys."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from launch.launches import THEN
from seer import cli
from seer.commands import USAGE_ERROR
from seer.eval.tasks import check_request
from seer.planning import asked
from seer.pretrain import recipe
from seer.speedrun import entry
from tests.test_cli import verbs

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "shards/README.md"]
RECIPES = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/*/*.yaml")]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (seer .+?)(?:  .*)?$", re.MULTILINE)
COMMAND = re.compile(
    r"(?:^|(?<=&& )|(?<=\$ ))(?:python -m )?(seer .*?)(?= && |\)$|$)", re.MULTILINE
)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """A verb and the rest of the words."""
    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    return command, words


def shown() -> Iterator[tuple[str, str]]:
    """Where a command is shown, and the command."""
    for words in verbs():
        command, _ = command_of(words)
        lines = command.epilog.splitlines()
        yield from ((" ".join(words), line.strip()) for line in lines if "seer " in line)
    for path in DOCUMENTS:
        blocks = BLOCK.findall(path.read_text()) + INDENTED.findall(path.read_text())
        text = "\n".join(blocks).replace("\\\n", "")
        yield from ((path.name, command) for command in COMMAND.findall(text))
    for path in RECIPES:
        text = re.sub("^# *", "", path.read_text(), flags=re.MULTILINE)
        yield from ((path.name, command) for command in COMMAND.findall(text))


def words_of(command: str) -> list[str]:
    """The words that a shell makes of a command; `ValueError` if they are not one command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    if any(set(word) <= set("();<>|&") for word in words):
        raise ValueError(f"more than a command: {words}")
    return words


def parse(words: list[str], ranks: int = 0) -> None:
    """Raise what a command would of its words, and of the recipe that they name.

    Args:
        ranks: processes by which a launch runs it; 0 outside of one.
    """
    command, rest = command_of(words)
    params = command.make_context(words[0], rest).params
    overrides = params.get("overrides") or []
    if words[0] == "launch" and "command" in params:
        gpus = params["gpus_per_node"]
        ranks = params.get("nodes", 1) * (params["tasks_per_node"] or gpus or 1)
        first = " ".join(params["command"]).replace("{i}", "1").replace("{n}", "1")  # of an array
        for launched in first.split(f" {THEN} "):
            if not re.fullmatch(r"(study|hpt) \S+", launched):  # a folder that these have written
                parse(launched.split(), ranks)
    elif words[0] == "plan":
        asked.check(asked.load(params["config"], overrides), params["gpus"])
    elif words[0] == "pretrain":
        config = recipe.load_config(params["config"], ["data=SHARDS", *overrides])
        ranks = ranks or params["nproc"]
        if ranks > 1 and config.steps:  # one may be any of those that srun starts
            recipe.check_settings(config, ranks)
    elif words[0] == "speedrun":
        entry.check(entry.load_config(params["config"], overrides), params["nproc"])
    elif words[0] == "eval":
        nproc = params["nproc"]
        check_request(params["task"], params["model"], params["data"], overrides, None, nproc)


SHOWN = sorted(set(shown()))


def test_all_are_looked_at():
    places = {place for place, _ in SHOWN}
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "speedrun.md",
        "plan.md",
        "launch.md",
        "launch slurm",
    } <= places
    assert {path.name for path in RECIPES if "clusters" not in path.parts} <= places
    assert {" ".join(words) for words in verbs()} <= places


@pytest.mark.parametrize(("place", "command"), SHOWN, ids=[f"{p}: {c}" for p, c in SHOWN])
def test_a_command_that_is_shown_is_one(place, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # files to write are looked at
    parse(words_of(command)[1:])


@pytest.mark.parametrize(
    "command",
    [
        "seer shard build photos --out shards",
        "seer report runs/a --oot x",
        "seer pretrain swav_small data=x stebs=3",
        "seer launch slurm -- pretrain swav_smal data=x",
        "seer launch slurm -- pretrain swav_small data=x --then eval knn --modl {run} --data y",
        "seer shards build urls.parquet --out shards (in each task)",
        "seer launch local --tasks-per-node 3 -- pretrain swav_small data=x",
    ],
)
def test_one_that_is_none_is_found(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((USAGE_ERROR, ValueError, KeyError)):
        parse(words_of(command)[1:])
