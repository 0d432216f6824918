"""Two processes give what one gives on the whole batch, whether parameters are replicated or
sharded.
"""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from seer import distributed
from seer.data.views import Views
from seer.engine.learner import Step
from seer.engine.step import train_step
from seer.methods import METHODS
from seer.methods.base import Method
from seer.methods.sinkhorn import sinkhorn
from seer.processes import spawn
from tests.methods.tiny import begin_epoch, build, views_for

STEPS = 4
OPTIONS: dict[str, dict] = {
    "swav": {"queue": 7, "freeze": 1},
    "byol": {"momentum": 0.5},
    "moco": {"momentum": 0.5},
    "mocov3": {"momentum": 0.5},
    "dino": {"momentum": 0.5},
    "relicv2": {"momentum": 0.5},
}
# Distillation in all its parts: places, and experts of whose images a rank may have none.
EXPERTS = {"experts": ["one", "two", "three"], "lists": ["1", "2", "3"], "dense": 0.5}
EVERY = [*METHODS, "experts"]


def build_without_batchnorm(name: str) -> Method:
    """Plain BatchNorm sees one rank only; making it see all is the engine's part."""
    experts = name == "experts"
    method = build("distill", **EXPERTS) if experts else build(name, **OPTIONS.get(name, {}))
    method = method.double()
    for module in list(method.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, key, nn.Identity())
    return method


def shard(method: Method) -> nn.Module:
    for part in (
        method.backbone,
        getattr(method, "head", None),
        getattr(method, "prototypes", None),
        getattr(method, "teacher", None),
    ):
        if part is not None:
            fully_shard(part)
    return fully_shard(method)


WRAP = {"none": lambda method: method, "ddp": DistributedDataParallel, "fsdp": shard}


def my_slice(views: Views) -> Views:
    part = lambda t, dim: t.chunk(distributed.size(), dim)[distributed.rank()]  # noqa: E731
    return Views(tuple(part(c, 1) for c in views.crops), part(views.index, 0))


def train(name: str, wrap: str) -> dict[str, list | dict]:
    """Losses and metrics per step, and all parameters and buffers at the end."""
    method = build_without_batchnorm(name)
    batches = [
        my_slice(
            views_for(
                "distill" if name == "experts" else name, batch=6, seed=number, dtype=torch.float64
            )
        )
        for number in range(STEPS)
    ]
    begin_epoch(method, batches, Step(0, STEPS))
    module = WRAP[wrap](method)
    optimizer = torch.optim.SGD(
        [p for p in method.parameters() if p.requires_grad], lr=0.1, momentum=0.9
    )
    losses, metrics = [], []
    for number, views in enumerate(batches):
        step = Step(number, STEPS)
        torch.manual_seed(number)
        output = train_step(method, module, optimizer, views, step, "fp64")
        losses.append(distributed.all_reduce_mean(output.loss))
        values = {
            key: distributed.all_reduce_mean(value.double())
            for key, value in output.metrics.items()
        }
        metrics.append(values)
    state = {
        key: value.full_tensor() if hasattr(value, "full_tensor") else value
        for key, value in state_of(method)
    }
    return {"losses": losses, "metrics": metrics, "state": state}


def state_of(method: Method) -> list[tuple[str, torch.Tensor]]:
    return [(key, value.detach()) for key, value in method.state_dict().items()]


def uneven_sinkhorn() -> torch.Tensor:
    """Ranks with unequal shares of the same samples; returns all assignments in order."""
    scores = torch.rand(2, 10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cuts = [0, 10] if distributed.size() == 1 else [0, 3, 10]
    mine = slice(cuts[distributed.rank()], cuts[distributed.rank() + 1])
    q = torch.zeros_like(scores)
    q[:, mine] = sinkhorn(scores[:, mine], 0.05, 3)[0]
    return distributed.all_reduce_sum(q)


def shuffled_losses() -> list[torch.Tensor]:
    """MoCo's losses where each process, or part of a batch, has BatchNorm's statistics of its own."""
    parts = 2 // distributed.size()
    method = build("moco", queue=12, momentum=0.5, splits=parts).double()
    module = DistributedDataParallel(method) if parts == 1 else method
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for number in range(STEPS):
        views = my_slice(views_for("moco", batch=6, seed=number, dtype=torch.float64))
        torch.manual_seed(number)
        output = train_step(method, module, optimizer, views, Step(number, STEPS), "fp64")
        losses.append(distributed.all_reduce_mean(output.loss))
    return losses


def on_each_rank() -> dict:
    torch.set_num_threads(1)
    results: dict = {(name, wrap): train(name, wrap) for name in EVERY for wrap in ("ddp", "fsdp")}
    return results | {"sinkhorn": uneven_sinkhorn(), "shuffled": shuffled_losses()}


@pytest.fixture(scope="module")
def ranks() -> list[dict]:
    return spawn(on_each_rank, 2, device="cpu")


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", EVERY)
def test_two_processes_equal_one(ranks, name, wrap):
    alone = train(name, "none")
    for rank in ranks:
        for part in ("losses", "metrics", "state"):
            torch.testing.assert_close(rank[name, wrap][part], alone[part], rtol=1e-9, atol=1e-11)


def test_sinkhorn_of_unequal_shares(ranks):
    torch.testing.assert_close(ranks[0]["sinkhorn"], uneven_sinkhorn(), rtol=1e-12, atol=0)


def test_mocos_processes_are_parts_of_one_batch(ranks):
    for rank in ranks:
        torch.testing.assert_close(rank["shuffled"], shuffled_losses(), rtol=1e-9, atol=0)
