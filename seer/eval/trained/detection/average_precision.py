"""Average precision and recall of detections: COCO's by its evaluation (faster-coco-eval), Pascal VOC's
by the rule of its development kits.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from seer.eval.data.objects import Annotated
from seer.eval.paired import Z
from seer.eval.scores import Score
from seer.eval.trained.detection.cocofiles import Prediction, library, results_of, truth_of

# In the order of COCO's summary (Lin et al. 2014, arXiv:1405.0312).
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KINDS = {"box": "bbox", "mask": "segm"}
GROUPS = 20  # of images that are left out in turn to see how sure a value is
VOC_OVERLAP = 0.5
RECALLS = np.linspace(0, 1, 11)


def coco_scores(
    images: Annotated, predictions: list[Prediction], kind: str, details: dict[str, Any]
) -> list[Score]:
    """COCO's values of boxes or masks (`kind`), the first of them AP. Those of which there is nothing
    (no small objects) are left out.

    The intervals are of a jackknife: the images lie in up to `GROUPS` groups, each of which is left out once (Efron
    and Stein 1981, Ann. Statist. 9, 586-596).
    """
    files = opened(truth_of(images, masks=kind == "mask"), results_of(predictions))
    numbers = np.arange(1, len(images) + 1)
    whole = summary(*files, kind)
    count = min(GROUPS, len(images))
    groups = [numbers[numbers % count != i] for i in range(count)] if count > 1 else []
    parts = np.array([summary(*files, kind, group.tolist()) for group in groups])
    scores = []
    for place, name in enumerate(METRICS):
        if math.isnan(whole[place]):
            continue
        low, high = jackknifed(whole[place], parts[:, place] if groups else np.empty(0))
        title = f"{kind} {name}"
        scores.append(
            Score(
                f"{kind}_{name}",
                title,
                whole[place],
                low,
                high,
                details={"images": len(images), **details},
            )
        )
    return scores


def opened(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Truth and results in the library's form, which alters what it is given: copies."""
    gold = library().COCO(copy.deepcopy(truth))
    return gold, gold.loadRes(copy.deepcopy(results))


def summary(gold: Any, found: Any, kind: str, images: list[int] | None = None) -> list[float]:
    """The twelve values of COCO's evaluation, NaN where there is nothing to find.

    Args:
        images: ids of those that count; None: all.
    """
    evaluation = evaluated(gold, found, kind, images)
    evaluation.summarize()
    values = np.array(evaluation.stats[: len(METRICS)], float)
    return np.where(values < 0, np.nan, values).tolist()


def evaluated(gold: Any, found: Any, kind: str, images: list[int] | None = None) -> Any:
    """The library's evaluation, of the images of these ids, or of all."""
    evaluation = library().COCOeval_faster(gold, found, KINDS[kind], print_function=_silent)
    if images is not None:
        evaluation.params.imgIds = images
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def curves(images: Annotated, predictions: list[Prediction], kind: str) -> dict[str, list[float]]:
    """Precision at recalls of 0, 0.01, … 1, the mean of the classes, at overlaps of 0.5 and 0.75."""
    files = opened(truth_of(images, masks=kind == "mask"), results_of(predictions))
    precision = evaluated(*files, kind).eval["precision"]
    curves = {}
    for place, overlaps in ((0, "0.5"), (5, "0.75")):
        by_class = np.asarray(precision)[place, :, :, 0, -1]  # all sizes, the most detections
        there = by_class[:, (by_class >= 0).all(0)]
        if there.size:
            curves[f"{kind} at an overlap of {overlaps}"] = there.mean(1).clip(0, 1).tolist()
    return curves


def _silent(*_: Any) -> None:
    pass


def jackknifed(value: float, parts: np.ndarray) -> tuple[float, float]:
    """A 95 % interval within [0, 1] of a value whose groups' left-out values are `(G,)`; the whole of
    [0, 1] where there are too few.
    """
    parts = parts[np.isfinite(parts)]
    if len(parts) < 2:
        return 0.0, 1.0
    variance = (len(parts) - 1) * float(np.mean((parts - parts.mean()) ** 2))
    half = Z * math.sqrt(variance)
    return max(0.0, value - half), min(1.0, value + half)


