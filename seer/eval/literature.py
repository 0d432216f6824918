"""What others have published of their models, by `configs/eval/published.yaml`.

Imports no torch: the report shows it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from seer import inputs
from seer.config import RECIPES
from seer.errors import InputError
from seer.eval.data.datasets import DATASETS
from seer.eval.protocols import FOLDER
from seer.schema import Choice, ListOf, MapOf, Number, Record, Text

FILE = RECIPES / FOLDER / "published.yaml"
WORDS = Text(200, 1)
TABLES = ListOf(
    Record(
        {
            "source": WORDS,
            "task": WORDS,
            "about": WORDS,
            "values": MapOf(MapOf(Number(0, 100), key=WORDS), key=Choice(*DATASETS)),
        },
        {"protocol": WORDS, "metric": WORDS, "network": WORDS, "unmeasured": WORDS},
        extra=None,
    )
)


@dataclass(frozen=True)
class Reference:
    """One published value.

    Attributes:
        network: "" where the model's name says it.
        data: name in the table of data sets.
        value: a share, from 0 to 1.
        protocol: as `protocol=` of the task takes it; "" is the task's own.
        about: how it was measured, in words.
        unmeasured: why no protocol here measures the same; "" where one does.
    """

    model: str
    network: str
    task: str
    protocol: str
    data: str
    metric: str
    value: float
    about: str
    source: str
    unmeasured: str


@cache
def published() -> tuple[Reference, ...]:
    """All values; none where somebody changed the installed file into something else."""
    try:
        tables = inputs.read_yaml(FILE, TABLES)
    except (InputError, FileNotFoundError):
        return ()
    return tuple(reference for table in tables for reference in _of_table(table))


def beside(task: str, protocol: str, data: str, metric: str) -> list[Reference]:
    """The values that are of a task by a protocol, on a data set of the table."""
    measured = (task, protocol, data, metric)
    return [
        reference
        for reference in published()
        if (reference.task, reference.protocol, reference.data, reference.metric) == measured
        and not reference.unmeasured
    ]


def _of_table(table: dict[str, Any]) -> list[Reference]:
    return [
        Reference(
            model,
            table.get("network", ""),
            table["task"],
            table.get("protocol", ""),
            data,
            table.get("metric", DATASETS[data].metric),
            value / 100,
            table["about"],
            table["source"],
            table.get("unmeasured", ""),
        )
        for data, values in table["values"].items()
        for model, value in values.items()
    ]
