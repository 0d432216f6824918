"""MoCo v3: tell an image's key from those of the batch, in both directions, by a predictor and a slowly
following key encoder (Chen et al. 2021, arXiv:2104.02057).
"""

from torch import nn

from seer.data.views import Views
from seer.engine.learner import Output, Step
from seer.errors import InputError
from seer.methods.base import forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.losses import contrast
from seer.methods.memory import Teacher, spread, teacher_momentum
from seer.methods.options import MoCoV3Config
from seer.methods.student import Student, predictor
from seer.schema import check_options


class MoCoV3(Student):
    """Views: exactly two crops, of one size."""

    Config = MoCoV3Config

    def __init__(self, backbone: nn.Module, config: MoCoV3Config):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        width: int = backbone.out_dim  # type: ignore[assignment]
        self.head = MLP(width, config.head, batchnorm_out=True, affine_out=False)
        self.predictor = predictor(config.predictor, config.head)
        self.teacher = Teacher(self.backbone, self.head)

    def forward(self, views: Views, step: Step) -> Output:
        if [len(crops) for crops in views.crops] != [2]:
            raise InputError(
                "views: mocov3 compares two crops of a size; set views.large.count=2, views.small.count=0"
            )
        embeddings = over_crops(self.head, forward_crops(self.backbone, views))
        queries = over_crops(self.predictor, embeddings)
        keys = self.teacher(views.crops[0])
        temperature = self.config.temperature
        there, right = contrast(queries[0], keys[1], None, temperature)
        back, right_back = contrast(queries[1], keys[0], None, temperature)
        # As in their code; at their temperature of 1 the loss of a direction counts twice.
        loss = 2 * temperature * (there + back)
        metrics = {"contrastive_accuracy": (right + right_back) / 2}
        if step.measure:
            metrics["target_spread"] = spread(keys[0])
        return Output(loss, metrics, embeddings[0].detach())

    def momentum(self, step: Step) -> float:
        return teacher_momentum(self.config.momentum, step)
