"""What is trained: Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), Mask R-CNN (He et al. 2017,
arXiv:1703.06870) or FCOS of torchvision's parts, on the levels of any backbone.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from seer.backbones.base import Backbone
from seer.data.hashing import mix
from seer.distributed import all_reduce_sum, size
from seer.engine.learner import Learner, Output, Step
from seer.errors import InputError
from seer.eval.trained.detection.boxbatches import BoxBatch
from seer.eval.trained.detection.options import DetectConfig
from seer.interop.levels import Levels
from seer.precision import at_least_fp32

RATIOS = (0.5, 1.0, 2.0)  # of the sides of anchors
C4_SIDES = (32, 64, 128, 256, 512)
GROUPS = 32  # of channels that FCOS's heads normalise
# What is hashed for the draws of proposals, and for nothing else.
DRAWS = {"rpn": 0x72706E, "roi": 0x726F69}


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
        self.pyramid = config.neck == "fpn"
        self.lowest = 1 if config.head == "fcos" else 0
        self.neck = _pyramid(levels, self.lowest, config) if self.pyramid else nn.Identity()
        self.heads = HEADS[config.head](levels, classes, masks, config)

    def train(self, mode: bool = True) -> "Detector":
        """As of every module, but that frozen BatchNorms stay as they are."""
        super().train(mode)
        if mode:
            for norm in frozen_norms(self.backbone, self.frozen_up_to, self.frozen_norms):
                norm.eval()
        return self

    def forward(self, batch: BoxBatch, step: Step) -> Output:
        features = self.features(batch.pixels)
        images = ImageList(batch.pixels, list(batch.sizes))
        if not self.training:
            (found,), _ = self.heads(images, features)
            return Output(batch.pixels.new_zeros(()), found)
        seeds = mix(self.seed, step.number, batch.index.cpu().numpy())
        counted: dict[str, Counted]
        _, counted = self.heads(images, features, targets_of(batch), seeds)
        losses = over_ranks(counted)
        total = sum(losses.values(), batch.pixels.new_zeros(()))
        return Output(total, {name: loss.detach() for name, loss in losses.items()})

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """The maps by name, in fp32 at least: what follows measures boxes of a thousand pixels."""
        if self.pyramid:
            levels = self.backbone(pixels)
            chosen = enumerate(levels[self.lowest :])
            named = self.neck(OrderedDict((str(i), level) for i, level in chosen))
        else:
            (fourth,) = self.backbone(pixels, but_last=True)
            named = OrderedDict([("0", fourth)])
        return OrderedDict((name, at_least_fp32(level)) for name, level in named.items())

    def reset_parameters(self) -> None:
        raise InputError(
            "parallel.deferred_init: a detector begins with a model's weights; leave it out"
        )


class Counted(NamedTuple):
    """A loss, and over how many samples of this rank it is the mean."""

    loss: Tensor
    samples: int


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


Found = tuple[list[dict[str, Tensor]], dict[str, Counted]]


class TwoStages(nn.Module):
    """Regions, then what is in each: boxes, and masks if asked for."""

    def __init__(self, levels: Levels, classes: int, masks: bool, config: DetectConfig):
        super().__init__()
        options = {
            "box_score_thresh": config.score_floor,
            "box_detections_per_img": config.most,
            "num_classes": classes + 1,
            "box_batch_size_per_image": config.samples,
            "rpn_post_nms_top_n_train": 2 * config.proposals,
            "rpn_post_nms_top_n_test": config.proposals,
        }
        make = _c4_parts if config.neck == "c4" else _pyramid_parts
        parts = make(levels, options, masks, config)
        self.rpn: Any = parts.rpn
        self.roi_heads: Any = parts.roi_heads
        self.rpn.fg_bg_sampler = Sampler(self.rpn.fg_bg_sampler)
        self.roi_heads.fg_bg_sampler = Sampler(self.roi_heads.fg_bg_sampler)

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Any = None,
    ) -> Found:
        regions = self.rpn.fg_bg_sampler
        parts = self.roi_heads.fg_bg_sampler
        if targets is not None:
            regions.begin(mix(DRAWS["rpn"], seeds))
            parts.begin(mix(DRAWS["roi"], seeds))
        proposals, losses = self.rpn(images, features, targets)
        found, more = self.roi_heads(features, proposals, images.image_sizes, targets)
        counted = {name: Counted(loss, regions.taken) for name, loss in losses.items()}
        for name, loss in more.items():
            counted[name] = Counted(loss, parts.positive if name == "loss_mask" else parts.taken)
        return found, counted


class OneStage(nn.Module):
    """FCOS (Tian et al. 2019, arXiv:1904.01355): class, box and centredness at each place of a map."""

    def __init__(self, levels: Levels, classes: int, masks: bool, config: DetectConfig):
        super().__init__()
        if masks:
            raise InputError("head=fcos: has no masks; use masks=no, or head=rcnn")
        if config.neck != "fpn" or config.width % GROUPS:
            raise InputError(
                f"head=fcos: needs neck=fpn and a width that is a multiple of {GROUPS}"
            )
        strides = [*levels.strides[1:], 2 * levels.strides[-1], 4 * levels.strides[-1]]
        sides = tuple((stride,) for stride in strides)
        model = FCOS(
            Channels(config.width),
            classes + 1,
            anchor_generator=AnchorGenerator(sides, ((1.0,),) * len(sides)),
            head=CountingHead(config.width, 1, classes + 1),
            score_thresh=config.score_floor,
            detections_per_img=config.most,
        )
        self.head: Any = model.head
        self._model = (model,)  # whose functions are used; its parameters are the head's

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Any = None,
    ) -> Found:
        (model,) = self._model
        maps = list(features.values())
        outputs = self.head(maps)
        anchors = model.anchor_generator(images, maps)
        places = [level.shape[2] * level.shape[3] for level in maps]
        if targets is not None:
            losses = model.compute_loss(targets, outputs, anchors, places)
            counted = {name: Counted(loss, self.head.foreground) for name, loss in losses.items()}
            return [], counted
        split = {name: list(output.split(places, dim=1)) for name, output in outputs.items()}
        by_level = [list(own.split(places)) for own in anchors]
        return model.postprocess_detections(split, by_level, images.image_sizes), {}


class CountingHead(FCOSHead):
    """FCOS's head, which remembers over how many places its last losses were means."""

    foreground = 0

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        # Where there is none the sums are divided by one.
        self.foreground = max(1, sum(int((matched >= 0).sum()) for matched in matched_idxs))
        return super().compute_loss(targets, head_outputs, anchors, matched_idxs)


