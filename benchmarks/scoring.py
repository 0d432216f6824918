"""Steps per second of a small pretraining while its checkpoints are scored, against the same
pretraining while they are not.

    python benchmarks/scoring.py IMAGES [--seconds 10] [--rounds 12] [--nproc 1] [--json FILE]

IMAGES are class folders in train/ and val/ (or test/): what is trained on without its labels, and scored
on with them. One `seer pretrain swav_small` goes on in processes of one thread; beside it runs the process
that `score.data=` would start, at its priority, which always has a checkpoint to score. In turns it is
halted and let go, so many seconds each: neighbouring turns see the same machine, whatever else works
there. Of the ratios within such pairs the median counts; their quartiles are printed, and the share of a
core that the scoring got.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import arguments, figure, report

from seer import jsonl
from seer.pretrain.scoring import ScoreConfig, Scoring
from seer.rundir.names import METRICS

SEER = [sys.executable, "-m", "seer"]
BATCH = 32
EVERY = 25  # steps between checkpoints
TICKS = os.sysconf("SC_CLK_TCK")


def start(shards: Path, run: Path, nproc: int) -> subprocess.Popen:
    """A pretraining that outlasts the measurement."""
    options = [f"data={shards}", f"run_dir={run}", "steps=1000000", f"batch_size={BATCH}"]
    options += [f"checkpoint.every={EVERY}", "log.every=1", "log.tensorboard=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*SEER, "pretrain", "swav_small", *options, "--nproc", str(nproc)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)


def place(run: Path) -> tuple[int, float]:
    """The last step that a run logged, and its clock there."""
    rows = jsonl.tail(run / METRICS, 1 << 14)
    return (rows[-1]["step"], rows[-1]["seconds"]) if rows else (0, 0.0)


def rate(run: Path, seconds: float) -> float:
    """Steps per second from now on for so long."""
    first, began = place(run)
    time.sleep(seconds)
    last, ended = place(run)
    return (last - first) / (ended - began)


def cpu_seconds(pid: int) -> float:
    """What a process has computed, with its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wait_for_steps(training: subprocess.Popen, run: Path, steps: int) -> None:
    while place(run)[0] < steps:
        if training.poll() is not None:
            sys.exit(f"the training ended with exit code {training.returncode}")
        time.sleep(0.5)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--nproc", type=int, default=1)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"scored": [], "unscored": []}
    computed = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = [*SEER, "shards", "build", str(options.images / "train"), "--out", "shards"]
        subprocess.run(build, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        run = folder / "run"
        training = start(folder / "shards", run, options.nproc)
        wait_for_steps(training, run, 2 * EVERY)
        scoring = Scoring(ScoreConfig(data=str(options.images)), run, print)
        scoring.start()
        assert scoring.child
        pid = scoring.child.pid
        for _ in range(options.rounds):
            before = cpu_seconds(pid)
            rates["scored"].append(rate(run, options.seconds))
            computed += cpu_seconds(pid) - before
            os.kill(pid, signal.SIGSTOP)
            rates["unscored"].append(rate(run, options.seconds))
            os.kill(pid, signal.SIGCONT)
        scoring.stop()
        training.terminate()
        training.wait()
    pairs = zip(rates["scored"], rates["unscored"], strict=True)
    ratios = [scored / unscored for scored, unscored in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    share = computed / (options.rounds * options.seconds)
    print(
        f"ratios of {options.rounds} pairs: median {middle:.3f}, quartiles {low:.3f} and {high:.3f}"
    )
    print(f"the scoring got {100 * share:.0f} % of a core while it was let go")
    unscored = statistics.median(rates["unscored"])
    title = f"swav_small, batch {BATCH}, {options.nproc} training process(es) of one thread"
    entry = figure(title, "steps/s", middle * unscored, {"unscored": unscored})
    report([entry], options.json)


if __name__ == "__main__":
    main()
