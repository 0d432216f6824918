"""A picture of test images with what there is to find and what was found, the worst first."""

import io

import cv2
import numpy as np
from PIL import Image

from seer.eval.data.masks import filled, mask_of, runs_of
from seer.eval.data.objects import Annotated
from seer.eval.trained.detection.average_precision import VOC_OVERLAP, overlap
from seer.eval.trained.detection.cocofiles import Prediction

IMAGES = 12
SIDE = 320  # pixels of a picture's longer side
GAP = 8
COLUMNS = 2  # pairs of pictures beside each other
SHOWN = 0.3  # how sure a detection is that is shown
WHITE = 255
# Colours of classes, in turn; far from each other and from most photographs.
COLOURS = np.array(
    [
        [255, 64, 64],
        [64, 160, 255],
        [64, 220, 64],
        [255, 190, 0],
        [220, 80, 255],
        [0, 220, 220],
        [255, 120, 180],
        [150, 150, 40],
    ]
)


def sheet(images: Annotated, predictions: list[Prediction]) -> bytes:
    """A PNG of up to `IMAGES` images, each twice: left what there is to find, right what was found."""
    ranked = sorted(predictions, key=lambda found: (agreement(images, found), found.image))
    pairs = [pair(images, found) for found in ranked[:IMAGES]]
    height = max(picture.shape[0] for picture in pairs) + GAP
    width = max(picture.shape[1] for picture in pairs) + 2 * GAP
    rows = -(-len(pairs) // COLUMNS)
    page = np.full((rows * height, min(len(pairs), COLUMNS) * width, 3), WHITE, np.uint8)
    for place, picture in enumerate(pairs):
        top = place // COLUMNS * height
        left = place % COLUMNS * width
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    # In 256 colours: photographs as PNG are large, and the report carries this one.
    file = io.BytesIO()
    Image.fromarray(page).quantize(256).save(file, "PNG", optimize=True)
    return file.getvalue()


def agreement(images: Annotated, found: Prediction) -> float:
    """How well what was found is what there is: right ones as a share of all that were shown or missed."""
    table = images.objects
    numbers = [n for n in table.of(found.image) if not (table.crowd[n] or table.difficult[n])]
    left = set(numbers)
    shown = np.flatnonzero(found.scores >= SHOWN)
    for i in shown[np.argsort(-found.scores[shown], kind="stable")].tolist():
        own = [n for n in sorted(left) if table.labels[n] == found.labels[i]]
        overlaps = overlap(table.boxes[own].astype(np.float64).reshape(-1, 4), found.boxes[i])
        if len(overlaps) and overlaps.max() >= VOC_OVERLAP:
            left.discard(own[int(overlaps.argmax())])
    right = len(numbers) - len(left)
    every = len(numbers) + len(shown) - right
    return right / every if every else 1.0


def pair(images: Annotated, found: Prediction) -> np.ndarray:
    """An image with what there is to find, and beside it with what was found."""
    pixels = images.image(found.image)
    table = images.objects
    height, width = pixels.shape[:2]
    numbers = list(table.of(found.image))
    truth = [_mask(table, number, height, width) for number in numbers]
    left = drawn(pixels, table.boxes[numbers], table.labels[numbers], truth, images.classes)
    shown = np.flatnonzero(found.scores >= SHOWN)
    masks = [_decoded(found, i, height, width) for i in shown.tolist()]
    names = images.classes
    right = drawn(
        pixels, found.boxes[shown], found.labels[shown], masks, names, found.scores[shown]
    )
    between = np.full((left.shape[0], GAP // 2, 3), WHITE, np.uint8)
    return np.concatenate([left, between, right], axis=1)


def _mask(table: object, number: int, height: int, width: int) -> np.ndarray | None:
    thing = table.at(number)  # type: ignore[attr-defined]
    if len(thing.runs):
        return mask_of(thing.runs, height, width)
    return filled(thing.polygons, height, width) if thing.polygons else None


def _decoded(found: Prediction, i: int, height: int, width: int) -> np.ndarray | None:
    if found.masks is None:
        return None
    runs = runs_of(found.masks[i]["counts"], height, width)
    return None if runs is None else mask_of(runs, height, width)


def drawn(
    pixels: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: list[np.ndarray | None],
    classes: list[str],
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """The image, its longer side `SIDE`, with boxes, masks and names."""
    scale = SIDE / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    picture = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    for i, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        colour = COLOURS[label % len(COLOURS)]
        mask = masks[i]
        if mask is not None:
            small = cv2.resize(
                np.ascontiguousarray(mask), (width, height), interpolation=cv2.INTER_NEAREST
            )
            inside = small > 0
            picture[inside] = (picture[inside] * 0.55 + colour * 0.45).astype(np.uint8)
        left, top, right, bottom = (round(edge * scale) for edge in box)
        ink = tuple(int(level) for level in colour)
        cv2.rectangle(picture, (left, top), (right, bottom), ink, 2)
        words = classes[label] if scores is None else f"{classes[label]} {scores[i]:.2f}"
        _write(picture, words, left, top)
    return picture


def _write(picture: np.ndarray, words: str, left: int, top: int) -> None:
    """Words on a dark ground at a place within the picture."""
    words = words.encode("ascii", "replace").decode()[:30]
    (width, height), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    top = max(top, height + 3)
    left = max(0, min(left, picture.shape[1] - width))
    cv2.rectangle(picture, (left, top - height - 3), (left + width, top), (0, 0, 0), -1)
    white = (255, 255, 255)
    cv2.putText(
        picture, words, (left, top - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, white, 1, cv2.LINE_AA
    )
