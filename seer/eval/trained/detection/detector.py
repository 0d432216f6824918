"""What is trained: Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), Mask R-CNN (He et al. 2017,
arXiv:1703.06870) or FCOS of torchvision's parts, on the levels of any backbone.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from seer.backbones.base import Backbone
from seer.data.hashing import mix
from seer.distributed import all_reduce_sum, size
from seer.engine.average import Average
from seer.engine.learner import Learner, Output, Step
from seer.errors import InputError
from seer.eval.trained.detection.boxbatches import BoxBatch
from seer.eval.trained.detection.boxheads import HEADS, Counted
from seer.eval.trained.detection.freezing import freeze, frozen_norms
from seer.eval.trained.detection.kept_features import KeptFeatures
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.finite import check_finite
from seer.interop.levels import LEVELS, Levels
from seer.precision import at_least_fp32


class Detector(Learner[BoxBatch]):
    """Loss of a batch in training; of an image otherwise what is found, in the metrics: `boxes` `(D, 4)`,
    `scores`, `labels` from 1, and `masks` `(D, 1, 28, 28)` of shares, the surest first.

    The losses are those of torchvision's models, with one difference: each mean is over the samples of all ranks, so
    that the ranks' mean loss is that of the whole batch. Which anchors and proposals of an image are compared is drawn
    by the seed, the step and the image, and so is the same at any number of processes.

    Args:
        levels: of the backbone.
        classes: without the background.

    Raises:
        InputError: the last stage is to be a head, and this backbone's is not known.
    """

    backbone: Levels

    def __init__(self, levels: Levels, classes: int, masks: bool, config: DetectConfig):
        super().__init__()
        self.backbone = levels
        self.seed = config.seed
        self.frozen_norms = config.batchnorm == "frozen"
        freeze(levels, config.freeze, self.frozen_norms)
        self.frozen_up_to = config.freeze
        self.kept = KeptFeatures(config.keep_features) if config.keep_features else None
        if config.keep_features and not isinstance(levels.network, Backbone):
            raise InputError(
                "keep_features: the stages of this model are not known, only those of seer's own; leave it out"
            )
        if config.keep_features and config.freeze < 2:
            raise InputError(
                f"keep_features: freeze={config.freeze} leaves no stage as it is; use freeze=2 or above"
            )
        self.pyramid = config.neck == "fpn"
        self.lowest = 1 if config.head == "fcos" else 0
        self.neck = _pyramid(levels, self.lowest, config) if self.pyramid else nn.Identity()
        self.heads = HEADS[config.head](levels, classes, masks, config)
        self.average = Average(self.parts(), config.ema) if config.ema else None

    def parts(self) -> list[nn.Module]:
        """What has weights."""
        return [self.backbone, self.neck, self.heads]

    def after_update(self, step: Step) -> None:
        if self.average is not None:
            self.average.follow(self.parts(), step.number)

    def use_average(self) -> None:
        """Go on with the averaged weights, which no training should."""
        assert self.average is not None
        self.average.put_into(self.parts())

    def train(self, mode: bool = True) -> "Detector":
        """As of every module, but that frozen BatchNorms stay as they are."""
        super().train(mode)
        if mode:
            for norm in frozen_norms(self.backbone, self.frozen_up_to, self.frozen_norms):
                norm.eval()
        return self

    def forward(self, batch: BoxBatch, step: Step) -> Output:
        features = self.features(batch)
        images = ImageList(batch.pixels, list(batch.sizes))
        if not self.training:
            check_finite(features.values(), "maps")
            (found,), _ = self.heads(images, features)
            return Output(batch.pixels.new_zeros(()), found)
        seeds = self.seeds(batch, step)
        counted: dict[str, Counted]
        _, counted = self.heads(images, features, targets_of(batch), seeds)
        losses = over_ranks(counted)
        total = sum(losses.values(), batch.pixels.new_zeros(()))
        return Output(total, {name: loss.detach() for name, loss in losses.items()})

    def levels(self, batch: BoxBatch) -> list[Tensor]:
        """C2 … C5, or on C4 no more than that one needs."""
        last = LEVELS if self.pyramid else LEVELS - 1
        if self.kept is None or not self.training:
            return self.backbone(batch.pixels, None if self.pyramid else range(last))
        frozen = min(self.frozen_up_to - 1, last)
        lower = self.kept.of(batch, lambda pixels: self.backbone(pixels, range(frozen)))
        return [*lower, *self.backbone(lower[-1], range(frozen, last))]

    def seeds(self, batch: BoxBatch, step: Step) -> np.ndarray:
        """`(B,)` uint64: what each image's anchors and proposals are drawn by."""
        return mix(self.seed, step.number, batch.index.cpu().numpy())

    def features(self, batch: BoxBatch) -> dict[str, Tensor]:
        """The maps by name, in fp32 at least: what follows measures boxes of a thousand pixels."""
        levels = self.levels(batch)
        if self.pyramid:
            chosen = enumerate(levels[self.lowest :])
            named = self.neck(OrderedDict((str(i), level) for i, level in chosen))
        else:
            named = OrderedDict([("0", levels[-1])])
        return OrderedDict((name, at_least_fp32(level)) for name, level in named.items())

    def reset_parameters(self) -> None:
        raise InputError(
            "parallel.deferred_init: a detector begins with a model's weights; leave it out"
        )


def over_ranks(counted: dict[str, Counted]) -> dict[str, Tensor]:
    """The losses as shares of the means over all ranks' samples: the mean of the ranks' is that."""
    losses = {name: each.loss for name, each in counted.items()}
    if size() == 1:
        return losses
    device = next(iter(losses.values())).device
    own = torch.tensor([each.samples for each in counted.values()], dtype=torch.float64).to(device)
    shares = own * size() / all_reduce_sum(own).clamp(min=1)
    return {
        name: loss * share.to(loss.dtype)
        for (name, loss), share in zip(losses.items(), shares, strict=True)
    }


def targets_of(batch: BoxBatch) -> list[dict[str, Tensor]]:
    """The objects of each image, as torchvision's parts take them."""
    targets = [
        {"boxes": boxes, "labels": labels}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    if batch.masks is not None:
        for target, masks in zip(targets, batch.masks, strict=True):
            target["masks"] = masks
    return targets


def _pyramid(levels: Levels, lowest: int, config: DetectConfig) -> FeaturePyramidNetwork:
    """A pyramid from one of the levels up, and one map above for regions, two for FCOS."""
    norm = None if config.batchnorm == "frozen" else nn.BatchNorm2d
    above = LastLevelP6P7(config.width, config.width) if lowest else LastLevelMaxPool()
    return FeaturePyramidNetwork(list(levels.channels[lowest:]), config.width, above, norm)
