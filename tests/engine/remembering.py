"""A learner with banks, a small DeepCluster on the network of `tiny`, and runs of it through `fit`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer import distributed
from seer.data.order import OnePass, Order
from seer.data.views import Views
from seer.distributed import all_reduce_sum
from seer.engine.bank import Bank
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.health import HealthConfig
from seer.engine.learner import Learner, Output, Step, Survey
from seer.engine.metrics import LogConfig
from seer.engine.optim import OptimConfig, build_optimizer
from seer.engine.parallel import ParallelConfig, parallelize
from seer.engine.run import RunConfig, Training, fit
from seer.engine.schedule import ScheduleConfig
from tests.engine.tiny import full
from tests.kit.networks import ResidualNet
from tests.kit.runs import rows

SAMPLES, BATCH, WIDTH, STEPS = 34, 8, 5, 9  # the second epoch begins with step 6
CLUSTERS = 3


class Remembering(Learner[Views]):
    """Embeddings of all images; each is told to be in its cluster, and near where another one was."""

    def __init__(self, samples: int = SAMPLES, bank_width: int = WIDTH):
        super().__init__()
        self.backbone = ResidualNet()
        self.head = nn.Linear(self.backbone.out_dim, WIDTH)
        self.prototypes = nn.Linear(WIDTH, CLUSTERS, bias=False)
        self.features = Bank(samples, bank_width)
        self.assignments = Bank(samples, dtype=torch.int64, fill=-1)
        self._fresh: tuple[Tensor, Tensor] | None = None
        self.surveyed: list[int] = []  # the samples that each survey has shown to this rank

    def forward(self, views: Views, step: Step) -> Output:
        embeddings = F.normalize(self.head(self.backbone(views.crops[0][0])), dim=1)
        if step.surveying:
            return Output(embeddings.new_zeros(()), embeddings=embeddings.detach())
        another = self.features.read((views.index + 7) % self.features.length)
        loss = F.cross_entropy(self.prototypes(embeddings), self.assignments.read(views.index))
        self._fresh = views.index, embeddings.detach()
        return Output(loss + (embeddings - another).square().mean())

    @torch.no_grad()
    def before_epoch(self, step: Step, survey: Survey) -> None:
        for views, output in survey():
            assert not output.loss.requires_grad
            self.features.write(views.index, output.embeddings)
            self.surveyed += views.index.tolist()
        features, assignments = self.features.rows, self.assignments.rows
        centroids = self.features.read(torch.arange(CLUSTERS))
        for _ in range(3):  # Lloyd's k-means: every rank has its rows, and all have the sums
            assignments.copy_((features @ centroids.T).argmax(1))
            members = F.one_hot(assignments, CLUSTERS).to(features.dtype)
            centroids = F.normalize(all_reduce_sum(members.T @ features), dim=1)

    def after_update(self, step: Step) -> None:
        assert self._fresh is not None
        self.features.write(*self._fresh)


class Pictures:
    """Noise for every (epoch, sample). Batches of `poisoned` steps (from 1) are not finite."""

    name, samples, seen, wait_seconds = "noise", SAMPLES, 0, 0.0

    def __init__(self, poisoned: tuple[int, ...] = (), identity: str = "noise"):
        self.poisoned = poisoned
        self.identity = identity
        self.work_seconds: dict[str, float] = {}
        self.order = Order(np.array([12, 17, 5]), 1, BATCH, 3)

    def iterate(self, start: int, stop: int, skipped=()) -> Iterator[Views]:
        for step in (step for step in range(start, stop) if step not in skipped):
            self.seen += 1
            views = self._batch(self.order, step)
            if step + 1 in self.poisoned:
                views.crops[0][0, -1] = float("nan")
            yield views

    def survey(self, epoch: int) -> Iterator[Views]:
        for step in range(5):
            yield self._batch(OnePass(self.order, epoch), step)

    def _batch(self, order: Order | OnePass, step: int) -> Views:
        mine = BATCH // distributed.size()
        start = step * BATCH + distributed.rank() * mine
        ids = order.ids(start, mine)
        epochs = order.epoch(np.arange(start, start + mine))
        pictures = [
            torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(100 * epoch + id))
            for epoch, id in zip(epochs.tolist(), ids.tolist(), strict=True)
        ]
        return Views((torch.stack(pictures)[None],), torch.from_numpy(ids))


def build(mode: str, **sizes: int) -> tuple[Remembering, nn.Module]:
    torch.manual_seed(0)
    learner = Remembering(**sizes)
    return learner, parallelize(learner, ParallelConfig(mode), distributed.init("cpu"), "fp64")


def train(run_dir: Path, mode: str = "none", **pictures) -> tuple[list[float], dict[str, Tensor]]:
    """Train, or go on; the losses of all steps, and the whole banks at the end."""
    learner, module = build(mode)
    config = RunConfig(
        run_dir=str(run_dir),
        steps=STEPS,
        batch_size=BATCH,
        precision="fp64",
        device="cpu",
        optim=OptimConfig(larc=False, weight_decay=0.0),
        schedule=ScheduleConfig("constant", peak=0.1),
        parallel=ParallelConfig(mode),
        checkpoint=CheckpointConfig(every=2, keep_last=9, minutes=0),
        health=HealthConfig(every=0, spike=0, patience=1),
        log=LogConfig(every=1, tensorboard=False),
    )
    batches = Pictures(**pictures)
    end = distributed.shutdown
    distributed.shutdown = lambda: None  # more runs follow in this group
    try:
        fit(Training(config=config, learner=learner, module=module, batches=batches,
                     prepare=lambda: None, weights=lambda step: {}), distributed.init("cpu"))  # fmt: skip
    finally:
        distributed.shutdown = end
    distributed.barrier()  # rank 0 writes the last row
    return [row["loss"] for row in rows(run_dir)], whole(learner)


def whole(learner: Remembering) -> dict[str, Tensor]:
    banks = {"features": learner.features, "assignments": learner.assignments}
    return {name: full(bank.whole()) for name, bank in banks.items()}


def load(run_dir: Path, mode: str = "none", **sizes: int) -> dict[str, Tensor]:
    """The whole banks of the newest checkpoint, as these ranks hold them."""
    learner, _ = build(mode, **sizes)
    optimizer = build_optimizer(learner, OptimConfig(larc=False))
    Checkpointer(run_dir, CheckpointConfig(), distributed.init("cpu")).load(learner, optimizer)
    return whole(learner)
