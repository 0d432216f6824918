"""What a folder of data sets can run: each of the table's, ready or what is missing, and what else
lies there.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

from seer.data.decoding.decode import DamagedImage, decode
from seer.data.folders import readable
from seer.data.labelled import ImageSet, has_split
from seer.errors import InputError, unreadable
from seer.eval import tasks
from seer.eval.data.boxlayouts import says_boxes
from seer.eval.data.datasets import (
    BOXES,
    DATASETS,
    MAP11,
    MASKS,
    NORMALS,
    ONE_CLASS,
    PER_CLASS,
    SEVERAL_CLASSES,
    SUITES,
    TOP1,
    VARIANT,
    WITHIN,
    DataSet,
)
from seer.eval.data.recognition import Located, within, words
from seer.eval.data.splitting import is_table, load
from seer.eval.tasks import TASKS

READY = "ready"  # all images are there, as many as the owners have
DIFFERS = "differs"  # can be scored, but as no published number was
UNREAD = "unread"  # its files are there, and no task takes them yet
INCOMPLETE = "incomplete"
MISSING = "missing"
YOURS = "yours"  # no data set of the table
STATES = (READY, YOURS, DIFFERS, UNREAD, INCOMPLETE, MISSING)  # as they are shown
METRICS = {
    TOP1: "top-1",
    PER_CLASS: "mean per class",
    MAP11: "11-point mAP",
    WITHIN: "share of normals within 11.25°",
}
# What is known by the names of folders and files alone.
DENSE = {MASKS: tasks.MAPS, NORMALS: tasks.SURFACES, BOXES: tasks.BOXES}
ROBUST = "robustness"  # the task that takes variants of ImageNet
THREADS = 8

Tick = Callable[[int, int], None]


@dataclass
class Finding:
    """One data set.

    Attributes:
        images: of each split, as they were read. damaged: how many of them cannot be decoded, where that was asked.
        problems: what is missing or otherwise than it should be.
        tasks: of `seer eval`, which can run now. source: how the owner distributes it.
        data: as `--data` takes it.
    """

    name: str
    title: str
    state: str
    folder: str = ""
    images: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    classes: int = 0
    metric: str = ""
    licence: str = ""
    source: str = ""
    problems: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    data: str = ""

    def lines(self) -> list[str]:
        """For people: one line, and one for each problem."""
        if self.state == MISSING:
            return [f"{self.state:10}  {self.name:14}  {self.title}: {self.source}"]
        sizes = ", ".join(f"{split or 'whole'} {count:,}" for split, count in self.images.items())
        classes = f", {self.classes} class{'es' * (self.classes > 1)}" if self.classes else ""
        what = f"{sizes} images{classes}" if sizes else self.title
        tasks = f"; {', '.join(self.tasks)}" if self.tasks else ""
        first = f"{self.state:10}  {self.name:14}  {what}{tasks}; {self.folder}"
        return [first, *(f"{'':28}{problem}" for problem in self.problems)]


def check(root: Path, read_images: bool, tick: Tick) -> list[Finding]:
    """What of the table lies in a folder, or in the folders directly below it, and what of one's
    own does.

    Args:
        read_images: also read every image: which cannot be decoded, and which stand in two splits.
        tick: told how many images of how many are read.

    Raises:
        InputError: the folder cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{readable(str(root))} is no folder; give one that holds data sets")
    below = sorted(
        name for name in next(os.walk(root, onerror=unreadable))[1] if not name.startswith(".")
    )
    places = [root, *(root / name for name in below)]
    located: dict[str, Located] = {}
    for place in places:
        for candidate in within(place):
            located.setdefault(candidate.entry.name, candidate)
    findings = [
        _of_table(entry, located.get(entry.name), read_images, tick) for entry in DATASETS.values()
    ]
    taken = {found.folder for found in located.values()}
    own = [place for place in _own(places) if place not in taken]
    findings += [_of_ones_own(place, read_images, tick) for place in own]
    return sorted(findings, key=lambda finding: STATES.index(finding.state))


def suites(findings: list[Finding]) -> dict[str, dict[str, list[str]]]:
    """For each suite of the papers, the data sets that are ready, and the others."""
    states = {finding.name: finding.state for finding in findings}
    sorted_out: dict[str, dict[str, list[str]]] = {}
    for suite in SUITES:
        names = [entry.name for entry in DATASETS.values() if suite in entry.suites]
        ready = [name for name in names if states[name] == READY]
        others = [name for name in names if states[name] != READY]
        sorted_out[suite] = {"ready": ready, "missing": others}
    return sorted_out


def summary(findings: list[Finding]) -> list[str]:
    """A line for each suite."""
    lines = []
    for suite, names in suites(findings).items():
        count = len(names["ready"]) + len(names["missing"])
        missing = f"; not {', '.join(names['missing'])}" if names["missing"] else ""
        lines.append(f"{suite}: {len(names['ready'])} of {count} data sets are ready{missing}")
    return lines


