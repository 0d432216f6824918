"""The tasks by name. Adding one is one file and one line here; help, report and quickstart take it
from there.

Imports nothing that takes long: the command line's help lists them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from seer.errors import InputError, nearest
from seer.eval.protocols import layers_of

CLASSES = "seer.eval.data.splitting"  # which finds images of classes
BOXES = "seer.eval.data.boxes"
DOMAINS = "seer.eval.data.domains"
MAPS = "seer.eval.data.maps"  # images with a map of classes each
SURFACES = "seer.eval.data.surfaces"  # with a normal or a depth for each pixel


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: as on the command line.
        title: what people are shown.
        module: has `run(model, train, test, config) -> list[Score]`, and the dataclass of its options.
        options: the name of that dataclass, dotted where it stands apart from the module, which needs torch.
        quick: whether the quickstart runs it.
        trained: whether it trains the model, in a run of its own, on several processes if wanted. `module` then has
            `configure(task, model, data, overrides)`, `check(config, ranks)` and `run(config) -> list[Score]`.
        several: whether it also scores images of several classes each, whose labels are `(N, C)`.
        alone: of a task that is one process what to do instead of starting several.
        images: the module that finds its images: `train_and_test`, `check_layout` and `rule_of`, each of the data and
            `several` as in the one of classes.
        about: what it does, for readers of a page who have never heard of it.
    """

    name: str
    title: str
    module: str
    options: str
    quick: bool = False
    trained: bool = False
    several: bool = False
    alone: str = ""
    images: str = CLASSES
    about: str = ""

    @property
    def config(self) -> type[Any]:
        place, _, name = self.options.rpartition(".")
        return getattr(import_module(place) if place else self.load(), name)

    def load(self) -> Any:
        """The module."""
        return import_module(self.module)

    def splitting(self) -> Any:
        """The module of its images."""
        return import_module(self.images)

    def resolve(self, *layers: dict[str, Any]) -> Any:
        """The options by the protocol (`seer.eval.protocols`) and, above it, layers of `seer.config`.

        Raises:
            InputError: an option or the protocol is unknown, or a value is wrong.
        """
        from seer.config import resolve  # slow to import

        return resolve(self.config, [*layers_of(self.name, layers), *layers])


def _by_name(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}


TASKS = _by_name(
    Task(
        "knn",
        "kNN",
        "seer.eval.probes.knn",
        "seer.eval.probes.options.KnnConfig",
        quick=True,
        about="the class that most training images with similar features have; nothing is trained",
    ),
    Task(
        "linear",
        "Linear",
        "seer.eval.probes.linear",
        "seer.eval.probes.options.LinearConfig",
        quick=True,
        about="one layer on frozen features, trained by gradient descent",
    ),
    Task(
        "logreg",
        "Logistic regression",
        "seer.eval.probes.logreg",
        "seer.eval.probes.options.LogregConfig",
        several=True,
        about="one layer on frozen features, fitted to the end; its regularisation is chosen on images kept for that",
    ),
    Task(
        "fewshot",
        "Few-shot",
        "seer.eval.probes.fewshot",
        "seer.eval.probes.options.FewshotConfig",
        about="the class whose mean feature of a few images is nearest, over many small tasks drawn at random",
    ),
    Task(
        "finetune",
        "Finetuned",
        "seer.eval.trained.finetune",
        "seer.eval.trained.options.FinetuneConfig",
        trained=True,
        about="the whole network is trained on the labels",
    ),
    Task(
        "lowshot",
        "Low-shot",
        "seer.eval.trained.finetune",
        "seer.eval.trained.lowshot.LowshotConfig",
        trained=True,
        about="the whole network is trained on few of the labels",
    ),
    Task(
        "mme",
        "Domain adaptation",
        "seer.eval.trained.mme",
        "seer.eval.trained.domain_options.MmeConfig",
        trained=True,
        images=DOMAINS,
    ),
    Task(
        "calibration",
        "Calibration",
        "seer.eval.analyses.calibration",
        "seer.eval.analyses.image_options.CalibrationConfig",
        about="whether a classifier on frozen features is right as often as it is confident",
    ),
    Task(
        "geometry",
        "Geometry",
        "seer.eval.analyses.geometry",
        "seer.eval.analyses.image_options.GeometryConfig",
    ),
    Task(
        "invariance",
        "Invariance",
        "seer.eval.analyses.invariance",
        "seer.eval.analyses.image_options.InvarianceConfig",
        several=True,
        alone="leave it out",
    ),
    Task(
        "attention",
        "Attention",
        "seer.eval.analyses.attention",
        "seer.eval.analyses.image_options.AttentionConfig",
        several=True,
    ),
    Task(
        "colour",
        "Colour and content",
        "seer.eval.analyses.colour",
        "seer.eval.analyses.image_options.ColourConfig",
        several=True,
    ),
    Task(
        "robustness",
        "Robustness",
        "seer.eval.analyses.robustness",
        "seer.eval.analyses.image_options.RobustnessConfig",
        alone="seer eval linear --nproc with the same options keeps the features of the training images for it",
    ),
    Task(
        "detect",
        "Detection",
        "seer.eval.trained.detection.detect",
        "seer.eval.trained.detection.options.DetectConfig",
        trained=True,
        images=BOXES,
        about="boxes, and masks where the data have them, by a detector that is trained on the network",
    ),
    Task(
        "segment",
        "Segmentation",
        "seer.eval.trained.dense.segment",
        "seer.eval.trained.dense.options.SegmentConfig",
        trained=True,
        images=MAPS,
        about="a class for each pixel, by a head that is trained with the network",
    ),
    Task(
        "denselinear",
        "Linear segmentation",
        "seer.eval.dense.denselinear",
        "seer.eval.dense.options.DenseLinearConfig",
        images=MAPS,
        about="a class for each pixel, by one layer on frozen features of each place",
    ),
    Task(
        "normals",
        "Surface normals",
        "seer.eval.trained.dense.normals",
        "seer.eval.trained.dense.options.NormalsConfig",
        trained=True,
        images=SURFACES,
        about="the direction of the surface at each pixel, by a head on the frozen network",
    ),
    Task(
        "depth",
        "Linear depth",
        "seer.eval.dense.depth",
        "seer.eval.dense.options.DepthConfig",
        images=SURFACES,
        about="the distance of each pixel, by one layer on frozen features of each place",
    ),
)


