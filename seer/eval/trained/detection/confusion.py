"""Which classes are taken for which: detections matched with objects of any class, as a table and a picture."""

from collections.abc import Sequence

import cv2
import numpy as np

from seer.eval.data.objects import Annotated
from seer.eval.trained.detection.average_precision import overlap
from seer.eval.trained.detection.cocofiles import Prediction

SURE = 0.5  # of detections that are looked at
OVERLAP = 0.5  # from which a detection is of an object
NOTHING = "nothing"
MOST = 24  # classes in the picture: those with the most mistakes
CELL = 40  # pixels
MARGIN = 150
TEXT = 0.38
FONT = cv2.FONT_HERSHEY_SIMPLEX


def confusion(images: Annotated, predictions: Sequence[Prediction]) -> np.ndarray:
    """`(C + 1, C + 1)` counts: objects of a class (row) found as a class (column); the last row are
    detections of no object, the last column objects that were not found.

    A detection, the surest first, is of the object that it overlaps most of those that no surer one has, whatever
    their classes, if by half or more; of a crowd or a difficult object it is not counted.
    """
    classes = len(images.classes)
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    by_image = {prediction.image: prediction for prediction in predictions}
    table = images.objects
    for image in range(len(images)):
        own = np.array(table.of(image), np.int64)
        skipped = table.crowd[own] | table.difficult[own]
        found = np.full(len(own), classes)
        prediction = by_image.get(image)
        order = [] if prediction is None else np.argsort(-prediction.scores, kind="stable").tolist()
        for i in order:
            assert prediction is not None
            if prediction.scores[i] < SURE:
                break
            overlaps = overlap(table.boxes[own].astype(np.float64), prediction.boxes[i])
            free = np.where(found == classes, overlaps, 0.0)
            free = np.where(skipped, overlaps, free)  # a crowd is of many
            best = int(free.argmax()) if len(own) else 0
            if not len(own) or free[best] < OVERLAP:
                counts[classes, prediction.labels[i]] += 1
            elif not skipped[best]:
                found[best] = prediction.labels[i]
        np.add.at(counts, (table.labels[own][~skipped], found[~skipped]), 1)
    return counts


def table_of(counts: np.ndarray, classes: Sequence[str]) -> dict[str, object]:
    """For JSON."""
    return {"classes": [*classes, NOTHING], "score": SURE, "counts": counts.tolist()}


def picture_of(counts: np.ndarray, classes: Sequence[str]) -> bytes:
    """A PNG of the classes with the most mistakes, each cell the darker the larger its share of a row."""
    shown = most_mistaken(counts)
    names = [*classes, NOTHING]
    chosen = counts[np.ix_(shown, shown)]
    shares = chosen / np.maximum(counts[shown].sum(1, keepdims=True), 1)
    side = MARGIN + CELL * len(shown) + 10
    page = np.full((side, side, 3), 255, np.uint8)
    for row, number in enumerate(shown):
        place = MARGIN + row * CELL
        _write(page, names[number], 6, place + 24)
        label = np.full((MARGIN, CELL, 3), 255, np.uint8)
        label = np.ascontiguousarray(np.rot90(label, -1))
        _write(label, names[number], 6, 24)
        page[:MARGIN, place : place + CELL] = np.rot90(label)
        for column, share in enumerate(shares[row].tolist()):
            left = MARGIN + column * CELL
            # Right in green, wrong in red (cv2's order is blue, green, red).
            ink = np.array([90, 140, 40] if row == column else [60, 60, 200])
            colour = 255 - share * (255 - ink)
            page[place : place + CELL - 1, left : left + CELL - 1] = colour.astype(np.uint8)
            if chosen[row, column]:
                _write(page, str(chosen[row, column]), left + 4, place + 24)
    return cv2.imencode(".png", page)[1].tobytes()


def most_mistaken(counts: np.ndarray) -> list[int]:
    """Numbers of the classes that are shown, in their order, and of none at the end."""
    classes = len(counts) - 1
    right = counts.diagonal()
    mistakes = (counts.sum(0) + counts.sum(1) - 2 * right)[:classes]
    chosen = np.argsort(-mistakes, kind="stable")[:MOST]
    return [*sorted(chosen.tolist()), classes]


def _write(page: np.ndarray, words: str, left: int, baseline: int) -> None:
    text = words.encode("ascii", "replace").decode()[:20]
    cv2.putText(page, text, (left, baseline), FONT, TEXT, (40, 40, 40), 1, cv2.LINE_AA)
