"""A trained detector on the test images: what it finds, the scores of that, and what is kept of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from seer import files
from seer.distributed import World, on_all
from seer.engine.learner import Step
from seer.eval.data.objects import Annotated
from seer.eval.scores import Score
from seer.eval.trained.detection.average_precision import coco_scores, curves, voc_scores
from seer.eval.trained.detection.boxbatches import BoxBatch, framed
from seer.eval.trained.detection.boxcutter import resized
from seer.eval.trained.detection.cocofiles import Prediction, compressed, results_of, truth_of
from seer.eval.trained.detection.confusion import confusion, picture_of, table_of
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.placement import resized_size
from seer.eval.trained.detection.sheet import sheet
from seer.interop.models import Model
from seer.precision import autocast
from seer.rundir.names import (
    CONFUSION,
    CONFUSIONS,
    DETECTIONS,
    IMAGES,
    PRECISION,
    PREDICTIONS,
    TRUTH,
)

SURE = 0.5  # of a mask's pixel


@torch.no_grad()
def predictions_of(
    module: nn.Module, config: DetectConfig, model: Model, test: Annotated, world: World
) -> list[Prediction]:
    """What is found in each test image, of which each rank takes its share; all of it on all ranks, in
    the order of the images. A collective.
    """
    module.eval()
    end = Step(config.steps, config.steps)
    multiple = 32
    own: list[Prediction] = []
    for i, there in shares(len(test), world):
        image = test.image(i)
        height, width = resized_size(image.shape[:2], config.test_size, config.long_side)
        pixels = torch.from_numpy(resized(image, height, width))
        frame = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        moved = framed([pixels], frame, model.mean, model.std, world.device)
        index = torch.tensor([i], device=world.device)
        batch = BoxBatch(moved, ((height, width),), (), (), None, index)
        if config.precision == "fp64":
            batch = batch.to(torch.float64)
        with autocast(config.precision, world.device):
            found = module(batch, end).metrics
        if there:
            own.append(prediction_of(i, found, (height, width), image.shape[:2]))
    gathered = on_all(lambda: own)
    return sorted((each for ranks in gathered for each in ranks), key=lambda p: p.image)


def shares(images: int, world: World) -> Iterator[tuple[int, bool]]:
    """This rank's images, each with whether it is one: all ranks have equally many, so that they can
    gather parameters, the last one perhaps once more.
    """
    for start in range(-(-images // world.size)):
        number = start * world.size + world.rank
        yield min(number, images - 1), number < images


def prediction_of(
    image: int, found: dict[str, Tensor], seen: tuple[int, int], size: tuple[int, ...]
) -> Prediction:
    """What was found in an image that was seen at another size."""
    height, width = size
    scale = torch.tensor([width / seen[1], height / seen[0]]).repeat(2)
    boxes = found["boxes"].float().cpu() * scale
    masks = None
    if "masks" in found:
        pasted = paste_masks_in_image(found["masks"].float().cpu(), boxes, (height, width))
        masks = compressed(pasted[:, 0] > SURE)
    return Prediction(
        image,
        boxes.double().numpy(),
        found["scores"].float().cpu().double().numpy(),
        found["labels"].cpu().numpy() - 1,
        masks,
    )


def scores_of(
    config: DetectConfig, test: Annotated, predictions: list[Prediction], details: dict[str, Any]
) -> list[Score]:
    """COCO's values of boxes and masks, and VOC's of boxes; AP of masks, or else of boxes, stands for
    all.
    """
    kinds = ["box", "mask"] if config.masks == "yes" else ["box"]
    scores = [score for kind in kinds for score in coco_scores(test, predictions, kind, details)]
    headline = [score for score in scores if score.metric in ("box_AP", "mask_AP")][-1]
    headline.headline = True  # of boxes where no test object has a mask
    return scores + voc_scores(test, predictions, details)


def keep(config: DetectConfig, test: Annotated, predictions: list[Prediction]) -> None:
    """Write what was found, and what there is to find, as COCO's JSON; pictures of the worst
    and of confusions.
    """
    folder = Path(config.run_dir)
    files.write(folder / PREDICTIONS, json.dumps(results_of(predictions)))
    files.write(folder / TRUTH, json.dumps(truth_of(test, config.masks == "yes")))
    kinds = ["box", "mask"] if config.masks == "yes" else ["box"]
    drawn = [curves(test, predictions, kind) for kind in kinds]
    every = {name: curve for own in drawn for name, curve in own.items()}
    files.write(folder / PRECISION, json.dumps(every))
    (folder / IMAGES).mkdir(exist_ok=True)
    counts = confusion(test, predictions)
    files.write(folder / CONFUSION, json.dumps(table_of(counts, test.classes)))
    pictures = {DETECTIONS: sheet(test, predictions), CONFUSIONS: picture_of(counts, test.classes)}
    for name, picture in pictures.items():
        with files.replacing(folder / IMAGES / name) as beside:
            beside.write_bytes(picture)
