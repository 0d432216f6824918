"""What the page of a transfer benchmark says in sentences."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from seer.report.changes import cut
from seer.report.plots import number

Row = dict[str, Any]
LONGEST_NAME = 120  # characters
KINDS = {"untrained": "untrained", "init": "as its run began"}
BUSY = 0.5  # processes a core, from which on a machine is busy with others


class Need(NamedTuple):
    """A line of the summary, in the words of the page's verdict."""

    measure: str
    outcome: str
    gain: str
    words: str


def verdict(needs: Sequence[Row]) -> str:
    """What a reader takes away who reads no further."""
    if not needs:
        return "Nothing to choose between yet: no two models have all scores of a task"
    sure = [line for line in needs if line["better"] and not line["worse"]]
    winners = Counter(line["best"] for line in sure)
    if len(sure) == len(needs) and len(winners) == 1:
        return f"{cut(sure[0]['best'], LONGEST_NAME)} is best for {_every(len(needs))}"
    if not sure:
        return "No need has a model that is significantly better than the next one"
    (first, count), *others = winners.most_common()
    words = f"{cut(first, LONGEST_NAME)} is significantly ahead for {count} of {len(needs)} needs"
    return words + "".join(f", {cut(name, LONGEST_NAME)} for {more}" for name, more in others)


def need(
    line: Row, speeds: dict[str, float | None], learned: Collection[tuple[str, str]] = ()
) -> Need:
    """Which model for a need, by how much, how sure, and what both cost in images/s.

    Args:
        learned: models, and data sets that they have learned from.
    """
    best = cut(line["best"], LONGEST_NAME)
    following = cut(line["next"], LONGEST_NAME)
    points = f"{100 * line['difference']:.1f} points"
    measures = ", ".join(line["measures"])
    if line["scores"] == 1:
        value = f"{100 * line['value']:.1f} % ({measures})"
        sure = "significant" if line["better"] else "not significant"
    else:
        value = f"{100 * line['value']:.1f} %, the mean of {line['scores']} scores ({measures})"
        sure = f"significantly more on {line['better']} of {counted(line)}"
        sure += f", significantly less on {line['worse']}" if line["worse"] else ""
    words = f"{value}; {points} more than {following}, {sure}."
    for model, name in ((line["best"], best), (line["next"], following)):
        if own := [
            cut(place, LONGEST_NAME) for place in line["data_sets"] if (model, place) in learned
        ]:
            words += f" {name} has learned from images of {', '.join(own)}: no transfer there."
    rates = (speeds.get(line["best"]), speeds.get(line["next"]))
    if all(rates):
        rate, following_rate = map(number, rates)  # type: ignore[arg-type]
        words += f" It computes features of {rate} images/s, {following} of {following_rate}."
    if line["better"] and not line["worse"]:
        return Need(line["need"], "better", f"{best}, +{points}", words)
    return Need(line["need"], "not told apart", f"{best} or {following}", words)


def counted(line: Row) -> str:
    """How many scores, and that those of several protocols on a data set are no more data sets:
    `6 scores (2 protocols × 3 data sets)`.
    """
    sets = len(line["data_sets"])
    protocols = line["protocols"]
    if protocols == 1:
        return f"{line['scores']} data sets"
    joint = " × " if line["scores"] == protocols * sets else ", "
    return f"{line['scores']} scores ({protocols} protocols{joint}{count_of(line['data_sets'], 'data set')})"


def about(model: Row) -> str:
    """What is to be known of a model, in a line."""
    if model["kind"] == "pixels":
        _, _, side = model["spec"].partition(":")
        return f"no network: the image itself, of {side or 'at most 64'} px"
    kind = KINDS.get(model["kind"], "")
    parts = [kind] if kind and kind not in model["title"] else []
    if model["size"]:
        parts.append(f"{model['size']} px")
        parts.append(f"{model['dimensions']:,} dimensions")
        parts.append(f"{number(model['images_per_second'])} images/s")
    return " · ".join(parts)


def speeds(timing: Row) -> str:
    """When, on what, and beside what else the models were timed."""
    threads = f", {timing['threads']} thread" + "s" * (timing["threads"] != 1)
    on = f"{timing['device']}{threads if timing['threads'] else ''}, {timing['precision']}"
    when = timing["when"][:16].replace("T", " ")
    words = (
        "Images/s: the fastest of a few batches of grey images through the network alone, nothing read or "
        f"decoded, {when} UTC, {on}."
    )
    load = timing["load"]
    if load >= BUSY * timing["cores"]:
        words += (
            f" The machine was busy: in the minute before, {load:.1f} processes ran on its "
            f"{_cores(timing['cores'])}, so a quiet one may be faster; compare models, not machines."
        )
    return words


def _cores(count: int) -> str:
    return f"{count} core" + "s" * (count != 1)


def unsure_ranks(rankings: Sequence[Row]) -> str:
    """What ranks say of all tasks together, to stand beside what scores say."""
    if not rankings:
        return ""
    whole = rankings[-1]
    count = len(whole["data_sets"])
    if whole["p"] is not None and whole["p"] < whole["level"]:
        said = "that they differ there, too"
    else:
        said = "not even that they differ"
    return f"ranks ask that, and from {count} data sets they tell {said}"


def beside_means(ranking: Row) -> str:
    """Whether mean ranks and mean scores put the same model first, and if not, how that can be."""
    if not ranking["by_mean_score"]:
        return ""
    first = [
        model
        for model, mean in zip(ranking["models"], ranking["mean"], strict=True)
        if mean == min(ranking["mean"])
    ]
    best = cut(ranking["by_mean_score"][0], LONGEST_NAME)
    if ranking["by_mean_score"][0] in first:
        return f"{best} has the best mean score, too."
    ahead = " and ".join(cut(model, LONGEST_NAME) for model in first)
    return f"{ahead} is ahead on more data sets; {best} has the best mean score, being ahead by more where it is."


def few(pairs: Sequence[Row]) -> str:
    """What is to be said of too few models, once for all correlations of a page."""
    remarks = [pair.get("remark", "") for pair in pairs if "problem" not in pair]
    return min(filter(None, remarks), default="")


def coefficient(values: Sequence[float | None] | None) -> str:
    """`0.93 [0.84, 0.99]`."""
    if not values or None in values:
        return "–"
    value, low, high = (f"{each:.2f}".replace("-", "−") for each in values if each is not None)
    return f"{value} [{low}, {high}]"


def count_of(items: Sequence[Any], name: str) -> str:
    return f"{len(items)} {name}" + "s" * (len(items) != 1)


def _every(count: int) -> str:
    return (
        "the one need that was measured" if count == 1 else f"all {count} needs that were measured"
    )
