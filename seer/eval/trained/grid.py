"""A grid of options: its points, what each came to on held-out images, and which is the best."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from seer import config as configuration
from seer import files, inputs
from seer.config.layers import Tree
from seer.errors import InputError
from seer.eval.trained.options import FinetuneConfig
from seer.inputs import UnreadableError
from seer.rundir.kinds import MOST_POINTS, OUTCOME_KIND
from seer.rundir.names import POINTS, VALIDATION

# What all points of a grid have in common.
COMMON = {
    "data", "grid", "holdout", "model", "name", "point", "protocol", "retrain", "run_dir", "seed",
    "size", "test_size", "weights",
}  # fmt: skip
# What other tasks of the family have besides says which images are used: no point's own affair.
SHARED = [declared.name for declared in fields(FinetuneConfig)]
# What a length is made of: which one a grid sets, the other one follows.
LENGTH = ("steps", "epochs")

Setting = dict[str, Any]  # options by dotted key


@dataclass(frozen=True)
class Outcome:
    """What a point came to.

    Attributes:
        identity: of its options and of the images that it saw.
        metric, value: of the held-out images; no value where the training failed.
        chosen_on: what the held-out images are, in words.
        failed: why it failed, or "".
    """

    point: int
    setting: Setting
    identity: str
    metric: str
    value: float | None
    chosen_on: str
    failed: str = ""


def settings_of(grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """The points of a grid: all combinations of its axes' entries, those of the last axis changing
    first.

    Raises:
        InputError: an option stands in two axes, or may not differ; there are too many points.
    """
    axes = [_axis(name, entries) for name, entries in grid.items()]
    seen: set[str] = set()
    for axis in axes:
        keys = {key for setting in axis for key in setting}
        if twice := sorted(key for key in keys if _is_under(key, seen) or _is_above(key, seen)):
            raise InputError(f"grid: {twice[0]} stands in two axes; name it in one")
        if common := sorted(keys & COMMON):
            raise _is_common(common[0])
        seen |= keys
    if (count := prod(map(len, axes))) > MOST_POINTS:
        raise InputError(f"grid: {count:,} points, more than {MOST_POINTS:,}; give fewer values")
    return [_united(entries) for entries in product(*axes)] if axes else []


def _is_common(key: str) -> InputError:
    return InputError(f"grid: {key} is the same for all points; give it beside grid")


def _axis(name: str, entries: Sequence[Any]) -> list[Setting]:
    return [dict(entry) if isinstance(entry, Mapping) else {name: entry} for entry in entries]


def _united(settings: Sequence[Setting]) -> Setting:
    whole: Setting = {}
    for setting in settings:
        whole |= setting
    return whole


def without(grid: Mapping[str, Sequence[Any]], given: Collection[str]) -> dict[str, list[Any]]:
    """The grid without the options that are `given` (dotted keys, or what stands above them)."""
    kept = {}
    for name, entries in grid.items():
        settings = [
            {key: value for key, value in setting.items() if not _is_given(key, given)}
            for setting in _axis(name, entries)
        ]
        distinct = [s for i, s in enumerate(settings) if s and s not in settings[:i]]
        if distinct:
            single = all(list(setting) == [name] for setting in distinct)
            kept[name] = [s[name] for s in distinct] if single else distinct
    return kept


def _is_given(key: str, given: Collection[str]) -> bool:
    length = key in LENGTH and any(other in given for other in LENGTH)
    return length or _is_under(key, given)


def _is_under(key: str, keys: Collection[str]) -> bool:
    return any(key == above or key.startswith(f"{above}.") for above in keys)


def _is_above(key: str, keys: Collection[str]) -> bool:
    return any(_is_under(below, [key]) for below in keys)


def points_of(config: FinetuneConfig) -> list[FinetuneConfig]:
    """The options of each point, in a run directory of its own; none without a grid.

    Raises:
        InputError: a key of the grid is unknown, or a value is out of range.
    """
    own = {declared.name for declared in fields(config)} - set(SHARED)
    below = configuration.layer(configuration.to_dict(config))
    points = []
    for number, setting in enumerate(settings_of(config.grid), 1):
        if common := sorted(own & setting.keys()):
            raise _is_common(common[0])
        point = replace(_over(below, config, setting), point=number)
        points.append(_placed(point, f"{POINTS}/{number:02d}"))
    return points


def _placed(config: FinetuneConfig, place: str) -> FinetuneConfig:
    """The options of a run below the one that they name, and with a store below its."""
    checkpoint = config.checkpoint
    if checkpoint.store:  # or a point would go on from another's checkpoint
        checkpoint = replace(checkpoint, store=f"{checkpoint.store.rstrip('/')}/{place}")
    return replace(config, run_dir=str(Path(config.run_dir) / place), checkpoint=checkpoint)


def with_setting(config: FinetuneConfig, setting: Setting) -> FinetuneConfig:
    """The options with those of a setting. Raises `InputError` as `points_of`."""
    return _over(configuration.layer(configuration.to_dict(config)), config, setting)


def _over(below: dict[str, Tree], config: FinetuneConfig, setting: Setting) -> FinetuneConfig:
    """A setting over the layer that the options make."""
    changed = {"steps": 0, **setting} if "epochs" in setting else setting
    try:
        above = [configuration.layer(_nested(key, value)) for key, value in changed.items()]
        return configuration.resolve(type(config), [below, *above])
    except InputError as error:
        raise InputError(f"grid: {error}") from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`{a: {b: value}}` of `a.b`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def identity_of(config: FinetuneConfig, *fingerprints: str) -> str:
    """What two trainings of one point have in common."""
    return "-".join([configuration.identity(config), *fingerprints])


def write(outcome: Outcome, run_dir: str) -> None:
    """Keep an outcome with its point; it is visible once it is complete."""
    files.write(Path(run_dir) / VALIDATION, json.dumps(vars(outcome), indent=2) + "\n")


def read(run_dir: str, identity: str, point: int, setting: Setting) -> Outcome | None:
    """What a point came to; None where it has not come to an end.

    Args:
        identity, point, setting: what the file must be of.

    Raises:
        InputError: the file is damaged, or of other options or images.
    """
    path = Path(run_dir) / VALIDATION
    try:
        outcome = Outcome(**inputs.read_json(path, OUTCOME_KIND))
        check_outcome(outcome, point, setting, path)
    except FileNotFoundError:
        return None
    except (UnreadableError, TypeError) as error:
        why = str(error).removeprefix(f"{path}: ")
        raise InputError(
            f"{path}: is damaged ({why}); remove it, and the point is scored again"
        ) from None
    if outcome.identity != identity:
        raise InputError(
            f"{path}: is of other images or options; give another run_dir, or remove {run_dir}"
        )
    return outcome


def check_outcome(outcome: Outcome, point: int, setting: Setting, path: Path) -> None:
    """Raise `UnreadableError` for an outcome of another point, or of none."""
    if outcome.point != point:
        raise UnreadableError(f"{path}: point {outcome.point} in the folder of point {point}")
    if outcome.setting != setting:
        raise UnreadableError(f"{path}: another setting than point {point} has")
    if (outcome.value is None) == (not outcome.failed):
        raise UnreadableError(f"{path}: either a value or why it failed")


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The point with the highest value, of equal ones the first.

    Raises:
        InputError: all of them failed.
    """
    done = [outcome for outcome in outcomes if outcome.value is not None]
    if not done:
        raise InputError(
            f"all {len(outcomes)} points of the grid failed, the first: {outcomes[0].failed}"
        )
    return max(done, key=lambda outcome: (outcome.value, -outcome.point))


def words(setting: Setting) -> str:
    """A setting as it would be given on a command line."""
    return " ".join(f"{key}={value}" for key, value in setting.items())


def details_of(best: Outcome, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What a result says of the grid that its options were chosen from."""
    failed = [outcome.point for outcome in outcomes if outcome.failed]
    return {
        "chosen": best.setting,
        "chosen_on": best.chosen_on,
        "validation": best.value,
        "points": len(outcomes),
        **({"failed_points": failed} if failed else {}),
    }
