"""The options of a build: each with its default, its range and what the command line says of it."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seer.errors import InputError
from seer.files import sha256
from seer.schema import (
    LINE,
    POSITIVE,
    SHARE,
    Choice,
    Flag,
    Integer,
    ListOf,
    Location,
    Maybe,
    Number,
    check_options,
    option,
)

MAX_DISTANCE = 16  # bits of 64 in which the perceptual hashes of near duplicates may differ
PATHS = ListOf(Location(shortest=1))
SECONDS = Number(0.001, 1e6)
PROCESSES = Integer(0, 4096)
WORKERS_HELP = "Processes; 0: one per core."
CHECK_HELP = "Decode every image, or look at headers only."


@dataclass(frozen=True)
class DownloadOptions:
    """How to download. `max_bytes`, `ignore_robots_tag` and `allow_private` decide what a build
    contains, the others how it gets there.
    """

    connections: int = option(256, Integer(1, 65_536), help="Downloads at a time, per process.")
    per_host: int = option(8, POSITIVE, help="Downloads at a time from one host, per process.")
    retries: int = option(
        2,
        Integer(0, 1000),
        help="Further tries of what may pass (timeouts, resets, 429, 5xx).",
    )
    connect_timeout: float = option(10, SECONDS, help="Seconds to connect.")
    read_timeout: float = option(10, SECONDS, help="Seconds between two pieces of a response.")
    timeout: float = option(60, SECONDS, help="Seconds of one try in all.")
    # A response is left out at the latest when so much of it has come.
    max_bytes: int = option(32 << 20, POSITIVE, help="Leave out responses larger than this.")
    min_success: float = option(
        0.05, SHARE, help="Stop when fewer of 1,000 downloads succeed; 0: never."
    )
    window: int = option(1000, POSITIVE)  # downloads of which `min_success` is a share
    agent: str = option(
        "Mozilla/5.0 (compatible; seer)", LINE, help="The user agent that servers see."
    )
    # What its server asks not to be used for search or AI (`X-Robots-Tag`).
    ignore_robots_tag: bool = option(False, Flag(), help="Also take noai and noindex.")
    # Loopback, link-local and other addresses that are not public; files and objects of stores.
    allow_private: bool = option(False, Flag(), help="Also file://, s3://, private addresses.")


@dataclass(frozen=True)
class DedupOptions:
    """What to leave out. `against` goes by `level`; what `exclude` (near duplicates included) and
    `refuse` name is not wanted at any level.
    """

    # Near: equal bytes, or perceptual hashes within `distance` bits and pixels alike.
    level: str = option(
        "none",
        Choice("none", "exact", "near"),
        flag="--dedup",
        help="Leave out duplicates: none, exact or near.",
    )
    # Larger finds more of the copies that were cropped, and takes longer.
    distance: int = option(
        8,
        Integer(0, MAX_DISTANCE),
        help="Bits of 64 in which near duplicates' hashes may differ.",
    )
    against: Sequence[str] = option((), PATHS, help="Also what these earlier shards have.")
    exclude: Sequence[str] = option((), PATHS, help="Leave out what this evaluation set has.")
    refuse: Sequence[str] = option(
        (), PATHS, help="Leave out the SHA-256 (removed.jsonl) listed here."
    )

    def check(self) -> None:
        """Raise InputError for values that make no sense."""
        check_options(self, flags=True)
        if self.against and self.level == "none":
            raise InputError(
                "--against needs to know what a duplicate is; give --dedup exact or --dedup near"
            )
        # Before the long work whose result is to be compared with it.
        for path in (*self.against, *self.exclude, *self.refuse):
            if not Path(path).exists():
                raise InputError(
                    f"{path} does not exist; give shards or a folder of images, to --refuse a list"
                )

    def identity(self) -> dict[str, Any]:
        """What a build's result depends on, ready for JSON."""
        paths = {
            name: [os.path.abspath(path) for path in getattr(self, name)]
            for name in ("against", "exclude", "refuse")
        }
        near = self.level == "near" or bool(self.exclude)
        return {"dedup": self.level, "distance": self.distance if near else None, **paths}

    @property
    def any(self) -> bool:
        """Whether there is anything to look for."""
        return self.level != "none" or bool(self.exclude or self.refuse)


