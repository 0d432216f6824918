"""Commands that are printed can be pasted: every path in one is quoted."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_cli import verbs

ROOT = Path(__file__).parent.parent
VERBS = "|".join(sorted({words[0] for words in verbs()}))
# Until a mark, or two blanks, ends it.
COMMAND = re.compile(rf"\bseer (?:{VERBS})\b(?:(?!  )[^;,()`])*$")
QUOTING = {"quoted", "join"}  # ours, and shlex's


def unquoted(tree: ast.AST) -> Iterator[ast.FormattedValue]:
    """The values that stand in a command of an f-string and are not quoted."""
    for string in ast.walk(tree):
        if not isinstance(string, ast.JoinedStr):
            continue
        text = ""
        for part in string.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
                continue
            assert isinstance(part, ast.FormattedValue)
            call = part.value
            called = getattr(call, "func", None)
            name = getattr(called, "attr", getattr(called, "id", ""))
            if COMMAND.search(text) and name not in QUOTING:
                yield part
            text += "X"


def test_paths_in_printed_commands_are_quoted():
    wrong = []
    for package in ("seer", "shards", "launch"):
        for path in (ROOT / package).rglob("*.py"):
            values = unquoted(ast.parse(path.read_text()))
            wrong += [f"{path.name}:{value.lineno}: {ast.unparse(value.value)}" for value in values]
    assert not wrong


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ('f"run: seer shards index {path}"', 1),
        ('f"run: seer shards index {quoted(path)} and {shlex.join(words)}"', 0),
        ('f"seer report {quoted(a)} {b}"', 1),
        ('f"run seer shards verify; {path} is damaged"', 0),
        ('f"`seer report` shows {path}"', 0),
        ('f"seer launch status {quoted(job)}    records in {folder}"', 0),
        ('f"seer {version}"', 0),
    ],
)
def test_an_unquoted_path_is_found(code, count):
    assert len(list(unquoted(ast.parse(code)))) == count
