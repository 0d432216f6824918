"""Learners, batches and steps that are small enough for a CPU, and have everything that a kernel
can get wrong: grouped convolutions, gates, residuals, queues, teachers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seer.backbones import BackboneConfig, build
from seer.backbones.base import ResidualBlock
from seer.data.views import LabelledImages, Views
from seer.engine.learner import Learner, Step
from seer.engine.optim import LossScaler, OptimConfig, build_optimizer
from seer.engine.parallel import to_precision
from seer.engine.step import forward_backward, update
from seer.eval.trained.classifier import Classifier
from seer.methods import METHODS
from tests.kit import networks  # noqa: F401  # which makes `regnety_tiny` known

BATCH, CLASSES, BRANCH = 8, 5, 0.2
CONFIGS: dict[str, tuple[str, dict]] = {
    "swav": ("swav", {"head": [32, 16], "prototypes": 30, "freeze": 1}),
    "swav-16000": ("swav", {"head": [32, 16], "prototypes": 16_000, "freeze": 0}),
    "swav-queue": ("swav", {"head": [32, 16], "prototypes": 12, "queue": 2 * BATCH, "freeze": 0}),
    "simclr": ("simclr", {"head": [32, 16]}),
    "byol": ("byol", {"head": [32, 16], "predictor": [32, 16]}),
    "moco": ("moco", {"head": [32, 16], "queue": 2 * BATCH}),
    "mocov3": ("mocov3", {"head": [32, 16], "predictor": [32, 16]}),
    "dino": ("dino", {"head": [32, 16], "prototypes": 30, "freeze": 0}),
    "visreg": ("visreg", {"head": [32, 16], "slices": 64}),
    "relicv2": ("relicv2", {"head": [32, 16], "predictor": [32, 16], "negatives": 3}),
}
LEARNERS = (*CONFIGS, "finetune")
OPTIMIZERS = {
    "sgd": OptimConfig(),
    "plain": OptimConfig(larc=False, nesterov=True),
    "clipped": OptimConfig(larc_clip=True, clip_grad=1.0),
    "lars": OptimConfig(name="lars"),
    "summed": OptimConfig(name="lars", lars_joint_norm=False, rate_in_momentum=True),
    "adamw": OptimConfig(name="adamw", decay_norm_and_bias=False),
}


def learner(name: str, seed: int = 0, backbone: nn.Module | None = None) -> Learner:
    """One of `LEARNERS` with weights drawn from this seed; on a small RegNet, if not on another."""
    torch.manual_seed(seed)
    backbone = backbone or regnet()
    if name == "finetune":
        return Classifier(backbone, CLASSES, head_rate=10.0)
    method, options = CONFIGS[name]
    return METHODS[method](backbone, METHODS[method].Config(**options))


def regnet() -> nn.Module:
    backbone = build(BackboneConfig("regnety_tiny", stem_stride=1))
    for module in backbone.modules():
        if isinstance(module, ResidualBlock):
            # At 1 a network of random weights multiplies rounding errors a hundredfold.
            nn.init.constant_(getattr(module, module.final_norm).weight, BRANCH)
    return backbone


def batch(name: str, number: int) -> Views | LabelledImages:
    """A step's batch for such a learner, on the CPU and in fp32: the same for every device."""
    draw = torch.Generator().manual_seed(number)
    index = torch.arange(BATCH)
    if name == "finetune":
        pixels = torch.randn(BATCH, 24, 24, 3, generator=draw).permute(0, 3, 1, 2)
        return LabelledImages(pixels, torch.randint(CLASSES, (BATCH,), generator=draw), index)
    sizes = ((2, 24), (2, 16)) if name.startswith("swav") else ((2, 24),)
    crops = [
        torch.randn(count, BATCH, size, size, 3, generator=draw).permute(0, 1, 4, 2, 3)
        for count, size in sizes
    ]
    return Views(tuple(crops), index)


@dataclass
class Course:
    """What a few steps of training come to, on the CPU.

    Attributes:
        losses: of each step.
        gradient: of the first step, all of it as one vector.
        weights: after the last step, as one vector.
    """

    losses: list[float] = field(default_factory=list)
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor = field(default_factory=lambda: torch.empty(0))


def course(
    name: str,
    device: torch.device,
    precision: str,
    channels_last: bool = True,
    steps: int = 3,
    accumulate: int = 1,
) -> Course:
    """Train from `learner(name)`."""
    trained = to_precision(deepcopy(learner(name)), precision).to(device)
    if channels_last:
        trained.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(trained, OptimConfig(larc=False))
    scaler = LossScaler(precision == "fp16", scale=2.0**10)
    result = Course()
    for number in range(steps):
        step = Step(number, steps, lr=0.005)
        for group in optimizer.param_groups:
            group["lr"] = step.lr * group["factor"]
        output = forward_backward(
            trained, trained, batch(name, number).to(device), step, precision, device, accumulate,
            scaler,
        )  # fmt: skip
        scaler.unscale(trained.parameters())
        result.losses.append(output.loss.item())
        if number == 0:
            result.gradient = as_vector(p.grad for p in parameters(trained))
        update(trained, optimizer, step)
        optimizer.zero_grad(set_to_none=True)
    result.weights = as_vector(parameters(trained))
    return result


def parameters(module: nn.Module) -> Iterator[Tensor]:
    return (p for p in module.parameters() if p.requires_grad)


def as_vector(tensors: Iterator[Tensor | None]) -> Tensor:
    """In float64 on the CPU, in the order of their indices whatever their layout; None is left out."""
    return torch.cat([t.detach().double().cpu().reshape(-1) for t in tensors if t is not None])


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the length of `theirs`."""
    theirs = theirs.double().cpu()
    return float((ours.double().cpu() - theirs).norm() / theirs.norm())


@contextmanager
def group_of_one(device: torch.device) -> Iterator[None]:
    """A process group of this process alone: NCCL's for tensors on a GPU, gloo's for all others."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