def _of_table(entry: DataSet, located: Located | None, read_images: bool, tick: Tick) -> Finding:
    finding = Finding(
        entry.name,
        entry.title,
        MISSING,
        classes=entry.classes,
        metric=METRICS.get(entry.metric, entry.metric),
        licence=entry.licence,
        source=entry.source,
    )
    if located is None:
        return finding
    finding.folder = readable(str(located.folder))
    finding.data = f"{entry.name}:{located.folder}"
    finding.problems = [f"{words(need)} is missing" for need in located.missing()]
    finding.state = INCOMPLETE if finding.problems else READY
    if finding.problems:
        finding.problems.append(f"its owner has it: {entry.source}")
    elif entry.read is None:
        finding.state = UNREAD
        finding.problems.append(f"no task here takes {entry.kind} yet; its images were not counted")
    else:
        _read(finding, lambda: entry.read(located.folder), read_images, tick)  # type: ignore[misc]
        _compare(finding, entry)
    return finding


def _compare(finding: Finding, entry: DataSet) -> None:
    """Say what differs from the owners' numbers."""
    if finding.state == INCOMPLETE:
        return
    finding.tasks = tasks_of(entry.kind)
    if not finding.tasks:
        finding.problems.append(f"no task here takes {entry.kind} yet")
    for split, size in entry.sizes.items():
        if finding.images.get(split) != size:
            finding.problems.append(f"{split or 'whole'}: its owner has {size:,} images")
            finding.state = DIFFERS
    if finding.classes != entry.classes:
        finding.problems.append(f"its owner has {entry.classes} classes")
        finding.state = DIFFERS


def _of_ones_own(place: Path, read_images: bool, tick: Tick) -> Finding:
    kind = _kind_of_own(place)
    title = f"images with {kind}" if kind else "class folders, a table or labelled shards"
    finding = Finding(Path(os.path.abspath(place)).name, title, YOURS)  # a link by its own name
    finding.folder = readable(str(place))
    finding.data = str(place)
    read = partial(_halves, place, kind) if kind else partial(_parts, place)
    _read(finding, read, read_images, tick)
    if finding.state == YOURS:
        finding.tasks = tasks_of(kind or ONE_CLASS)
    return finding


def _parts(place: Path) -> dict[str, ImageSet]:
    splits = load(place)
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {name: images for name, images in parts.items() if images is not None}


def _kind_of_own(place: Path) -> str:
    """What a folder has for each of its images besides a class; "" where it has nothing."""
    for kind in (MASKS, NORMALS):
        with suppress(InputError):
            import_module(DENSE[kind]).check_layout(place)
            return kind
    return BOXES if says_boxes(place) else ""


def _halves(place: Path, kind: str) -> dict[str, ImageSet]:
    train, test = import_module(DENSE[kind]).train_and_test(place)
    return {"train": train, "test": test}


def _own(places: list[Path]) -> Iterator[Path]:
    """What looks like labelled images of one's own: folders with a split, with maps or with boxes, and
    tables."""
    for place in places:
        if has_split(place) or _kind_of_own(place):
            yield place
            if place == places[0]:
                return  # the folders below are its splits, or its images and maps
    names = sorted(os.listdir(places[0]))
    yield from (places[0] / name for name in names if is_table(places[0] / name))


def tasks_of(kind: str) -> list[str]:
    """The tasks that take data sets of a kind."""
    if kind == SEVERAL_CLASSES:
        return [name for name, task in TASKS.items() if task.several]
    if kind == VARIANT:
        return [ROBUST]
    modules = {
        ONE_CLASS: tasks.CLASSES,
        BOXES: tasks.BOXES,
        MASKS: tasks.MAPS,
        NORMALS: tasks.SURFACES,
    }
    images = modules.get(kind)
    return [name for name, task in TASKS.items() if task.images == images]


def _read(
    finding: Finding,
    read: Callable[[], Mapping[str, ImageSet]],
    read_images: bool,
    tick: Tick,
) -> None:
    """Fill in what reading finds."""
    try:
        parts = read()
    except InputError as error:
        finding.state = INCOMPLETE
        finding.problems.append(str(error))
        return
    finding.images = {split: len(images) for split, images in parts.items()}
    finding.classes = max(len(images.classes) for images in parts.values())
    if read_images:
        _look_at(finding, parts, tick)


def _look_at(finding: Finding, parts: Mapping[str, ImageSet], tick: Tick) -> None:
    """Read every image; note which cannot be decoded, and which stand in two splits."""
    total = sum(map(len, parts.values()))
    damaged: list[str] = []
    seen: dict[bytes, tuple[str, str]] = {}
    twice: list[str] = []
    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for split, images in parts.items():
            for start in range(0, len(images), 1024):
                rows = range(start, min(start + 1024, len(images)))
                for i, (digest, problem) in zip(
                    rows, pool.map(_digest, rows, [images] * len(rows)), strict=True
                ):
                    name = images.source.name(i)
                    if problem:
                        damaged.append(f"{name} ({problem})")
                        continue
                    where, first = seen.setdefault(digest, (split, name))
                    if where != split:
                        twice.append(f"{first} of {where} is {name} of {split}")
                done += len(rows)
                tick(done, total)
    finding.damaged = len(damaged)
    if damaged:
        finding.problems.append(f"{len(damaged):,} images cannot be decoded: {damaged[0]}")
    if twice:
        finding.problems.append(
            f"{len(twice):,} images stand in two splits, byte for byte: {twice[0]}"
        )


def _digest(i: int, images: ImageSet) -> tuple[bytes, str]:
    """The SHA-256 of an image's bytes, and what is wrong with them."""
    try:
        content = images.bytes(i)
        decode(content)
    except DamagedImage as error:
        return b"", str(error)
    return hashlib.sha256(content).digest(), ""
