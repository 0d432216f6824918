"""The tasks by name. Adding one is one file and one line here; help, report and quickstart take it
from there.

Imports nothing that takes long: the command line's help lists them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from seer.errors import InputError, nearest


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        title: what people are shown.
        module: has `run(model, train, test, config) -> list[Score]`, and the dataclass of its options.
        options: the name of that dataclass, dotted where it stands apart from the module, which needs torch.
        quick: whether the quickstart runs it.
        trained: whether it trains the model, in a run of its own, on several processes if wanted. `module` then has
            `configure(model, data, overrides)`, `check(config, ranks)` and `run(config) -> list[Score]`.
    """

    title: str
    module: str
    options: str
    quick: bool = False
    trained: bool = False

    @property
    def config(self) -> type[Any]:
        place, _, name = self.options.rpartition(".")
        return getattr(import_module(place) if place else self.load(), name)

    def load(self) -> Any:
        """The module."""
        return import_module(self.module)


TASKS = {
    "knn": Task("kNN", "seer.eval.probes.knn", "seer.eval.probes.options.KnnConfig", quick=True),
    "linear": Task(
        "Linear", "seer.eval.probes.linear", "seer.eval.probes.options.LinearConfig", quick=True
    ),
    "finetune": Task(
        "Finetuned",
        "seer.eval.trained.finetune",
        "seer.eval.trained.options.FinetuneConfig",
        trained=True,
    ),
}


def check_options(task: str, model: str, data: Path | str, overrides: Sequence[str]) -> None:
    """Refuse an unknown task, and an option of it that is unknown or has a wrong value.

    Raises:
        InputError: in one line, which.
    """
    from seer.config import layer, parse_overrides, resolve  # slow to import

    if task not in TASKS:
        raise InputError(f"task '{task}' is unknown{nearest(task, TASKS)}")
    given = layer({"model": model, "data": str(data)}) if TASKS[task].trained else {}
    resolve(TASKS[task].config, [given, parse_overrides(list(overrides))])
