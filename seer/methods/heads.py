"""What stands on a backbone in pretraining: projection and prediction heads, prototypes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.distributed import local
from seer.engine.learner import Step
from seer.precision import full_precision
from seer.steps import whole_steps


class MLP(nn.Sequential):
    """Linear layers of the given widths with an activation between them, and BatchNorm before each of
    these if wanted.

    Args:
        width: features coming in.
        widths: of the hidden layers and the output: `[2048, 128]` in SwAV, `[8192, 8192, 256]` in SEER.
        batchnorm: normalise the hidden layers.
        batchnorm_out: normalise the output too (SimCLR).
        bias_out: give the output layer a bias (BYOL does not; nor is there one before a BatchNorm).
        shift_out: train the shift of the output's BatchNorm; else it stays 0 (SimCLR).
        affine_out: give the output's BatchNorm a scale and a shift (MoCo v3 does not).
        activation: between the layers (DINO: GELU).
    """

    def __init__(
        self,
        width: int,
        widths: Sequence[int],
        batchnorm: bool = True,
        batchnorm_out: bool = False,
        bias_out: bool = True,
        shift_out: bool = True,
        affine_out: bool = True,
        activation: type[nn.Module] = nn.ReLU,
    ):
        *hidden, out = widths
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [
                nn.Linear(width, size),
                *([nn.BatchNorm1d(size)] if batchnorm else []),
                activation(**({"inplace": True} if activation is nn.ReLU else {})),
            ]
            width = size
        layers.append(nn.Linear(width, out, bias=bias_out and not batchnorm_out))
        if batchnorm_out:
            norm = nn.BatchNorm1d(out, affine=affine_out)
            if affine_out:
                # Kept, so that a state dict has the same names either way.
                norm.bias.requires_grad_(shift_out)
            layers.append(norm)
        super().__init__(*layers)

    def reset_parameters(self) -> None:
        for layer in self:
            if not isinstance(layer, nn.ReLU | nn.GELU):
                layer.reset_parameters()  # type: ignore[operator]


class Prototypes(nn.Linear):
    """K trainable directions on the unit sphere; `forward` gives `(N, K)` scores in at least fp32.

    The rows are kept at length 1 by `normalize`, which the method calls after each update.
    """

    def __init__(self, width: int, count: int):
        super().__init__(width, count, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.normalize()

    @torch.no_grad()
    def normalize(self) -> None:
        """Scale each row to length 1, in place. Sharding is by rows, so every rank can do its own."""
        rows = local(self.weight)
        rows.copy_(F.normalize(rows, dim=1))

    def freeze(self, until: int | float, step: Step) -> None:
        """Before the step `until`, or that share of the run, leave no gradient: so neither weight decay
        nor momentum moves the rows.
        """
        if step.number < whole_steps(until, step.total, "method.freeze"):
            self.weight.grad = None

    @full_precision
    def forward(self, embeddings: Tensor) -> Tensor:
        return F.linear(embeddings, self.weight)
