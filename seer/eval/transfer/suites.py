"""The suites by name: which tasks, on which data sets, by which options.

Imports nothing that takes long: what is wrong is told before torch is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seer.errors import InputError, nearest
from seer.eval.tasks import CLASSIFYING, DENSE, is_pixels
from seer.interop.spec import check_model

KORNBLITH = "many-shot"  # as `seer.eval.data.datasets` calls these suites
FEW_SHOT = "few-shot"
CROSS_DOMAIN = "cross-domain few-shot"

# What is measured by itself, and by no suite.
APART = {
    "attention": "thousands of forwards an image; seer eval attention measures it by itself",
    "colour": "thousands of steps an image; seer eval colour measures it by itself",
    "robustness": "needs ImageNet and its variants; seer eval robustness measures it by itself",
}


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        about: for people.
        sets: the suites of `seer.eval.data.datasets` whose data sets it takes, besides one's own; none is all.
        options: of each task, below those that are given.
        whole: whether it stands for the paper, so that what no data set is there for is told.
    """

    name: str
    about: str
    tasks: tuple[str, ...]
    sets: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole: bool = False


_SUITES = (
    Suite(
        "quick",
        "kNN, linear, logistic regression and few-shot episodes on every data set that is there; all "
        "tasks see images cut alike, so that features are computed once, and fewer settings are tried",
        ("knn", "linear", "logreg", "fewshot"),
        options={
            "knn": ("crop=short_side",),
            "linear": ("crop=short_side", "epochs=30"),
            "logreg": ("count=12", "tolerance=1e-4"),  # a λ in each power of ten
        },
    ),
    Suite(
        "many-shot",
        "logistic regression and finetuning on the paper's eleven data sets",
        ("logreg", "finetune"),
        (KORNBLITH,),
    ),
    Suite(
        "few-shot",
        "few-shot episodes on the paper's ten data sets, and four of other domains",
        ("fewshot",),
        (FEW_SHOT, CROSS_DOMAIN),
    ),
    Suite(
        "full",
        "every task on every data set that is there, detection, segmentation and surfaces included, but those that "
        "are measured by themselves",
        (*(task for task in CLASSIFYING if task not in APART), *DENSE),
        whole=True,
    ),
)
SUITES = {suite.name: suite for suite in _SUITES}


def suite_of(name: str) -> Suite:
    """Raises `InputError` for an unknown name."""
    if name not in SUITES:
        raise InputError(f"--suite {name}: no such suite{nearest(name, SUITES)}")
    return SUITES[name]


def check_models(specs: Sequence[str]) -> None:
    """Refuse models that are not there, and one that is given twice, as far as that is told at once.
    Raises `InputError`.
    """
    if twice := next((spec for spec in specs if specs.count(spec) > 1), ""):
        raise InputError(f"--model {twice}: is given twice; give each model once")
    for spec in specs:
        if not is_pixels(spec):
            check_model(spec)
