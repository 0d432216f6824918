"""What can be said of domain adaptation from a few labels; apart from what it does, which needs torch."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from seer.data.options import LoaderConfig
from seer.engine.options import OptimConfig
from seer.engine.schedule import ScheduleConfig
from seer.eval.trained.options import SIDE, TrainedConfig
from seer.schema import (
    AREAS,
    COUNT,
    SEED,
    TEMPERATURE,
    Choice,
    Integer,
    Location,
    Number,
    Text,
    option,
    required,
)

if TYPE_CHECKING:
    from seer.eval.scores import Score  # imports torch

TITLES = {"mme": "MME", "entropy": "entropy", "supervised": "S+T"}


@dataclass
class MmeConfig(TrainedConfig):
    """Options of `seer eval mme`, whose `--data` is the source.

    Attributes:
        target: labelled images of the same classes in another domain, as `--data` takes them.
        method: `mme`: the classifier raises the entropy of what it says of unlabelled target images, the features
            lower it (Saito et al. 2019, arXiv:1904.06487); `entropy`: both lower it; `supervised`, the paper's S+T:
            labelled images alone.
        labels: of each of the target's classes.
        validation: target images of each class that are neither learned from nor tested with, whose accuracy is told
            besides, to choose options by.
        labels_seed: of the drawing of both.
        entropy_weight: λ, of the entropy beside the cross entropy.
        temperature: T, by which the classifier's cosines are divided.
        width: of the linear layer between backbone and classifier, which counts among the features; 0: none.
        backbone_rate: factor on the backbone's rate.
        batch_size: a quarter of it source images, a quarter labelled target images, half unlabelled ones. Where there
            are fewer, some come several times, each time another crop.
        size: side of the images in pixels; 0 is the model's own.
        crop_scale: range of a random crop's share of a training image's area.
        test_crop: as of finetuning.
    """

    name: str = option("mme", Text(255, 1), incidental=True)
    target: str = required(Location(shortest=1))
    method: str = option("mme", Choice(*TITLES))
    labels: int = option(3, Integer(1, 10**6))
    validation: int = option(3, COUNT)
    labels_seed: int = option(0, SEED)
    steps: int = option(1000, Integer(1, 10**8))
    entropy_weight: float = option(0.1, Number(0, 100))
    temperature: float = option(0.05, TEMPERATURE)
    width: int = option(512, Integer(0, 2**20))
    backbone_rate: float = option(0.1, Number(0, 1e6))
    batch_size: int = option(96, Integer(4, 2**24))
    size: int = option(0, SIDE)
    crop_scale: list[float] = option([0.75, 1.0], AREAS)
    test_crop: str = option("centre", Choice("centre", "short_side"))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(larc=False, nesterov=True, weight_decay=5e-4)
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig("inverse", peak=0.01, final=0.0, gamma=5.0)
    )
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def searched(self) -> set[str]:
        """No option is chosen by a grid."""
        return set()

    def renamed(self, score: "Score") -> "Score":
        """A score as results call it: of another method, or with more labels, it is another measure."""
        labels = f"{self.labels} label{'s' * (self.labels > 1)} a class"
        metric = f"{score.metric}_{self.method}_{self.labels}labels"
        return replace(
            score, metric=metric, title=f"{score.title}, {TITLES[self.method]}, {labels}"
        )
