"""VISReg: embeddings of an image's crops agree, and those of all images are spread as a normal
distribution (Wu et al. 2026, arXiv:2606.02572). No teacher, no prototypes, no negatives.

In the paper each device takes its own batch and slices. Here the statistics are those of the batch
of all ranks, and the ranks share the slices: so the number of ranks changes nothing.
"""

import torch
from torch import Tensor, nn

from seer.data.views import Views
from seer.distributed import broadcast, gather, rank, size
from seer.engine.learner import Output, Step
from seer.engine.symptoms import Symptom
from seer.errors import InputError
from seer.methods.base import Method, forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.options import VISRegConfig
from seer.precision import full_precision
from seer.schema import check_options

SMALLEST = 1e-4  # added to a deviation that is divided by
COLLAPSED = 0.8  # of the scale's part, which is 1 where all embeddings are alike
SYMPTOMS = (
    Symptom(
        "no_scale",
        ("scale",),
        lambda v: v["scale"] > COLLAPSED,
        "embeddings hardly differ between images (the scale's part of the loss is {scale:.2f}; 1 if they are alike)",
        "raise method.regularisation or method.scale, lower schedule.peak",
    ),
)


class VISReg(Method):
    """Views: any; all crops are drawn to the mean of an image's large ones."""

    Config = VISRegConfig
    symptoms = SYMPTOMS

    def __init__(self, backbone: nn.Module, config: VISRegConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        self.head = MLP(backbone.out_dim, config.head, config.head_bn)  # type: ignore[arg-type]

    def forward(self, views: Views, step: Step) -> Output:
        if sum(map(len, views.crops)) < 2:
            raise InputError(
                "views: visreg compares crops of an image; set views.large.count=2 or more"
            )
        config = self.config
        embeddings = over_crops(self.head, forward_crops(self.backbone, views))
        agreement = disagreement(embeddings, len(views.crops[0]))
        everyones = gather(embeddings.transpose(0, 1)).transpose(0, 1)
        slices = directions(embeddings.shape[-1], config.slices, embeddings.device)
        scale, shape, centre = regularisation(everyones, slices.to(embeddings.dtype))
        spread = config.scale * scale + config.shape * shape + config.centre * centre
        loss = (1 - config.regularisation) * agreement + config.regularisation * spread
        metrics = {"agreement": agreement, "scale": scale, "shape": shape, "centre": centre}
        detached = {name: value.detach() for name, value in metrics.items()}
        return Output(loss, detached, embeddings[0].detach())


@full_precision
def disagreement(embeddings: Tensor, large: int) -> Tensor:
    """Mean square distance, in each dimension, of `(V, B, D)` embeddings from the mean of an image's
    first `large` ones (equation 8).
    """
    return (embeddings - embeddings[:large].mean(0)).square().mean()


@full_precision
def regularisation(embeddings: Tensor, slices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far each crop's batch in `(V, N, D)` is from a standard normal distribution: by the
    deviations of its dimensions (equation 1), by its shape along the slices `(D, S)`, whatever the
    deviations are (2-5), and by its mean (6). The mean over ranks is that over all slices.
    """
    mean = embeddings.mean(1, keepdim=True)
    deviation = embeddings.std(1, unbiased=False, keepdim=True)
    scale = (1 - deviation).square().mean()
    normalised = (embeddings - mean) / (deviation.detach() + SMALLEST)
    along = (normalised @ slices).sort(dim=1).values
    shape = (
        (along - quantiles(embeddings.shape[1], along.device).to(along)[:, None]).square().mean()
    )
    return scale, shape, mean.square().mean()


def quantiles(count: int, device: torch.device) -> Tensor:
    """`(n,)` float64 of the standard normal distribution at i / (n + 1)."""
    shares = torch.arange(1, count + 1, dtype=torch.float64, device=device) / (count + 1)
    return torch.special.ndtri(shares)


def directions(width: int, count: int, device: torch.device) -> Tensor:
    """This rank's share of `count` random directions, `(D, S)` of length 1: as many as every other
    rank's.
    """
    each = -(-count // size())
    vectors = broadcast(torch.randn(width, each * size(), device=device))
    mine = vectors[:, rank() * each : (rank() + 1) * each]
    return mine / mine.norm(dim=0)