@dataclass(frozen=True)
class BuildOptions:
    """How to build. Everything but `workers`, `part` and the means of downloading is part of a
    build's identity. What becomes of images by their size, see `shards.sources.policy.Policy`.
    """

    labels: bool = option(False, Flag(), help="The folder below each SOURCE is the class.")
    # See `shards.sources.lists`.
    columns: str = option(
        "", LINE, help="Columns of lists: url=URL,caption=TEXT,label=…,key=…,ANY=COLUMN."
    )
    boxes: str | None = option(
        None,
        Maybe(Choice("train", "test", "all")),
        help="SOURCE is COCO, VOC or YOLO data: its train or test images, or all of one without a split, with boxes.",
    )
    max_side: int | None = option(
        None, Maybe(POSITIVE), help="Shrink images whose longer side exceeds this (px)."
    )
    shorter_side: int | None = option(
        None, Maybe(POSITIVE), help="Shrink images whose shorter side exceeds this."
    )
    reencode: int | None = option(
        None, Maybe(Integer(1, 100)), help="Encode every image as JPEG of this quality."
    )
    min_side: int | None = option(
        None, Maybe(POSITIVE), help="Leave out images whose shorter side is below this."
    )
    max_aspect: float | None = option(
        None, Maybe(Number(1)), help="Leave out images longer than so many times wide."
    )
    max_pixels: int | None = option(None, Maybe(POSITIVE), help="Leave out images of more pixels.")
    check: bool = option(True, Flag(), help=CHECK_HELP)
    shard_size: int = option(10_000, POSITIVE, help="Images per shard.")  # before quarantine
    workers: int = option(0, PROCESSES, help=WORKERS_HELP)
    # Mixed, a class folder does not fill whole shards. Not mixed, the samples stay in the order of
    # their names, which reads huge tars from front to back.
    shuffle: bool = option(
        True, Flag(), help="Mix the images over the shards, always in the same way."
    )
    # See `shards.writing.parts`.
    part: str = option(
        "", LINE, help="I/N: the I-th of N processes that share the build; or slurm."
    )
    download: DownloadOptions = field(default_factory=DownloadOptions)
    unwanted: DedupOptions = field(default_factory=DedupOptions)

    def validate(self) -> None:
        """Raise InputError for a value out of range, or options that exclude each other."""
        check_options(self, flags=True)
        self.unwanted.check()
        if self.boxes:
            self._check_boxes()
        if (self.unwanted.level == "near" or self.unwanted.exclude) and not self.check:
            raise InputError(
                "--no-check: near duplicates, and what --exclude names, are found by decoding every image"
            )

    def _check_boxes(self) -> None:
        names = ("labels", "columns", "max_side", "shorter_side")
        if given := [name for name in names if getattr(self, name)]:
            flag = given[0].replace("_", "-")
            raise InputError(
                f"--boxes with --{flag}: boxes are those of the images as they are, and say their classes; leave it out"
            )

    def identity(self) -> dict[str, Any]:
        """The options that a build's result depends on."""
        means = ("workers", "download", "part", "unwanted", "check")
        identity = {name: value for name, value in asdict(self).items() if name not in means}
        identity["no_check"] = not self.check
        for name in ("max_bytes", "ignore_robots_tag", "allow_private"):
            identity[name] = getattr(self.download, name)
        return identity | self.unwanted.identity()


@dataclass(frozen=True)
class SaliencyOptions:
    """How masks are made. All but `workers` and `replace` is part of what they are."""

    model: str = option(
        "", Location(), help="A TorchScript or ONNX network in place of the classical estimates."
    )
    size: int = option(320, Integer(16, 4096), help="Side of the images that --model takes (px).")
    threshold: float = option(
        0.0, SHARE, help="From where on it is object; 0: Otsu's, of each image."
    )
    min_area: float = option(
        0.005, SHARE, help="Drop objects, and fill holes, below this share of the image."
    )
    replace: bool = option(False, Flag(), help="Make masks anew where there are some already.")
    workers: int = option(0, PROCESSES, help=WORKERS_HELP)

    def validate(self) -> None:
        """Raise InputError for a value out of range."""
        check_options(self, flags=True)

    def identity(self) -> dict[str, Any]:
        """What masks depend on; of a model, its content."""
        identity = {"threshold": self.threshold, "min_area": self.min_area}
        model = {"model": sha256(Path(self.model)), "size": self.size} if self.model else {}
        return {"masks": "model" if self.model else "classical", **identity, **model}
