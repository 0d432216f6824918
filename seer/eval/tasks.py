"""The tasks by name. Adding one is one file and one line here; help, report and quickstart take it
from there.

Imports nothing that takes long: the command line's help lists them.
"""

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
        return getattr(self.load(), self.options)

    def load(self) -> Any:
        """The module."""
        return import_module(self.module)


TASKS = {
    "knn": Task("kNN", "seer.eval.probes.knn", "KnnConfig", quick=True),
    "linear": Task("Linear", "seer.eval.probes.linear", "LinearConfig", quick=True),
    "finetune": Task("Finetuned", "seer.eval.trained.finetune", "FinetuneConfig", trained=True),
}
