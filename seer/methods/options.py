"""What can be said of our methods; apart from what they do, which needs torch."""

from dataclasses import dataclass

from seer.errors import InputError
from seer.schema import (
    SHARE,
    TEMPERATURE,
    Choice,
    Integer,
    ListOf,
    Location,
    Number,
    Text,
    option,
)
from seer.steps import PLACE

WIDTHS = ListOf(Integer(1, 2**17), 16, 1)  # of an MLP: hidden layers and output


@dataclass
class SwAVConfig:
    """The defaults are the paper's for ResNet-50.

    Attributes:
        head: hidden and output widths of the projection head.
        head_bn: put BatchNorm on the head's hidden layers.
        head_bn_out: put BatchNorm on its output, which spreads small batches over the sphere from the first step.
        prototypes: K. A loss that stays at ln K has learned nothing: lower `epsilon`, or raise `freeze`.
        temperature: of the softmax that predicts.
        epsilon: of the Sinkhorn assignments that are predicted; smaller is sharper.
        iterations: of Sinkhorn.
        assign: which of the large crops give assignments.
        queue: images remembered, over all ranks, to help assign small batches; 0 for none. They count once the queue is
            full.
        queue_from: the step from which images are remembered, or below 1 a share of the run: so the first ones to count
            come from this step, as in SwAV's code, whose queue is made then.
        freeze: steps for which the prototypes stay as they were initialised, or below 1 a share of the run.
    """

    name: str = option("swav", Choice("swav"))
    head: list[int] = option([2048, 128], WIDTHS)
    head_bn: bool = True
    head_bn_out: bool = False
    prototypes: int = option(3000, Integer(2, 10**6))
    temperature: float = option(0.1, TEMPERATURE)
    epsilon: float = option(0.05, TEMPERATURE)
    iterations: int = option(3, Integer(1, 1000))
    assign: list[int] = option([0, 1], ListOf(Integer(0, 63), 64, 1, distinct=True))
    queue: int = option(0, Integer(0, 10**7))
    queue_from: int | float = option(0, PLACE)
    freeze: int | float = option(313, PLACE)


@dataclass
class SimCLRConfig:
    """The defaults are the paper's for ResNet-50, with BatchNorm on the output as in its code.

    Attributes:
        head: hidden and output widths of the projection head.
        head_bn: put BatchNorm on the head's hidden layers.
        head_bn_out: put BatchNorm on the head's output.
        head_bn_shift: train a shift of the output's BatchNorm, which has none in SimCLR's code.
        temperature: of the similarities.
    """

    name: str = option("simclr", Choice("simclr"))
    head: list[int] = option([2048, 128], WIDTHS)
    head_bn: bool = True
    head_bn_out: bool = True
    head_bn_shift: bool = False
    temperature: float = option(0.1, TEMPERATURE)


@dataclass
class BYOLConfig:
    """The defaults are the paper's for ResNet-50 and 1000 epochs (0.99 is its `momentum` for 100
    and 300).

    Attributes:
        head: hidden and output widths of the projection head.
        predictor: those of the predictor, ending in the same output width.
        momentum: of the teacher at the first step; it rises to 1 along a cosine.
    """

    name: str = option("byol", Choice("byol"))
    head: list[int] = option([4096, 256], WIDTHS)
    predictor: list[int] = option([4096, 256], WIDTHS)
    momentum: float = option(0.996, SHARE)


@dataclass
class MoCoConfig:
    """The defaults are MoCo v2's for ResNet-50 (Chen et al. 2020, arXiv:2003.04297).

    Attributes:
        head: hidden and output widths of the projection head.
        head_bn: put BatchNorm on the head's hidden layers.
        temperature: of the similarities.
        queue: keys remembered, over all ranks, that a query is told apart from.
        momentum: of the key encoder.
        splits: parts of a process's batch whose statistics BatchNorm takes apart. With these, or with several processes
            of which each has its own (parallel.bn_group=1), a query and its key are normalised among different images;
            where it sees all images at once the key can be told by their statistics.
    """

    name: str = option("moco", Choice("moco"))
    head: list[int] = option([2048, 128], WIDTHS)
    head_bn: bool = False
    temperature: float = option(0.2, TEMPERATURE)
    queue: int = option(65_536, Integer(1, 10**7))
    momentum: float = option(0.999, SHARE)
    splits: int = option(1, Integer(1, 1024))


