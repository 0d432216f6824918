"""Distillation without labels: a student learns the features that frozen teachers have of its crops.

Of each image the teacher sees the large crops. Its features, each dimension with mean 0 and deviation 1
over the batch of all ranks, are what the student's projection of the same crop is to be, and what its
projections of small crops are to be on the mean: the loss is the mean square of what is amiss. It is 1
for a student that knows nothing. Dense features are those at each place of the last maps: the
student's, interpolated to as many places as the teacher's has, are projected to them likewise; small
crops have no part in them.

With experts each of them teaches images of its own, beside a teacher of all: the last stage of Divide
and Contrast (Tian et al. 2021, arXiv:2105.08054). Every pair of an image and a teacher weighs the same.
Its loss is published nowhere that could be read; this one is ours.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.engine.learner import Output, Step, Survey
from seer.engine.symptoms import Symptom
from seer.errors import InputError
from seer.methods.base import Method, forward_crops, over_crops
from seer.methods.lessons import (
    Lesson,
    Taught,
    TeacherSource,
    capturing,
    missed,
    over_images,
    standardised,
    with_small,
)
from seer.methods.options import DistillConfig
from seer.precision import at_least_fp32
from seer.schema import check_options

NOTHING = 0.98  # a loss that is 1 for who knows nothing
SYMPTOMS = (
    Symptom(
        "learns_nothing",
        ("loss",),
        lambda v: v["loss"] > NOTHING,
        "the student knows nothing of the teacher's features (loss {loss:.2f}; 1 by their means alone)",
        "raise schedule.peak, or easier crops (views.large.scale=[0.5, 1.0])",
    ),
)


class Distill(Method):
    """Views: one or more large crops; any small ones go to the student alone.

    `take_teachers` comes before the first step, and `take_lists` where there are experts.
    """

    Config = DistillConfig
    symptoms = SYMPTOMS

    def __init__(self, backbone: nn.Module, config: DistillConfig):
        super().__init__()
        check_options(config, "method")
        check_teachers_named(config)
        self.config = config
        self.backbone = backbone
        self.lessons = nn.ModuleList()
        self.expert_of: Tensor | None = None
        self.shapes_only = False

    @classmethod
    def keeps_rows(cls, config: DistillConfig) -> bool:
        """Whether features are kept, in banks that come with the teachers, whose widths they have."""
        return config.cache

    def take_teachers(
        self, sources: Sequence[TeacherSource], samples: int = 0, shapes_only: bool = False
    ) -> None:
        """Have the teachers, `teacher` before `experts`, on whatever device this method is being built on.

        Args:
            samples: how many images a cache has rows of.
            shapes_only: shapes and costs are wanted alone: experts share any images evenly.
        """
        self.shapes_only = shapes_only
        width: int = self.backbone.out_dim  # type: ignore[assignment]
        lessons = [Lesson(source, width, self.config, samples) for source in sources]
        self.lessons = nn.ModuleList(lessons)

    def take_lists(self, expert_of: Tensor) -> None:
        """Have each image's expert, `(N,)` int16: from 0, or -1 for none."""
        self.expert_of = expert_of

    def reset_parameters(self) -> None:
        self.backbone.reset_parameters()  # type: ignore[operator]
        for lesson in self.lessons:
            lesson.reset_parameters()  # type: ignore[operator]

    def before_epoch(self, step: Step, survey: Survey[Views]) -> None:
        if not self.config.cache or step.epoch >= 1:
            return
        widths = [lesson.out_dim for lesson in self._each()]
        for views, output in survey():
            assert output.embeddings is not None
            parts = output.embeddings.split(widths, dim=1)
            for lesson, features in zip(self._each(), parts, strict=True):
                assert lesson.cached is not None
                lesson.cached.write(views.index, features)

    def forward(self, views: Views, step: Step) -> Output:
        if step.surveying:
            features = torch.cat([taught.pooled[0, :, 0] for taught in self._taught(views)], dim=1)
            return Output(features.new_zeros(()), embeddings=features)
        answers = self._cached(views) if self.config.cache else self._taught(views)
        with capturing(self.backbone, self._last_stage()) as maps:
            features = forward_crops(self.backbone, views)
        loss, metrics, embeddings = self._pooled(features, answers)
        if self.config.dense:
            dense = self._dense(maps[0], answers, len(views.crops[0]))
            metrics |= {"pooled_loss": loss.detach(), "dense_loss": dense.detach()}
            together = self.config.pooled + self.config.dense
            loss = (self.config.pooled * loss + self.config.dense * dense) / together
        return Output(loss, metrics, embeddings)

    def _pooled(
        self, features: Tensor, answers: list[Taught]
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of `(V, B, C)` features, how near they are, and the first crop's projections."""
        sums = []
        cosines = []
        first: Tensor | None = None
        for lesson, taught in zip(self._each(), answers, strict=True):
            predictions = over_crops(lesson.head, features)
            first = predictions[0].detach() if first is None else first
            sums.append(missed(taught.pooled, taught.weights, predictions[:, :, None]))
            cosines.append(_cosines(predictions.detach(), taught))
        weights = [taught.weights for taught in answers]
        metrics = {"teacher_cosine": over_images(cosines, weights)}
        assert first is not None
        return over_images(sums, weights), metrics, first

    def _dense(self, maps: Tensor, answers: list[Taught], crops: int) -> Tensor:
        """The loss of the student's `(V · B, C, H, W)` last maps of large crops."""
        sums = []
        for lesson, taught in zip(self._each(), answers, strict=True):
            assert taught.dense is not None
            assert lesson.dense_head is not None
            places = taught.dense.shape[2:]
            own = F.interpolate(maps, size=places, mode="bilinear", antialias=True)
            predictions = lesson.dense_head(own.flatten(2).transpose(1, 2))
            targets = taught.dense.flatten(2).transpose(1, 2)
            grouped = (crops, -1)
            sums.append(
                missed(
                    targets.unflatten(0, grouped),
                    taught.weights,
                    predictions.unflatten(0, grouped),
                )
            )
        return over_images(sums, [taught.weights for taught in answers])

    def _taught(self, views: Views) -> list[Taught]:
        """What each teacher says of its images of the batch."""
        large = views.crops[0]
        weights = self._weights(views)
        answers = []
        for number, lesson in enumerate(self._each()):
            rows = self._rows(number, weights[number])
            answers.append(lesson.teach(large, rows, weights[number]))
        return answers

    def _cached(self, views: Views) -> list[Taught]:
        """The same from before."""
        answers = []
        for lesson, weights in zip(self._each(), self._weights(views), strict=True):
            assert lesson.cached is not None
            pooled = lesson.cached.read(views.index)[None, :, None]
            answers.append(Taught(weights, pooled))
        return answers

    def _weights(self, views: Views) -> list[Tensor]:
        """For each teacher `(B,)`, 1 for the images that it teaches."""
        large = views.crops[0]
        everyone = large.new_ones(large.shape[1])
        of_all = [everyone] if self.config.teacher else []
        experts = len(self.config.experts)
        if not experts:
            return of_all
        if self.expert_of is None:
            if not self.shapes_only:
                raise InputError(
                    "method.experts: which images are theirs is known to seer pretrain alone"
                )
            expert = torch.arange(large.shape[1], device=large.device) % experts
        else:
            self.expert_of = self.expert_of.to(views.index.device)
            expert = self.expert_of[views.index]
        return of_all + [(expert == number).to(large.dtype) for number in range(experts)]

    def _rows(self, number: int, weights: Tensor) -> Tensor | None:
        """The images that a teacher sees: all, if all are its own; else those of weight 1, or one of
        weight 0 if there are none, so that whatever ranks do together all of them do.
        """
        first = bool(self.config.teacher)
        if number < first:
            return None
        if self.expert_of is None:
            experts = len(self.config.experts)
            return torch.arange(number - first, len(weights), experts, device=weights.device)
        rows = weights.nonzero().flatten()  # waits for the device
        return rows if len(rows) else torch.zeros(1, dtype=torch.int64, device=weights.device)

    def _last_stage(self) -> str:
        """The module whose output is the student's last map; "" where none is wanted."""
        stages: Any = getattr(self.backbone, "stages", ())
        return f"stages.{len(stages) - 1}" if self.config.dense else ""

    def _each(self) -> list[Lesson]:
        return [lesson for lesson in self.lessons if isinstance(lesson, Lesson)]


def _cosines(predictions: Tensor, taught: Taught) -> Tensor:
    """The sum over images of the cosine of `(V, B, D)` predictions with a teacher's features."""
    targets = with_small(standardised(taught.pooled, taught.weights), len(predictions))
    cosine = F.cosine_similarity(at_least_fp32(predictions), targets[:, :, 0], dim=-1)
    return (cosine.mean(0) * taught.weights).sum()


def check_teachers_named(config: DistillConfig) -> None:
    """Raise `InputError` unless options name teachers, and what to learn of them."""
    if not config.teacher and not config.experts:
        raise InputError("method.teacher: not set; give MODEL, for instance timm:resnet50")
    if len(config.experts) != len(config.lists):
        raise InputError(
            f"method.lists: {len(config.lists)} lists for {len(config.experts)} experts; give the list of each "
            "expert's images, in the same order"
        )
    if not config.pooled and not config.dense:
        raise InputError("method.pooled=0, method.dense=0: nothing is learned; give one a weight")
    if config.cache and config.dense:
        raise InputError(
            "method.cache=true: pooled features alone are kept; set method.dense=0, or method.cache=false"
        )


def teachers_of(config: Any) -> list[str]:
    """The MODELs that a method's options name as its teachers, those of all images first."""
    teacher = getattr(config, "teacher", "")
    return [*([teacher] if teacher else []), *getattr(config, "experts", [])]
