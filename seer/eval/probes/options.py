"""What can be said of the probes; apart from what they do, which needs torch."""

from dataclasses import dataclass, field

from seer.engine.schedule import ScheduleConfig
from seer.schema import (
    AREAS,
    COUNT,
    DEVICE,
    PROTOCOL,
    SEED,
    TEMPERATURE,
    Choice,
    Flag,
    Integer,
    ListOf,
    Location,
    Number,
    option,
)

CROP = Choice("centre", "short_side")
AUTO = "auto"
RATES = ListOf(Number(above=0), 100, 1)  # those that diverge are told


@dataclass
class FeatureConfig:
    """How features are computed; every task has these options. Incidental ones are no part of a
    result.

    Attributes:
        protocol: whose values stand below those that are given (`seer.eval.protocols`).
        batch_size: images per pass through the backbone.
        threads: decoding threads.
        precision: `fp32` or `bf16` (autocast).
        device: `auto`, `cpu` or `cuda`.
        size: side of the images in pixels; 0 is what the model was trained at.
        crop: `centre`: 7/8 of the shorter side, and images of up to 64 px whole; `short_side`: all of it, resized
            bicubically, as transfer benchmarks do.
        cache: keep features under `$SEER_CACHE` (default ~/.cache/seer) and reuse them.
    """

    protocol: str = option("", PROTOCOL, incidental=True)
    batch_size: int = option(128, Integer(1, 2**20), incidental=True)
    threads: int = option(2, Integer(1, 1024), incidental=True)
    precision: str = option("fp32", Choice("fp32", "bf16"))
    device: str = option("auto", DEVICE, incidental=True)
    size: int = option(0, Integer(0, 4096))
    crop: str = option("centre", CROP)
    cache: bool = option(True, Flag(), incidental=True)


@dataclass
class KnnConfig(FeatureConfig):
    """Options of `seer eval knn`.

    Attributes:
        k: numbers of neighbours; each gives a score.
        metric: which are near: `cosine`, or `euclidean`, whose neighbours have a vote each.
        temperature: τ; a neighbour of cosine similarity s votes with weight exp(s / τ).
        neighbours: where to save a picture of some test images and their nearest training images; "" leaves it out
            (a run's own evaluation saves it as RUN/images/neighbours.png).
    """

    k: list[int] = option([10, 20], ListOf(Integer(1, 10**6), 100, 1, distinct=True))
    metric: str = option("cosine", Choice("cosine", "euclidean"))
    temperature: float = option(0.07, TEMPERATURE)
    neighbours: str = option("", Location(), incidental=True)


@dataclass
class LinearConfig(FeatureConfig):
    """Options of `seer eval linear`; `configs/eval/linear_*.yaml` have those of papers.

    Attributes:
        lrs: learning rates. They and the weight decays are trained side by side, each rate with each decay.
        schedule: what every rate is multiplied by, step by step, from a peak of 1. `per: 256` says that the rates are
            for 256 images a step.
        epochs: passes over the training images, where no steps are given.
        steps: updates of the weights; 0 takes as many as the `epochs` are.
        sgd_batch: images per SGD step.
        nesterov: look a step of the momentum ahead.
        weight_decays: on weights and, with `decay_bias`, on biases.
        holdout: share of each training class on which rate and decay are chosen, where the data have no validation
            images; 0 holds nothing out and takes a single rate and decay, as most papers do.
        refit: train once more on all training images, by the chosen ones.
        standardize: shift and scale each feature to mean 0, deviation 1 over the training images.
        augment: train on random-resized crops and flips, new ones every epoch, instead of on cached features.
        crop_scale: the crops' share of the image's area (`augment`).
    """

    lrs: list[float] = option([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0], RATES)
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig("cosine", peak=1.0, final=0.0)
    )
    epochs: int = option(100, Integer(1, 10**6))
    steps: int = option(0, COUNT)
    sgd_batch: int = option(256, Integer(1, 2**24))
    momentum: float = option(0.9, Number(0, below=1))
    nesterov: bool = False
    weight_decays: list[float] = option([0.0], ListOf(Number(0, 100), 100, 1))
    decay_bias: bool = True
    holdout: float = option(0.1, Number(0, below=1))
    refit: bool = True
    standardize: bool = True
    augment: bool = False
    crop_scale: list[float] = option([0.08, 1.0], AREAS)
    seed: int = option(0, SEED)


@dataclass
class LogregConfig(FeatureConfig):
    """Options of `seer eval logreg`; `configs/eval/logreg.yaml` says where their values are from.

    Attributes:
        lambdas: the lowest and the highest λ, the strength of the L2 penalty; scikit-learn's C is 1 / λ.
        count: how many λ are tried, evenly spaced on a logarithmic scale.
        holdout: share of each training class on which λ is chosen, where the data have no validation images.
        metric: what λ is chosen by, and what stands for the task where only one value is shown: `top1` or
            `mean_per_class`; `auto` is what is reported of the data set, `top1` of data of one's own. Images of several
            classes have their 11-point mean average precision.
        tolerance: share of the loss that a solution may lie above the optimum, about.
        iterations: of L-BFGS at each λ, at most.
    """

    lambdas: list[float] = option([1e-6, 1e5], ListOf(Number(1e-30, 1e30), 2, 2, rising=True))
    count: int = option(45, Integer(1, 1000))
    holdout: float = option(0.2, Number(above=0, below=1))
    metric: str = option(AUTO, Choice(AUTO, "top1", "mean_per_class"))
    tolerance: float = option(1e-7, Number(1e-12, 0.1))
    iterations: int = option(1000, Integer(1, 10**6))
    crop: str = option("short_side", CROP)
    seed: int = option(0, SEED)


@dataclass
class FewshotConfig(FeatureConfig):
    """Options of `seer eval fewshot`; `configs/eval/fewshot.yaml` says where their values are from.

    Attributes:
        shots: numbers of images of a class to learn from; each gives a score, and the first stands for the task.
        ways: classes of an episode.
        queries: images of each class to ask about.
        episodes: for each number of shots.
    """

    shots: list[int] = option([20, 5, 50], ListOf(Integer(1, 10**5), 100, 1, distinct=True))
    ways: int = option(5, Integer(2, 10**4))
    queries: int = option(15, Integer(1, 10**5))
    episodes: int = option(600, Integer(2, 10**6))
    crop: str = option("short_side", CROP)
    seed: int = option(0, SEED)
