"""The pictures of a run, each with a caption, and the rows of crops with their sizes."""

import base64
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from seer.report.changes import cut
from seer.report.runfiles import RunFiles
from seer.rundir.names import (
    ATTENTION,
    COLOUR,
    CONFUSIONS,
    CROPS,
    DETECTIONS,
    EVALUATIONS,
    IMAGES,
    MAPS,
    NEIGHBOURS,
)

# How training lays crops out (`seer.pretrain.picture`), in pixels.
HEIGHT = 160  # of a row of the largest
GAP = 6
MOST_SIZES = 8
MOST_LINKED = 50  # trainings of a run
LONGEST_NAME = 200  # characters
NEIGHBOURHOOD = (
    "Left: images not seen in training. Right of each: the five training images whose features are nearest; "
    "green where the label agrees, red where it does not."
)
FOUND = "Test images, the worst first: left what there is to find, right what was found with a score of 0.3 or more."
TAKEN = (
    "Rows: what an object is. Columns: what a detection with a score of 0.5 or more, overlapping it by half or more, "
    "takes it for; the classes with the most mistakes."
)
MAPPED = "Test images, the worst first: the image, what there is to predict (white: not known), what was predicted."
ATTENDED = (
    "Left: test images. Middle: how much the features change when a small square there is hidden, red most. Right: the "
    "part that counts for more than the mean."
)
REMADE = "Left: test images. Right: what an untrained network makes of their features alone."
CAPTIONS = {
    NEIGHBOURS: ("Nearest neighbours", NEIGHBOURHOOD),
    ATTENTION: ("Attention", ATTENDED),
    COLOUR: ("Colour and content", REMADE),
    DETECTIONS: ("Detections", FOUND),
    CONFUSIONS: ("Confusions", TAKEN),
    MAPS: ("Dense predictions", MAPPED),
}


@dataclass
class Picture:
    """A picture of the page.

    Attributes:
        source: a data URI.
        rows: labels of its rows from above, each with its height as a share of the picture's; none if
            the picture is not laid out as the configuration has it.
    """

    title: str
    caption: str
    source: str
    rows: list[tuple[str, float]] = field(default_factory=list)


def pictures(run: RunFiles) -> list[Picture]:
    """The pictures that the run has."""
    gallery = []
    for name, picture in run.pictures.items():
        source = data_uri(picture)
        if name == CROPS:
            sizes = crop_sizes(run)
            rows = rows_of(sizes, height_of(picture))
            gallery.append(Picture("Crops", _caption(sizes), source, rows))
        if name in CAPTIONS:
            gallery.append(Picture(*CAPTIONS[name], source))
    return gallery


def data_uri(png: bytes) -> str:
    """A picture as a page holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def linked(runs: Sequence[RunFiles], folder: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Pictures that a page in `folder` names by where they lie: of several runs their own, and of each the
    trainings' below it. `(name, [(title, relative URL)])`.
    """
    places = []
    for run in runs:
        places += [(run.name, run.path)] if len(runs) > 1 else []
        before = f"{run.name}: " if len(runs) > 1 else ""
        below = sorted((run.path / EVALUATIONS).glob(f"*/{IMAGES}"))[:MOST_LINKED]
        places += [(f"{before}{path.parent.name}", path.parent) for path in below]
    named = [(name, list(_links(place, folder))) for name, place in places]
    return [(cut(name, LONGEST_NAME), links) for name, links in named if links]


def _links(place: Path, folder: Path) -> Iterator[tuple[str, str]]:
    for name, (title, _) in CAPTIONS.items():
        path = place / IMAGES / name
        if path.is_file():
            yield title, quote(os.path.relpath(path.absolute(), folder.absolute()))


def crop_sizes(run: RunFiles) -> list[tuple[int, int]]:
    """`(side in pixels, how many crops)`, the largest first."""
    counted = Counter[int]()
    for view in run.config.get("views", {}).values():
        counted[view.get("size", 0)] += view.get("count", 0)
    return sorted(((size, n) for size, n in counted.items() if size and n), reverse=True)


def rows_of(sizes: list[tuple[int, int]], height: int) -> list[tuple[str, float]]:
    """Labels for the rows of a picture of crops, `height` pixels high."""
    if not sizes:
        return []
    largest = sizes[0][0]
    heights = [HEIGHT * size // largest for size, _ in sizes]
    if sum(heights) + GAP * (len(heights) - 1) != height:  # an older run's, or another's
        return []
    labels = [f"{size} px" for size, _ in sizes]
    return [(label, row / height) for label, row in zip(labels, heights, strict=True)]


def height_of(png: bytes) -> int:
    """The height of a PNG in pixels, from its header."""
    return int.from_bytes(png[20:24], "big")


def _caption(sizes: list[tuple[int, int]]) -> str:
    about = "What the method is shown: one image, then random crops of it, altered as configured"
    counts = [
        f"{n} {'crop' if n == 1 else 'crops'} of {size} × {size} pixels"
        for size, n in sizes[:MOST_SIZES]
    ]
    return f"{about}: {', '.join(counts)}." if counts else f"{about}."
