"""Truth and predictions as COCO's JSON has them, for its evaluation and for people.

Images are numbered from 1, in the order of the data; categories from 1, in that of the classes.
"""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from seer.errors import InputError
from seer.eval.data.boxshards import segmentation, xywh
from seer.eval.data.objects import Annotated


class Prediction(NamedTuple):
    """What was found in one image, in pixels of the upright image.

    Attributes:
        image: its number in the data, from 0.
        boxes: `(D, 4)` float64 x, y of two corners; scores: `(D,)`; labels: `(D,)` numbers of classes.
        masks: compressed run lengths of each, as COCO has them; None of a detector of boxes.
    """

    image: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict[str, Any]] | None = None


def mask_library() -> Any:
    """faster-coco-eval's masks. Raises `InputError` where it is not installed."""
    return library().mask


def library() -> Any:
    """faster-coco-eval's core. Raises `InputError` where it is not installed."""
    try:
        from faster_coco_eval import core
    except ImportError:
        raise InputError(
            "faster-coco-eval is not installed; run: pip install 'seer-pretrain[detection]'"
        ) from None
    return core


def compressed(masks: Tensor) -> list[dict[str, Any]]:
    """Run lengths of masks `(D, H, W)` bool."""
    columns = np.asfortranarray(masks.permute(1, 2, 0).cpu().numpy().astype(np.uint8))
    encoded = mask_library().encode(columns) if columns.shape[2] else []
    return [{**runs, "counts": _text(runs["counts"])} for runs in encoded]


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def truth_of(images: Annotated, masks: bool) -> dict[str, Any]:
    """The objects of images as a COCO file. Difficult objects count as crowds do: neither found nor
    missed. With `masks`, so do objects that have none.
    """
    table = images.objects
    pictures = [
        {"id": i + 1, "file_name": images.source.key(i), "height": height, "width": width}
        for i, (height, width) in enumerate(table.sizes.tolist())
    ]
    annotations = []
    for i, (height, width) in enumerate(table.sizes.tolist()):
        for number in table.of(i):
            thing = table.at(number)
            row = {
                "id": number + 1,
                "image_id": i + 1,
                "category_id": thing.label + 1,
                "bbox": xywh(thing.box),
                "area": thing.area,
                "iscrowd": int(thing.crowd or thing.difficult or (masks and not thing.masked)),
            }
            if masks:
                row["segmentation"] = _segmentation(thing, height, width)
            annotations.append(row)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(images.classes)]
    return {"images": pictures, "annotations": annotations, "categories": categories}


def _segmentation(thing: Any, height: int, width: int) -> Any:
    if thing.masked:
        return segmentation(thing, height, width)
    left, top, right, bottom = thing.box.astype(float).tolist()
    return [[left, top, right, top, right, bottom, left, bottom]]


def results_of(predictions: list[Prediction]) -> list[dict[str, Any]]:
    """Predictions as a COCO results file."""
    rows = []
    for prediction in predictions:
        for i, box in enumerate(prediction.boxes):
            row = {
                "image_id": prediction.image + 1,
                "category_id": int(prediction.labels[i]) + 1,
                "bbox": xywh(box),
                "score": float(prediction.scores[i]),
            }
            if prediction.masks is not None:
                row["segmentation"] = prediction.masks[i]
            rows.append(row)
    return rows
