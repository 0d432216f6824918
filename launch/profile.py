"""A cluster's profile: what its jobs need there, in a YAML file; see configs/clusters/."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from seer import config
from seer.errors import InputError, nearest


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

    partition: str = MISSING
    cpus_per_task: int = MISSING
    memory_gb_per_task: float = MISSING
    account: str = ""
    qos: str = ""
    constraint: str = ""
    signal_seconds: int = 300
    hang_minutes: float = 30.0
    shared: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    container: str = ""
    mounts: list[str] = field(default_factory=list)
    python: str = ""
    sbatch: dict[str, str] = field(default_factory=dict)


NONE = ["partition=''", "cpus_per_task=0", "memory_gb_per_task=0"]  # no profile: the cluster's own defaults


def profiles() -> dict[str, Path]:
    """The profiles that come with seer, by name."""
    return {path.stem: path for path in sorted((config.RECIPES / "clusters").glob("*.yaml"))}


def load(name: str, overrides: list[str]) -> Profile:
    """A profile by its name or path ("" is none) under `key=value` overrides; `InputError` where a field is missing."""
    if not name:
        return config.resolve(Profile, [config.parse_overrides([*NONE, *overrides])])
    path = Path(name) if name.endswith((".yaml", ".yml")) else profiles().get(name)
    if path is None:
        raise InputError(f"--cluster {name}: unknown{nearest(name, profiles())}; or give the path of a .yaml file")
    if not path.is_file():
        raise InputError(f"--cluster {name}: no such file")
    layers = [config.read_layers(path), config.parse_overrides(overrides)]
    try:
        return config.resolve(Profile, layers)
    except InputError as error:
        raise InputError(f"cluster profile {path}: {error}".replace("in the recipe", "there (--set)")) from error


def recorded(values: dict[str, Any]) -> Profile:
    """The profile that a launch's record holds. Raises `InputError` where it is none."""
    known = {field.name for field in fields(Profile)}
    if unknown := sorted(values.keys() - known):
        raise InputError(f"the launch's record: cluster.{unknown[0]!a} is not known; update seer, or launch it anew")
    try:
        return config.resolve(Profile, [OmegaConf.create(values)])
    except InputError as error:
        raise InputError(f"the launch's record: cluster: {error}") from error
