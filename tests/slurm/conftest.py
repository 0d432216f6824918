"""A real SLURM on this machine: Debian's packages, two virtual nodes, its own folder and ports, gone afterwards."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch import queue
from launch.cli import app
from tests.conftest import TINY

HERE = Path(__file__).parent
NEEDED = ["slurmctld", "slurmd", "sbatch", "munged", "ip", "slurmdbd", "mariadbd"]


def missing() -> str:
    """Why there can be no cluster here; "" when there can."""
    absent = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if absent:
        return f"not installed: {', '.join(absent)}; see .ci/run for the packages"
    return "" if os.geteuid() == 0 else "the virtual nodes need root"


@dataclass
class Cluster:
    """A running cluster, and the folder in which its tests launch."""

    work: Path

    def launch(self, *arguments: str, place: str = "slurm", fails: bool = False) -> list[str]:
        """`seer launch slurm ...`: the ids of its jobs. With `fails`, the one line that it says."""
        settings = [f"--set=shared=[{self.work}]", "--jobs", str(self.work / "jobs")] if place == "slurm" else []
        result = CliRunner().invoke(app, [place, *settings, *arguments])
        if fails:
            assert result.exception is not None
            return str(result.exception).splitlines()
        if result.exception is not None:
            raise result.exception
        return [line.split()[0] for line in result.output.splitlines() if line[0].isdigit()]

    def ask(self, *arguments: str) -> str:
        """`seer launch status|logs|cancel ...`: what it prints."""
        result = CliRunner().invoke(app, [*arguments, "--jobs", str(self.work / "jobs")])
        assert result.exception is None, result.exception
        return result.output

    def state(self, job: str) -> str:
        return queue.states([job])[job].state

    def wait(self, job: str, *states: str, seconds: float = 240) -> None:
        """Until a job is in one of `states` (by default: over, and done)."""
        wanted, deadline = states or ("COMPLETED",), time.monotonic() + seconds
        while (now := self.state(job)) not in wanted:
            over = now not in queue.ACTIVE
            if over or time.monotonic() > deadline:
                logs = "\n".join(
                    f"== {p}\n{p.read_text()}" for p in sorted(self.work.glob(f"jobs/*/slurm/{job}_*log.*"))
                )
                pytest.fail(f"job {job} is {now}, not {' or '.join(wanted)}\n{logs}")
            time.sleep(0.3)

    def until(self, condition, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextmanager
def started(**settings: str) -> Iterator[None]:
    """A cluster, and the environment of its users; it is gone afterwards, processes included."""
    before = dict(os.environ)
    lab = Path(tempfile.mkdtemp(prefix="seer-slurm-"))  # munged insists on a path that everybody may pass
    own = {"SLURM_LAB_DIR": str(lab), "SLURM_LAB_PORT": str(21_000 + 20 * (os.getpid() % 200)), **settings}
    os.environ.update(own, SEER_HANG_SECONDS="120", PYTHONPATH=str(HERE.parent.parent))
    up = subprocess.run([HERE / "slurm-up"], capture_output=True, text=True)
    try:
        if up.returncode:
            pytest.fail(f"slurm-up: {up.stderr}")
        os.environ.update(PATH=f"{lab}/clients:{before['PATH']}", SLURM_CONF=f"{lab}/slurm.conf")
        yield
    finally:
        daemons = [int(path.read_text().split()[0]) for path in (lab / "run").glob("*.pid")]
        subprocess.run([HERE / "slurm-down", "--purge"], check=True, capture_output=True)
        os.environ.clear()
        os.environ.update(before)
    assert not [pid for pid in daemons if running(pid)]


def running(pid: int) -> bool:
    """A process that is there, and not merely uncollected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Two nodes of four cores and two GPUs that are none, accounting included."""
    if why := missing():
        pytest.skip(why)
    with started():
        yield Cluster(tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> str:
    """Steps enough to be interrupted in."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY.replace("steps: 5", "steps: 60") + "parallel: {mode: ddp}\n")
    return str(path)
