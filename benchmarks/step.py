"""Samples/s of one SwAV training step, against lightly's modules on torchvision's RegNetY.

    python benchmarks/step.py [--backbone regnety_004 --batch 16 --large 96 --small 48 --prototypes 3000] [--json FILE]

Both train the same backbone on the same crops with the same batch and number of prototypes, and take turns step by
step. The peer is eager PyTorch as lightly's documentation shows it, in fp32 and under bf16 autocast. The second figure
is the share of a RegNetY-1.6GF step (2×224 + 4×96, 16,000 prototypes) that is not the backbone.
"""

import warnings

import torch
from torch import nn

from benchmarks.harness import arguments, figure, interleaved, report
from seer.backbones import BackboneConfig, build
from seer.data.views import Views
from seer.distributed import World
from seer.engine.loop import Run, forward_backward
from seer.engine.optim import LossScaler, OptimConfig, build_optimizer
from seer.engine.parallel import ParallelConfig, parallelize
from seer.methods.base import Step
from seer.methods.swav import SwAV

STEP = Step(number=1000, total=10_000, lr=0.1)


def random_views(batch: int, sizes: dict[int, int], channels_last: bool = True) -> Views:
    """`sizes`: how many crops of which side."""
    crops = [torch.randn(count, batch, side, side, 3) for side, count in sizes.items()]
    return Views(tuple(c.permute(0, 1, 4, 2, 3) for c in crops), torch.arange(batch))


def ours(backbone: str, batch: int, sizes: dict[int, int], prototypes: int, precision: str, compile: bool):
    """A function that makes one training step of seer's SwAV."""
    torch.manual_seed(0)
    trunk = build(BackboneConfig(name=backbone))
    config = SwAV.Config(prototypes=prototypes, head=[trunk.out_dim, 128])
    method = SwAV(trunk, config)
    world = World()
    module = parallelize(method, ParallelConfig(compile=compile), world, precision)
    optimizer = build_optimizer(method, OptimConfig(weight_decay=1e-6))
    run = Run.__new__(Run)  # the loop's own step needs only these of a run's parts
    run.module, run.scaler, run.world, run.precision, run.accumulate = module, LossScaler(False), world, precision, 1
    views = random_views(batch, sizes)

    def step() -> None:
        forward_backward(run, views, STEP)
        optimizer.step()
        method.after_update(STEP)
        optimizer.zero_grad(set_to_none=True)

    return step


def lightly_peer(backbone: str, batch: int, sizes: dict[int, int], prototypes: int, bf16: bool):
    """The same step as a user of lightly writes it: one forward pass for each crop, contiguous tensors, eager."""
    import torchvision
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

    torch.manual_seed(0)
    name = {"regnety_004": "regnet_y_400mf", "regnety_008": "regnet_y_800mf", "regnety_016": "regnet_y_1_6gf"}[backbone]
    trunk = torchvision.models.get_model(name)
    width, trunk.fc = trunk.fc.in_features, nn.Identity()
    model = nn.ModuleList([trunk, SwaVProjectionHead(width, width, 128), SwaVPrototypes(128, prototypes)])
    criterion = SwaVLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-6)
    crops = [crop.contiguous() for group in random_views(batch, sizes).crops for crop in group]

    def step() -> None:
        backbone, head, heads = model
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            heads.normalize()
            scores = [heads(nn.functional.normalize(head(backbone(crop)), dim=1)).float() for crop in crops]
            loss = criterion(scores[:2], scores[2:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
