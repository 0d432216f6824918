"""The teachers of a method that learns from other networks."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from seer.errors import InputError, first_line
from seer.interop.last_map import name_of_last_map
from seer.interop.models import Model, load_model, sized
from seer.interop.spec import library_of
from seer.methods.base import Method
from seer.methods.distill import Distill, teachers_of
from seer.methods.lessons import TeacherSource, as_places, capturing
from seer.methods.options import DistillConfig


def teach(
    method: Method,
    mean: Sequence[float],
    std: Sequence[float],
    samples: int = 0,
    size: int = 0,
    shapes_only: bool = False,
) -> None:
    """Give a method the teachers that its options name, if they do.

    Args:
        mean, std: of the run's images.
        samples: how many these are, of which a cache has rows.
        size: side of the crops that a teacher sees; 0 takes its own images'.
        shapes_only: published weights need not be had; random ones are as large.

    Raises:
        InputError: there is no such model, or none with maps where these are learned.
    """
    if isinstance(method, Distill):
        specs = teachers_of(method.config)
        if shapes_only:
            specs = [_untrained(spec) for spec in specs]
        sources = [_source(spec, method.config, (mean, std), size) for spec in specs]
        method.take_teachers(sources, samples, shapes_only)


def _untrained(spec: str) -> str:
    """The same network where a library's published weights are meant."""
    library = library_of(spec)
    return f"{spec}:random" if library and spec.count(":") == 1 else spec


def _source(
    spec: str, config: DistillConfig, colours: tuple[Sequence[float], Sequence[float]], size: int
) -> TeacherSource:
    model = _loaded(spec)
    name, width = "", 0
    if config.dense:
        name, width = last_map_of(model, spec, config.teacher_size or size or model.size)
    networks = [model.backbone]  # the first is there already
    load: Callable[[], nn.Module] = lambda: (  # noqa: E731
        networks.pop() if networks else _loaded(spec).backbone
    )
    return TeacherSource(load, [*colours, model.mean, model.std], name, width)


@torch.no_grad()
def last_map_of(model: Model, spec: str, size: int) -> tuple[str, int]:
    """The module that gives a model's last map of images of this size, and its channels. Raises
    `InputError` where there is none.
    """
    with torch.device("cpu"):
        images = torch.zeros(1, 3, size, size)
        try:
            name = name_of_last_map(model.backbone, images)
            with capturing(model.backbone, name) as outputs:
                model.backbone(images)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"method.teacher={spec}: takes no images of {size} px ({first_line(error)}); set method.teacher_size"
            ) from None
    if not name:
        raise InputError(
            f"method.teacher={spec}: has no map of several places of images of {size} px; set method.dense=0, "
            "or a larger method.teacher_size"
        )
    return name, _width(outputs[-1], int(model.backbone.out_dim))  # type: ignore[arg-type]


def _width(output: Tensor, out_dim: int) -> int:
    """Channels of a map: of four dimensions the last, if it alone is as wide as the features."""
    if output.dim() == 3:
        return output.shape[2]
    last = output.shape[3] == out_dim != output.shape[1]
    return as_places(output, output.shape[3 if last else 1]).shape[1]


def assign(method: Method, experts: np.ndarray | None) -> None:
    """Tell a method which of its experts each image has, `(N,)` int16, if it has any."""
    if isinstance(method, Distill) and experts is not None:
        method.take_lists(torch.from_numpy(experts))


def check_teachers(config: DistillConfig, size: int) -> None:
    """Refuse teachers that take no images of this size, or whose features are not finite.

    Raises:
        InputError: which.
    """
    size = config.teacher_size or size
    for spec in teachers_of(config):
        model = _loaded(spec)
        try:
            model = sized(model, size)
        except InputError as error:
            raise InputError(
                f"method.teacher: {error}; set method.teacher_size={model.size}, which enlarges its crops, or "
                "views.large.size"
            ) from None
        with torch.inference_mode():
            features = model.backbone(torch.rand(2, 3, size, size))
        if not torch.isfinite(features).all():
            raise InputError(
                f"method.teacher={spec}: its features are NaN or infinite; give another"
            )


def _loaded(spec: str) -> Model:
    try:
        with torch.device("cpu"):
            return load_model(spec)
    except InputError as error:
        raise InputError(f"method.teacher: {error}") from None
