"""What can be planned: the pretraining of a backbone, and the training of a detector on one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from seer.backbones import build
from seer.engine.options import RunConfig
from seer.eval.trained.detection.options import DetectConfig
from seer.planning import detector_step, footprint
from seer.planning.footprint import Footprint
from seer.pretrain import rehearsal
from seer.pretrain.recipe import Pretrain


@dataclass(frozen=True)
class Work:
    """What the planner asks of a kind of training, each of a configuration.

    Attributes:
        measure: the cost of a step on one of so many ranks.
        network: the backbone's name.
        every_block: `parallel.checkpointing` of every block by itself: the least that can be kept.
        loader_bytes: that one of so many ranks' loader holds at once.
    """

    measure: Callable[..., Footprint]
    network: Callable[[Any], str]
    every_block: Callable[[Any], list[list[int]]]
    loader_bytes: Callable[[Any, int], int]


def _name(config: Pretrain) -> str:
    return config.backbone.name


def _blocks(config: Pretrain) -> list[list[int]]:
    with torch.device("meta"):
        stages: Any = build(config.backbone).stages
    return [list(range(1, len(stage) + 1)) for stage in stages]


WORKS: dict[type, Work] = {
    Pretrain: Work(footprint.measure, _name, _blocks, rehearsal.loader_bytes),
    DetectConfig: Work(
        detector_step.measure_detector,
        detector_step.network_of,
        detector_step.every_block,
        detector_step.loader_bytes,
    ),
}


def work_of(config: RunConfig) -> Work:
    return WORKS[type(config)]