PIXELS = "pixels"  # the word for raw pixels in place of a model
LARGEST_PIXELS = 1024  # a side
ALL = "all"  # the word for the quick tasks together, of a model and of what it is compared with
CLASSIFYING = {name: task for name, task in TASKS.items() if task.images == CLASSES}
DENSE = {name: task for name, task in TASKS.items() if task.images in (BOXES, MAPS, SURFACES)}
QUICK = {name: task for name, task in TASKS.items() if task.quick}


def check_request(
    task: str,
    model: str,
    data: Path | str,
    overrides: Sequence[str],
    out: Path | str | None = None,
    nproc: int = 1,
) -> None:
    """Refuse what is wrong with a measurement whatever its model and data are: the task, its options,
    where results are to go, how many processes.

    Raises:
        InputError: in one line, which.
    """
    if task == ALL:
        for name in QUICK:
            check_options(name, model, data, options_of(name, overrides))
    else:
        check_options(task, model, data, overrides)
    instead = "name one task" if task == ALL else TASKS[task].alone
    if nproc > 1 and instead:
        raise InputError(f"--nproc {nproc}: {task} is one process; {instead}")
    if out:
        from seer.results import check_results  # slow to import

        check_results(out)


def check_inputs(task: str, model: str, data: Path | str) -> None:
    """Refuse a model or data that are not there, as far as that is told at once.

    Raises:
        InputError: in one line, which.
    """
    from seer.interop.spec import check_model

    measured = TASKS[next(iter(QUICK)) if task == ALL else task]
    measured.splitting().check_layout(data, measured.several)
    if is_trained(task):
        check_model(model)
    else:
        check_frozen(model)


def check_frozen(model: str) -> None:
    """Refuse, at once, what is neither a MODEL that could be loaded nor pixels. Raises `InputError`."""
    from seer.interop.spec import check_model

    if is_pixels(model):
        pixels_size(model)
    else:
        check_model(model)


def check_scoring(
    run: Path, data: str, tasks: Sequence[str], overrides: Sequence[str], awaited: bool
) -> None:
    """Refuse what is wrong with scoring a run's checkpoints, as far as that is told at once.

    Args:
        awaited: whether the run may be one that has not begun.

    Raises:
        InputError: in one line, what.
    """
    from seer.eval.data.splitting import check_layout
    from seer.interop.spec import check_model
    from seer.rundir.rundir import RunDir

    for task in tasks:
        if task not in QUICK:
            raise InputError(f"--task {task}: not scored while a run trains{nearest(task, QUICK)}")
        check_options(task, str(run), data, options_of(task, overrides))
    if RunDir(run).state not in ("missing", "empty") or not awaited:
        RunDir(run).check()
    if not awaited:
        check_model(str(run))
    check_layout(data)


def is_pixels(model: str) -> bool:
    return re.split("[:@]", model)[0] == PIXELS


def pixels_size(model: str) -> int:
    """The side in pixels that `pixels:SIZE` asks for; 0 of `pixels`. Raises `InputError`."""
    match = re.fullmatch(f"{PIXELS}(:[1-9][0-9]{{0,3}})?", model)
    size = int((match[1] or ":0")[1:]) if match else LARGEST_PIXELS + 1
    if size > LARGEST_PIXELS:
        raise InputError(
            f"{model}: expected pixels, or pixels:SIZE with a SIZE from 1 to {LARGEST_PIXELS}"
        )
    return size


def is_trained(task: str) -> bool:
    return task != ALL and TASKS[task].trained


def check_options(task: str, model: str, data: Path | str, overrides: Sequence[str]) -> None:
    """Refuse an unknown task, and an option of it that is unknown or has a wrong value."""
    from seer.config import layer, parse_overrides  # slow to import

    if task == ALL:
        raise InputError(f"task '{task}' is several; name one of {', '.join(QUICK)}")
    if task not in TASKS:
        raise InputError(f"task '{task}' is unknown{nearest(task, [*TASKS, ALL])}")
    given = layer({"model": model, "data": str(data)}) if TASKS[task].trained else {}
    TASKS[task].resolve(given, parse_overrides(list(overrides)))


def options_of(task: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that are options of a task. Raises `InputError` for what none has."""
    own = option_names(task)
    every = set().union(*map(option_names, QUICK))
    chosen = []
    for override in overrides:
        key = override.partition("=")[0]
        name = key.partition(".")[0]
        if name not in every:
            tasks = ", ".join(QUICK)
            raise InputError(f"{key}: none of {tasks} has such an option{nearest(key, every)}")
        if name in own:
            chosen.append(override)
    return chosen


def option_names(task: str) -> set[str]:
    """The options of a task, the first parts of their keys."""
    return {declared.name for declared in fields(TASKS[task].config)}
