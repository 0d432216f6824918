"""lightly's methods on seer's small network, as its examples write them: for `methods.py`.

python benchmarks/peers.py METHOD IMAGES OUT.safetensors --minutes 4 [--network NAME --crop PX]
"""

import argparse
import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms as T
from core_minutes import Budget
from small_methods import CROP, NETWORK, VIEWS, options_of, rate_of, recipe_on
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from seer.backbones import build
from seer.backbones.base import Backbone
from seer.backbones.options import BackboneConfig
from seer.interop.native import save_backbone

OPTIM = recipe_on()["optim"]
SCHEDULE = recipe_on()["schedule"]
BATCH = recipe_on()["batch_size"]
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


class Peer(nn.Module):
    """A method: its modules, whose parameters with a gradient are trained, and the loss of two crops.

    Args:
        backbone: whose features `(B, width)` it takes.
    """

    def __init__(self, backbone: nn.Module, width: int):
        super().__init__()
        self.backbone = backbone

    def loss(self, crops: list[Tensor], share: float) -> Tensor:
        """The loss where `share` of the training is over."""
        raise NotImplementedError


class SwAV(Peer):
    def __init__(self, backbone: nn.Module, width: int):
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        super().__init__(backbone, width)
        self.head = SwaVProjectionHead(width, 512, 128)
        self.prototypes = SwaVPrototypes(128, 512)
        self.criterion = SwaVLoss(sinkhorn_epsilon=0.02)

    def loss(self, crops: list[Tensor], share: float) -> Tensor:
        self.prototypes.normalize()
        heads = [self.head(self.backbone(crop)) for crop in crops]
        scores = [self.prototypes(nn.functional.normalize(head, dim=1)) for head in heads]
        return self.criterion(scores, [])


class SimCLR(Peer):
    def __init__(self, backbone: nn.Module, width: int):
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__(backbone, width)
        self.head = SimCLRProjectionHead(width, 512, 128)
        self.criterion = NTXentLoss(temperature=0.2)

    def loss(self, crops: list[Tensor], share: float) -> Tensor:
        return self.criterion(*(self.head(self.backbone(crop)) for crop in crops))


class WithTeacher(Peer):
    """Has copies of backbone and head that follow them, with as much momentum as ours."""

    head: nn.Module
    method: str

    def copy(self, head: nn.Module) -> None:
        """Have the teacher; `head` is another of the same kind: DINO's cannot be copied."""
        from lightly.models.utils import deactivate_requires_grad

        self.teacher = copy.deepcopy(self.backbone)
        head.load_state_dict(self.head.state_dict())
        self.teacher_head = head
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)

    def follow(self, share: float) -> None:
        from lightly.models.utils import update_momentum

        begin = options_of(self.method)["momentum"]
        momentum = 1 - (1 - begin) * (math.cos(math.pi * share) + 1) / 2
        update_momentum(self.backbone, self.teacher, momentum)
        update_momentum(self.head, self.teacher_head, momentum)

    @torch.no_grad()
    def taught(self, crop: Tensor) -> Tensor:
        return self.teacher_head(self.teacher(crop))


class BYOL(WithTeacher):
    method = "byol"

    def __init__(self, backbone: nn.Module, width: int):
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        super().__init__(backbone, width)
        self.head, other = (BYOLProjectionHead(width, 512, 128) for _ in range(2))
        self.predictor = BYOLPredictionHead(128, 512, 128)
        self.criterion = NegativeCosineSimilarity()
        self.copy(other)

    def loss(self, crops: list[Tensor], share: float) -> Tensor:
        self.follow(share)
        predicted = [self.predictor(self.head(self.backbone(crop))) for crop in crops]
        targets = [self.taught(crop) for crop in crops]
        first = self.criterion(predicted[0], targets[1])
        return (first + self.criterion(predicted[1], targets[0])) / 2


class MoCo(WithTeacher):
    method = "moco"

    def __init__(self, backbone: nn.Module, width: int):
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead

        super().__init__(backbone, width)
        self.head, other = (MoCoProjectionHead(width, 512, 128, batch_norm=True) for _ in range(2))
        self.criterion = NTXentLoss(temperature=0.2, memory_bank_size=(4096, 128))
        self.copy(other)

    def loss(self, crops: list[Tensor], share: float) -> Tensor:
        self.follow(0.0)  # MoCo v2's momentum stays
        queries = self.head(self.backbone(crops[0]))
        order = torch.randperm(len(queries))
        keys = self.taught(crops[1][order])[order.argsort()]
        return self.criterion(queries, keys)


