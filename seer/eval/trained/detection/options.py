"""What can be said of training a detector; apart from what it does, which needs torch."""

from dataclasses import dataclass, field

from seer.data.options import LoaderConfig
from seer.engine.options import OptimConfig
from seer.engine.schedule import ScheduleConfig
from seer.eval.trained.options import TrainedConfig
from seer.schema import (
    Choice,
    Flag,
    Integer,
    ListOf,
    Number,
    Text,
    option,
)

PIXELS = Integer(16, 8192)
FROZEN_UP_TO = (0, 2, 3, 4, 5)


@dataclass
class DetectConfig(TrainedConfig):
    """Options of `seer eval detect`: Faster R-CNN, Mask R-CNN or FCOS on a backbone.

    Attributes:
        steps: updates of the weights; 0 takes as many as the `epochs` are.
        epochs: passes over the training images, where no steps are given.
        head: `rcnn`: regions, and what is in each; or `fcos`: one stage, boxes alone (Tian et al. 2019,
            arXiv:1904.01355).
        neck: `fpn`, a pyramid of C2 … C5 (Lin et al. 2017, arXiv:1612.03144), or `c4`: proposals and boxes from C4, the
            last stage in each box's head (Ren et al. 2015, arXiv:1506.01497; RegNets and ResNets of seer's own).
        width: of the pyramid's maps, in channels.
        masks: learn and score masks too (He et al. 2017, arXiv:1703.06870): `auto` does so where the training images
            have any.
        freeze: what of the backbone is not trained: 0 nothing, n everything up to the stage Cn, its stem included; 4 is
            all but the last stage, and 5 everything.
        keep_features: GiB of each process's memory for what the frozen stages make of an image, so that they run once
            for each size and side that it comes in (seer's networks, `freeze` of 2 and above); the first ones that come
            stay. 0 computes them anew each time. The numbers are the same, whatever is kept.
        batchnorm: of the backbone: `frozen`, its statistics and factors as they came, or `sync`: trained, over all
            processes' images (`parallel.bn_group`), as that of the pyramid, which has none otherwise.
        precise: with `batchnorm=sync`, steps' images from which the statistics are taken anew before the test; 0 takes
            them as training left them.
        short_sides: training images are resized to one of these shorter sides, drawn for each, in pixels.
        long_side: no side becomes larger than that.
        test_size: the shorter side of test images.
        flip: mirror half of the training images.
        scales: large-scale jitter in place of `short_sides` (Ghiasi et al. 2021, arXiv:2012.07177): training images fit
            a square times a factor between these two, and are cut or padded to it; the paper's are [0.1, 2.0].
        square: its side in pixels.
        copy_paste: paste half of the objects of another training image on each (the same paper); with `scales`, and
            masks.
        ema: test averaged weights, of which so much stays at each step, as 0.9998; 0 tests the last ones.
        negatives: train on images without objects, too.
        anchor_scale: sides of the anchors, in strides of their map; on C4, √½ and 2, 4, … times of 32 px.
        proposals: regions of a test image that are looked at; in training twice as many are chosen from.
        samples: regions of a training image that the loss compares, a quarter of them of objects where there are.
        score_floor: detections that are less sure are none.
        most: detections of an image, the surest ones.
    """

    name: str = option("detect", Text(255, 1), incidental=True)
    epochs: float = option(24.0, Number(above=0, high=1e6))
    head: str = option("rcnn", Choice("rcnn", "fcos"))
    neck: str = option("fpn", Choice("fpn", "c4"))
    width: int = option(256, Integer(8, 4096))
    masks: str = option("auto", Choice("auto", "yes", "no"))
    freeze: int = option(2, Choice(*FROZEN_UP_TO))
    keep_features: float = option(0.0, Number(0, 1e6), incidental=True)
    batchnorm: str = option("frozen", Choice("frozen", "sync"))
    precise: int = option(0, Integer(0, 10_000))
    short_sides: list[int] = option(
        [640, 672, 704, 736, 768, 800], ListOf(PIXELS, 100, 1, rising=True)
    )
    long_side: int = option(1333, PIXELS)
    test_size: int = option(800, PIXELS)
    flip: bool = option(True, Flag())
    scales: list[float] = option([], ListOf(Number(above=0, high=100), 2))
    square: int = option(1024, PIXELS)
    copy_paste: bool = option(False, Flag())
    ema: float = option(0.0, Number(0, below=1))
    negatives: bool = option(False, Flag())
    anchor_scale: float = option(8.0, Number(0.25, 1024))
    proposals: int = option(1000, Integer(1, 100_000))
    samples: int = option(512, Integer(4, 100_000))
    score_floor: float = option(0.05, Number(0, below=1))
    most: int = option(100, Integer(1, 10_000))
    batch_size: int = option(16, Integer(1, 2**16))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(larc=False, weight_decay=1e-4))
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            "step", peak=0.02, per=16, warmup=0.05, gamma=0.1, milestones=[0.67, 0.89]
        )
    )
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def searched(self) -> set[str]:
        """The options that a grid sets: there is none."""
        return set()
