"""Steps per second of a small pretraining whose checkpoints are scored meanwhile, against the same
pretraining unscored.

    python benchmarks/scoring.py IMAGES [--steps 300] [--rounds 3] [--nproc 1] [--json FILE]

IMAGES are class folders in train/ and val/ (or test/): what is trained on without its labels, and scored
on with them. The two take turns, each as the command `seer pretrain swav_small` in processes of one thread;
checkpoints come so often that one always waits to be scored. What counts is the rate after the first tenth
of the steps, by the clock of metrics.jsonl, in the best round of each; all rounds are printed, with how many
checkpoints were scored before the training was over, and how many passed over.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import arguments, figure, report

from seer import jsonl
from seer.rundir.names import LOG, METRICS

SEER = [sys.executable, "-m", "seer"]
SAVES = 10  # checkpoints of a run


def pretrain(shards: Path, run: Path, options: list[str]) -> float:
    """Steps per second of a whole run, without its first tenth."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*SEER, "pretrain", "swav_small", f"data={shards}", f"run_dir={run}", *options]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=2)
    rows = jsonl.read(run / METRICS)
    last = rows[-1]
    first = next(row for row in rows if row["step"] >= last["step"] // 10)
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def told(run: Path) -> str:
    """What the scoring said while the run trained: so much of it stands in the run's log."""
    lines = (run / LOG).read_text().splitlines()
    scored = sum("score: step " in line for line in lines)
    passed = [line.partition("score: ")[2] for line in lines if "passed over" in line]
    return f"{scored} scored while it trained; {'; '.join(passed) or 'none passed over'}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nproc", type=int, default=1)
    options = parser.parse_args()
    every = max(1, options.steps // SAVES)
    common = [f"steps={options.steps}", "batch_size=32", f"checkpoint.every={every}"]
    common += ["log.tensorboard=false", "--nproc", str(options.nproc)]
    scored = [f"score.data={options.images}"]
    best = {"scored": 0.0, "unscored": 0.0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = [*SEER, "shards", "build", str(options.images / "train"), "--out", "shards"]
        subprocess.run(build, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for number in range(options.rounds):
            for name, own in {"scored": scored, "unscored": []}.items():
                run = folder / f"{name}-{number}"
                rate = pretrain(folder / "shards", run, [*common, *own])
                best[name] = max(best[name], rate)
                print(f"round {number}, {name:8} {rate:.3f} steps/s", flush=True)
                if own:
                    print(f"         {told(run)}", flush=True)
    title = f"swav_small, batch 32, {options.nproc} training processes of one thread"
    entry = figure(title, "steps/s", best["scored"], {"unscored": best["unscored"]})
    report([entry], options.json)


if __name__ == "__main__":
    main()
