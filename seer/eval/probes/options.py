"""What can be said of the probes; apart from what they do, which needs torch."""

from dataclasses import dataclass

from seer.schema import (
    AREAS,
    DEVICE,
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

RATES = ListOf(Number(above=0), 100, 1)  # those that diverge are told


@dataclass
class FeatureConfig:
    """How features are computed; every task has these options. Incidental ones are no part of a
    result.

    Attributes:
        batch_size: images per pass through the backbone.
        threads: decoding threads.
        precision: `fp32` or `bf16` (autocast).
        device: `auto`, `cpu` or `cuda`.
        size: side of the images in pixels; 0 is what the model was trained at.
        cache: keep features under `$SEER_CACHE` (default ~/.cache/seer) and reuse them.
    """

    batch_size: int = option(128, Integer(1, 2**20), incidental=True)
    threads: int = option(2, Integer(1, 1024), incidental=True)
    precision: str = option("fp32", Choice("fp32", "bf16"))
    device: str = option("auto", DEVICE, incidental=True)
    size: int = option(0, Integer(0, 4096))
    cache: bool = option(True, Flag(), incidental=True)


@dataclass
class KnnConfig(FeatureConfig):
    """Options of `seer eval knn`.

    Attributes:
        k: numbers of neighbours; each gives a score.
        temperature: τ; a neighbour of cosine similarity s votes with weight exp(s / τ).
        neighbours: where to save a picture of some test images and their nearest training images; "" leaves it out
            (a run's own evaluation saves it as RUN/images/neighbours.png).
    """

    k: list[int] = option([10, 20], ListOf(Integer(1, 10**6), 100, 1))
    temperature: float = option(0.07, TEMPERATURE)
    neighbours: str = option("", Location(), incidental=True)


@dataclass
class LinearConfig(FeatureConfig):
    """Options of `seer eval linear`.

    Attributes:
        lrs: learning rates, trained side by side; each follows a cosine to 0.
        epochs: passes over the training images.
        sgd_batch: images per SGD step.
        weight_decay: on weights and biases.
        holdout: share of each training class on which the rate is chosen.
        refit: train once more on all training images, at the chosen rate.
        standardize: shift and scale each feature to mean 0, deviation 1 over the training images.
        augment: train on random-resized crops and flips, new ones every epoch, instead of on cached features.
        crop_scale: the crops' share of the image's area (`augment`).
    """

    lrs: list[float] = option([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0], RATES)
    epochs: int = option(100, Integer(1, 10**6))
    sgd_batch: int = option(256, Integer(1, 2**24))
    momentum: float = option(0.9, Number(0, below=1))
    weight_decay: float = option(0.0, Number(0, 100))
    holdout: float = option(0.1, Number(above=0, below=1))
    refit: bool = True
    standardize: bool = True
    augment: bool = False
    crop_scale: list[float] = option([0.08, 1.0], AREAS)
    seed: int = option(0, SEED)
