"""What can be said of the analyses of single images and of ImageNet's variants; apart from what they
do, which needs torch.
"""

from dataclasses import dataclass

from seer.eval.probes.options import CROP, FeatureConfig, LinearConfig, LogregConfig
from seer.schema import SEED, Choice, Integer, ListOf, Location, Number, Text, option


@dataclass
class ImagesConfig(FeatureConfig):
    """What the analyses of single images share.

    Attributes:
        images: how many of the test images; all, where there are fewer.
        seed: which ones.
        picture: where to save a picture of some of them (.png); "" is RUN/images/TASK.png of a run, and
            TASK-MODEL.png in the current folder of other models.
    """

    images: int = option(20, Integer(1, 10**6))
    crop: str = option("short_side", CROP)
    picture: str = option("", Location(), incidental=True)
    seed: int = option(0, SEED)


@dataclass
class AttentionConfig(ImagesConfig):
    """Options of `seer eval attention`; `protocol=ericsson` has the paper's.

    Attributes:
        occluder: side of the square that hides a part of the image, in pixels.
        stride: pixels from one place of the occluder to the next, along both axes; every pixel is hidden equally often
            where it divides `occluder`. The paper's 1 costs 54,289 forwards for an image of 224 px.
    """

    occluder: int = option(10, Integer(1, 4096))
    stride: int = option(5, Integer(1, 4096))


@dataclass
class ColourConfig(ImagesConfig):
    """Options of `seer eval colour`; the defaults are the paper's, but for the number of images.

    Attributes:
        steps: of Adam, for each image.
        lr: its learning rate.
        lpips: a file of weights for the perceptual distance, the `state_dict` of `lpips.LPIPS(net=…)`; "" leaves the
            distance out.
    """

    images: int = option(8, Integer(1, 10**6))
    steps: int = option(3000, Integer(1, 10**6))
    lr: float = option(0.001, Number(above=0, high=10))
    lpips: str = option("", Location())


@dataclass
class RobustnessConfig(LinearConfig):
    """Options of `seer eval robustness`; those of `seer eval linear` say how its classifier is
    trained.

    Attributes:
        variants: the folder in which the variants of ImageNet lie, as their owners' archives unpack.
    """

    variants: str = option("", Location(), incidental=True)


@dataclass
class CalibrationConfig(LogregConfig):
    """Options of `seer eval calibration`; those of `seer eval logreg` say how its classifier is made.

    Attributes:
        scheme: which images the temperature is fitted to: `validation`, those that λ is chosen by; `ericsson`, each
            fifth of the test images in turn, as in the transfer paper's code.
        picture: where to save the reliability diagram (.png); "" as for `seer eval attention`.
    """

    scheme: str = option("validation", Choice("validation", "ericsson"))
    picture: str = option("", Location(), incidental=True)


@dataclass
class GeometryConfig(FeatureConfig):
    """Options of `seer eval geometry`.

    Attributes:
        classes: whose nearest neighbours are told; all where they are few and none is named.
        seed: of the parts that are left out for the intervals.
    """

    classes: list[str] = option([], ListOf(Text(), 1000, distinct=True))
    crop: str = option("short_side", CROP)
    seed: int = option(0, SEED)


@dataclass
class InvarianceConfig(FeatureConfig):
    """Options of `seer eval invariance`.

    Attributes:
        images: how many of the test images; all, where there are fewer.
        seed: which ones, and how they are altered.
    """

    images: int = option(500, Integer(1, 10**6))
    crop: str = option("short_side", CROP)
    seed: int = option(0, SEED)
