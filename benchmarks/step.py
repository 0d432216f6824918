"""Samples/s of one SwAV training step, against lightly's modules on torchvision's RegNetY.

    python benchmarks/step.py [--backbone regnety_004 --batch 16 --large 96 --small 48 --prototypes
    3000] [--json FILE]

Both train the same backbone on the same crops with the same batch and number of prototypes, and
take turns step by step. The peer is eager PyTorch as lightly's documentation shows it, in fp32 and
under bf16 autocast. The second figure is the share of a RegNetY-1.6GF step (2×224 + 4×96, 16,000
prototypes) that is not the backbone.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from harness import arguments, figure, interleaved, report
from torch import Tensor, nn

from seer.backbones import build
from seer.data.views import Views
from seer.distributed import World
from seer.engine.learner import Step
from seer.engine.optim import OptimConfig, build_optimizer
from seer.engine.parallel import ParallelConfig, parallelize
from seer.engine.step import train_step
from seer.methods.base import Method
from seer.methods.swav import SwAV, SwAVConfig

STEP = Step(number=1000, total=10_000, lr=0.1)
TORCHVISION = {
    "regnety_004": "regnet_y_400mf",
    "regnety_016": "regnet_y_1_6gf",
    "regnety_032": "regnet_y_3_2gf",
}


def random_views(batch: int, sizes: dict[int, int]) -> Views:
    """Views of noise; `sizes` says how many crops of which side."""
    crops = [torch.randn(count, batch, side, side, 3) for side, count in sizes.items()]
    return Views(tuple(c.permute(0, 1, 4, 2, 3) for c in crops), torch.arange(batch))


def seer_step(
    method: Method, views: Views, precision: str, compile: bool = False, optim: str = "sgd"
) -> Callable[[], None]:
    """A function that makes one training step as a run does."""
    module = parallelize(method, ParallelConfig(compile=compile), World(), precision)
    optimizer = build_optimizer(method, OptimConfig(optim, weight_decay=1e-6))
    for group in optimizer.param_groups:
        group["lr"] = STEP.lr

    def step() -> None:
        train_step(method, module, optimizer, views, STEP, precision)

    return step


def lightly_step(backbone: str, views: Views, prototypes: int, bf16: bool) -> Callable[[], None]:
    """The same step as a user of lightly writes it: one pass for each crop, contiguous tensors,
    eager.
    """
    import torchvision
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

    trunk = torchvision.models.get_model(TORCHVISION[backbone])
    width, trunk.fc = trunk.fc.in_features, nn.Identity()
    head, scorer, criterion = (
        SwaVProjectionHead(width, width, 128),
        SwaVPrototypes(128, prototypes),
        SwaVLoss(),
    )
    optimizer = torch.optim.SGD(
        nn.ModuleList([trunk, head, scorer]).parameters(), 0.1, momentum=0.9, weight_decay=1e-6
    )
    crops = [crop.contiguous() for group in views.crops for crop in group]
    large = len(views.crops[0])

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            scorer.normalize()
            scores = [
                scorer(nn.functional.normalize(head(trunk(crop)), dim=1)).float() for crop in crops
            ]
            loss = criterion(scores[:large], scores[large:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def swav(backbone: nn.Module, prototypes: int) -> SwAV:
    width: int = backbone.out_dim  # type: ignore[assignment]
    return SwAV(backbone, SwAVConfig(head=[width, 128], prototypes=prototypes, freeze=0))


def step_figure(options: argparse.Namespace) -> dict:
    """Samples/s of whole steps: ours in the fastest of its modes, and the peer's two."""
    views = random_views(options.batch, {options.large: 2, options.small: 4})
    modes = [(precision, compile) for compile in (False, True) for precision in ("fp32", "bf16")]
    contestants = {
        f"seer {precision}{' compiled' if compile else ''}": seer_step(
            swav(build(options.backbone), options.prototypes), views, precision, compile
        )
        for precision, compile in modes  # what is to be compiled stays eager where there is no compiler
    }
    for precision in ("fp32", "bf16"):
        peer = lightly_step(options.backbone, views, options.prototypes, bf16=precision == "bf16")
        contestants[f"lightly {precision}"] = peer
    rates = {
        name: options.batch / seconds
        for name, seconds in interleaved(contestants, options.rounds).items()
    }
    for name, rate in rates.items():
        print(f"  {name:24}{rate:8.2f} samples/s", flush=True)
    crops = f"2x{options.large}+4x{options.small}"
    name = f"SwAV step, {options.backbone}, batch {options.batch}, {crops}, K={options.prototypes}"
    ours = max(rate for contestant, rate in rates.items() if contestant.startswith("seer"))
    return figure(
        name, "samples/s", ours, {n: r for n, r in rates.items() if n.startswith("lightly")}
    )


class Features(nn.Module):
    """Stands for a backbone that costs nothing: gives leaves that want a gradient, as wide as its
    features.
    """

    def __init__(self, out_dim: int):
        super().__init__()
        self.out_dim = out_dim

    def reset_parameters(self) -> None:
        """Nothing to initialise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), self.out_dim, requires_grad=True)


def overhead_figure(batch: int, rounds: int) -> dict:
    """Share of the step at RegNetY-1.6GF and 16,000 prototypes that head, loss, Sinkhorn and
    optimizer take.
    """
    views = random_views(batch, {224: 2, 96: 4})
    backbone = build("regnety_016")
    whole = seer_step(swav(backbone, 16_000), views, "fp32")
    rest = seer_step(swav(Features(backbone.out_dim), 16_000), views, "fp32")
    optimizer = build_optimizer(backbone, OptimConfig(weight_decay=1e-6))

    def optimizer_of_backbone() -> float:
        for parameter in backbone.parameters():
            parameter.grad = torch.ones_like(parameter)
        began = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - began

    seconds = interleaved({"whole": whole, "rest": rest}, rounds)
    update = min(optimizer_of_backbone() for _ in range(rounds))
    share = (seconds["rest"] + update) / seconds["whole"]
    name = (
        f"head + loss + Sinkhorn + optimizer at K=16000, RegNetY-1.6GF, batch {batch}, 2x224+4x96"
    )
    return figure(name, "share of the step", share, {})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backbone", default="regnety_004", choices=TORCHVISION)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--large", type=int, default=96)
    parser.add_argument("--small", type=int, default=48)
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    report([step_figure(options), overhead_figure(batch=8, rounds=3)], options.json)


if __name__ == "__main__":
    main()
