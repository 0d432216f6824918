"""`make gpu`: its refusals, and every stage on the CPU in tiny sizes, so that the first run on a GPU
meets no typo.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu/run.py"
STAGES = ("step", "grouped", "kernels", "loading", "whole")


def gpu(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    # From the source tree, which it finds by itself; packages may lie in folders that are named here.
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [folder for folder in folders if folder and Path(folder).resolve() != ROOT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(others)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line():
    answer = gpu()
    assert answer.returncode == 2
    assert answer.stderr.startswith("gpu: no GPU that PyTorch can use")
    assert answer.stderr.count("\n") == 1


def test_an_unknown_stage_is_refused():
    answer = gpu("--device", "cpu", "--only", "steps")
    assert answer.returncode == 2
    assert "--only steps: there are the stages right, step" in answer.stderr


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """The results of all of `STAGES`, by one command, which imports torch itself."""
    folder = tmp_path_factory.mktemp("stages")
    small = ("--device", "cpu", "--small", "--minutes", 60)
    answer = gpu(*small, "--only", ",".join(STAGES), "--out", folder)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_the_cpu(stage, out):
    rows = [row for row in results(out) if row["stage"] == stage]
    assert rows[-1]["what"] == "stage"
    assert rows[-1]["code"] == 0
    assert len(rows) > 1
    table = (out / "table.md").read_text()
    assert all(row["what"] in table for row in rows)


def test_a_stage_that_fails_or_takes_too_long_is_told_and_the_next_one_runs(tmp_path):
    # Nothing can be done within six seconds but to begin.
    answer = gpu(
        "--device", "cpu", "--small", "--only", "step,kernels", "--minutes", 0.1, "--out", tmp_path
    )
    assert answer.returncode == 1
    assert "failed or cut off: step, kernels" in answer.stdout
    ends = [row["code"] for row in results(tmp_path) if row.get("what") == "stage"]
    assert ends[0] == "cut off after 6 s" or ends[0] == 0
