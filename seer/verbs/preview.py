"""What a verb that is launched would refuse, told beforehand, and what it trains."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from seer.commands import USAGE_ERROR
from seer.errors import InputError, nearest
from seer.eval.tasks import TASKS, check_request, is_trained
from seer.verbs import app


def preview(words: Sequence[str], ranks: int) -> Path | None:
    """Refuse now what `ranks` processes elsewhere would refuse of a command.

    Returns:
        The run directory of a verb that trains; None of another.

    Raises:
        InputError: no such verb, or one that cannot be run so.
    """
    command: Any = typer.main.get_command(app)
    verb, *rest = words
    while hasattr(command, "commands"):
        name = words[0] if words else ""
        if name not in command.commands:
            raise InputError(f"'{name}': not a verb to launch{nearest(name, command.commands)}")
        command = command.commands[name]
        words = words[1:]
    try:
        context = command.make_context(verb, list(words))
    except USAGE_ERROR as error:
        raise InputError(f"{' '.join([verb, *rest])}: {error.format_message()}") from error
    return TRAINING[verb](ranks, **context.params) if verb in TRAINING else None


def preview_pretrain(
    ranks: int, config: str, overrides: list[str] | None, nproc: int, allow_env: bool
) -> Path:
    """What a launched `pretrain` would refuse; its run directory."""
    check_one(nproc)
    from seer.pretrain.beforehand import preview

    return preview(config, overrides or [], ranks, allow_env).absolute()


def preview_evaluate(
    ranks: int,
    task: str,
    model: str,
    data: str,
    overrides: list[str] | None,
    nproc: int,
    **others: Any,
) -> Path | None:
    """What a launched `eval` would refuse; the run directory of a task that trains."""
    check_request(task, model, data, overrides or [])
    check_one(nproc)
    if not is_trained(task) or is_awaited(model):
        return None
    module = TASKS[task].load()
    config = module.configure(task, model, data, overrides or [])
    module.check(config, ranks)
    return Path(config.run_dir).absolute()


def is_awaited(model: str) -> bool:
    """Whether a model may be a run that has no checkpoint yet, as in a chain of jobs: nothing can
    be told of it.
    """
    from seer.rundir.names import checkpoints

    path = Path(model)
    return ":" not in model and not path.is_file() and not checkpoints(path)


def check_one(nproc: int) -> None:
    if nproc != 1:
        raise InputError(
            "--nproc: a launched job has its processes from --nodes, --gpus-per-node and --tasks-per-node"
        )


# Verbs that train, and so run as several processes: by their options and the number of these, their
# run directory.
TRAINING: dict[str, Callable[..., Path | None]] = {
    "pretrain": preview_pretrain,
    "eval": preview_evaluate,
}
