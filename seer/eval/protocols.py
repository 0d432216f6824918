"""Protocols: the options of a task as a paper or a library has them, one file each under
`configs/eval/`.

`TASK.yaml` holds a task's own defaults, where it has such a file, and `TASK_NAME.yaml` what
`protocol=NAME` stands for. Options that are given go above them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seer.errors import InputError, nearest

KEY = "protocol"
FOLDER = "eval"  # of `configs/`


def protocols(task: str) -> dict[str, Path]:
    """The files of a task's protocols that come with seer, by name."""
    paths = sorted(_folder().glob(f"{task}_*.yaml"))
    return {path.stem.removeprefix(f"{task}_"): path for path in paths}


def layers_of(task: str, given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What goes below the layers that are `given`: the task's own file and that of the protocol
    which they name.

    Raises:
        InputError: the task has no such protocol.
    """
    from seer.config import read_layers  # slow to import

    own = _folder() / f"{task}.yaml"
    files = [own] if own.is_file() else []
    named = [layer[KEY] for layer in given if KEY in layer]
    if named and (name := getattr(named[-1], "text", "")):
        files.append(_file(task, name))
    return [read_layers(file) for file in files]


def _file(task: str, name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = protocols(task)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise InputError(
            f"{KEY}={name}: {task} has no such protocol{nearest(name, known)}; it has {listed}, "
            "or give the path of a .yaml file"
        )
    return known[name]


def _folder() -> Path:
    from seer.config import RECIPES  # slow to import

    return RECIPES / FOLDER
