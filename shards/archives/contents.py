"""What a tar holds: samples, each an image with its companions, whether or not these stand beside
it.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from seer.data.decoding.image_formats import FORMATS, RAW_SUFFIXES, image_suffixes
from shards.archives import tars
from shards.records.notes import Notes, display

SNIFFED = 1 << 20  # bytes of a member in which its header should lie
MAX_COMPANIONS = 1 << 29  # bytes that go along with one image; they are in memory together
COMPANIONS = "companions of images in tars, kept with them"
IMAGES = "images in tars that are companions of another image of their sample"
UNJOINED = "members of tars passed over, whose key has no image"
AMBIGUOUS = (
    "members of tars passed over, which might belong to several images, or are several for one"
)
TOO_LARGE = (
    f"companions in tars passed over, with more than {MAX_COMPANIONS >> 20} MB for one image"
)
PASSED_OVER = "entries of tars passed over ({kind})"
TOLD_KINDS = "link", "sparse", "special", "hidden"

Companions = dict[str, tars.Member]  # by suffix


class TarSample(NamedTuple):
    """One image of a tar, and what goes along with it."""

    key: str
    image: tars.Member
    companions: Companions


@dataclass
class TarContents:
    """The samples of a tar in the order of their images.

    Attributes:
        strays: members whose key has no image, or several.
        notes: what was taken as a companion or passed over. damage: why there may be more, or "".
    """

    samples: list[TarSample] = field(default_factory=list)
    strays: list[tars.Member] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    damage: str = ""


def read_contents(path: str | Path) -> TarContents:
    """The samples of a tar, up to where it is damaged. Raises nothing.

    Members that follow each other and share a key are one sample, as WebDataset has it. What stands
    alone elsewhere in the tar joins the sample that has its key, if there is exactly one that lacks
    a member of that suffix.
    """
    contents = TarContents()
    alone: list[tuple[str, Companions]] = []
    try:
        for key, group in tars.runs(_members(path, contents.notes)):
            suffix = _image_of(str(path), group)
            if suffix is None:
                alone.append((key, group))
            else:
                image = group.pop(suffix)
                contents.samples.append(TarSample(key, image, group))
    except (tars.DamagedTar, OSError) as error:
        contents.damage = getattr(error, "strerror", None) or str(error)
    _join(contents, alone)
    _note_companions(contents)
    return contents


def _members(path: str | Path, notes: Notes) -> Iterator[tars.Member]:
    for entry in tars.entries(path):
        if member := tars.member_of(entry):
            yield member
        elif (kind := tars.passed_over(entry)) in TOLD_KINDS:
            notes.add(PASSED_OVER.format(kind=kind), display(entry.name))


def _join(contents: TarContents, alone: list[tuple[str, Companions]]) -> None:
    """Add to samples the members that do not stand beside their image."""
    if not alone:
        return
    samples: dict[str, list[TarSample]] = {}
    for sample in contents.samples:
        samples.setdefault(sample.key, []).append(sample)
    places = _places(alone, samples)
    for key, group in alone:
        for suffix, member in group.items():
            lacking = places[key, suffix]
            if len(lacking) == 1:
                lacking.pop().companions[suffix] = member
                continue
            contents.strays.append(member)
            contents.notes.add(AMBIGUOUS if samples.get(key) else UNJOINED, display(member.name))


def _places(
    alone: list[tuple[str, Companions]], samples: dict[str, list[TarSample]]
) -> dict[tuple[str, str], list[TarSample]]:
    """The samples that each member alone might belong to, by key and suffix; none where several are
    alone.
    """
    places: dict[tuple[str, str], list[TarSample]] = {}
    for key, group in alone:
        for suffix in group:
            if (key, suffix) in places:
                places[key, suffix] = []
            else:
                lacking = (
                    sample for sample in samples.get(key, ()) if suffix not in sample.companions
                )
                places[key, suffix] = list(islice(lacking, 2))  # of two neither will get it
    return places


def _note_companions(contents: TarContents) -> None:
    """Note what goes along, and leave out what would not fit in memory."""
    for sample in contents.samples:
        room = MAX_COMPANIONS
        for suffix, member in list(sample.companions.items()):
            name = display(member.name)
            if member.size > room:
                del sample.companions[suffix]
                contents.notes.add(TOO_LARGE, name)
                continue
            room -= member.size
            if _names_image(suffix):
                contents.notes.add(IMAGES, f"{name} of {display(sample.image.name)}")
            else:
                contents.notes.add(COMPANIONS, name)


def _names_image(suffix: str) -> bool:
    return _ending(suffix) in image_suffixes()


def _ending(suffix: str) -> str:
    return f".{suffix.rpartition('.')[2]}"


def _image_of(tar: str, group: Companions) -> str | None:
    """The suffix of a sample's image: by name, the shortest such suffix first, else by content.
    Raises OSError.
    """
    named = [suffix for suffix in group if _names_image(suffix)]
    if named:
        return min(named, key=lambda suffix: suffix.count("."))
    for suffix, member in group.items():
        if _ending(suffix) in RAW_SUFFIXES:
            continue
        if sniff(io.BytesIO(tars.read_range(tar, member.offset, min(member.size, SNIFFED)))):
            return suffix
    return None


def sniff(file: str | io.BytesIO) -> bool:
    """Whether Pillow recognises an image by its content."""
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except Image.DecompressionBombError:
        return True  # an image for sure; the decoder will refuse it with the proper reason
    except Exception:  # what Pillow's readers raise has no common ancestor
        return False
