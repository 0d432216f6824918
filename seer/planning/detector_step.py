"""What a step of a detector costs, as far as that is known before images are looked at.

Which anchors and regions a loss compares depends on what the network says, and tensors without
contents say nothing. So a step is planned in which every image has as many of them as the options
allow, spread evenly over the pyramid's maps, and `OBJECTS` objects: all layers are the detector's
own, and only the choice of regions (matching, sorting, suppression of overlaps) is left out but for
its largest tensors. An image of many more objects takes more: a mask of each is of the image's size.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou, roi_align, sigmoid_focal_loss

from seer.engine.learner import Step
from seer.eval.trained.detection.boxbatches import BoxBatch
from seer.eval.trained.detection.boxheads import Counted, Found, OneStage, TwoStages
from seer.eval.trained.detection.detector import Detector
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.placement import resized_size
from seer.planning.footprint import Footprint
from seer.planning.planned_models import levels_in
from seer.planning.trained_step import (
    PHOTOGRAPH,
    Parts,
    Size,
    blank,
    bytes_loaded,
    framed,
    measure_parts,
)

OBJECTS = 8  # of an image; COCO's have 7.3 in the mean
CLASSES = 80  # COCO's; data that are there may have others
POSITIVE = 0.25  # the largest share of regions that are of objects


def measure_detector(
    config: DetectConfig,
    ranks: int,
    sync_batchnorm: bool = True,
    forward_only: bool = False,
    samples: int = 0,
) -> Footprint:
    """The cost of a step on one of `ranks` ranks: memory of the largest images that the options allow,
    arithmetic of a photograph at the median of the `short_sides`; no row is kept of the `samples`. Raises
    `InputError`.
    """

    def learner() -> Detector:
        made = AssumedDetector(levels_in(config.model), CLASSES, config.masks == "yes", config)
        made.heads.__class__ = ASSUMED[type(made.heads)]
        return made.train()

    def batch(share: int, size: Size) -> BoxBatch:
        return _batch(config, share, size)

    parts = Parts(learner, batch, *_sizes(config))
    return measure_parts(config, ranks, parts, sync_batchnorm, forward_only)


def _sizes(config: DetectConfig) -> tuple[Size, Size]:
    """Height and width of the largest images, and of a photograph."""
    if config.scales:  # a square is as large for every image
        square = (config.square, config.square)
        return square, square
    largest = (max(config.short_sides), max(config.long_side, max(config.short_sides)))
    short = sorted(config.short_sides)[len(config.short_sides) // 2]
    return largest, resized_size(PHOTOGRAPH, short, config.long_side)


def loader_bytes(config: DetectConfig, ranks: int) -> int:
    """Bytes of the largest images that one rank's loader holds at once."""
    height, width = framed((max(config.short_sides), config.long_side))
    bits = OBJECTS / 8 if config.masks == "yes" else 0
    image_bytes = int(height * width * (3 + bits))
    return bytes_loaded(config.loader, config.batch_size // ranks * image_bytes)


def _batch(config: DetectConfig, share: int, size: Size) -> BoxBatch:
    """The first micro-batch of a rank's images, all of one size, each with `OBJECTS` objects."""
    count = share // config.accumulate
    pixels = blank(config, share, framed(size))
    masks = None
    if config.masks == "yes":
        masks = tuple(torch.zeros(OBJECTS, *size, dtype=torch.uint8) for _ in range(share))
    return BoxBatch(
        pixels[:count],
        (size,) * count,
        tuple(torch.zeros(OBJECTS, 4, dtype=pixels.dtype) for _ in range(count)),
        tuple(torch.ones(OBJECTS, dtype=torch.int64) for _ in range(count)),
        masks[:count] if masks else None,
        torch.zeros(count, dtype=torch.int64),
    )


class AssumedDetector(Detector):
    """Draws nothing: there is nothing to draw from."""

    def seeds(self, batch: BoxBatch, step: Step) -> np.ndarray:
        return np.zeros(len(batch.sizes), np.uint64)


class AssumedRegions(TwoStages):
    """Regions and what is in each, of which every image has all that the options allow."""

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Any = None,
    ) -> Found:
        assert targets is not None
        proposals, losses = self._regions(images, features, targets)
        losses |= self._parts(features, proposals, targets)
        return [], {name: Counted(loss, 1) for name, loss in losses.items()}

    def _regions(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Of each image `(P, 4)` proposals, and the losses of the drawn anchors."""
        rpn = self.rpn
        maps = list(features.values())
        logits, shifts = rpn.head(maps)
        anchors = rpn.anchor_generator(images, maps)
        logits, shifts = concat_box_prediction_layers(logits, shifts)
        boxes = rpn.box_coder.decode(shifts.detach(), anchors).view(len(anchors), -1, 4)
        matched = [
            _matched(target["boxes"], own) for target, own in zip(targets, anchors, strict=True)
        ]
        wanted = torch.cat(rpn.box_coder.encode(matched, anchors))
        drawn = len(anchors) * rpn.fg_bg_sampler.size
        drawn_positive = int(drawn * rpn.fg_bg_sampler.share)
        chosen = logits[:drawn].flatten()
        losses = {
            "loss_rpn_box_reg": F.smooth_l1_loss(shifts[:drawn_positive], wanted[:drawn_positive]),
            "loss_objectness": F.binary_cross_entropy_with_logits(chosen, torch.zeros_like(chosen)),
        }
        kept = rpn.post_nms_top_n()
        proposals = [
            torch.cat([own[:kept], target["boxes"]])
            for own, target in zip(boxes, targets, strict=True)
        ]
        return proposals, losses

    def _parts(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        heads = self.roi_heads
        count = min(heads.fg_bg_sampler.size, len(proposals[0]))
        positive = int(count * POSITIVE)
        chosen = [own[:count] for own in proposals]
        matched = [_matched(t["boxes"], own) for t, own in zip(targets, proposals, strict=True)]
        wanted = torch.cat(heads.box_coder.encode([m[:count] for m in matched], chosen))
        parts = pooled(heads.box_roi_pool, features, chosen)
        logits, shifts = heads.box_predictor(heads.box_head(parts))
        labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        of_objects = positive * len(proposals)
        own_shifts = shifts.reshape(len(shifts), -1, 4)[:of_objects, 1]
        losses = {
            "loss_classifier": F.cross_entropy(logits, labels),
            "loss_box_reg": F.smooth_l1_loss(own_shifts, wanted[:of_objects], reduction="sum"),
        }
        if heads.has_mask():
            found = [own[:positive] for own in proposals]
            parts = pooled(heads.mask_roi_pool, features, found)
            mask_logits = heads.mask_predictor(heads.mask_head(parts))
            of_image = [labels[:positive] for _ in proposals]
            losses["loss_mask"] = maskrcnn_loss(
                mask_logits, found, [t["masks"] for t in targets], [t["labels"] for t in targets], of_image
            )  # fmt: skip
        return losses


class AssumedPlaces(OneStage):
    """FCOS, of which every place has a class, and as many have a box as there are objects' middles."""

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Any = None,
    ) -> Found:
        assert targets is not None
        (model,) = self._model
        maps = list(features.values())
        outputs = self.head(maps)
        anchors = model.anchor_generator(images, maps)
        matched = [_matched(t["boxes"], own) for t, own in zip(targets, anchors, strict=True)]
        classes = outputs["cls_logits"]
        count = OBJECTS * OBJECTS
        shifts = outputs["bbox_regression"][:, :count].flatten(0, 1)
        wanted = torch.stack([own[:count] for own in matched]).flatten(0, 1)
        middles = outputs["bbox_ctrness"][:, :count]
        losses = {
            "classification": sigmoid_focal_loss(
                classes, torch.zeros_like(classes), reduction="sum"
            ),
            "bbox_regression": F.smooth_l1_loss(shifts, wanted),
            "bbox_ctrness": F.binary_cross_entropy_with_logits(middles, torch.zeros_like(middles)),
        }
        return [], {name: Counted(loss, 1) for name, loss in losses.items()}


ASSUMED: dict[type, type] = {TwoStages: AssumedRegions, OneStage: AssumedPlaces}


def _matched(objects: Tensor, boxes: Tensor) -> Tensor:
    """Of each box the object that it overlaps most."""
    return objects[box_iou(objects, boxes).max(dim=0).indices]


def pooled(pool: Any, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
    """`(R, C, s, s)` parts of the maps, as torchvision's pooling gives them, where equally many boxes lie
    on each map.
    """
    named = OrderedDict((n, features[n]) for n in pool.featmap_names if n in features)
    rois = torch.cat(
        [torch.cat([torch.full_like(own[:, :1], i), own], dim=1) for i, own in enumerate(boxes)]
    )
    first = next(iter(named.values()))
    parts = first.new_zeros(len(rois), first.shape[1], *pool.output_size)
    ends = [len(rois) * (i + 1) // len(named) for i in range(len(named))]
    start = 0
    for level, end in zip(named.values(), ends, strict=True):
        parts[start:end] = roi_align(
            level, rois[start:end], pool.output_size, 1.0, pool.sampling_ratio
        )
        start = end
    return parts
