"""The configuration that is to be planned, by the words of the command line; imports no torch for a
pretraining.
"""

from seer.engine.options import RunConfig
from seer.eval.trained.options import TrainedConfig
from seer.planning.trained_config import check_trained, foreseen_trained, load_trained, task_of
from seer.pretrain import length
from seer.pretrain.recipe import Pretrain, check_settings, load_config


def load(recipe: str, overrides: list[str], allow_env: bool = False) -> Pretrain | TrainedConfig:
    """A recipe of pretraining, or a task and `TASK_PROTOCOL`, under overrides. Raises `InputError`."""
    if task_of(recipe):
        return load_trained(recipe, overrides)
    return load_config(recipe, ["data=.", *overrides], allow_env)


def check(config: RunConfig, ranks: int) -> None:
    """Raise `InputError` for what can be told of a configuration on so many processes at once."""
    if isinstance(config, TrainedConfig):
        check_trained(config, ranks)
    else:
        assert isinstance(config, Pretrain)
        check_settings(length.at_any_length(config), ranks)


def with_steps(config: Pretrain | TrainedConfig, images: int = 0) -> Pretrain | TrainedConfig:
    """The same with its steps, of so many images; 0: as many as its data are. Raises `InputError`."""
    if isinstance(config, TrainedConfig):
        return foreseen_trained(config, images)
    return length.with_steps(config, images) if images else length.foreseen(config)
