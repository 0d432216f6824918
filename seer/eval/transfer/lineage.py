"""What models have learned from, with labels or without; and whether from images of a data set that
they are scored on, where a score is not of transfer.
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from seer import files
from seer.data.folders import readable
from seer.data.labelled import ImageSet
from seer.data.storage.index import MANIFEST, Manifest
from seer.errors import InputError
from seer.eval.tasks import is_pixels
from seer.eval.transfer.agenda import DataPlace
from seer.eval.transfer.journal import Loaded
from seer.interop.spec import INIT, RANDOM, library_of, run_of, split, without_size
from seer.rundir.rundir import RunDir

UNKNOWN = "what it learned from is not known: its weights do not say"
NOTHING = "learned from nothing: its weights are random"
IMAGE = "learns from nothing"
DEEPEST = 4  # models that began with one another
LOOKED_AT = (
    256  # images of each split, whose bytes are looked for among those that a run learned from
)
MOST_SAMPLES = 2**22  # of a run's data, of which all digests are read: 128 MB
LEAST_LETTERS = 4  # of a name by which data are known again
# What folders are called whatever they hold.
COMMON = {"data", "dataset", "datasets", "folder", "images", "shards", "test", "train", "valid"}
IMAGENET = "imagenet"  # in the table of data sets

BYTES = "bytes"
FOLDER = "folder"
NAME = "name"


@dataclass(frozen=True)
class Origin:
    """Images that a model, or one that it began with or was taught by, has learned from.

    Attributes:
        sources: the folders or files that its shards were made of, and their own place.
        manifest: of the shards as the run took them, where they can be looked into.
        dataset: a name in the table of data sets; "" of others.
    """

    sources: tuple[str, ...] = ()
    manifest: Manifest | None = field(default=None, compare=False, repr=False)
    dataset: str = ""


@dataclass(frozen=True)
class Learned:
    """What a model has learned from, in words, and the images as far as that is known."""

    words: str
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class Overlap:
    """A model has learned from images of a data set that it is scored on.

    Attributes:
        by: `bytes`: so many of the training and test images that were `looked_at` are among those that it
            learned from; `folder`: these were read from its folder; `name`: theirs is its name.
        source: where these images were, or what they are called.
    """

    by: str
    source: str
    train: int = 0
    test: int = 0
    looked_at: tuple[int, int] = (0, 0)

    def words(self, model: str, data_set: str) -> str:
        """A sentence without its full stop."""
        if self.by == NAME:
            return (
                f"{model} seems to have learned from images of {data_set}, by the name of its data ({self.source}): "
                "if so, its score there is not transfer"
            )
        known = f"its data: {self.source}"
        if self.by == BYTES:
            train = _of(self.train, self.looked_at[0], "training")
            test = _of(self.test, self.looked_at[1], "test")
            known = f"its data hold {train} and {test} images that were looked up, byte for byte"
        end = "is of images that it has seen" if self.test else "is not transfer"
        return f"{model} was trained on images of {data_set} ({known}), so its score there {end}"


def _of(count: int, looked_at: int, kind: str) -> str:
    many = str(count) if count else "none"
    return f"{many} of {looked_at} {kind}"


def learned(spec: str, depth: int = 0) -> Learned:
    """What MODEL has learned from, as far as its run or library says."""
    name, _ = without_size(spec)
    if is_pixels(spec):
        return Learned(IMAGE)
    if name.rpartition(":")[2] == RANDOM:
        return Learned(NOTHING)
    if library := library_of(name):
        _, network, weights = (*name.split(":", 2), "")[:3]
        return {"torchvision": _of_torchvision, "timm": _of_timm}[library](network, weights)
    run = run_of(name)
    if run is None or depth > DEEPEST:
        return Learned(UNKNOWN)
    config = RunDir(run).config()
    if split(name)[1] == INIT:
        init = str(config.get("init") or "")
        return learned(init, depth + 1) if init else Learned(UNKNOWN)
    return _of_run(run, config, depth)


def _of_run(run: Path, config: dict[str, Any], depth: int) -> Learned:
    """A pretraining: of images without labels, perhaps from other weights, perhaps from teachers."""
    method = config.get("method", {})
    if not method.get("name") or not config.get("data"):
        return Learned(UNKNOWN)
    shards = Path(str(config["data"]))
    manifest = _manifest(run) or _manifest(shards)
    if manifest:
        manifest.directory = shards
    whole = manifest if not config.get("subset") else None  # of which a list alone was taken
    sources = [str(each) for each in (manifest.build.get("sources") or [])] if manifest else []
    named = " and ".join(readable("/".join(Path(each).parts[-2:])) for each in sources[:2])
    more = f" and {len(sources) - 2} more" if len(sources) > 2 else ""
    count = f"{manifest.samples:,} images of " if manifest else ""
    words = f"learned from {count}{named or readable(shards.name)}{more} without labels ({method['name']})"
    origins = [Origin((*sources, str(shards)), whole)]
    teachers = [method.get("teacher", ""), *(method.get("experts") or [])]
    begun = [("begun from", str(config.get("init") or ""))]
    for how, spec in begun + [("taught by", str(teacher)) for teacher in teachers]:
        if spec:
            other = learned(spec, depth + 1)
            words += f"; {how} {_short(spec)}, which {other.words}"
            origins += other.origins
    return Learned(words, tuple(origins))


def _short(spec: str) -> str:
    """A model without the folders that it lies in."""
    library = library_of(spec)
    return readable(spec if library and "/" not in spec else Path(spec).name)


def _manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.load(folder) if (folder / MANIFEST).is_file() else None
    except (InputError, OSError):
        return None


def _of_torchvision(network: str, weights: str) -> Learned:
    """By the name of the weights, or of a file's content, which torchvision's names end in."""
    from torchvision import models  # slow to import

    try:
        published = models.get_model_weights(network).__members__
    except ValueError:
        return Learned(UNKNOWN)
    chosen = weights if weights in published else ""
    if weights in ("", "pretrained"):
        chosen = next(key for key, value in published.items() if value is published["DEFAULT"])
    elif not chosen and Path(weights).expanduser().is_file():
        digest = files.sha256(Path(weights).expanduser())
        chosen = next((key for key, value in published.items() if _is_of(value.url, digest)), "")
    if not chosen.startswith("IMAGENET1K_"):
        return Learned(UNKNOWN)
    words = f"learned from ImageNet-1k with labels (torchvision’s {chosen})"
    return Learned(words, (Origin(dataset=IMAGENET),))


def _is_of(url: str, digest: str) -> bool:
    """Whether a file's name ends in the beginning of its content's digest."""
    ending = re.search(r"-([0-9a-f]{8,64})\.pth$", url)
    return bool(ending and digest.startswith(ending[1]))


def _of_timm(network: str, weights: str) -> Learned:
    """By the tag of the weights: `a1_in1k` ended on ImageNet-1k, whose classes it has."""
    from timm.models import get_pretrained_cfg  # slow to import

    if weights not in ("", "pretrained"):
        return Learned(UNKNOWN)
    config = get_pretrained_cfg(network)
    tag = (config.tag or "") if config else ""
    classes = config.num_classes if config else 0
    if "in1k" in tag.split("_") and classes == 1000:
        more = "" if tag.count("_") < 2 else ", perhaps after other images, as the tag says"
        words = f"learned from ImageNet-1k with labels (timm’s {tag}{more})"
        return Learned(words, (Origin(dataset=IMAGENET),))
    return Learned(f"{UNKNOWN}, but for timm’s tag {tag}" if tag else UNKNOWN)


def overlap(learned_from: Learned, place: DataPlace, images: Loaded) -> Overlap | None:
    """Whether a model has learned from images of a data set; None where nothing says so."""
    for origin in learned_from.origins:
        if (
            found := _by_bytes(origin, images)
            or _by_folder(origin, place)
            or _by_name(origin, place)
        ):
            return found
    return None


def _by_bytes(origin: Origin, images: Loaded) -> Overlap | None:
    digests = _digests_of(origin.manifest) if origin.manifest else frozenset()
    if not digests:
        return None
    train = _among(digests, images.train)
    test = _among(digests, images.test)
    if not any(train + test):
        return None
    return Overlap(BYTES, _named(origin), sum(train), sum(test), (len(train), len(test)))


def _among(digests: frozenset[bytes], images: ImageSet) -> list[bool]:
    """Whether an image's bytes are known, of some that are spread evenly."""
    count = min(len(images), LOOKED_AT)
    numbers = np.linspace(0, len(images) - 1, count).astype(int).tolist()
    return [hashlib.sha256(images.bytes(i)).digest() in digests for i in numbers]


