"""What follows the maps: regions and what is in each (Ren et al. 2015, arXiv:1506.01497; He et al. 2017,
arXiv:1703.06870), or one stage (Tian et al. 2019, arXiv:1904.01355), of torchvision's parts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList

from seer.backbones.base import Backbone
from seer.data.hashing import mix
from seer.errors import InputError
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.roi_align import RoIAlign
from seer.eval.trained.detection.sampling import Sampler
from seer.interop.levels import Levels

RATIOS = (0.5, 1.0, 2.0)  # of the sides of anchors
C4_SIDES = (32, 64, 128, 256, 512)
GROUPS = 32  # of channels that FCOS's heads normalise
# What is hashed for the draws of proposals, and for nothing else.
DRAWS = {"rpn": 0x72706E, "roi": 0x726F69}


class Counted(NamedTuple):
    """A loss, and over how many samples of this rank it is the mean."""

    loss: Tensor
    samples: int


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


class Channels(nn.Module):
    """What torchvision's models ask of a backbone while they are built: how wide its maps are."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.out_channels = out_channels


def _pyramid_parts(
    levels: Levels, options: dict[str, Any], masks: bool, config: DetectConfig
) -> Any:
    """Regions and heads over a pyramid; torchvision's own where the strides are 4, 8, 16, 32."""
    strides = [*levels.strides, 2 * levels.strides[-1]]
    sides = tuple((int(config.anchor_scale * stride),) for stride in strides)
    anchors = AnchorGenerator(sides, (RATIOS,) * len(sides))
    maps = [str(i) for i in range(len(levels.strides))]
    options = options | {"box_roi_pool": RoIAlign(maps, 7, 2)}
    if not masks:
        return FasterRCNN(Channels(config.width), rpn_anchor_generator=anchors, **options)
    options = options | {"mask_roi_pool": RoIAlign(maps, 14, 2)}
    return MaskRCNN(Channels(config.width), rpn_anchor_generator=anchors, **options)


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
        box_roi_pool=RoIAlign(["0"], 14, 2),
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


HEADS = {"rcnn": TwoStages, "fcos": OneStage}
