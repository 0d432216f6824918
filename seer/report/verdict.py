"""Whether a run is any good, in plain words, and no more than the intervals support.

A value is better than another, of the same task, metric and images, where a paired test says so
(`seer.eval.paired`); where what each image scored was not kept, where their 95 % intervals do not
overlap. How much better is told by the interval of the difference, or between the ends of theirs
that are nearest and those that are farthest.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seer.errors import quoted
from seer.eval.paired import Difference, p_of
from seer.jsonl import Row
from seer.report.comparisons import Scored, difference
from seer.report.runfiles import RunFiles, at, is_training, role, tails
from seer.results import measure_of, shown, title_of
from seer.rundir.names import CONFIG, EVALUATIONS

MOST = 500  # findings of a page
LONGEST = 200  # characters of a name
OF_THE_MODEL = {"model", "weights", "run_dir"}  # options of tasks that train
BETTER = "better"
ALIKE = "not told apart"
WORSE = "worse"
UNKNOWN = "not measured"
MIXED = "mixed"
ELSEWHERE = "elsewhere"  # of a training for a score's sake
ALONE = "by itself"  # likewise, of its own scores
THAN = {BETTER: "Better than", ALIKE: "Not told apart from", WORSE: "Worse than"}
CHECKPOINT = re.compile(r" step-0*(\d+)$")
SHARE_OF_LABELS = re.compile(r"_([\d.e+-]+)(percent|labels)$", re.ASCII)  # of low-shot's metrics
MINUS = "−"


@dataclass(frozen=True)
class Finding:
    """One measured value beside another.

    Attributes:
        measure: what was measured, and on what.
        outcome: `BETTER`, `ALIKE`, `WORSE`, `UNKNOWN` or `ALONE`.
        gain: by how much, in a few words; "" where it is not known.
        words: both values with their intervals, and what follows.
    """

    measure: str
    outcome: str
    gain: str
    words: str


@dataclass(frozen=True)
class Verdict:
    """What all findings come to; `outcome` is one of theirs, or `MIXED`. `advice` is the command
    that measures what was not.
    """

    title: str
    outcome: str
    findings: list[Finding]
    advice: str = ""


def against_beginning(run: RunFiles) -> Verdict:
    """A run beside the weights that it began with, those of another or none, by every measure that
    stands for a task.
    """
    ours = standing(run)
    places = tails(row["data"] for row in ours)
    if ours and is_training(run):
        return _of_training(run, ours, places)
    continued = began_elsewhere(run)
    beginning = "init" if continued else "untrained"
    who = "at its beginning" if continued else "untrained"
    than = "the weights that it began with" if continued else "the untrained network"
    findings = []
    missing = []
    for row in ours[:MOST]:
        reference = baseline(run, row, beginning)
        pixels = baseline(run, row, "pixels")
        finding = _beside(run, row, reference, who, pixels)
        findings.append(replace(finding, measure=named(row, places)))
        missing += [row] if reference is None else []
    if not ours:
        return _unmeasured(run)
    advice = _how_to_compare(run, missing[0]) if missing else ""
    return Verdict(*_summed_up(findings, than), findings, advice)


def began_elsewhere(run: RunFiles) -> bool:
    """Whether a run began with the weights of another, all of which are known."""
    return bool(at(run.config, "init")) and not at(run.config, "init_partial")


def against_first(runs: Sequence[RunFiles]) -> Verdict:
    """Several runs, each beside the one that was named first."""
    first, *others = runs
    measures: dict[tuple[str, ...], dict[str, Scored]] = {}
    for run in runs:
        for row in standing(run):
            measures.setdefault(measure_of(row), {})[run.name] = Scored(run, row)
    places = tails(data for *_, data in measures)
    findings = []
    lacking: dict[tuple[str, ...], list[str]] = {}
    for rows in measures.values():
        measure = named(next(iter(rows.values())).row, places)
        if reference := rows.get(first.name):
            for run in others:
                if own := rows.get(run.name):
                    finding = compared(own, reference, f"of {_cut(first.name)}")
                    findings.append(replace(finding, measure=f"{_cut(run.name)}: {measure}"))
        if without := tuple(_cut(run.name) for run in runs if run.name not in rows):
            lacking.setdefault(without, []).append(measure)
    for names, missing in lacking.items():
        words = f"Not measured for {', '.join(names)}."
        findings.append(Finding("; ".join(missing), UNKNOWN, "", words))
    if not findings:
        return Verdict("Not measured yet", UNKNOWN, [], "seer eval all --model RUN --data DATA")
    title, outcome = _summed_up(findings, _cut(first.name))
    if outcome == MIXED and len(others) > 1:
        title = _counted(findings, _cut(first.name))
    if len(others) == 1:
        against = title.startswith("Against")
        title = f"{_cut(others[0].name)} {'' if against else 'is '}{title[0].lower()}{title[1:]}"
    return Verdict(title, outcome, findings[:MOST])


def standing(run: RunFiles) -> list[Row]:
    """Of each measure that stands for its task, the last value of this run's own checkpoints, not
    the best: nothing is chosen by looking at the test images.
    """
    rows: dict[tuple[str, ...], Row] = {}
    for row in run.results:
        if not is_headline(row) or role(run, row) != "pretrained":
            continue
        key = measure_of(row)
        # A stranger's model that was measured into the same file is not the run.
        own = bool(CHECKPOINT.search(row["model"]))
        if own or key not in rows or not CHECKPOINT.search(rows[key]["model"]):
            rows[key] = row
    return list(rows.values())


def baseline(run: RunFiles, row: Row, which: str) -> Row | None:
    """The last value of a baseline by the same measure."""
    rows = [r for r in run.results if role(run, r) == which and measure_of(r) == measure_of(row)]
    return rows[-1] if rows else None


def compared(scored: Scored, to: Scored, who: str) -> Finding:
    """A value beside that of `who`, of the same task, metric and data."""
    row = scored.row
    reference = to.row
    paired = difference(scored, to)
    outcome = outcome_of(row, reference, paired)
    gain = gain_of(row, reference)
    words = f"{_with_interval(row)} against {_with_interval(reference)} {who}, {gain} "
    words += _by_intervals(row, reference) if paired is None else _by_images(row, paired)
    words += ", so these images do not tell the two apart." if outcome == ALIKE else "."
    return Finding(title_of(row), outcome, gain, words + _other_options(row, reference))


def _by_intervals(row: Row, reference: Row) -> str:
    """How large a difference is, and why it is one, where each value has its own interval alone."""
    least, most = sorted((row["low"] - reference["high"], row["high"] - reference["low"]))
    if outcome_of(row, reference) == ALIKE:
        span = f"{_signed(row, least)} to {_signed(row, most)}"
        return f"({span} by the intervals’ ends); the 95 % intervals overlap"
    nearest, farthest = sorted((abs(least), abs(most)))
    span = f"{_amount(row, nearest)} to {_amount(row, farthest)}"
    return f"({span} by the intervals’ ends); the 95 % intervals do not overlap"


def _by_images(row: Row, paired: Difference) -> str:
    """The same by the images that both were measured on."""
    span = f"{_signed(row, paired.low)} to {_signed(row, paired.high)}"
    said = "larger" if paired.beyond_chance else "no larger"
    return f"({span} image by image); that is {said} than chance ({p_of(paired)})"


def outcome_of(row: Row, reference: Row, paired: Difference | None = None) -> str:
    """`BETTER`, `WORSE`, or `ALIKE` where a paired test says so or, without one, where the intervals
    overlap.
    """
    overlap = row["low"] <= reference["high"] and reference["low"] <= row["high"]
    if overlap if paired is None else not paired.beyond_chance:
        return ALIKE
    higher_is_better = row.get("better", "higher") == "higher"
    return BETTER if (row["value"] > reference["value"]) == higher_is_better else WORSE


def gain_of(row: Row, reference: Row) -> str:
    """The difference of two values in words: `18.8 points more`."""
    difference = row["value"] - reference["value"]
    amount = _amount(row, abs(difference))
    if float(amount) == 0:
        return "the same"
    unit = "points" if _is_share(row) else row["unit"]
    return f"{amount} {unit} {'more' if difference > 0 else 'less'}"


def is_headline(row: Row) -> bool:
    """Whether a result stands for its task; older ones do not say so."""
    return row.get("headline", row["metric"].startswith("top1"))


def named(row: Row, places: Mapping[str, str]) -> str:
    """A measure with its data, as a heading has it; `places` are the names of data by path."""
    return _cut(f"{title_of(row)}, {places[row['data']]}")


def _beside(
    run: RunFiles, row: Row, untrained: Row | None, who: str, pixels: Row | None
) -> Finding:
    """A run's value beside its baselines; the outcome is by the untrained network."""
    scored = Scored(run, row)
    if untrained is None:
        words = f"{_with_interval(row)}; {who.removeprefix('at ')} was not measured."
        finding = Finding(title_of(row), UNKNOWN, "", words)
    else:
        finding = compared(scored, Scored(run, untrained), who)
    words = finding.words
    if pixels is not None:
        outcome = outcome_of(row, pixels, difference(scored, Scored(run, pixels)))
        words += f" {THAN[outcome]} raw pixels, {_with_interval(pixels)}."
    return replace(finding, words=words + _if_chance(row))


