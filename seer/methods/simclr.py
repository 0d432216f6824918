"""SimCLR: tell the other view of an image from all other images (Chen et al. 2020,
arXiv:2002.05709).
"""

from dataclasses import dataclass

from torch import nn

from seer.data.views import Views
from seer.engine.learner import Output, Step
from seer.errors import InputError
from seer.methods.base import Method, forward_crops, over_crops
from seer.methods.heads import MLP, WIDTHS
from seer.methods.losses import nt_xent
from seer.schema import TEMPERATURE, Choice, check_options, option


@dataclass
class SimCLRConfig:
    """The defaults are the paper's for ResNet-50, with BatchNorm on the output as in its code.

    Attributes:
        head: hidden and output widths of the projection head; `head_bn` puts BatchNorm on its hidden layers and
            `head_bn_out` on its output, which has no shift in SimCLR's code: `head_bn_shift` trains one.
        temperature: of the similarities.
    """

    name: str = option("simclr", Choice("simclr"))
    head: list[int] = option([2048, 128], WIDTHS)
    head_bn: bool = True
    head_bn_out: bool = True
    head_bn_shift: bool = False
    temperature: float = option(0.1, TEMPERATURE)


class SimCLR(Method):
    """Views: exactly two crops, of one size."""

    Config = SimCLRConfig

    def __init__(self, backbone: nn.Module, config: SimCLRConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        width: int = backbone.out_dim  # type: ignore[assignment]
        self.head = MLP(
            width, config.head, config.head_bn, config.head_bn_out, shift_out=config.head_bn_shift
        )

    def forward(self, views: Views, step: Step) -> Output:
        if [len(crops) for crops in views.crops] != [2]:
            raise InputError(
                "views: simclr compares two crops of a size; set views.large.count=2, views.small.count=0"
            )
        embeddings = over_crops(self.head, forward_crops(self.backbone, views))
        loss, accuracy = nt_xent(embeddings, self.config.temperature)
        return Output(loss, {"contrastive_accuracy": accuracy}, embeddings[0].detach())
