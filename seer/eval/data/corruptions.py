"""ImageNet-C as its archives unpack: `CORRUPTION/SEVERITY/WORDNET_ID/*.JPEG` (Hendrycks and Dietterich
2019, arXiv:1903.12261).
"""

import os
from collections.abc import Iterator
from pathlib import Path

from seer.data.folders import images_under
from seer.data.labelled import Labelled
from seer.errors import InputError
from seer.eval.data.rows import Row, labelled

SEVERITIES = ("1", "2", "3", "4", "5")
# Those of the mean corruption error, by the folders that some keep them in.
KINDS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in KINDS.values() for name in names)


def places_of(folder: Path) -> dict[str, Path]:
    """The folder of each corruption that is there, directly or in that of its kind (`noise/`)."""
    places: dict[str, Path] = {}
    for kind, names in KINDS.items():
        for name in names:
            for place in (folder / name, folder / kind / name):
                if name not in places and place.is_dir():
                    places[name] = place
    return places


def missing_of(folder: Path) -> list[str]:
    """The corruptions, and the severities of those that are there, that a folder lacks."""
    places = places_of(folder)
    missing = [name for name in CORRUPTIONS if name not in places]
    for name, place in places.items():
        lacking = [s for s in SEVERITIES if not os.path.isdir(place / s)]
        missing += [f"severity {severity} of {name}" for severity in lacking]
    return missing


def every_image(folder: Path) -> dict[str, Labelled]:
    """All images of a whole ImageNet-C, for counting them. Raises `InputError` naming what is
    missing.
    """
    if missing := missing_of(folder):
        more = f", and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{folder}: {', '.join(missing[:3])}{more} not there; unpack all archives")
    return labelled(folder, _rows(folder))


def _rows(folder: Path) -> Iterator[Row]:
    for place in places_of(folder).values():
        below = place.relative_to(folder).as_posix()
        for severity in SEVERITIES:
            for path in images_under(place / severity):
                yield Row("test", f"{below}/{severity}/{path}", path.partition(os.sep)[0])