def _if_chance(row: Row) -> str:
    """What is to be said of a value that chance may have."""
    chance = row.get("chance")
    if chance is None or _beyond_chance(row, chance):
        return ""
    return f" It is not above chance ({_percent(row, chance)})."


def _beyond_chance(row: Row, chance: float) -> bool:
    if row.get("better", "higher") == "higher":
        return row["low"] > chance
    return row["high"] < chance


def _summed_up(findings: Sequence[Finding], than: str) -> tuple[str, str]:
    """A heading over findings, and what they come to."""
    outcomes = [finding.outcome for finding in findings if finding.outcome != UNKNOWN]
    if not outcomes:
        return f"Not compared with {than}", UNKNOWN
    better = outcomes.count(BETTER)
    worse = outcomes.count(WORSE)
    if better == len(outcomes):
        return f"{THAN[BETTER]} {than}{_by(findings)}", BETTER
    if worse == len(outcomes):
        return f"{THAN[WORSE]} {than}{_by(findings)}", WORSE
    if not better and not worse:
        return f"{THAN[ALIKE]} {than}", ALIKE
    if not better or not worse:
        word = THAN[BETTER if better else WORSE]
        return f"{word} {than} by {better or worse} of {len(outcomes)} measures", MIXED
    counts = f"better by {better} and worse by {worse} of {len(outcomes)} measures"
    return f"Against {than}: {counts}", MIXED


