"""What can be said of training a dense task; apart from what it does, which needs torch."""

from dataclasses import dataclass, field

from seer.data.options import LoaderConfig
from seer.engine.options import OptimConfig
from seer.engine.schedule import ScheduleConfig
from seer.eval.trained.options import TrainedConfig
from seer.schema import (
    SHARE,
    Choice,
    Flag,
    Integer,
    ListOf,
    Location,
    Number,
    Text,
    option,
)

PIXELS = Integer(16, 8192)
SCALE = Number(above=0, high=16)
FROZEN_UP_TO = (0, 2, 3, 4, 5)


@dataclass
class DenseConfig(TrainedConfig):
    """Options of every trained dense task: a head on a backbone, trained on images with maps.

    Attributes:
        steps: updates of the weights; 0 takes as many as the `epochs` are.
        epochs: passes over the training images, where no steps are given.
        head: `upernet` (Xiao et al. 2018, arXiv:1807.10221) on C2 … C5, or `pspnet` (Zhao et al. 2017,
            arXiv:1612.01105) on C5.
        width: of the head's maps, in channels.
        dropout: share of the channels that the last layer does not see in training.
        auxiliary: weight of the loss of a small head on C4; 0 has none.
        head_rate: factor on the rate of the heads.
        output_stride: pixels of an image for one place of C5; 16 and 8 take the strides of the last stages away and
            dilate their convolutions instead (Yu and Koltun 2016, arXiv:1511.07122).
        freeze: what of the backbone is not trained: 0 nothing, n everything up to the stage Cn, its stem included; 4 is
            all but the last stage, and 5 everything.
        batchnorm: of the backbone: `frozen`, its statistics and factors as they came, or `sync`: trained, over all
            processes' images (`parallel.bn_group`). The heads' is always trained so.
        precise: steps' images from which trained statistics are taken anew before the test; 0 takes them as training
            left them.
        short_sides: training images are resized to one of these shorter sides, drawn for each, in pixels; none leaves
            them as they are.
        long_side: no side becomes larger than that, before `scales`.
        scales: least and greatest factor on that size, drawn for each image.
        crop: height and width of what is cut out of it at random, filled up where it is smaller; none takes images
            whole, those of a batch in one frame.
        flip: mirror half of the training images.
        colour: by how much brightness, contrast and saturation of an image change at most, up or down; 0: not.
        test_size: the shorter side of test images in pixels; 0 leaves them as they are. Outputs are always scored at
            the size of the maps.
        test_scales: factors on it, whose outputs are averaged.
        test_flip: average the outputs of each image and of its mirror image.
        inference: of `whole` images, or `slide`: of windows, averaged where they overlap.
        window: height and width of windows; none takes those of `crop`.
        stride: from one window to the next, as a share of it.
    """

    name: str = option("dense", Text(255, 1), incidental=True)
    epochs: float = option(50.0, Number(above=0, high=1e6))
    head: str = option("upernet", Choice("upernet", "pspnet"))
    width: int = option(512, Integer(8, 4096))
    dropout: float = option(0.1, Number(0, below=1))
    auxiliary: float = option(0.4, Number(0, 10))
    head_rate: float = option(1.0, Number(above=0, high=1000))
    output_stride: int = option(32, Choice(8, 16, 32))
    freeze: int = option(0, Choice(*FROZEN_UP_TO))
    batchnorm: str = option("sync", Choice("frozen", "sync"))
    precise: int = option(0, Integer(0, 10_000))
    short_sides: list[int] = option([512], ListOf(PIXELS, 100, 0, rising=True))
    long_side: int = option(2048, PIXELS)
    scales: list[float] = option([0.5, 2.0], ListOf(SCALE, 2, 2))
    crop: list[int] = option([512, 512], ListOf(PIXELS, 2))
    flip: bool = option(True, Flag())
    colour: float = option(0.3, SHARE)
    test_size: int = option(512, Integer(0, 8192))
    test_scales: list[float] = option([1.0], ListOf(SCALE, 16, 1))
    test_flip: bool = option(False, Flag())
    inference: str = option("whole", Choice("whole", "slide"))
    window: list[int] = option([], ListOf(PIXELS, 2))
    stride: float = option(0.667, Number(above=0, high=1))
    batch_size: int = option(16, Integer(2, 2**16))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(larc=False, weight_decay=5e-4))
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            "poly", peak=0.01, final=1e-4, per=16, warmup=0.01, gamma=0.9
        )
    )
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def searched(self) -> set[str]:
        """The options that a grid sets: there is none."""
        return set()


@dataclass
class SegmentConfig(DenseConfig):
    """Options of `seer eval segment`: semantic segmentation.

    Attributes:
        void: numbers in masks that are no class; of a data set of the table its owner's are none besides.
        classes: how many there are in masks of one's own; 0 is one more than the highest number in them, or as many
            as `classes.txt` beside the folders names.
        colours: a table of the colours in masks: a line for each class, red, green, blue and a name.
    """

    name: str = option("segment", Text(255, 1), incidental=True)
    void: list[int] = option([255], ListOf(Integer(0, 65535), 1000))
    classes: int = option(0, Integer(0, 4096))
    colours: str = option("", Location())


@dataclass
class NormalsConfig(DenseConfig):
    """Options of `seer eval normals`: surface normals. By default a PSPNet on a backbone that stays as it is.

    Attributes:
        output: `classes`: clusters of normals, of which the mean by probabilities is guessed (Wang et al. 2015,
            arXiv:1411.4958), or `direct`: three numbers, whose direction is the normal.
        clusters: how many; those that come with the data are taken if they are as many.
    """

    name: str = option("normals", Text(255, 1), incidental=True)
    output: str = option("classes", Choice("classes", "direct"))
    clusters: int = option(40, Integer(2, 4096))
    head: str = option("pspnet", Choice("upernet", "pspnet"))
    auxiliary: float = option(0.0, Number(0, 10))
    freeze: int = option(5, Choice(*FROZEN_UP_TO))
    batchnorm: str = option("frozen", Choice("frozen", "sync"))
    short_sides: list[int] = option([300, 375, 450, 525, 600], ListOf(PIXELS, 100, 0, rising=True))
    long_side: int = option(1000, PIXELS)
    scales: list[float] = option([1.0, 1.0], ListOf(SCALE, 2, 2))
    crop: list[int] = option([], ListOf(PIXELS, 2))
    colour: float = option(0.0, SHARE)
    test_size: int = option(450, Integer(0, 8192))
