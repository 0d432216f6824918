"""The configuration that is to be planned, by the words of the command line; imports no torch."""

from seer.engine.options import RunConfig
from seer.eval.trained.detection.options import DetectConfig
from seer.planning.detector_config import (
    check_detector,
    foreseen_detector,
    is_detector,
    load_detector,
)
from seer.pretrain import length
from seer.pretrain.recipe import Pretrain, check_settings, load_config


def load(recipe: str, overrides: list[str], allow_env: bool = False) -> Pretrain | DetectConfig:
    """A recipe of pretraining, or `detect` and `detect_PROTOCOL`, under overrides. Raises `InputError`."""
    if is_detector(recipe):
        return load_detector(recipe, overrides)
    return load_config(recipe, ["data=.", *overrides], allow_env)


def check(config: RunConfig, ranks: int) -> None:
    """Raise `InputError` for what can be told of a configuration on so many processes at once."""
    if isinstance(config, DetectConfig):
        check_detector(config, ranks)
    else:
        assert isinstance(config, Pretrain)
        check_settings(length.at_any_length(config), ranks)


def with_steps(config: Pretrain | DetectConfig, images: int = 0) -> Pretrain | DetectConfig:
    """The same with its steps, of so many images of a pretraining; 0: as many as its data are. Raises
    `InputError`.
    """
    if isinstance(config, DetectConfig):
        return foreseen_detector(config)
    return length.with_steps(config, images) if images else length.foreseen(config)
