"""BYOL: predict a slowly following teacher's embedding of another view (Grill et al. 2020,
arXiv:2006.07733).
"""

from torch import nn

from seer.data.views import Views
from seer.engine.learner import Output, Step
from seer.errors import InputError
from seer.methods.base import forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.losses import regression
from seer.methods.memory import Teacher, spread, teacher_momentum
from seer.methods.options import BYOLConfig
from seer.methods.student import Student, predictor
from seer.schema import check_options


class BYOL(Student):
    """Views: two or more large crops, which student and teacher see; any small ones go to the
    student alone.
    """

    Config = BYOLConfig

    def __init__(self, backbone: nn.Module, config: BYOLConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        self.head = MLP(backbone.out_dim, config.head, bias_out=False)  # type: ignore[arg-type]
        self.predictor = predictor(config.predictor, config.head)
        self.teacher = Teacher(self.backbone, self.head)

    def forward(self, views: Views, step: Step) -> Output:
        if len(views.crops[0]) < 2:
            raise InputError(
                "views: byol predicts one large crop from another; set views.large.count=2"
            )
        embeddings = over_crops(self.head, forward_crops(self.backbone, views))
        predictions = over_crops(self.predictor, embeddings)
        targets = self.teacher(views.crops[0])
        loss = regression(predictions, targets)
        metrics = {"target_similarity": 1 - loss.detach() / 4}
        if step.measure:
            metrics["target_spread"] = spread(targets[0])
        return Output(loss, metrics, embeddings[0].detach())

    def momentum(self, step: Step) -> float:
        return teacher_momentum(self.config.momentum, step)