def _counted(findings: Sequence[Finding], than: str) -> str:
    """A heading over findings about several runs."""
    outcomes = [finding.outcome for finding in findings if finding.outcome != UNKNOWN]
    counts = Counter(outcomes)
    words = [f"{counts[outcome]} {outcome}" for outcome in THAN if counts[outcome]]
    return f"Of {len(outcomes)} comparisons with {than}: {', '.join(words)}"


def _by(findings: Sequence[Finding]) -> str:
    """By how much, where there is one finding."""
    gains = [finding.gain for finding in findings if finding.gain]
    return f": {gains[0]}" if len(gains) == len(findings) == 1 else ""


def _of_training(run: RunFiles, rows: Sequence[Row], places: Mapping[str, str]) -> Verdict:
    """What a training for a score's sake came to. What it began with has its scores elsewhere."""
    findings = [
        Finding(named(row, places), ALONE, "", f"{_with_interval(row)}.{_if_chance(row)}")
        for row in rows[:MOST]
    ]
    titles = [f"{title_of(row)}: {shown(row)}" for row in rows]
    more = f", and {len(titles) - 1} more" if len(titles) > 1 else ""
    home = _home(run)
    return Verdict(f"{_cut(titles[0])}{more}", ELSEWHERE, findings, _shown_by(home) if home else "")


def _home(run: RunFiles) -> Path | None:
    """The run that a training began from, in whose directory it lies."""
    home = run.path.parent.parent
    is_below = run.path.parent.name == EVALUATIONS and (home / CONFIG).is_file()
    return home if is_below and at(run.config, "model") else None


def _shown_by(home: Path) -> str:
    return f"seer report {quoted(home)}"


def _unmeasured(run: RunFiles) -> Verdict:
    """What is said of a run without a score."""
    if home := _home(run):
        title = "Its score stands with the run that it began from"
        return Verdict(title, ELSEWHERE, [], _shown_by(home))
    command = f"seer eval all --model {quoted(run.path)} --data DATA"
    return Verdict("Not measured yet", UNKNOWN, [], command)


def _how_to_compare(run: RunFiles, row: Row) -> str:
    """The command that measures what the run began with as the run was."""
    task = row["task"] if re.fullmatch(r"[a-z_]{1,40}", row["task"]) else "knn"
    data = row["data"] if row["data"].isprintable() and len(row["data"]) < LONGEST else "DATA"
    beginning = f"{run.path}:{'init' if began_elsewhere(run) else 'random'}"
    words = ["seer", "eval", task, "--model", beginning, "--data", data, *_measured_by(row)]
    return " ".join(map(quoted, words))


def _measured_by(row: Row) -> list[str]:
    """The options without which a value would be of another measure."""
    words = [f"protocol={row['protocol']}"] if row.get("protocol") else []
    if share := SHARE_OF_LABELS.search(row["metric"]):
        words.append(f"{share[2]}={share[1]}")
    return [word for word in words if word.isprintable() and len(word) < LONGEST]


def _other_options(row: Row, reference: Row) -> str:
    """Which options two results differ in, if both tell theirs."""
    options = row.get("options")
    others = reference.get("options")
    if not isinstance(options, dict) or not isinstance(others, dict):
        return ""
    shared = options.keys() & others.keys() - OF_THE_MODEL
    unlike = [key for key in options if key in shared and options[key] != others[key]]
    return f" They were measured with different {_cut(', '.join(unlike))}." if unlike else ""


def _with_interval(row: Row) -> str:
    low = shown(row, "low", with_unit=False)
    return f"{shown(row)} ({low} to {shown(row, 'high', with_unit=False)})"


def _is_share(row: Row) -> bool:
    return row.get("unit", "share") == "share"


def _amount(row: Row, size: float) -> str:
    return f"{100 * size:.1f}" if _is_share(row) else f"{size:.4g}"


def _signed(row: Row, size: float) -> str:
    return f"{MINUS if size < 0 else '+'}{_amount(row, abs(size))}"


def _percent(row: Row, value: float) -> str:
    return shown({**row, "value": value})


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
