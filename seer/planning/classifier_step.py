"""What a step of finetuning costs, and of domain adaptation, before images are looked at."""

import torch

from seer.data.views import LabelledImages
from seer.eval.trained.adapter import Adapter, DomainBatch
from seer.eval.trained.classifier import Classifier
from seer.eval.trained.domain_options import MmeConfig
from seer.eval.trained.mme import QUARTERS
from seer.eval.trained.options import FinetuneConfig
from seer.planning.footprint import Footprint
from seer.planning.planned_models import backbone_in
from seer.planning.trained_step import Parts, Size, blank, bytes_loaded, measure_parts

CLASSES = 1000  # ImageNet's


def measure_finetuning(
    config: FinetuneConfig,
    ranks: int,
    sync_batchnorm: bool = True,
    forward_only: bool = False,
    samples: int = 0,
) -> Footprint:
    """The cost of a step on one of `ranks` ranks; no row is kept of the `samples`. Raises `InputError`."""

    def learner() -> Classifier:
        backbone, _ = backbone_in(config.model)
        smoothing = config.label_smoothing
        made = Classifier(backbone, CLASSES, config.head_rate, config.layer_decay, smoothing)
        return made.train()

    def batch(share: int, size: Size) -> LabelledImages:
        return _images(config, share, size, bool(config.mixup)).chunk(config.accumulate)[0]

    size = side_of(config)
    parts = Parts(learner, batch, (size, size), (size, size))
    return measure_parts(config, ranks, parts, sync_batchnorm, forward_only)


def measure_adaptation(
    config: MmeConfig,
    ranks: int,
    sync_batchnorm: bool = True,
    forward_only: bool = False,
    samples: int = 0,
) -> Footprint:
    """The cost of a step of domain adaptation, likewise."""

    def learner() -> Adapter:
        backbone, _ = backbone_in(config.model)
        made = Adapter(
            backbone,
            CLASSES,
            config.method,
            config.entropy_weight,
            config.temperature,
            config.width,
            config.backbone_rate,
        )
        return made.train()

    def batch(share: int, size: Size) -> DomainBatch:
        quarter = share // QUARTERS
        own = [_images(config, quarter, size) for _ in range(2)]
        unlabelled = None
        if config.method != "supervised":
            unlabelled = _images(config, 2 * quarter, size)
        return DomainBatch(own[0], own[1], unlabelled).chunk(config.accumulate)[0]

    size = side_of(config)
    parts = Parts(learner, batch, (size, size), (size, size))
    return measure_parts(config, ranks, parts, sync_batchnorm, forward_only)


def side_of(config: FinetuneConfig | MmeConfig) -> int:
    """The side of the training images in pixels."""
    return config.size or backbone_in(config.model)[1]


def loader_bytes(config: FinetuneConfig | MmeConfig, ranks: int) -> int:
    """Bytes of images that one rank's loader holds at once."""
    batch_bytes = config.batch_size // ranks * 3 * side_of(config) ** 2
    return bytes_loaded(config.loader, batch_bytes)


def _images(
    config: FinetuneConfig | MmeConfig, count: int, size: Size, mixed: bool = False
) -> LabelledImages:
    labels = torch.zeros(count, dtype=torch.int64)
    shares = torch.ones(count) if mixed else None
    return LabelledImages(blank(config, count, size), labels, labels, shares)