def voc_scores(
    images: Annotated, predictions: list[Prediction], details: dict[str, Any]
) -> list[Score]:
    """VOC's mean AP at an overlap of 0.5, as of 2007 (11 points) and since 2010 (area)."""
    count = min(GROUPS, len(images))
    numbers = np.arange(len(images))
    groups = [set(numbers[numbers % count != i].tolist()) for i in range(count)]
    table = [matches(images, predictions, label) for label in range(len(images.classes))]
    scores = []
    for name, points in (("VOC07", True), ("VOC", False)):
        whole = mean_ap(table, set(numbers.tolist()), points)
        parts = np.array([mean_ap(table, group, points) for group in groups])
        low, high = jackknifed(whole, parts if count > 1 else np.empty(0))
        words = "11-point" if points else "area"
        scores.append(
            Score(
                f"box_AP50_{name}",
                f"box AP50 {name} ({words})",
                whole,
                low,
                high,
                details={"images": len(images), **details},
            )
        )
    return scores


class Matches:
    """The detections of one class, the surest first, and how many objects each image has to find.

    Attributes:
        images: `(D,)` of each detection its image; right: `(D,)` 1 right, 0 wrong, -1 neither.
        objects: by image.
    """

    def __init__(self, images: np.ndarray, right: np.ndarray, objects: dict[int, int]):
        self.images = images
        self.right = right
        self.objects = objects


def matches(images: Annotated, predictions: Sequence[Prediction], label: int) -> Matches:
    """Each detection of a class, the surest first, is compared with the object of that class in its image
    that it overlaps most. It is right if they overlap by half or more and no surer one has found that
    object, and neither right nor wrong if the object is difficult or a crowd (Everingham et al. 2010).
    """
    table = images.objects
    boxes: dict[int, np.ndarray] = {}
    skipped: dict[int, np.ndarray] = {}
    objects: dict[int, int] = {}
    for image in range(len(images)):
        own = [number for number in table.of(image) if table.labels[number] == label]
        boxes[image] = table.boxes[own].astype(np.float64).reshape(-1, 4)
        skipped[image] = table.difficult[own] | table.crowd[own]
        objects[image] = int((~skipped[image]).sum())
    rows = [
        (float(-prediction.scores[i]), prediction.image, i, prediction.boxes[i])
        for prediction in predictions
        for i in np.flatnonzero(prediction.labels == label).tolist()
    ]
    rows.sort(key=lambda row: row[:3])
    taken = {image: np.zeros(len(own), bool) for image, own in boxes.items()}
    right = np.zeros(len(rows), np.int64)
    for place, (_, image, _, box) in enumerate(rows):
        overlaps = overlap(boxes[image], box)
        best = int(overlaps.argmax()) if len(overlaps) else 0
        if not len(overlaps) or overlaps[best] < VOC_OVERLAP:
            continue
        if skipped[image][best]:
            right[place] = -1
        elif not taken[image][best]:
            taken[image][best] = True
            right[place] = 1
    return Matches(np.array([row[1] for row in rows], np.int64), right, objects)


def overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """`(N,)` intersection over union of boxes `(N, 4)` with one."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)


def mean_ap(table: Sequence[Matches], images: set[int], points: bool) -> float:
    """The mean AP of the classes that have an object in these images."""
    values = []
    for found in table:
        objects = sum(count for image, count in found.objects.items() if image in images)
        if objects:
            there = np.isin(found.images, list(images))
            values.append(average_precision(found.right[there], objects, points))
    return float(np.mean(values)) if values else math.nan


def average_precision(right: np.ndarray, objects: int, points: bool) -> float:
    """AP of detections, the surest first: the mean of the highest precision at a recall of 0, 0.1, … 1 or
    above (`points`), or the area below precision as it falls with recall.
    """
    right = right[right >= 0]
    hits = np.cumsum(right)
    recall = hits / objects
    precision = hits / np.arange(1, len(right) + 1)
    if points:
        highest = [precision[recall >= r - 1e-12].max(initial=0.0) for r in RECALLS]
        return float(np.mean(highest))
    highest_from = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * highest_from).sum())
