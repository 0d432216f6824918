"""What detections take objects for, by hand."""

from types import SimpleNamespace

import cv2
import numpy as np

from seer.eval.data.objects import Annotated, Object, flat
from seer.eval.trained.detection.cocofiles import Prediction
from seer.eval.trained.detection.confusion import MOST, confusion, most_mistaken, picture_of


def images(*objects: list[Object]) -> Annotated:
    table = flat([(100, 100)] * len(objects), objects)
    return Annotated(SimpleNamespace(fingerprint=""), table, ["cat", "dog"], {})


def predicted(image, *rows):
    boxes = np.array([row[0] for row in rows], float).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], float)
    return Prediction(image, boxes, scores, np.array([row[2] for row in rows], int))


def test_detections_are_matched_with_objects_of_any_class():
    cat = Object(0, np.array([0, 0, 10, 10], np.float32))
    dog = Object(1, np.array([50, 50, 70, 70], np.float32))
    crowd = Object(1, np.array([0, 60, 30, 90], np.float32), crowd=True)
    found = predicted(
        0,
        ([0, 0, 10, 10], 0.9, 1),  # the cat, as a dog
        ([0, 0, 10, 9], 0.8, 0),  # the cat again, which is taken: nothing
        ([50, 50, 70, 61], 0.95, 1),  # 0.55 of the dog
        ([50, 50, 70, 59], 0.99, 0),  # 0.45 of it: nothing
        ([0, 60, 30, 90], 0.7, 1),  # the crowd: not counted
        ([0, 60, 30, 89], 0.7, 0),  # and again
        ([80, 80, 90, 90], 0.49, 1),  # not sure
    )
    counts = confusion(images([cat, dog, crowd], [cat], []), [found])
    assert counts.tolist() == [[0, 1, 1], [0, 1, 0], [2, 0, 0]]


def test_the_classes_with_the_most_mistakes_are_shown():
    counts = np.diag(np.arange(41))
    counts[30, 5] = 7
    counts[40, 2] = 1
    shown = most_mistaken(counts)
    assert shown[-1] == 40
    assert len(shown) == MOST + 1
    assert {30, 5, 2} <= set(shown)
    picture = cv2.imdecode(np.frombuffer(picture_of(counts, ["é"] * 40), np.uint8), 1)
    assert picture.shape[0] == picture.shape[1] > 1000
