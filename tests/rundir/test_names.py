"""The names of a run directory's files and checkpoints."""

import ast
from collections.abc import Iterator
from pathlib import Path

from seer.rundir import names
from seer.rundir.names import HEADER, checkpoint_name, checkpoints, latest, step_of

ROOT = Path(__file__).parents[2]
DATA_FOLDER = {names.MANIFEST}  # a data folder has one by this name as well
# Words of other meanings too.
WORDS = {names.IMAGES, names.STATE, names.DAMAGED, names.TENSORBOARD}


def spelled() -> Iterator[str]:
    """Where a text outside of `names.py` spells a name of a run directory."""
    distinctive = names.NAMES | {
        names.HEADER,
        names.BACKBONE,
        names.OWNER,
        names.CROPS,
        names.NEIGHBOURS,
    }
    distinctive -= DATA_FOLDER | WORDS
    paths = [path for package in ("seer", "launch") for path in (ROOT / package).rglob("*.py")]
    for path in paths:
        if path == ROOT / "seer/rundir/names.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = (
                node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            )
            if any(text == name or text.endswith(f"/{name}") for name in distinctive):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {text!r}"


def test_every_name_is_spelled_once():
    assert not list(spelled())


def test_checkpoints_that_are_complete(tmp_path):
    for name in (
        "step-000000012",
        "step-000000003",
        ".step-000000020",
        "step-7",
        "step-000000009",
        "step-x",
    ):
        (tmp_path / names.CHECKPOINTS / name).mkdir(parents=True)
        if name != "step-000000009":  # which is not written to its end
            (tmp_path / names.CHECKPOINTS / name / HEADER).touch()
    assert [step_of(path.name) for path in checkpoints(tmp_path)] == [3, 12]
    assert latest(tmp_path) == tmp_path / names.CHECKPOINTS / checkpoint_name(12)
    assert latest(tmp_path / "none") is None