class DINO(WithTeacher):
    method = "dino"

    def __init__(self, backbone: nn.Module, width: int):
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        super().__init__(backbone, width)
        self.head, other = (
            DINOProjectionHead(width, 512, 128, 1024, batch_norm=True) for _ in range(2)
        )
        self.criterion = DINOLoss(1024)
        self.copy(other)

    def loss(self, crops: list[Tensor], share: float) -> Tensor:
        self.follow(share)
        targets = [self.taught(crop) for crop in crops]
        scores = [self.head(self.backbone(crop)) for crop in crops]
        temperature = 0.04 + 0.03 * min(1.0, share / 0.0625)
        return self.criterion(targets, scores, teacher_temp=temperature)


class VISReg(Peer):
    def __init__(self, backbone: nn.Module, width: int):
        from lightly.loss.visreg_loss import VISRegLoss
        from lightly.models.modules import MoCoProjectionHead

        super().__init__(backbone, width)
        self.head = MoCoProjectionHead(width, 512, 128, num_layers=3, batch_norm=True)
        self.criterion = VISRegLoss(0.6, 512, lambda_shape=0.1)

    def loss(self, crops: list[Tensor], share: float) -> Tensor:
        projections = torch.stack([self.head(self.backbone(crop)) for crop in crops])
        return self.criterion(local_proj=projections[:0], global_proj=projections)


PEERS: dict[str, Callable[[nn.Module, int], Peer]] = {
    "swav": SwAV,
    "simclr": SimCLR,
    "byol": BYOL,
    "moco": MoCo,
    "dino": DINO,
    "visreg": VISReg,
}


def batches(folder: Path, large: dict[str, Any]) -> Iterator[list[Tensor]]:
    """Two crops of each image as the recipe's `large` cuts and alters them, epoch after epoch."""
    from lightly.transforms.multi_view_transform import MultiViewTransform

    strengths = [large[key] for key in ("brightness", "contrast", "saturation", "hue")]
    jitter = T.RandomApply([T.ColorJitter(*strengths)], 0.8)
    crop = T.RandomResizedCrop(large["size"], large["scale"])
    alter = [crop, T.RandomHorizontalFlip(), jitter, T.RandomGrayscale(0.2)]
    view = T.Compose([*alter, T.ToTensor(), T.Normalize(MEAN, STD)])
    images = ImageFolder(str(folder), MultiViewTransform([view] * VIEWS))
    while True:
        for crops, _ in DataLoader(images, BATCH, shuffle=True, drop_last=True):
            yield crops


def optimizer_of(peer: Peer) -> torch.optim.Optimizer:
    """The recipe's AdamW, which decays neither norms nor biases."""
    decayed = [p for p in peer.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in peer.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, SCHEDULE["peak"], betas=OPTIM["betas"], weight_decay=OPTIM["weight_decay"]
    )


def train(
    method: str, folder: Path, budget: Budget, recipe: dict[str, Any]
) -> tuple[Backbone, int]:
    """The trained backbone and the samples it saw."""
    backbone = build(BackboneConfig(**recipe["backbone"]))
    peer = PEERS[method](backbone, backbone.out_dim)
    optimizer = optimizer_of(peer)
    samples = 0
    for crops in batches(folder, recipe["views"]["large"]):
        share = budget.share(samples)
        if share >= 1:
            break
        cosine = (math.cos(math.pi * share) + 1) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate_of(method) * min(cosine, share / SCHEDULE["warmup"])
        loss = peer.loss(crops, share)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        samples += BATCH
    return backbone, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=PEERS)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--crop", type=int, default=CROP)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(options.seed)
    folder = options.data / "train"
    recipe = recipe_on(options.network, options.crop)
    budget = Budget(options.minutes, options.images)
    backbone, samples = train(options.method, folder, budget, recipe)
    about = {"label": f"lightly {options.method}"}
    save_backbone(
        options.out, backbone.state_dict(), backbone.config, options.crop, MEAN, STD, about
    )
    options.out.with_suffix(".json").write_text(json.dumps({"samples": samples}))


if __name__ == "__main__":
    main()
