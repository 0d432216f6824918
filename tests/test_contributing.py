"""The worked examples of CONTRIBUTING.md, added to a checkout and run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(python|diff)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of the tests that run over all methods, backbones and tasks, those of what was added.
ADDED = "worked_examples or test_imports or barlow or plain9 or centroids"
TESTS = (
    "tests/worked_examples.py",
    "tests/test_imports.py",
    "tests/test_options.py",
    "tests/backbones/test_base.py",
    "tests/methods",
)


def patched(text: str, diff: str) -> str:
    """A text with the lines that a diff adds, each before or behind the line that it stands beside."""
    lines, place = text.splitlines(), 0
    added: list[str] = []
    for line in diff.splitlines():
        if line.startswith("+"):
            added.append(line[1:])
            continue
        place = lines.index(line[1:], place)
        lines[place:place] = added
        place, added = place + len(added) + 1, []
    lines[place:place] = added
    return "\n".join(lines) + "\n"


def checkout(folder: Path) -> Path:
    """A copy of this one, of links to its files."""
    for name in ("seer", "shards", "launch", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, copy_function=os.symlink)
    (folder / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    return folder


def test_what_is_added_by_the_page_works(tmp_path):
    copy = checkout(tmp_path)
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    for kind, name, content in blocks:
        path = copy / name
        if kind == "diff":
            content = patched(path.read_text(), content)
        path.unlink(missing_ok=True)  # a link to the file of this checkout
        path.write_text(content)
    assert [kind for kind, *_ in blocks] == ["python", "diff"] * 3

    command = [sys.executable, "-m", "pytest", "--numprocesses=0", "-k", ADDED, *TESTS]
    done = subprocess.run(
        command,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
