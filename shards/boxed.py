"""Shards of images with boxes: the layouts of data for detectors, each image with its objects beside it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seer.errors import InputError
from seer.eval.data.boxes import found
from seer.eval.data.boxshards import OBJECTS, SourcedSamples, member_of
from seer.eval.data.objects import Annotated
from shards.build import BuildReport, build
from shards.options import BuildOptions
from shards.records.state import Progress
from shards.sources.listing import Described


def build_any(
    sources: Sequence[str | Path],
    out: str | Path,
    options: BuildOptions = BuildOptions(),
    progress: Progress | None = None,
) -> BuildReport:
    """`build`, also of images with boxes, where options say that.

    Raises:
        InputError: as `build`; of images with boxes there are several sources, or none of that split.
    """
    if options.boxes is None:
        return build(sources, out, options, progress)
    options.validate()
    if len(sources) != 1:
        raise InputError(f"--boxes takes one SOURCE, and not {len(sources)}; build each by itself")
    images = annotated(sources[0], options.boxes)
    return build(sources, out, options, progress, listing_of(images, str(sources[0])))


def annotated(data: str | Path, split: str) -> Annotated:
    """The images of a split. Raises `InputError` where there is none of that name."""
    halves = found(data)
    if split == "all" and halves.test:
        raise InputError(
            f"{data}: has training and test images; build --boxes train and --boxes test, into train/ and test/ of one "
            "folder"
        )
    if split != "all" and not halves.test:
        raise InputError(f"{data}: has no split of its own; give --boxes all")
    images = halves.test() if halves.test and split == "test" else halves.train()
    if isinstance(images.source, SourcedSamples):
        raise InputError(f"{data}: holds shards with boxes already")
    return images


def listing_of(images: Annotated, source: str) -> Described:
    """Images with their objects, as a build takes them; what was left out of them is noted."""
    files: Any = images.source  # of a folder
    digest = hashlib.sha256("\0".join(images.classes).encode() + b"\0" + images.objects.content())
    listing = Described(
        str(files.root.absolute()),
        files.paths,
        OBJECTS,
        lambda i: member_of(images, i),
        digest.hexdigest(),
    )
    listing.classes = images.classes
    for what, count in images.counts.items():
        listing.notes.add(what, source, count)
    return listing