@dataclass
class MoCoV3Config:
    """The defaults are those of MoCo v3's code for ResNet-50 and 1000 epochs (0.99 is its `momentum`
    for 100 and 300).

    Attributes:
        head: hidden and output widths of the projection head.
        predictor: those of the predictor, ending in the same output width.
        temperature: of the similarities.
        momentum: of the key encoder at the first step; it rises to 1 along a cosine.
    """

    name: str = option("mocov3", Choice("mocov3"))
    head: list[int] = option([4096, 256], WIDTHS)
    predictor: list[int] = option([4096, 256], WIDTHS)
    temperature: float = option(1.0, TEMPERATURE)
    momentum: float = option(0.996, SHARE)


@dataclass
class DINOConfig:
    """The defaults are those of DINO's code for ResNet-50 and 800 epochs.

    Attributes:
        head: widths of the projection head's hidden layers and of its output, the bottleneck.
        head_bn: put BatchNorm on the head's hidden layers.
        prototypes: K, the directions that the bottleneck is compared with.
        temperature: of the softmax that predicts.
        teacher_temperature: of the teacher's softmax once it has warmed up; lower is sharper.
        teacher_temperature_start: at the first step, from where it rises in a line.
        teacher_warmup: steps that it takes, or below 1 a share of the run.
        centre_momentum: of the mean of the teacher's scores, which is taken from them.
        momentum: of the teacher at the first step; it rises to 1 along a cosine.
        freeze: steps for which the prototypes stay as they were initialised, or below 1 a share of the run.
    """

    name: str = option("dino", Choice("dino"))
    head: list[int] = option([2048, 2048, 256], WIDTHS)
    head_bn: bool = True
    prototypes: int = option(60_000, Integer(2, 10**6))
    temperature: float = option(0.1, TEMPERATURE)
    teacher_temperature: float = option(0.07, TEMPERATURE)
    teacher_temperature_start: float = option(0.04, TEMPERATURE)
    teacher_warmup: int | float = option(0.0625, PLACE)
    centre_momentum: float = option(0.9, SHARE)
    momentum: float = option(0.9995, SHARE)
    freeze: int | float = option(0.00125, PLACE)


@dataclass
class DeepClusterConfig:
    """The defaults are those of DeepCluster-v2's code for ResNet-50.

    Attributes:
        head: hidden and output widths of the projection head.
        head_bn: put BatchNorm on the head's hidden layers.
        prototypes: how many clusters each clustering has; each is made anew at the beginning of every epoch.
        temperature: of the softmax that predicts an image's cluster.
        assign: the large crops whose embeddings are clustered; clusterings take them in turns.
        iterations: of k-means.
        empty: what becomes of a cluster without images: `keep` leaves its centroid, as in the code; `refill` gives it
            half of the largest one.
    """

    name: str = option("deepcluster", Choice("deepcluster"))
    head: list[int] = option([2048, 128], WIDTHS)
    head_bn: bool = True
    prototypes: list[int] = option([3000, 3000, 3000], ListOf(Integer(2, 10**6), 64, 1))
    temperature: float = option(0.1, TEMPERATURE)
    assign: list[int] = option([0, 1], ListOf(Integer(0, 63), 64, 1, distinct=True))
    iterations: int = option(10, Integer(1, 1000))
    empty: str = option("keep", Choice("keep", "refill"))

    def check_images(self, images: int) -> None:
        """Raise `InputError` where a clustering has more clusters than there are images."""
        if images < max(self.prototypes):
            raise InputError(
                f"method.prototypes={self.prototypes}: more clusters than the {images:,} images; give fewer"
            )


