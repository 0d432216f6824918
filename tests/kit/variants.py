"""Miniatures of ImageNet and of its variants, as their owners lay them out: three WordNet ids, whose
images are of a colour each.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from seer.eval.data.corruptions import KINDS, SEVERITIES

WNIDS = ("n01440764", "n01443537", "n01498041")
COLOURS = dict(zip(WNIDS, ((200, 60, 60), (60, 200, 60), (60, 60, 200)), strict=True))


def write(path: Path, colour: tuple[int, int, int], side: int = 16, border: bool = False) -> None:
    """An image of one colour, and perhaps a red border of two pixels."""
    pixels = np.full((side, side, 3), colour, np.uint8)
    if border:
        inner = pixels[2:-2, 2:-2].copy()
        pixels[:] = (255, 0, 0)
        pixels[2:-2, 2:-2] = inner
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def shade(wnid: str, number: int) -> tuple[int, int, int]:
    """The class's colour, a little different for each image."""
    red, green, blue = COLOURS[wnid]
    return red + 5 * number, green + 3 * number, blue - 4 * number


def imagenet(root: Path, each: int = 6) -> Path:
    """`imagenet/train/` and `val/`."""
    for split, count in (("train", each), ("val", 2)):
        for wnid in WNIDS:
            for i in range(count):
                write(root / f"imagenet/{split}/{wnid}/{wnid}_{i}.png", shade(wnid, i))
    return root / "imagenet"


def class_folders(folder: Path, shown: Iterable[tuple[str, str]]) -> None:
    """Images in the folder of one class, in the colour of another: `(folder, wnid)` of each."""
    for i, (name, colour) in enumerate(shown):
        write(folder / name / f"{i}.png", COLOURS[colour])


def imagenet_c(folder: Path, wrong: dict[tuple[str, str], int]) -> None:
    """All corruptions and severities, three images each; those of the first class, so many, in the colour of
    another where `wrong` names corruption and severity.
    """
    for kind, names in KINDS.items():
        for name in names:
            for severity in SEVERITIES:
                misled = wrong.get((name, severity), 0)
                for i in range(3):
                    colour = COLOURS[WNIDS[1] if i < misled else WNIDS[0]]
                    write(folder / kind / name / severity / WNIDS[0] / f"{i}.png", colour)


def objectnet(folder: Path) -> None:
    """Two objects that ImageNet has, the first as two classes, and one that it has not. Its images have
    their red border.
    """
    mappings = folder / "mappings"
    mappings.mkdir(parents=True)
    labels = {"fish_tank": "Fish", "ray": "Ray (sea)", "thumbtack": "Thumbtack"}
    names = {"Fish": "tench, Tinca tinca; goldfish", "Ray (sea)": "stingray"}
    # ImageNet's own numbers, by its lines, are in another order than its WordNet ids.
    lines = ("stingray", "tench, Tinca tinca", "goldfish")
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(names))
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({"0": 1, "1": 2, "2": 0}))
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    shown = [
        ("fish_tank", WNIDS[0]), ("fish_tank", WNIDS[1]), ("fish_tank", WNIDS[2]),
        ("ray", WNIDS[2]), ("thumbtack", WNIDS[0]),
    ]  # fmt: skip
    for i, (name, colour) in enumerate(shown):
        write(folder / f"images/{name}/{i}.png", COLOURS[colour], border=True)
