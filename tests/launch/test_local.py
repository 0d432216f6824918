import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seer import distributed
from seer.errors import InputError, LostWorkerError
from seer.processes import RankError, spawn


def _fail(how):
    if distributed.rank() == 1:
        if how == "raises":
            raise KeyError("the cause")
        if how == "wrong input":
            raise InputError("no such folder")
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()  # where rank 0 hangs, or fails as a consequence


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raises", RankError, "rank 1: (.|\n)*KeyError: 'the cause'"),
        ("wrong input", InputError, "^no such folder$"),
        ("is killed", LostWorkerError, "rank 1 was killed by SIGKILL"),
    ],
)
def test_one_failure_is_one_error_and_ends_all(how, error, message):
    with pytest.raises(error, match=message):
        spawn(_fail, 2, how, device="cpu")
    assert not multiprocessing.active_children()


def _signal_server() -> int:
    os.kill(os.getppid(), signal.SIGUSR2)
    return os.getppid()


def test_signals_to_all_processes_of_a_job_leave_the_fork_server_alive():
    before, after = (spawn(_signal_server, 1, device="cpu") for _ in range(2))
    assert before == after


PARENT = """
import os, sys, time
from seer.processes import spawn
def hang(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(600)
if __name__ == "__main__":
    spawn(hang, 2, sys.argv[1], device="cpu")
"""


def test_ranks_die_with_their_parent(tmp_path):
    script, pids = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text(PARENT)
    pids.mkdir()
    root = str(Path(distributed.__file__).parent.parent)
    parent = subprocess.Popen(
        [sys.executable, script, pids], env={**os.environ, "PYTHONPATH": root}
    )
    until(lambda: len(list(pids.iterdir())) == 2)
    parent.kill()
    parent.wait()
    until(lambda: not any(alive(int(path.name)) for path in pids.iterdir()))


def until(condition, seconds=90):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)


def alive(pid):
    """Running, and not a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
