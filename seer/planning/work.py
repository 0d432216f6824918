"""What can be planned: the pretraining of a backbone, and what is trained on one for a score's sake."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from seer.backbones import build
from seer.engine.options import RunConfig
from seer.eval.trained.dense.options import NormalsConfig, SegmentConfig
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.domain_options import MmeConfig
from seer.eval.trained.options import FinetuneConfig
from seer.planning import classifier_step, dense_step, detector_step, footprint
from seer.planning.footprint import Footprint
from seer.planning.planned_models import every_block, network_of
from seer.pretrain import rehearsal
from seer.pretrain.recipe import Pretrain


@dataclass(frozen=True)
class Work:
    """What the planner asks of a kind of training, each of a configuration.

    Attributes:
        measure: the cost of a step on one of so many ranks.
        loader_bytes: that one of so many ranks' loader holds at once.
        network: the backbone's name.
        every_block: `parallel.checkpointing` of every block by itself: the least that can be kept.
    """

    measure: Callable[..., Footprint]
    loader_bytes: Callable[[Any, int], int]
    network: Callable[[Any], str] = network_of
    every_block: Callable[[Any], list[list[int]]] = every_block


def _name(config: Pretrain) -> str:
    return config.backbone.name


def _blocks(config: Pretrain) -> list[list[int]]:
    with torch.device("meta"):
        stages: Any = build(config.backbone).stages
    return [list(range(1, len(stage) + 1)) for stage in stages]


WORKS: dict[type, Work] = {
    Pretrain: Work(footprint.measure, rehearsal.loader_bytes, _name, _blocks),
    DetectConfig: Work(detector_step.measure_detector, detector_step.loader_bytes),
    SegmentConfig: Work(dense_step.measure_dense, dense_step.loader_bytes),
    NormalsConfig: Work(dense_step.measure_dense, dense_step.loader_bytes),
    FinetuneConfig: Work(classifier_step.measure_finetuning, classifier_step.loader_bytes),
    MmeConfig: Work(classifier_step.measure_adaptation, classifier_step.loader_bytes),
}


def work_of(config: RunConfig) -> Work:
    return WORKS[type(config)]
