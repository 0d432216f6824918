"""SimCLR: tell the other view of an image from all other images (Chen et al. 2020,
arXiv:2002.05709).
"""

from torch import nn

from seer.data.views import Views
from seer.engine.learner import Output, Step
from seer.errors import InputError
from seer.methods.base import Method, forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.losses import nt_xent
from seer.methods.options import SimCLRConfig
from seer.schema import check_options


class SimCLR(Method):
    """Views: two crops or more, of one size."""

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
        if len(views.crops) != 1 or len(views.crops[0]) < 2:
            raise InputError(
                "views: simclr compares crops of one size; set views.large.count=2 or more, views.small.count=0"
            )
        embeddings = over_crops(self.head, forward_crops(self.backbone, views))
        loss, accuracy = nt_xent(embeddings, self.config.temperature)
        return Output(loss, {"contrastive_accuracy": accuracy}, embeddings[0].detach())
