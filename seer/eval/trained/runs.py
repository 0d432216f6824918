"""What every training of an evaluation has: options from the command line, a directory of its own, and
a model that stays the one that it began with.
"""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from seer import config as configuration
from seer.errors import InputError
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.tasks import TASKS
from seer.interop.models import Model
from seer.rundir.names import CONFIG, EVALUATIONS
from seer.schema import check_options


class Trained(Protocol):
    """Options of a training. `weights`: what the model hashes to that it began with."""

    model: str
    weights: str
    run_dir: str


Options = TypeVar("Options", bound=Trained)


def options_of(task: str, model: str, data: str, overrides: list[str]) -> Any:
    """The options of a task as the command line gives them. Raises `InputError`."""
    options = configuration.parse_overrides(overrides)
    if twice := next((key for key in ("model", "data") if key in options), ""):
        raise InputError(f"{twice}=: it is given by --{twice}")
    if "weights" in options:
        raise InputError("weights=: they are the model's")
    config = TASKS[task].resolve(configuration.layer({"model": model, "data": data}), options)
    check_options(config)
    return config


def housed(config: Options, task: str, model: Model) -> Options:
    """The options with a run directory: by default `eval/TASK-HASH` below the model's own."""
    if config.run_dir:
        return config
    home = model.run_dir or Path()
    directory = home / EVALUATIONS / f"{task}-{configuration.identity(config)}"
    return replace(config, run_dir=str(directory))  # type: ignore[type-var]


def check_same(model: Model, config: Trained) -> None:
    """Raise `InputError` where the model has other weights than the training began with."""
    if weights_hash(model.backbone) != config.weights:
        raise InputError(
            f"{config.model}: has other weights than a moment ago; name one of its checkpoints"
        )


def check_run_dir(config: Any, either: Collection[str] = ()) -> None:
    """Refuse a run directory that another configuration has written, but for options that may be
    either way; nothing in it is changed.
    """
    path = Path(config.run_dir) / CONFIG
    if not path.is_file():
        return
    saved = configuration.resolve(type(config), [configuration.read_layers(path)])
    free = configuration.incidental(type(config)) | set(either)
    if differing := configuration.differences(asdict(saved), asdict(config), free):
        raise InputError(
            f"{config.run_dir}: belongs to another configuration: {'; '.join(differing[:3])}; choose another run_dir, "
            "or give the same values to continue"
        )
