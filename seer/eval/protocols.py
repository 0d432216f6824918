"""Protocols: the options of a task as a paper or a library has them, one file each under
`configs/eval/`.

`TASK.yaml` holds a task's own defaults, where it has such a file, and `TASK_NAME.yaml` what
`protocol=NAME` stands for; where papers have other values for each share of the labels, there is a
file for each, `TASK_NAME_PERCENT.yaml`. Options that are given go above them.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seer.errors import InputError, nearest

KEY = "protocol"
PERCENT = "percent"
# An option, and another one that would count in its stead: not where the first one is given.
INSTEAD = (("epochs", "steps"), ("percent", "labels"), ("subset", "labels"))
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
    layers = [read_layers(own)] if own.is_file() else []
    name = _last(KEY, [*layers, *given])
    if name:
        percent = _last(PERCENT, [*layers, *given])
        layers.append(read_layers(_file(task, name, percent)))
    words = set().union(*given)
    covered = {other for key, other in INSTEAD if key in words}
    return [{key: layer[key] for key in layer if key not in covered} for layer in layers]


def is_file(name: str) -> bool:
    """Whether a protocol is a file of one's own, and not one of seer's by its name."""
    return name.endswith((".yaml", ".yml"))


def _last(key: str, layers: Sequence[dict[str, Any]]) -> str:
    """The word that the highest layer has for an option; "" if none has, or no single word."""
    values = [layer[key] for layer in layers if key in layer]
    return getattr(values[-1], "text", "") if values else ""


def _file(task: str, name: str, percent: str) -> Path:
    if is_file(name):
        return Path(name)
    known = protocols(task)
    shares = _shares(name, known)
    if shares:
        return known[f"{name}_{_nearest_share(name, percent, shares)}"]
    if name in known:
        return known[name]
    if not known:
        raise InputError(
            f"{KEY}={name}: {task} has no protocols; leave it out, or give the path of a .yaml file"
        )
    raise InputError(
        f"{KEY}={name}: {task} has no such protocol{nearest(name, known)}; it has {', '.join(known)}, "
        "or give the path of a .yaml file"
    )


def _shares(name: str, known: Iterable[str]) -> list[str]:
    """The percentages for which a protocol has files, as these say them."""
    return [word for word in (stem.removeprefix(f"{name}_") for stem in known) if word.isdecimal()]


def _nearest_share(name: str, percent: str, shares: list[str]) -> str:
    """Whose values are taken: those of the percentage, or else, which is said, of the nearest one."""
    try:
        share = float(percent)
    except ValueError:
        return shares[0]  # the option itself is refused
    if not 0 < share <= 100:
        return shares[0]
    taken = min(shares, key=lambda word: abs(math.log(int(word) / share)))
    if int(taken) != share:
        from seer.data.labelled import say_once  # slow to import

        say_once(
            f"{KEY}={name} has values for {PERCENT}={' and '.join(shares)}; those for {taken} are taken for {share:g}"
        )
    return taken


def _folder() -> Path:
    from seer.config import RECIPES  # slow to import

    return RECIPES / FOLDER
