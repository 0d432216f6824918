"""RELICv2: tell an image from a few others by a slowly following target network, and give its
crops the same distribution over these (Tomasev et al. 2022, arXiv:2201.05119).

Of the paper the listing and the results are known to us, its code is of evaluation alone. The
listing has the sum over pairs of crops, equal ones included, divided by their number (L + S)·L; a
contrastive term and a KL divergence, added without weights, whose gradient is stopped on one side;
n_e negatives drawn for each pair; and the removal of backgrounds (`views.*.background_removal`),
drawn for each large crop and for no small one. What it leaves open is decided here:

- The divergence of a pair (i, j), crop i online and crop j by the target network, is from the
  distribution of another pair over the same images: (j, i), as in RELIC (Mitrovic et al. 2021,
  arXiv:2010.07922, equation 3); or (the large crop after j, j) where i is a small crop, which the
  target network never sees. The gradient is of the pair (i, j) alone.
- Negatives are other images' crops j, of all ranks. For each pair one set of places behind an
  image's own is drawn: a batch is in random order, so these are random images, each as often as
  any other.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.distributed import broadcast, gather, rank, size
from seer.engine.learner import Output, Step
from seer.engine.symptoms import Symptom
from seer.errors import InputError
from seer.methods.base import forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.memory import Teacher, spread, teacher_momentum
from seer.methods.options import RELICv2Config
from seer.methods.student import Student, predictor
from seer.precision import full_precision
from seer.rundir.thresholds import CHANCE_MARGIN, LEAST_SPREAD
from seer.schema import check_options

SYMPTOMS = (
    Symptom(
        "contrast_at_chance",
        ("contrastive", "log_candidates"),
        lambda v: abs(v["contrastive"] / v["log_candidates"] - 1) < CHANCE_MARGIN,
        "the contrastive part {contrastive:.3f} is ln (negatives + 1) = {log_candidates:.3f}: no image is told apart",
        "raise schedule.peak, lower method.temperature (0.1), or lower method.invariance",
    ),
    Symptom(
        "same_targets",
        ("target_spread",),
        lambda v: v["target_spread"] < LEAST_SPREAD,
        "the target network gives all images nearly the same embedding (spread {target_spread:.2g}; all round it is 1)",
        "lower schedule.peak or lengthen its warm-up; lower method.invariance",
    ),
)


class RELICv2(Student):
    """Views: two or more large crops, which both networks see; small ones go to the online network
    alone.
    """

    Config = RELICv2Config
    symptoms = SYMPTOMS

    def __init__(self, backbone: nn.Module, config: RELICv2Config):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        self.head = MLP(backbone.out_dim, config.head, bias_out=False)  # type: ignore[arg-type]
        self.predictor = predictor(config.predictor, config.head)
        self.teacher = Teacher(self.backbone, self.head)

    @classmethod
    def warnings(cls, config: Any, batch_size: int, steps: int) -> list[str]:
        if config.negatives < batch_size:
            return []
        line = f"a batch of {batch_size} has {batch_size - 1} other images, which are taken"
        return [f"method.negatives={config.negatives}: {line}"]

    def forward(self, views: Views, step: Step) -> Output:
        large = views.crops[0]
        self._check(len(large), large.shape[1] * size())
        embeddings = over_crops(self.head, forward_crops(self.backbone, views))
        predictions = over_crops(self.predictor, embeddings)
        targets = self.teacher(large)
        negatives = draw_negatives(predictions, targets, self.config.negatives)
        scores, references = pair_scores(predictions, targets, negatives, self.config.temperature)
        contrastive, invariance = relic(scores, references)
        loss = self.config.contrastive * contrastive + self.config.invariance * invariance
        metrics = {
            "contrastive": contrastive.detach(),
            "invariance": invariance.detach(),
            "contrastive_accuracy": (scores.argmax(-1) == 0).to(scores.dtype).mean(),
            "log_candidates": torch.full_like(contrastive.detach(), scores.shape[-1]).log(),
        }
        if step.measure:
            metrics["target_spread"] = spread(targets[0])
        return Output(loss, metrics, embeddings[0].detach())

    def momentum(self, step: Step) -> float:
        return teacher_momentum(self.config.momentum, step)

    def _check(self, large: int, images: int) -> None:
        if large < 2:
            raise InputError(
                "views: relicv2 compares large crops of an image; set views.large.count=2 or more"
            )
        if images < 2:
            raise InputError(
                "batch_size: relicv2 tells an image from others of its batch, which is one image; give 2 or more"
            )


def draw_negatives(predictions: Tensor, targets: Tensor, count: int) -> Tensor:
    """`(C, L, n)` int64: for each pair of crops how far behind an image, in the batch of all ranks,
    its negatives stand; all different, the same on every rank.

    Args:
        predictions: `(C, B, D)`. targets: `(L, B, D)`. count: n, or what there is if that is less.
    """
    crops, batch = predictions.shape[:2]
    others = batch * size() - 1
    draws = torch.rand(crops, len(targets), others, device=predictions.device)
    return broadcast(draws.topk(min(count, others)).indices + 1)


@full_precision
def pair_scores(
    predictions: Tensor, targets: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """How alike an image's crop i is to crop j of itself and of its negatives, for all pairs of
    crops; and the scores of the pairs that these are to agree with, without gradient.

    Args:
        predictions: `(C, B, D)` of the online network, the first L of them from the crops of `targets`.
        targets: `(L, B, D)` of the target network; no gradient flows to them.
        negatives: `(C, L, n)`, as `draw_negatives` gives them.

    Returns:
        Twice `(C, L, B, 1 + n)`, cosines over the temperature; the image's own is the first.
    """
    p = F.normalize(predictions, dim=-1)
    t = gather(F.normalize(targets.detach(), dim=-1).transpose(0, 1))  # (N, L, D)
    crops, batch = p.shape[:2]
    own = batch * rank() + torch.arange(batch, device=p.device)
    places = F.pad(negatives, (1, 0))[:, :, None] + own[:, None]
    images = places % len(t)  # (C, L, B, 1 + n)
    online = torch.arange(crops, device=p.device)[:, None]
    target = torch.arange(len(targets), device=p.device)[None]
    is_large = online < len(targets)
    other_online = torch.where(is_large, target, (target + 1) % len(targets))
    other_target = torch.where(is_large, online, target)
    candidates = t[images, target[..., None, None]]
    scores = torch.einsum("ibd,ijbmd->ijbm", p, candidates)
    candidates = t[images, other_target[..., None, None]]
    references = torch.einsum("ijbd,ijbmd->ijbm", p.detach()[other_online], candidates)
    return scores / temperature, references / temperature


@full_precision
def relic(scores: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """The contrastive part, and the divergence from the references, KL(p ‖ sg p'), in nats: means
    over images and pairs of what `pair_scores` gives, whose references have no gradient.
    """
    log_p = F.log_softmax(scores, dim=-1)
    log_reference = F.log_softmax(references, dim=-1)
    divergence = (log_p.exp() * (log_p - log_reference)).sum(-1)
    return -log_p[..., 0].mean(), divergence.mean()
