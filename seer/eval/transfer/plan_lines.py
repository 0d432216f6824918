"""A plan in words, before it runs: what is measured, what is missing, how long about."""

from collections import Counter

from seer.eval.transfer.agenda import ABSENT, Gap
from seer.eval.transfer.benchmark import Plan
from seer.terminal import minutes

MOST_GAPS = 30


def described(work: Plan) -> list[str]:
    """Lines for a terminal."""
    suite = work.agenda.suite
    lines = [f"suite {suite.name}: {suite.about}"]
    for place in work.agenda.places:
        classes = f", {place.classes} class{'es' * (place.classes > 1)}" if place.classes else ""
        what = f"{place.images:,} images{classes}"
        remark = ", not all that its owner has" if place.state == "differs" else ""
        lines.append(f"  {place.name:16} {what}{remark}: {', '.join(place.tasks)}")
    lines += [
        f"  {model.title}: {speed(model.images_per_second, model.size)}"
        for model in work.models.values()
    ]
    lines += missing(work.agenda.gaps)
    measured = f"; {work.done:,} are measured already" if work.done else ""
    lines.append(f"{len(work.pending):,} measurements to make{measured}")
    if work.pending:
        lines.append(
            f"about {minutes(work.seconds)}, an estimate from a batch of each model; by task: {by_task(work)}"
        )
    return lines


def speed(images_per_second: float, size: int) -> str:
    if not size:
        return "as the images are"
    return f"{images_per_second:,.0f} images/s of {size} px"


def missing(gaps: list[Gap]) -> list[str]:
    """What is not measured, a line each but for data sets that are not there."""
    absent = [gap.dataset for gap in gaps if gap.reason.startswith(ABSENT)]
    lines = []
    if absent:
        lines.append(f"  not there: {', '.join(absent)} (seer data check says who has them)")
    for gap in gaps:
        if not gap.reason.startswith(ABSENT):
            what = " ".join(filter(None, (gap.dataset, gap.task)))
            lines.append(f"  not {what}: {gap.reason}")
    more = len(lines) - MOST_GAPS
    return lines[:MOST_GAPS] + ([f"  … and {more} more"] if more > 0 else [])


def by_task(work: Plan) -> str:
    seconds: Counter[str] = Counter()
    for estimate in work.pending:
        seconds["features"] += estimate.features  # type: ignore[assignment]
        seconds[estimate.cell.task] += estimate.task  # type: ignore[assignment]
    shares = [f"{name} {minutes(value)}" for name, value in seconds.most_common() if value >= 1]
    return ", ".join(shares) or "seconds"
