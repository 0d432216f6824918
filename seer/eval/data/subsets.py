"""Which training images count as labelled where few do: those of a list, or a share of each class
that is drawn the same way everywhere.

The lists of SimCLR (`1percent.txt`, `10percent.txt` of google-research/simclr, by which SimCLR,
SwAV, BYOL and others were measured) name one file a line, `n01440764_10026.JPEG`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from seer.data.folders import readable
from seer.data.labelled import Labelled, Part, Samples, Source, say_once
from seer.errors import InputError
from seer.eval.data.rows import lines
from seer.eval.data.splitting import Joined, chosen_of_each

Names = tuple[str, ...]  # what one image is called


def by_percent(images: Labelled, percent: float, seed: int) -> np.ndarray:
    """`(n,)` rising numbers of `percent` of each class's images, rounded to the nearest number
    (halves up), one at least; what that makes is said where a class has less than one.

    Which ones depends on the seed and on their names within the data alone.
    """
    members = np.bincount(images.labels, minlength=len(images.classes))
    counts = np.floor(members * percent / 100 + 0.5).astype(np.int64)
    raised = int((counts < 1).sum())
    rows = chosen_of_each(images, np.maximum(counts, 1), seed)
    if raised:
        say_once(
            f"{percent:g} % is less than one image of {raised:,} of the {len(members):,} classes, of which one each is "
            f"taken: {len(rows):,} of {len(images):,} training images ({100 * len(rows) / len(images):.3g} %)"
        )
    return rows


def by_number(images: Labelled, labels: int, seed: int) -> np.ndarray:
    """`(n,)` rising numbers of so many images, equally many of each class as far as it has them, and
    one more of some.

    Raises:
        InputError: there are not so many, or fewer than classes.
    """
    members = np.bincount(images.labels, minlength=len(images.classes))
    if labels > len(images):
        raise InputError(f"labels={labels}: there are {len(images):,} training images")
    if labels < len(members):
        raise InputError(
            f"labels={labels}: there are {len(members):,} classes; give as many or more"
        )
    return chosen_of_each(images, _even(members, labels), seed)


def by_list(images: Labelled, path: Path, data: str) -> np.ndarray:
    """`(n,)` rising numbers of the images that a file names, one a line: by its path within the data
    or the end of it, so by the mere file's name; of shards by the index's key or source.

    Raises:
        InputError: a line is no image of these or several, or comes twice; an image's name tells another class than
            it has; a class has no image.
    """
    listed = {line: _bare(line) for line in lines(path)}
    if not listed:
        raise InputError(f"{path}: lists no image; give one a line")
    book = _Book(_named(images), listed.values())
    matches = {line: book.rows(name) for line, name in listed.items()}
    missing = [line for line, rows in matches.items() if not rows]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} of {len(listed):,} listed images are not among the {len(images):,} training "
            f"images of {data}, {missing[0]} first; give the list of these data"
        )
    classes = set(images.classes)
    line_of: dict[int, str] = {}
    for line in lines(path):
        row, *others = matches[line]
        if others:
            raise InputError(
                f"{path}: {line} may be {images.source.name(row)} or {images.source.name(others[0])}; "
                "list paths that tell them apart"
            )
        if row in line_of:
            raise InputError(f"{path}: {line} is listed twice; list it once")
        line_of[row] = line
        _check_class(images, row, listed[line], classes, path)
    rows = np.array(sorted(line_of), np.int64)
    without = set(range(len(images.classes))) - set(images.labels[rows].tolist())
    if without:
        raise InputError(
            f"{path}: lists no image of {len(without):,} of the {len(images.classes):,} classes, "
            f"'{images.classes[min(without)]}' first; list one of each class or more"
        )
    return rows


def names(images: Labelled) -> list[str]:
    """What `by_list` knows the images by, each by a name of its own, for a file that it reads: the
    same names of a part of them.
    """
    return [called[0] for called in _named(images)]


class _Book:
    """Which images go by the names that are asked for."""

    def __init__(self, named: Sequence[Names], asked: Iterable[str]):
        self.named = named
        self.whole: dict[str, list[int]] = {name: [] for name in asked}
        self.ends: dict[str, list[int]] = {}
        for name in self.whole:
            self.ends.update((_end(word), []) for word in _words(name))
        for row, called in enumerate(named):
            for name in set(called) & self.whole.keys():
                self.whole[name].append(row)
            for end in set(map(_end, called)) & self.ends.keys():
                self.ends[end].append(row)

    def rows(self, name: str) -> list[int]:
        """The images that a line may mean."""
        if self.whole[name]:
            return self.whole[name]
        for word in _words(name):
            rows = self.ends[_end(word)]
            rows = [row for row in rows if any(_agree(word, other) for other in self.named[row])]
            if rows:
                return rows
        return []


def _words(name: str) -> list[str]:
    """A name, and what it is without its ending, which keys of shards do not have."""
    return list(filter(None, (name, name.rpartition(".")[0])))


def _named(images: Labelled) -> list[Names]:
    """What each image is called; first comes a name that no other image of the whole source has, so
    that a part's images are called as they are in the whole.
    """
    source = images.source
    rows = list(range(len(images)))
    while isinstance(source, Part):
        rows = [source.numbers[row] for row in rows]
        source = source.whole
    every = _told_apart(list(_names(source, range(len(source)))))
    return [every[row] for row in rows]


def _told_apart(every: Sequence[Names]) -> list[Names]:
    """Names of which each first one is of one image alone: numbered where several have it, as of
    files that number their images.
    """
    alike = Counter(name for called in every for name in set(called))
    seen: Counter[str] = Counter()
    named = []
    for called in every:
        name = called[0]
        if alike[name] > 1:
            seen[name] += 1
            while f"{seen[name]}:{name}" in alike:  # which is another one's own name
                seen[name] += 1
            called = (f"{seen[name]}:{name}", *called)
        named.append(called)
    return named


def _names(source: Source, numbers: Sequence[int]) -> Iterator[Names]:
    """What each of these images of a source is called."""
    if isinstance(source, Part):
        yield from _names(source.whole, [source.numbers[number] for number in numbers])
    elif isinstance(source, Joined):
        starts = [0, *source.ends[:-1]]
        parts = zip(source.sources, starts, source.ends, strict=True)
        every: list[Names] = []
        for part, start, end in parts:
            every += _names(part, range(end - start))
        yield from (every[number] for number in numbers)
    elif isinstance(source, Samples):
        yield from _sample_names(source, source.ids[list(numbers)])
    else:
        yield from ((_bare(readable(source.key(number))),) for number in numbers)


def _sample_names(source: Samples, ids: np.ndarray) -> Iterator[Names]:
    """Keys and sources, as the index has them."""
    manifest = source.reader.manifest
    shards, rows = source.reader.locate(ids)
    tables = {
        shard: manifest.index(shard, ["key", "source"]).to_pydict()
        for shard in np.unique(shards).tolist()
    }
    for id, shard, row in zip(ids.tolist(), shards.tolist(), rows.tolist(), strict=True):
        words = (tables[shard][column][row] for column in ("key", "source"))
        yield tuple(_bare(word) for word in words if word) or (str(id),)


def _check_class(images: Labelled, row: int, name: str, classes: set[str], path: Path) -> None:
    """Raise `InputError` where a line tells another class than the image has: by a folder, or as
    ImageNet's names do, `n01440764_10026.JPEG`.
    """
    own = images.classes[images.labels[row]]
    *folders, file = name.split("/")
    told = [folder for folder in folders if folder in classes]
    told = told or [word for word in [file.rpartition("_")[0]] if word in classes]
    if told and own not in told:
        raise InputError(
            f"{path}: {name} is of class {told[0]} by its name, and {images.source.name(row)} is of class {own}; "
            "correct one of them"
        )


def _even(members: np.ndarray, total: int) -> np.ndarray:
    """How many of each class make `total`: as even as `(C,)` members allow, the remainder to the
    first classes.
    """
    counts = np.zeros_like(members)
    while counts.sum() < total:
        open_classes = np.flatnonzero(counts < members)
        share, rest = divmod(int(total - counts.sum()), len(open_classes))
        more = np.full(len(open_classes), share)
        more[:rest] += 1
        counts[open_classes] = np.minimum(counts[open_classes] + more, members[open_classes])
    return counts


def _bare(name: str) -> str:
    """A name as a line can hold it."""
    return name.replace("\n", "\\n").replace("\r", "\\r").strip().removeprefix("./")


def _end(name: str) -> str:
    return name.rpartition("/")[2]


def _agree(name: str, other: str) -> bool:
    """Whether one of two paths may be the end of the other."""
    shorter, longer = sorted((name, other), key=len)
    return longer == shorter or longer.endswith(f"/{shorter}")
