"""A small method with everything that parallelism can get wrong, and a few steps of training it,
for engine tests.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from seer import distributed
from seer.data.views import Views
from seer.distributed import local
from seer.engine.learner import Output, Step
from seer.engine.optim import SGD
from seer.engine.parallel import ParallelConfig, parallelize
from seer.engine.step import train_step
from seer.methods.base import Method, forward_crops, over_crops
from tests.kit.networks import ResidualNet

WIDTH, BATCH, STEPS = 4, 8, 5


class Tiny(Method):
    """Contrasts crops of different sizes over all ranks, with a momentum teacher and prototypes
    frozen at first.
    """

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.backbone = ResidualNet(width)
        self.teacher = ResidualNet(width).requires_grad_(False)
        self.head = nn.Sequential(
            nn.Linear(2 * width, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5)
        )
        self.prototypes = nn.Linear(5, 7, bias=False)
        self.register_buffer("centre", torch.zeros(5))

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)):
                module.reset_parameters()
        self.centre.zero_()

    def forward(self, views: Views, step: Step) -> Output:
        embeddings = F.normalize(over_crops(self.head, forward_crops(self.backbone, views)), dim=-1)
        with torch.no_grad():
            target = distributed.all_reduce_mean(
                forward_crops(self.teacher, views, slice(1)).mean()
            )
        keys = distributed.gather(embeddings[0])
        similarity = self.prototypes(embeddings[2]) @ self.prototypes(keys).T
        labels = distributed.rank() * len(views.index) + torch.arange(len(views.index))
        loss = (
            F.cross_entropy(similarity / 0.5, labels)
            + (embeddings - self.centre).square().mean() * target.cos()
        )
        return Output(loss, {"target": target}, embeddings[0].detach())

    def after_backward(self, step: Step) -> None:
        if step.number < 2:
            self.prototypes.weight.grad = None

    @torch.no_grad()
    def after_update(self, step: Step) -> None:
        for mine, theirs in zip(self.teacher.parameters(), self.backbone.parameters(), strict=True):
            local(mine).lerp_(local(theirs), 0.1)


@dataclass
class Result:
    """What a training run leaves; tensors are whole, whatever they were sharded by."""

    losses: list[float] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)


def batch(step: int, dtype: torch.dtype = torch.float64) -> Views:
    """This rank's part of a step's global batch: two crops of 12 px and one of 8 px of each image."""
    generator = torch.Generator().manual_seed(step)
    crops = [
        torch.randn(v, BATCH, 3, s, s, generator=generator, dtype=torch.float64).to(dtype)
        for v, s in ((2, 12), (1, 8))
    ]
    mine = slice(
        *(BATCH // distributed.size() * r for r in (distributed.rank(), distributed.rank() + 1))
    )
    return Views(tuple(c[:, mine] for c in crops), torch.arange(BATCH)[mine])


def build(config: ParallelConfig, precision: str = "fp64") -> tuple[Tiny, nn.Module, SGD]:
    """Method, the module to call, and an optimizer whose rates depend on the norms of whole
    parameters.
    """
    torch.manual_seed(0)
    with torch.device("meta" if config.deferred_init else "cpu"):
        method = Tiny()
    world = distributed.init("cpu")
    config = replace(config, mode=config.mode if world.size > 1 else "none")
    module = parallelize(method, config, world, precision)
    return (
        method,
        module,
        SGD([p for p in method.parameters() if p.requires_grad], lr=0.5, momentum=0.9, trust=0.1),
    )


def steps(
    method: Tiny, module: nn.Module, optimizer: SGD, start: int, stop: int, precision: str = "fp64"
) -> list[float]:
    """Train; returns the losses of steps start..stop, averaged over ranks."""
    losses = []
    for number in range(start, stop):
        step = Step(number, STEPS)
        views = batch(number, torch.float64 if precision == "fp64" else torch.float32)
        output = train_step(method, module, optimizer, views, step, precision)
        losses.append(distributed.all_reduce_mean(output.loss).item())
    return losses


def full(tensor: Tensor) -> Tensor:
    """A copy of the whole of it, wherever its shards are."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def whole(method: nn.Module) -> dict[str, Tensor]:
    return {name: full(tensor) for name, tensor in method.state_dict().items()}


def train(config: ParallelConfig, precision: str = "fp64") -> Result:
    method, module, optimizer = build(config, precision)
    return Result(steps(method, module, optimizer, 0, STEPS, precision), whole(method))