@dataclass
class VISRegConfig:
    """The loss's defaults are the paper's for large data sets. Its networks were vision transformers: the
    head is not of a published convolutional one.

    Attributes:
        head: hidden and output widths of the projection head.
        head_bn: put BatchNorm on the head's hidden layers.
        regularisation: λ, the weight of what keeps embeddings apart; that of their agreement is 1 - λ (the paper: 0.6
            for small data sets).
        scale, shape, centre: weights of its parts: deviations that are 1, a normal distribution along any direction, a
            mean of 0. `shape` may be larger for long-tailed images, and should be smaller for batches of a few dozen,
            whose quantiles deviate by less than 1.
        slices: random directions, new in each step, that the shape is looked at along; the ranks share them.
    """

    name: str = option("visreg", Choice("visreg"))
    head: list[int] = option([2048, 2048, 128], WIDTHS)
    head_bn: bool = True
    regularisation: float = option(0.9, SHARE)
    scale: float = option(1.0, Number(0, 1e6))
    shape: float = option(1.0, Number(0, 1e6))
    centre: float = option(1.0, Number(0, 1e6))
    slices: int = option(4096, Integer(1, 2**20))


@dataclass
class RELICv2Config:
    """Of RELICv2's own values few are known to us. Its listing adds both parts without weights. `head`,
    `predictor` and `momentum` are RELIC's, which are BYOL's. `negatives` and `temperature` are
    nobody's published ones.

    Attributes:
        head: hidden and output widths of the projection head.
        predictor: those of the predictor, ending in the same output width.
        negatives: n_e, images of the batch that an image is told from, drawn anew for each pair of crops.
        temperature: of the similarities.
        contrastive: weight of the contrastive part.
        invariance: weight of the divergence between an image's pairs of crops.
        momentum: of the target network at the first step; it rises to 1 along a cosine.
    """

    name: str = option("relicv2", Choice("relicv2"))
    head: list[int] = option([4096, 256], WIDTHS)
    predictor: list[int] = option([4096, 256], WIDTHS)
    negatives: int = option(10, Integer(1, 2**20))
    temperature: float = option(0.2, TEMPERATURE)
    contrastive: float = option(1.0, Number(0, 1e6))
    invariance: float = option(1.0, Number(0, 1e6))
    momentum: float = option(0.996, SHARE)


@dataclass
class DistillConfig:
    """Nobody's published recipe.

    Attributes:
        teacher: MODEL, whose features are learned: a run, weights, timm:NAME, torchvision:NAME.
        experts: MODELs besides, each of which teaches images of its own (Divide and Contrast).
        lists: for each expert the file with the keys of its images, a line each, as `seer cluster` writes them.
        head: widths of the hidden layers between the student's features and the teacher's.
        head_bn: put BatchNorm on them.
        pooled: weight of the pooled features.
        dense: weight of the features at each place of the last maps.
        teacher_size: px that the teacher's crops are resized to; 0 leaves them as the student's.
        teacher_bf16: compute the teacher in bf16, in half the memory.
        cache: keep the teacher's pooled features of every image, where its crop is always the same, and do not run it
            again.
    """

    name: str = option("distill", Choice("distill"))
    teacher: str = option("", Text())
    experts: list[str] = option([], ListOf(Text(4096, 1), 1000))
    lists: list[str] = option([], ListOf(Location(shortest=1), 1000))
    head: list[int] = option([2048], WIDTHS)
    head_bn: bool = True
    pooled: float = option(1.0, Number(0, 1e6))
    dense: float = option(0.0, Number(0, 1e6))
    teacher_size: int = option(0, Integer(0, 4096))
    teacher_bf16: bool = False
    cache: bool = False
