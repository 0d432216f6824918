"""What is adapted from one domain to another: a backbone and a classifier by cosines, and the batches
of both domains that it learns from (Saito et al. 2019, arXiv:1904.06487).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.ledger import MODULUS
from seer.data.loader import Loader
from seer.data.views import LabelledImages
from seer.engine.learner import Learner, Output, Step
from seer.eval.trained.classifier import NO_IMAGE
from seer.eval.trained.finite import check_finite
from seer.precision import full_precision

SMALLEST = 1e-5  # is added to a probability before its logarithm, as in the paper's code


@dataclass(frozen=True)
class DomainBatch:
    """Images of both domains side by side.

    Attributes:
        unlabelled: of the target; nobody looks at their labels. None where none are learned from.
    """

    source: LabelledImages
    target: LabelledImages
    unlabelled: LabelledImages | None

    @property
    def index(self) -> Tensor:
        return torch.cat([images.index for images in self._present()])

    def to(self, *args: Any, **kwargs: Any) -> "DomainBatch":
        """Move or convert the pixels."""
        unlabelled = self.unlabelled and self.unlabelled.to(*args, **kwargs)
        return DomainBatch(
            self.source.to(*args, **kwargs), self.target.to(*args, **kwargs), unlabelled
        )

    def chunk(self, count: int) -> list["DomainBatch"]:
        """Cut each domain's images into `count` equal parts."""
        source = self.source.chunk(count)
        target = self.target.chunk(count)
        unlabelled = self.unlabelled.chunk(count) if self.unlabelled else [None] * count
        return [DomainBatch(*parts) for parts in zip(source, target, unlabelled, strict=True)]

    def _present(self) -> list[LabelledImages]:
        images = [self.source, self.target]
        return images if self.unlabelled is None else [*images, self.unlabelled]


class SideBySide:
    """Batches of several loaders, one of each at a time; `Batches` of the engine."""

    def __init__(self, loaders: Sequence[Loader[LabelledImages]], name: str) -> None:
        self.loaders = loaders
        self.name = name
        self.identity = "-".join(loader.identity for loader in loaders)
        self.samples = sum(loader.samples for loader in loaders)
        self.wait_seconds = 0.0
        self.work_seconds: dict[str, float] = {}

    @property
    def seen(self) -> int:
        return sum(loader.seen for loader in self.loaders) % MODULUS

    @seen.setter
    def seen(self, value: int) -> None:
        for loader in self.loaders:
            loader.seen = 0
        self.loaders[0].seen = value

    def iterate(
        self, start: int, stop: int, skipped: Collection[int] = ()
    ) -> Iterator[DomainBatch]:
        streams = [loader.iterate(start, stop, skipped) for loader in self.loaders]
        try:
            for parts in zip(*streams, strict=True):
                self.wait_seconds = sum(loader.wait_seconds for loader in self.loaders)
                self.work_seconds = _summed([loader.work_seconds for loader in self.loaders])
                yield _batch(parts)
        finally:
            for stream in streams:
                stream.close()  # type: ignore[attr-defined]

    def survey(self, epoch: int) -> Iterator[DomainBatch]:
        """As far as the smallest of the sets goes."""
        streams = [loader.survey(epoch) for loader in self.loaders]
        return (_batch(parts) for parts in zip(*streams, strict=False))


def _batch(parts: Sequence[LabelledImages]) -> DomainBatch:
    source, target, *unlabelled = parts
    return DomainBatch(source, target, unlabelled[0] if unlabelled else None)


def _summed(seconds: Sequence[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for each in seconds:
        for name, value in each.items():
            total[name] = total.get(name, 0.0) + value
    return total


class Adapter(Learner[DomainBatch]):
    """Cross entropy of the labelled images of both domains, and what `method` does with the entropy
    of the unlabelled ones. Images of one domain alone are classified.

    Args:
        method, weight, temperature, width, rate: as in `MmeConfig`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        method: str,
        weight: float,
        temperature: float,
        width: int,
        rate: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = CosineHead(backbone.out_dim, width, classes, temperature)  # type: ignore[arg-type]
        self.method = method
        self.weight = weight
        self.rate = rate

    def forward(self, batch: DomainBatch | LabelledImages, step: Step) -> Output:
        if isinstance(batch, LabelledImages):
            return self._classified(batch)
        # Apart from the unlabelled ones, so that BatchNorm takes the statistics of each by itself.
        labels = torch.cat([batch.source.labels, batch.target.labels])
        logits = self.head(self.backbone(torch.cat([batch.source.pixels, batch.target.pixels])))
        loss = F.cross_entropy(logits, labels)
        right = logits.detach().argmax(1) == labels
        metrics = {"top1": right.float().mean(), "cross_entropy": loss.detach()}
        if batch.unlabelled is None:
            return Output(loss, metrics)
        flips = self.method == "mme"
        uncertainty = entropy(self.head(self.backbone(batch.unlabelled.pixels), flips))
        metrics["entropy"] = uncertainty.detach()
        sign = -1.0 if flips else 1.0  # the classifier raises what features, behind the flip, lower
        return Output(loss + sign * self.weight * uncertainty, metrics)

    def _classified(self, batch: LabelledImages) -> Output:
        logits = self.head(self.backbone(batch.pixels))
        check_finite([logits], "outputs")
        loss = F.cross_entropy(logits, batch.labels, ignore_index=NO_IMAGE)
        return Output(loss, {"right": logits.argmax(1) == batch.labels})

    def rates(self) -> dict[str, float]:
        return {"backbone.": self.rate}


class CosineHead(nn.Module):
    """A linear layer, if it has a width, and a classifier by the cosines between its output and a
    weight for each class, divided by a temperature.
    """

    def __init__(self, features: int, width: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.project = nn.Linear(features, width) if width else nn.Identity()
        self.classify = nn.Linear(width or features, classes, bias=False)
        self.temperature = temperature
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, flips: bool = False) -> Tensor:
        """`(B, C)` logits, at least in float32.

        Args:
            flips: let the gradient flow back to the features with its sign changed.
        """
        projected = self.project(features)
        directions = F.normalize(_Flip.apply(projected) if flips else projected)
        logits = self.classify(directions) / self.temperature
        return logits if logits.dtype == torch.float64 else logits.float()


class _Flip(torch.autograd.Function):
    """Itself forward, and backward times -1 (Ganin & Lempitsky 2015, arXiv:1409.7495)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


@full_precision
def entropy(logits: Tensor) -> Tensor:
    """H = -Σ p ln(p + 1e-5), mean over `(B, C)` logits (equation 4)."""
    shares = logits.softmax(1)
    return -(shares * (shares + SMALLEST).log()).sum(1).mean()
