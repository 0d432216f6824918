"""Two domains: the same classes in images of two kinds, all of each, however their owners split them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seer.data.folders import readable
from seer.data.labelled import Labelled, agreeing, part
from seer.errors import InputError
from seer.eval.data import splitting
from seer.eval.data.splitting import chosen_of_each, joined

check_layout = splitting.check_layout
MOST_NAMED = 3  # classes in a refusal


@dataclass(frozen=True)
class Domains:
    """What adaptation takes of two domains. The three parts of the target have no image in common.

    Attributes:
        source: all images of the source.
        labelled: images of the target whose labels are known: equally many of each class.
        validation: others, to choose options by.
        test: all others, which are also what is learned from without labels.
    """

    source: Labelled
    labelled: Labelled
    validation: Labelled
    test: Labelled


def whole(data: Path | str) -> Labelled:
    """All labelled images that `data` names, as `splitting.load` finds them."""
    splits = splitting.load(data)
    train, test = agreeing(splits.train, splits.test, readable(str(data)))
    return joined([train, *([splits.val] if splits.val else []), test])


def train_and_test(data: Path | str, several: bool = False) -> tuple[Labelled, Labelled]:
    """All images of the source. Those to test with are the target's, and come with the scores."""
    check_layout(data)
    images = whole(data)
    return images, images


def rule_of(data: Path | str) -> str:
    """Nothing is split that has a split of its own."""
    return ""


def divide(source: str, target: str, labels: int, validation: int, seed: int) -> Domains:
    """The images of two domains, with so many of each of the target's classes to learn from, and to
    validate with, drawn by their names.

    Raises:
        InputError: in one line, what is missing; the domains are one; a class is in one of them alone, or has too few
            images.
    """
    first, second = whole(source), whole(target)
    if first.fingerprint == second.fingerprint:
        raise InputError(
            f"target={target}: is the source itself, so its test images would be learned from; give another domain"
        )
    _check_classes(first.classes, second.classes, source, target)
    numbers = {name: number for number, name in enumerate(first.classes)}
    relabelled = np.array([numbers[name] for name in second.classes])[second.labels]
    second = Labelled(second.source, relabelled, first.classes)
    counts = np.bincount(second.labels, minlength=len(second.classes))
    smallest = int(counts.argmin())
    most = int(counts[smallest]) - validation - 1
    if labels > most:
        remedy = f"use labels={most} or less" if most > 0 else "give fewer for validation="
        raise InputError(
            f"labels={labels}: class {second.classes[smallest]} has {counts[smallest]} images in {target}, which are "
            f"to be {labels} labelled ones, {validation} to validate with, and one or more to test with; {remedy}"
        )
    every = np.arange(len(second))
    labelled = chosen_of_each(second, np.full(len(counts), labels), seed)
    others = np.setdiff1d(every, labelled)
    rest = part(second, others)
    held_out = others[chosen_of_each(rest, np.full(len(counts), validation), seed)]
    test = np.setdiff1d(others, held_out)
    return Domains(first, part(second, labelled), part(second, held_out), part(second, test))


def _check_classes(first: Sequence[str], second: Sequence[str], source: str, target: str) -> None:
    """Raise `InputError` where a class has images in one domain alone."""
    for ours, theirs, where in ((first, second, source), (second, first, target)):
        alone = sorted(set(ours) - set(theirs))
        if alone:
            more = f" (and {len(alone) - MOST_NAMED} more)" if len(alone) > MOST_NAMED else ""
            raise InputError(
                f"{', '.join(alone[:MOST_NAMED])}{more}: in {where} alone; source and target have the same classes, "
                "so give the other one images of it, or take it away"
            )
