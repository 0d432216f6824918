"""Which images of a data set are not wanted in it: duplicates, images of an evaluation set, and
refused ones.

An image goes because of one that stays: the first in the data set's order, or one of a data set
named for comparison. Memory: 64 bytes per image at most, whether of this data set or of those it is
compared with.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards import pool
from shards.dedup.alike import SIDE, alike
from shards.dedup.known import Known, of_dataset, of_list, thumbnails_of
from shards.dedup.near import CHUNK, NONE, distances, near_duplicates
from shards.options import DedupOptions
from shards.sources.phash import FEATURELESS

IN_EVALUATION = "in an evaluation set"  # the kind of reason

# One row per image to be removed, in the order of the data set.
REMOVALS = pa.schema(
    [
        ("place", pa.int64()),  # in the data set
        ("reason", pa.string()),  # for the quarantine
        pa.field("dataset", pa.string(), nullable=True),  # the evaluation set that has it
        pa.field("like", pa.string(), nullable=True),  # the image there
        pa.field(
            "distance", pa.int32(), nullable=True
        ),  # bits between the perceptual hashes; null for equal bytes
    ]
)


def find(own: Known, options: DedupOptions, scratch: Path, workers: int = 0) -> pa.Table:
    """`REMOVALS` of a data set's images.

    Args:
        scratch: a folder for temporary files.

    Raises:
        InputError: a data set to compare with is missing, or lacks perceptual hashes.
    """
    near = options.level == "near"
    parts = [("evaluation", of_dataset(Path(path), workers=workers)) for path in options.exclude]
    parts += [("refused", of_list(Path(path))) for path in options.refuse]
    parts += [("earlier", of_dataset(Path(path), near, workers)) for path in options.against]
    if not near:
        for kind, known in parts:
            if kind == "earlier":
                known.hashes[:] = FEATURELESS
    parts.append(("own", own))
    fixed = sum(len(known) for _, known in parts) - len(own)
    among = options.level != "none"
    digests, hashes = _concatenated(parts)
    found = exact_duplicates(digests, fixed, among)
    same = found != NONE
    if near or options.exclude:
        del digests
        hashes[same] = FEATURELESS
        confirm = partial(_confirm, [known for _, known in parts], scratch, workers)
        found_near = near_duplicates(hashes, options.distance, scratch, fixed, near, confirm)
        # Copies of what goes now go because of the same image.
        joined = found_near[found[same]]
        hashes[same] = hashes[found[same]]
        found_near[same] = np.where(joined == NONE, found[same], joined)
        same &= found == found_near
        found = found_near
    return _describe(parts, found, same, hashes)


def _confirm(
    parts: Sequence[Known], scratch: Path, workers: int, places: np.ndarray
) -> Callable[[int, int], bool]:
    """Makes thumbnails of the images at these places, on disk, and returns what compares two of
    them.
    """
    ends = np.cumsum([0, *map(len, parts)])
    bounds = np.searchsorted(places, ends)
    tasks = [
        task
        for known, low, high, end in zip(parts, bounds, bounds[1:], ends, strict=False)
        for task in known.tasks(places[low:high] - end)
    ]
    starts = np.cumsum([0, *(len(task.rows) for task in tasks)])
    with tempfile.TemporaryFile(dir=scratch) as file:
        pictures = np.memmap(file, np.uint8, "w+", shape=(len(places), SIDE, SIDE))
    for number, made in pool.run(
        thumbnails_of, enumerate(tasks), min(workers or pool.cores(), len(tasks))
    ):
        pictures[starts[number] : starts[number + 1]] = made
    return lambda one, other: alike(*pictures[np.searchsorted(places, [one, other])])


def _concatenated(parts: list[tuple[str, Known]]) -> tuple[np.ndarray, np.ndarray]:
    """Digests and hashes of all parts, which give up their own."""
    digests = np.concatenate([known.digests for _, known in parts])
    for _, known in parts:
        known.digests = known.digests[:0].copy()
    hashes = np.concatenate([known.hashes for _, known in parts])
    return digests, hashes


def exact_duplicates(digests: np.ndarray, fixed: int = 0, among_others: bool = True) -> np.ndarray:
    """For each of `(N, 2)` uint64 digests the place of the first equal one; `NONE` for that itself
    and for the `fixed`.

    128 of SHA-256's bits are compared: of 10⁹ different images, two agree in them with a chance of
    10⁻²¹.
    """
    order = np.lexsort(digests.T)  # stable
    found = np.full(len(order), NONE, np.int64)
    leader = 0
    for start in range(0, len(order), CHUNK):
        places = order[start : start + CHUNK]
        before = order[np.maximum(np.arange(start, start + len(places)) - 1, 0)]
        new = (digests[places] != digests[before]).any(axis=1)
        leaders = np.maximum.accumulate(
            np.where(new, np.arange(start, start + len(places)), leader)
        )
        leader = leaders[-1]
        leaders = order[leaders]
        goes = ~new & (leaders != places) & (places >= fixed) & ((leaders < fixed) | among_others)
        found[places[goes]] = leaders[goes]
    return found


def _describe(
    parts: list[tuple[str, Known]], found: np.ndarray, same: np.ndarray, hashes: np.ndarray
) -> pa.Table:
    """The removals, with the names of the images that they go because of."""
    ends = np.cumsum([0, *(len(known) for _, known in parts)])
    goes = np.flatnonzero(found != NONE)
    because = found[goes]
    order = np.argsort(because, kind="stable")
    bounds = np.searchsorted(because[order], ends)
    names = [
        known.names(because[order[low:high]] - end)
        for (_, known), low, high, end in zip(parts, bounds, bounds[1:], ends, strict=False)
    ]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    names = pa.concat_arrays(names).take(pa.array(back))
    numbers = (np.searchsorted(ends, because, side="right") - 1).tolist()
    apart = distances(hashes, found, goes).tolist()
    bits = [
        None if equal else number for equal, number in zip(same[goes].tolist(), apart, strict=True)
    ]
    reasons = []
    datasets = []
    for number, name, distance in zip(numbers, names.to_pylist(), bits, strict=True):
        kind, known = parts[number]
        reasons.append(_reason(kind, known.name, name, distance))
        datasets.append(known.name if kind == "evaluation" else None)
    columns = {
        "place": goes - ends[-2],
        "reason": reasons,
        "dataset": datasets,
        "like": names,
        "distance": bits,
    }
    return pa.table(columns, REMOVALS)


def _reason(kind: str, where: str, like: str, bits: int | None) -> str:
    """For the quarantine, which counts by what stands before the bracket."""
    how = "same bytes" if bits is None else f"distance {bits}"
    level = "exact" if bits is None else "near"
    return {
        "own": f"{level} duplicate (of {like}, {how})",
        "earlier": f"{level} duplicate (of {like} in {where}, {how})",
        "evaluation": f"{IN_EVALUATION} ({like} of {where}, {how})",
        "refused": f"refused ({like} of {where}, {how})",
    }[kind]