HEADS = {"rcnn": TwoStages, "fcos": OneStage}


class Sampler:
    """torchvision's sampler of anchors or proposals, drawing from numbers of each image's own.

    Attributes:
        taken: how many have been drawn since `begin`; positive: how many of these are of objects.
    """

    def __init__(self, of: Any):
        self.size = of.batch_size_per_image
        self.share = of.positive_fraction
        self.seeds: list[int] = []
        self.taken = 0
        self.positive = 0

    def begin(self, seeds: Any) -> None:
        """What the next batch's images draw from."""
        self.seeds = (seeds >> 1).tolist()
        self.taken = 0
        self.positive = 0

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image `(A,)` flags of the drawn positive (1 and above) and negative (0) ones."""
        chosen = [self._of_image(*pair) for pair in zip(matched, self.seeds, strict=True)]
        return [positive for positive, _ in chosen], [negative for _, negative in chosen]

    def _of_image(self, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        positive = torch.where(labels >= 1)[0]
        negative = torch.where(labels == 0)[0]
        most = min(len(positive), int(self.size * self.share))
        others = min(len(negative), self.size - most)
        self.positive += most
        self.taken += most + others
        return (
            _flags(labels, positive, most, generator),
            _flags(labels, negative, others, generator),
        )


def _flags(labels: Tensor, places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(places), generator=generator)[:count].to(places.device)
    flags = torch.zeros_like(labels, dtype=torch.uint8)
    flags[places[order]] = 1
    return flags


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


def freeze(levels: Levels, up_to: int, norms: bool) -> None:
    """Leave the levels up to Cn as they are, and with `norms` all BatchNorms' factors."""
    frozen = {name for names in levels.parts[: max(0, up_to - 1)] for name in names}
    for name, parameter in levels.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for norm in frozen_norms(levels, up_to, norms):
        for parameter in norm.parameters(recurse=False):
            parameter.requires_grad_(False)


def frozen_norms(levels: Levels, up_to: int, every: bool) -> list[_BatchNorm]:
    """The BatchNorms that stay as they are: all, or those of the frozen levels."""
    frozen = {name for names in levels.parts[: max(0, up_to - 1)] for name in names}
    return [
        module
        for name, module in levels.named_modules()
        if isinstance(module, _BatchNorm) and (every or f"{name}.weight" in frozen)
    ]


class Channels(nn.Module):
    """What torchvision's models ask of a backbone while they are built: how wide its maps are."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.out_channels = out_channels


def _pyramid(levels: Levels, lowest: int, config: DetectConfig) -> FeaturePyramidNetwork:
    """A pyramid from one of the levels up, and one map above for regions, two for FCOS."""
    norm = None if config.batchnorm == "frozen" else nn.BatchNorm2d
    above = LastLevelP6P7(config.width, config.width) if lowest else LastLevelMaxPool()
    return FeaturePyramidNetwork(list(levels.channels[lowest:]), config.width, above, norm)


def _pyramid_parts(
    levels: Levels, options: dict[str, Any], masks: bool, config: DetectConfig
) -> Any:
    """Regions and heads over a pyramid; torchvision's own where the strides are 4, 8, 16, 32."""
    strides = [*levels.strides, 2 * levels.strides[-1]]
    sides = tuple((int(config.anchor_scale * stride),) for stride in strides)
    anchors = AnchorGenerator(sides, (RATIOS,) * len(sides))
    model = MaskRCNN if masks else FasterRCNN
    return model(Channels(config.width), rpn_anchor_generator=anchors, **options)


def _c4_parts(levels: Levels, options: dict[str, Any], masks: bool, config: DetectConfig) -> Any:
    """Regions on C4, and each box's part of it through the last stage."""
    if not isinstance(levels.network, Backbone):
        raise InputError(
            "neck=c4: the last stage of this model is not known, only those of seer's own"
        )
    if masks:
        raise InputError("neck=c4: has no masks here; use masks=no, or neck=fpn")
    classes = options["num_classes"]
    return FasterRCNN(
        Channels(levels.channels[-2]),
        **(options | {"num_classes": None}),
        rpn_anchor_generator=AnchorGenerator((C4_SIDES,), (RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=LastStage(levels.network.stages[-1]),
        box_predictor=FastRCNNPredictor(levels.channels[-1], classes),
    )


class LastStage(nn.Module):
    """A backbone's last stage and the mean over its map, for parts `(R, C4, 14, 14)` of C4. The weights
    stay the backbone's, of which this is no second owner.
    """

    def __init__(self, stage: nn.Module):
        super().__init__()
        self._stage: Sequence[nn.Module] = (stage,)  # a tuple hides it from `parameters`

    def forward(self, x: Tensor) -> Tensor:
        return self._stage[0](x).mean((2, 3))
