"""What a reader of a transfer benchmark should not overlook: data that a model has learned from, models
below a floor, and labels that do not help.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from seer.eval.tasks import is_pixels
from seer.eval.transfer.lineage import Overlap
from seer.eval.transfer.matrix import Column, beyond_chance
from seer.eval.transfer.verdicts import NEEDS
from seer.interop.spec import INIT, RANDOM, without_size
from seer.results import title_of

MOST = 3  # scores that are named in a remark
FEWSHOT = "fewshot"


def remarks(
    columns: Sequence[Column],
    titles: dict[str, str],
    overlaps: Mapping[tuple[str, str], Overlap],
) -> list[str]:
    """Sentences, most important first.

    Args:
        columns: all of them, those that do not stand for their tasks included.
        titles: of the models, by their `--model`.
        overlaps: of models and names of data sets that they have learned from.
    """
    shown = set().union(*NEEDS.values())
    main = [c for c in columns if c.task in shown and c.row.get("headline", True)]
    return [
        *(found.words(titles[model], place) for (model, place), found in overlaps.items()),
        *_below_floors(main, titles),
        *_fewer_points_with_more_shots(columns, titles),
    ]


def _below_floors(columns: Sequence[Column], titles: dict[str, str]) -> list[str]:
    """Pretrained models that are significantly below raw pixels, or below themselves untrained."""
    sentences = []
    for model in filter(_is_pretrained, titles):
        floors = {spec: "raw pixels" for spec in titles if is_pixels(spec)}
        floors |= {spec: "the same untrained" for spec in titles if _is_untrained(spec, model)}
        for floor, name in floors.items():
            below = [column for column in columns if _is_below(column, model, floor)]
            if below:
                cases = [_values(column, (model, floor)) for column in below]
                sentences.append(f"{titles[model]} is significantly below {name}: {_listed(cases)}")
    return sentences


def _fewer_points_with_more_shots(columns: Sequence[Column], titles: dict[str, str]) -> list[str]:
    """Where nearest centroids of more images are worse: what distances show is not the class then."""
    by_set: dict[str, list[Column]] = {}
    for column in columns:
        if column.task == FEWSHOT:
            by_set.setdefault(column.place.data, []).append(column)
    sentences = []
    for model, title in titles.items():
        cases = []
        for group in by_set.values():
            measured = [column for column in group if model in column.scores]
            measured.sort(key=lambda column: shots_of(column.metric))
            if any(_is_lower(fewer, more, model) for fewer, more in pairwise(measured)):
                values = ", ".join(_percent(column, model) for column in measured)
                shots = ", ".join(str(shots_of(column.metric)) for column in measured)
                cases.append(f"{measured[0].place.name} ({values} % with {shots} shots)")
        if cases:
            sentences.append(f"Class means of more images are worse for {title}: {_listed(cases)}")
    return sentences


def shots_of(metric: str) -> int:
    """20 of `top1_5way_20shot`."""
    return int(metric.rpartition("_")[2].removesuffix("shot"))


def _is_lower(fewer: Column, more: Column, model: str) -> bool:
    """Whether the score with more shots is lower, their intervals being apart."""
    return bool(more.scores[model].row["high"] < fewer.scores[model].row["low"])


def _is_pretrained(spec: str) -> bool:
    return not is_pixels(spec) and _weights(spec) not in (RANDOM, INIT)


def _is_untrained(spec: str, model: str) -> bool:
    name = without_size(spec)[0].rpartition(":")[0]
    return _weights(spec) == RANDOM and f"{without_size(model)[0]}:".startswith(f"{name}:")


def _weights(spec: str) -> str:
    return without_size(spec)[0].rpartition(":")[2]


def _is_below(column: Column, model: str, floor: str) -> bool:
    if not {model, floor} <= column.scores.keys():
        return False
    lower = column.signed(model) < column.signed(floor)
    return lower and beyond_chance(column.scores[model], column.scores[floor])


def _values(column: Column, models: tuple[str, str]) -> str:
    value, floor = (_percent(column, model) for model in models)
    return f"{column.place.name}, {title_of(column.row)} ({value} against {floor} %)"


def _percent(column: Column, model: str) -> str:
    return f"{100 * column.scores[model].row['value']:.1f}"


def _listed(cases: Sequence[str]) -> str:
    more = f"; and {len(cases) - MOST} more" if len(cases) > MOST else ""
    return "; ".join(cases[:MOST]) + more
