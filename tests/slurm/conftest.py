"""A real SLURM on this machine: Debian's packages, four virtual nodes, its own folder and ports,
gone afterwards.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch import attempts, queue
from launch.cli import app
from seer import jsonl
from tests.kit.runs import TINY

HERE = Path(__file__).parent
NEEDED = ["slurmctld", "slurmd", "sbatch", "munged", "ip", "slurmdbd", "mariadbd"]


def missing() -> str:
    """Why there can be no cluster here; "" when there can."""
    absent = [
        name
        for name in NEEDED
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
    if absent:
        return f"not installed: {', '.join(absent)}; see .ci/run for the packages"
    return "" if os.geteuid() == 0 else "the virtual nodes need root"


@dataclass
class Cluster:
    """A running cluster, and the folder in which its tests launch."""

    work: Path

    def launch(self, *arguments: str, fails: bool = False) -> list[str]:
        """`seer launch slurm ...`: the ids of its jobs. With `fails`, the one line that it says."""
        settings = [f"--set=shared=[{self.work}]", "--jobs", str(self.work / "jobs")]
        result = CliRunner().invoke(app, ["slurm", *settings, *arguments])
        if fails:
            assert getattr(result.exception, "exit_code", None) == 2, result.exception
            return str(result.exception).splitlines()
        if result.exception is not None:
            raise result.exception
        return [line.split()[0] for line in result.output.splitlines() if line[0].isdigit()]

    def ask(self, *arguments: str) -> str:
        """`seer launch status|logs|cancel ...`: what it prints."""
        result = CliRunner().invoke(app, [*arguments, "--jobs", str(self.work / "jobs")])
        assert result.exception is None, result.exception
        return result.output

    def row(self, job: str) -> dict:
        """What `seer launch status` knows of a job."""
        return json.loads(self.ask("status", job, "--json", "-"))[0]

    def history(self, job: str) -> list[attempts.Attempt]:
        """How the attempts of the first job of a launch ended."""
        return attempts.read(self.work / "jobs" / self.row(job)["launch"], "0-0")

    def state(self, job: str) -> str:
        found = queue.states([job])
        return found[job].state if found else ""

    def wait(self, job: str, *states: str, seconds: float = 480) -> None:
        """Until a job is in one of `states` (by default: over, and done)."""
        wanted, deadline = states or ("COMPLETED",), time.monotonic() + seconds
        while (now := self.state(job)) not in wanted:
            if now not in queue.ACTIVE or time.monotonic() > deadline:
                pytest.fail(f"job {job} is {now}, not {' or '.join(wanted)}\n{self.logs(job)}")
            time.sleep(0.3)

    def until(self, condition: Callable[[], bool], job: str, seconds: float = 480) -> None:
        """Until a condition on a job that is not over holds. SLURM is asked only now and then: its
        answers cost the jobs processor time.
        """
        start = time.monotonic()
        asked = start
        while not condition():
            now = time.monotonic()
            if now - asked > 3:
                asked = now
                state = self.state(job)
                if state not in ("", *queue.ACTIVE) or now - start > seconds:
                    pytest.fail(f"job {job} is {state}\n{self.logs(job)}")
            time.sleep(0.2)

    def logs(self, job: str) -> str:
        return "\n".join(
            f"== {p}\n{p.read_text()}" for p in sorted(self.work.glob(f"jobs/*/slurm/{job}_*log.*"))
        )


def command(*words: str) -> str:
    """What one of SLURM's commands prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def step(run: Path) -> int:
    """The last step in a run's metrics."""
    rows = jsonl.read(run / "metrics.jsonl")  # which is being written
    return rows[-1]["step"] if rows else 0


def ranks(job: str) -> list[int]:
    """The processes of a job's ranks on this machine, in the order of their ranks."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            pairs = dict(
                pair.split(b"=", 1)
                for pair in (path / "environ").read_bytes().split(b"\0")
                if b"=" in pair
            )
        except OSError:
            continue
        if (
            b"submitit.core._submit" in words
            and b"python" in words[0]
            and pairs.get(b"SLURM_JOB_ID") == job.encode()
        ):
            found[int(pairs[b"SLURM_PROCID"])] = int(path.name)
    return [found[rank] for rank in sorted(found)]


def kill(job: str, rank: int = 0) -> None:
    """End one rank as the kernel does when memory runs out."""
    os.kill(ranks(job)[rank], signal.SIGKILL)


def lose(node: str) -> None:
    """Cut a node's power, and tell SLURM at once what it would find out after a minute."""
    os.kill(
        int((Path(os.environ["SLURM_LAB_DIR"]) / "run" / f"{node}.pid").read_text().split()[0]),
        signal.SIGKILL,
    )
    command("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")


def restart_nodes() -> None:
    """Power for the nodes that have lost it."""
    subprocess.run([HERE / "slurm-up"], check=True, capture_output=True)


@contextmanager
def started(**settings: str) -> Iterator[None]:
    """A cluster, and the environment of its users; it is gone afterwards, and so is whatever its
    jobs started.
    """
    before = dict(os.environ)
    # Munged insists on a path that everybody may pass.
    lab = Path(tempfile.mkdtemp(prefix="seer-slurm-"))
    own = {
        "SLURM_LAB_DIR": str(lab),
        "SLURM_LAB_PORT": str(21_000 + 20 * (os.getpid() % 200)),
        **settings,
    }
    os.environ.update(own, PYTHONPATH=str(HERE.parent.parent))
    up = subprocess.run([HERE / "slurm-up"], capture_output=True, text=True)
    try:
        if up.returncode:
            pytest.fail(f"slurm-up: {up.stderr}")
        os.environ.update(PATH=f"{lab}/clients:{before['PATH']}", SLURM_CONF=f"{lab}/slurm.conf")
        yield
    finally:
        subprocess.run([HERE / "slurm-down", "--purge"], check=True, capture_output=True)
        os.environ.clear()
        os.environ.update(before)
    assert not left_behind(lab)
    assert not lab.exists()


def left_behind(lab: Path) -> list[str]:
    """The commands of processes that a cluster in folder `lab` has started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            marked = (
                f"SLURM_CONF={lab}/".encode() in (path / "environ").read_bytes()
                or bytes(lab) in words
            )
        except OSError:  # ended in the meantime
            continue
        if marked and words and int(path.name) != os.getpid():
            found.append(words.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Four nodes of eight cores and two GPUs that are none, accounting included."""
    if why := missing():
        pytest.skip(why)
    # Once, and not in a dozen jobs at a time.
    program = "import seer.data.crops.resize, seer.data.crops.kernel"
    compiling = subprocess.Popen([sys.executable, "-c", program], cwd=HERE.parent.parent)
    with started(SLURM_LAB_NODES="4", SLURM_LAB_CPUS="8"):
        assert compiling.wait() == 0
        yield Cluster(tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> str:
    """Steps enough to be interrupted in, each of them small: between two processes BatchNorm takes
    most of the time.
    """
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    smaller = {
        "steps: 5": "steps: 80",
        "size: 24": "size: 16",
        "size: 16, count: 2": "size: 16, count: 0",
    }
    text = TINY
    for old, new in reversed(smaller.items()):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text + "parallel: {mode: ddp}\n")
    return str(path)
