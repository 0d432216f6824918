"""Shards of the folder of images that a training was given, made beside its run before it starts."""

import fcntl
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from itertools import count
from pathlib import Path

from seer import files
from seer.data.decoding.image_formats import image_suffixes, unread_suffixes
from seer.data.storage.index import MANIFEST
from seer.errors import InputError, quoted
from shards.build import BuildReport, build
from shards.records import quarantine, state
from shards.records.state import Progress
from shards.sources.places import SPLITS, nested_tars, own_tars
from shards.sources.scan import is_image

WANTED = "give a folder of images or of shards"
HELD_OUT = SPLITS - {"train", "training"}


def holds_images(data: str) -> bool:
    """Whether this is a folder with images at any depth, of kinds that are read or not, and with no
    shards or tars.
    """
    folder = Path(data)
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
        return False
    if (folder / MANIFEST).exists() or (folder / state.STATE).exists():
        return False
    if own_tars(folder) or nested_tars(folder):
        return False
    suffixes = tuple(image_suffixes() | unread_suffixes())
    tree = os.walk(folder, followlinks=False)
    return any(name.lower().endswith(suffixes) for _, _, names in tree for name in names)


def check_data(data: str) -> None:
    """Refuse a place on this host that holds neither images nor shards.

    Raises:
        InputError: in one line, what is there instead.
    """
    folder = Path(data)
    given = f"data={quoted(data)}"
    if "://" in data or folder.name == MANIFEST:
        return
    if not os.path.exists(data):
        raise InputError(f"{given}: does not exist; {WANTED}")
    if os.path.isfile(data):
        raise InputError(
            f"{given}: is a file; give the folder that holds it: data={quoted(folder.parent)}"
        )
    shards = (folder / MANIFEST).exists() or (folder / state.STATE).exists()
    readable = os.access(data, os.R_OK | os.X_OK)
    if readable and not shards and not own_tars(folder) and not nested_tars(folder):
        raise InputError(f"{given}: holds no images; {WANTED}")


def count_images(folder: Path, enough: int) -> int | None:
    """How many images a folder holds, the damaged included; None where they are `enough`, or links
    and archives may lead to more.
    """
    count = 0
    for path, folders, names in os.walk(folder):
        linked = any(os.path.islink(os.path.join(path, name)) for name in folders)
        if linked or any(name.lower().endswith(".zip") for name in names):
            return None
        for name in names:
            count += not name.startswith(".") and is_image(os.path.join(path, name))
            if count == enough:
                return None
    return count


def earlier_shards(folder: Path, out: Path) -> list[tuple[Path, int]]:
    """What was made of the same folder before `out`, beside it, and of how many images each."""
    name = f"{_name_of(folder.absolute())}-shards"
    source = [quarantine.text(os.fsencode(os.path.abspath(folder)))]
    earlier: list[tuple[Path, int]] = []
    for number in count(1):
        path = out.with_name(name if number == 1 else f"{name}-{number}")
        if path == out or not path.is_dir():
            return earlier
        with suppress(InputError):  # something else is there
            plan = state.recorded_plan(path) or {}
            if plan.get("sources") == source:
                earlier.append((path, plan.get("samples", 0)))
    raise AssertionError  # `count` has no end


def shards_of(
    folder: Path,
    beside: Path,
    begun_with: Path | None,
    shown: Callable[[Path], AbstractContextManager[Progress]],
) -> tuple[Path, BuildReport | None]:
    """Shards of a folder of images: those that are there, or new ones.

    They lie in `beside/NAME-shards` (of `flowers/train`: `flowers-train-shards`), in `NAME-shards-2`
    and so on where that holds those of another folder, or of other images than the folder has now.

    Args:
        begun_with: the data of a run that is to go on, which stays what it is.
        shown: a context around the building in a folder, which gives what is called with images done and in all.

    Returns:
        The folder of the shards, and what was built; None where they were there.

    Raises:
        InputError: the folder has test images beside its training images; as `build` raises it.
    """
    _refuse_test_images(folder)
    name = f"{_name_of(folder.absolute())}-shards"
    if begun_with is not None and _is_one_of(begun_with, beside, name):
        return begun_with, None
    try:
        beside.mkdir(parents=True, exist_ok=True)
        lock = files.open_own(beside / f".{name}.lock", "w")
    except OSError as error:
        raise InputError(
            f"{folder}: shards of its images cannot be made in {beside} ({error.strerror}); give a run_dir elsewhere, "
            f"or make them yourself: seer shards build {quoted(folder)} --out DIR"
        ) from None
    # Ranks that torchrun has started come here together.
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _first_that_fits(folder, beside / name, shown)
        finally:
            Path(lock.name).unlink(missing_ok=True)


def _first_that_fits(
    folder: Path, first: Path, shown: Callable[[Path], AbstractContextManager[Progress]]
) -> tuple[Path, BuildReport | None]:
    """Build in `first`, or in the first of `first-2`, `first-3`, ... that holds nothing else."""
    for number in count(1):
        out = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            with shown(out) as progress:
                report = build([folder], out, progress=progress)
            return out, None if report.already_complete else report
        except state.AnotherBuildError:
            continue
    raise AssertionError  # `count` has no end


def _name_of(folder: Path) -> str:
    if folder.name.lower() in SPLITS:
        return f"{folder.parent.name}-{folder.name}"
    return folder.name


def _refuse_test_images(folder: Path) -> None:
    """A backbone that was trained on test images could not be measured on them."""
    below = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    training = [name for name in below if name.lower() in SPLITS - HELD_OUT]
    held_out = [name for name in below if name.lower() in HELD_OUT]
    if training and held_out:
        raise InputError(
            f"{folder} holds {training[0]}/ and {held_out[0]}/, and a score wants images that were never seen: "
            f"give data={quoted(folder / training[0])}; for all of them, seer shards build {quoted(folder)} --out DIR"
        )


def _is_one_of(data: Path, beside: Path, name: str) -> bool:
    """Whether a run's data are shards that were made here, and are complete."""
    ours = data.name == name or data.name.startswith(f"{name}-")
    return ours and data.absolute().parent == beside.absolute() and state.is_complete(data)
