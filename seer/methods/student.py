"""What methods have in common whose student learns from a teacher that slowly follows it."""

from torch import nn

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods.base import Method
from seer.methods.heads import MLP
from seer.methods.memory import Teacher


class Student(Method):
    """Backbone, head and their `teacher`; a predictor where there is one."""

    head: nn.Module
    teacher: Teacher

    def reset_parameters(self) -> None:
        for child in self.children():
            if child is not self.teacher:
                child.reset_parameters()  # type: ignore[operator]
        self.after_load()

    def after_load(self) -> None:
        self.teacher.copy_from(self.backbone, self.imitated())

    def after_update(self, step: Step) -> None:
        self.teacher.follow(self.backbone, self.imitated(), self.momentum(step))

    def imitated(self) -> nn.Module:
        """What the teacher's head follows."""
        return self.head

    def momentum(self, step: Step) -> float:
        """The share of itself that the teacher keeps."""
        raise NotImplementedError


def predictor(widths: list[int], head: list[int]) -> MLP:
    """The predictor on a head. Raises `InputError` where it does not end as that does."""
    if widths[-1:] != head[-1:]:
        raise InputError(f"method.predictor={widths}: must end in {head[-1]}, as method.head")
    return MLP(head[-1], widths, bias_out=False)
