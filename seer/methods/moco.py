"""MoCo v2: tell an image's key from a queue of others', by a slowly following key encoder (He et al.
2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297).

As in their code, keys come from images that were dealt anew among the processes, so that BatchNorm
normalises a query and its key among different images ("shuffling BN").
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.distributed import broadcast, gather, rank, size
from seer.engine.learner import Output, Step
from seer.engine.symptoms import Symptom
from seer.errors import InputError
from seer.methods.heads import MLP
from seer.methods.losses import contrast
from seer.methods.memory import Keys, Teacher, cut_batch, spread
from seer.methods.options import MoCoConfig
from seer.methods.student import Student
from seer.precision import at_least_fp32
from seer.rundir.thresholds import CHANCE_MARGIN, LEAST_SPREAD
from seer.schema import check_options

SYMPTOMS = (
    Symptom(
        "loss_at_chance",
        ("loss", "log_candidates"),
        lambda v: abs(v["loss"] / v["log_candidates"] - 1) < CHANCE_MARGIN,
        "the loss {loss:.3f} is ln (K + 1) = {log_candidates:.3f}: no image is told from another",
        "raise schedule.peak, or lower method.temperature (0.1)",
    ),
    Symptom(
        "dead_queue",
        ("queue_spread",),
        lambda v: v["queue_spread"] < LEAST_SPREAD,
        "the queue's keys are nearly all alike (spread {queue_spread:.2g}; all round it is 1)",
        "lower schedule.peak or lengthen its warm-up; raise method.temperature",
    ),
)


class MoCo(Student):
    """Views: exactly two crops, of one size: the first is the query, the second the key."""

    Config = MoCoConfig
    symptoms = SYMPTOMS

    def __init__(self, backbone: nn.Module, config: MoCoConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        self.head = MLP(backbone.out_dim, config.head, config.head_bn)  # type: ignore[arg-type]
        self.teacher = Teacher(self.backbone, self.head)
        self.queue = Keys(config.queue, config.head[-1])

    @classmethod
    def warnings(cls, config: Any, batch_size: int, steps: int) -> list[str]:
        if config.queue < batch_size:
            told = f"less than batch_size={batch_size}, so it holds part of the last batch alone"
            return [f"method.queue={config.queue}: {told}"]
        return cut_batch(config.queue, batch_size)

    def forward(self, views: Views, step: Step) -> Output:
        if [len(crops) for crops in views.crops] != [2]:
            raise InputError(
                "views: moco tells one crop by another of its size; set views.large.count=2, views.small.count=0"
            )
        queries, others = views.crops[0]
        self._check(len(queries))
        embeddings = self._by_parts(lambda part: self.head(self.backbone(part)), queries)
        keys = self._keys(others)
        loss, accuracy = contrast(embeddings, keys, self.queue.rows, self.config.temperature)
        self.queue.aside.keep(F.normalize(at_least_fp32(keys), dim=1), step)
        metrics = {
            "contrastive_accuracy": accuracy,
            "log_candidates": loss.new_full((), math.log(self.config.queue + 1)),
        }
        if step.measure:
            metrics["queue_spread"] = spread(self.queue.rows)
        return Output(loss, metrics, embeddings.detach())

    def after_update(self, step: Step) -> None:
        super().after_update(step)
        self.queue.push_aside()

    def momentum(self, step: Step) -> float:
        return self.config.momentum

    def _check(self, images: int) -> None:
        splits = self.config.splits
        if splits > 1 and (images % splits or images == splits):
            raise InputError(
                f"method.splits={splits}: parts of two and more images each are wanted, and a process has {images}; "
                "give another number, or batch_size a multiple of it"
            )

    def _by_parts(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return torch.cat([network(part) for part in images.chunk(self.config.splits)])

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        """`(B, D)` keys of this rank's images, each made among others than its query was."""
        if size() * self.config.splits == 1:
            return self.teacher(images[None])[0]
        everyones = gather(images)
        order = broadcast(torch.randperm(len(everyones), device=images.device))
        dealt = everyones[order].chunk(size())[rank()]
        keys = gather(self._by_parts(lambda part: self.teacher(part[None])[0], dealt))
        return keys[order.argsort()].chunk(size())[rank()]
