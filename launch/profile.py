"""A cluster's profile: what its jobs need there, in a YAML file; see configs/clusters/."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seer import config
from seer.errors import InputError, nearest
from seer.schema import LINE, Integer, ListOf, Location, MapOf, Number, Text, option, required

SHELL = Text(65_536, 0, r"[^\x00]*", "a text of up to 65,536 characters")
VARIABLE = Text(255, 1, r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable")
SWITCH = Text(
    255, 1, r"[a-z][a-z0-9-]*", "the name of an option of sbatch, without dashes before it"
)


@dataclass
class Profile:
    """What a cluster expects of a job.

    Attributes:
        partition: "" is the cluster's own default.
        cpus_per_task: 0 divides a node's cores among its tasks.
        memory_gb_per_task: 0 leaves it to the cluster.
        signal_seconds: how long before the time limit a run is told to save itself: enough for a step and a checkpoint.
        hang_minutes: a process whose step takes longer is ended, with its stack in the log; 0 never.
        shared: folders that all hosts see, where their file system does not show it (NFS, Lustre and others do).
        setup: shell lines before the step, such as `module load` or `source .../activate`.
        environment: variables of the job, such as NCCL's.
        container: an image for `srun --container-image` (pyxis); `mounts` as its `--container-mounts`.
        python: the interpreter there; "" is this one.
        sbatch: any other option of sbatch.
    """

    partition: str = required(LINE)
    cpus_per_task: int = required(Integer(0, 65_536))
    memory_gb_per_task: float = required(Number(0, 1e6))
    account: str = option("", LINE)
    qos: str = option("", LINE)
    constraint: str = option("", LINE)
    signal_seconds: int = option(300, Integer(1, 7 * 24 * 3600))
    hang_minutes: float = option(30.0, Number(0, 1e6))
    shared: list[str] = option([], ListOf(Location(shortest=1), 1000))
    setup: list[str] = option([], ListOf(SHELL, 1000))
    environment: dict[str, str] = option({}, MapOf(SHELL, VARIABLE, 1000))
    container: str = option("", LINE)
    mounts: list[str] = option([], ListOf(LINE, 1000))
    python: str = option("", LINE)
    sbatch: dict[str, str] = option({}, MapOf(LINE, SWITCH, 1000))


# No profile: the cluster's own defaults.
NONE = ["partition=", "cpus_per_task=0", "memory_gb_per_task=0"]


def profiles() -> dict[str, Path]:
    """The profiles that come with seer, by name."""
    return {path.stem: path for path in sorted((config.RECIPES / "clusters").glob("*.yaml"))}


def load(name: str, overrides: list[str], allow_env: bool = False) -> Profile:
    """A profile by its name or path ("" is none) under `key=value` overrides; `InputError` where a
    field is missing.

    Args:
        allow_env: let `${oc.env:NAME}` in the profile stand for a variable of the environment.
    """
    if not name:
        return config.resolve(Profile, [config.parse_overrides([*NONE, *overrides])])
    path = (
        Path(os.path.expanduser(name)) if name.endswith((".yaml", ".yml")) else profiles().get(name)
    )
    if path is None:
        raise InputError(
            f"--cluster {name}: unknown{nearest(name, profiles())}; or give the path of a .yaml file"
        )
    if not path.is_file():
        raise InputError(f"--cluster {name}: no such file")
    layers = [config.read_layers(path), config.parse_overrides(overrides)]
    try:
        return config.resolve(Profile, layers, allow_env=allow_env)
    except InputError as error:
        raise InputError(
            f"cluster profile {path}: {error}".replace("in the recipe", "there (--set)")
        ) from error


def recorded(values: dict[str, Any]) -> Profile:
    """The profile that a launch's record holds. Raises `InputError` where it is none."""
    known = {field.name for field in fields(Profile)}
    if unknown := sorted(values.keys() - known):
        raise InputError(
            f"the launch's record: cluster.{unknown[0]!a} is not known; update seer, or launch it anew"
        )
    try:
        return config.resolve(Profile, [config.layer(values)])
    except InputError as error:
        raise InputError(f"the launch's record: cluster: {error}") from error
