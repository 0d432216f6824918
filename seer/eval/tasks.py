"""The tasks by name. Adding one is one file and one line here; help, report and quickstart take it from there.

Imports nothing that takes long: the command line's help lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        title: what people are shown.
        module: has `run(model, train, test, config) -> list[Score]`, and the dataclass of its options.
        options: the name of that dataclass.
        quick: whether the quickstart runs it.
    """

    title: str
    module: str
    options: str
    quick: bool = False

    @property
    def config(self) -> type[Any]:
        return getattr(import_module(self.module), self.options)

    @property
    def run(self) -> Callable[..., list[Any]]:
        return import_module(self.module).run


TASKS = {
    "knn": Task("kNN", "seer.eval.probes.knn", "KnnConfig", quick=True),
    "linear": Task("Linear", "seer.eval.probes.linear", "LinearConfig", quick=True),
}