@cache
def _digests_of(manifest: Manifest) -> frozenset[bytes]:
    """The SHA-256 of each sample; none where the shards are gone, too many, or in a store."""
    if manifest.samples > MOST_SAMPLES:
        return frozenset()
    try:
        shards = [manifest.index(i, ["sha256"]) for i in range(len(manifest.shards))]
    except (InputError, OSError):
        return frozenset()
    return frozenset(digest for table in shards for digest in table["sha256"].to_pylist())


def _by_folder(origin: Origin, place: DataPlace) -> Overlap | None:
    if origin.dataset:
        same = origin.dataset == place.name.partition(" ")[0]
        return Overlap(FOLDER, place.title) if same else None
    folder = _folder_of(place)
    for source in origin.sources:
        path = Path(source).resolve()
        same = path.is_relative_to(folder) or folder.is_relative_to(path)
        if Path(source).is_absolute() and same:
            return Overlap(FOLDER, readable("/".join(path.parts[-2:])))
    return None


def _folder_of(place: DataPlace) -> Path:
    return Path(place.data if place.state == "yours" else place.data.partition(":")[2]).resolve()


def _by_name(origin: Origin, place: DataPlace) -> Overlap | None:
    name = place.name.lower().partition(" ")[0]
    if len(name) < LEAST_LETTERS or name in COMMON:
        return None
    for source in origin.sources:
        for part in Path(source).parts[-2:]:
            if name in (part.lower(), *re.split(r"[^a-z0-9]+", part.lower())):
                return Overlap(NAME, readable("/".join(Path(source).parts[-2:])))
    return None


def _named(origin: Origin) -> str:
    return readable("/".join(Path(origin.sources[0]).parts[-2:])) if origin.sources else ""
