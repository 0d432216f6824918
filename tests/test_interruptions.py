"""Interrupted runs at a terminal, and the beginning of the command.

`SEER_MOMENTS` interrupts as many runs in each way.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seer import start
from seer.terminal import Outlasting
from tests.kit.interruptions import WAYS, Terminal

ROOT = Path(__file__).parent.parent
MOMENTS = int(os.environ.get("SEER_MOMENTS", 1))


@pytest.mark.slow
def test_a_run_is_interrupted_in_each_way_and_comes_to_the_same(tiny, shards, tmp_path):
    command = [sys.executable, "-m", "tests.kit.interruptions", tiny, str(shards), str(tmp_path)]
    done = subprocess.run(
        [*command, "--moments", str(MOMENTS)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert outcomes.keys() == WAYS.keys()
    assert [ends["saved"] for ends in outcomes.values()] == [MOMENTS] * len(WAYS)


STOPPING = """
import time
from seer.engine.preempt import StopRequest
with StopRequest() as asked:
    print("begun", flush=True)
    while not asked.by:
        time.sleep(0.01)
    print("asked by", asked.by, flush=True)
    {then}
"""


def at_terminal(program: str) -> Terminal:
    terminal = Terminal([sys.executable, "-c", program], execute=True)
    assert terminal.shows(b"begun")
    return terminal


@pytest.mark.slow
def test_the_first_interrupt_asks_and_the_second_ends():
    # A wait that Python does not come back from, as that for a peer which is gone.
    terminal = at_terminal(
        STOPPING.format(then="import ctypes; c = ctypes.CDLL(None); c.pause(); c.sleep(60)")
    )
    os.write(terminal.screen, b"\x03")
    assert terminal.shows(b"asked by SIGINT")
    assert terminal.shows(b"Ctrl-C again ends at once")
    os.write(terminal.screen, b"\x03")
    assert terminal.wait(30) == start.INTERRUPTED
    terminal.close()


@pytest.mark.slow
def test_a_run_outlives_its_terminal(tmp_path):
    first = "from seer.terminal import outlast_terminal, say\noutlast_terminal()\n"
    then = f"say('on'); open({str(tmp_path / 'alive')!r}, 'w').close()"
    terminal = at_terminal(first + STOPPING.format(then=then))
    terminal.close()
    assert terminal.wait(30) == 0
    assert (tmp_path / "alive").exists()


@pytest.mark.slow
def test_what_is_ignored_stays_ignored():
    """As under `nohup`, and in the background of a shell script."""
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    terminal = at_terminal(ignore + STOPPING.format(then=""))
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.wait(0.3) is None
    os.kill(terminal.pid, signal.SIGUSR1)
    assert terminal.shows(b"asked by SIGUSR1")
    assert terminal.wait(30) == 0
    terminal.close()


def test_an_interrupted_import_is_one_line(tmp_path):
    slow = "import time\nprint('begun', flush=True)\ntry: time.sleep(60)\nfinally: print('odd')"
    (tmp_path / "slow.py").write_text(slow)
    program = "from seer.start import answer_interrupts; answer_interrupts(); import slow"
    terminal = Terminal([sys.executable, "-c", program], execute=True, cwd=tmp_path)
    assert terminal.shows(b"begun")
    os.write(terminal.screen, b"\x03")
    assert terminal.wait(30) == start.INTERRUPTED
    assert terminal.output.decode().splitlines()[-1].endswith(f"seer: {start.LINE}")
    assert "odd" not in terminal.output.decode()
    terminal.close()


@pytest.mark.parametrize("buffering", [1, -1])
def test_what_is_written_to_a_vanished_reader_is_dropped(buffering):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering) as stream:
        outlasting = Outlasting(stream)
        print("read", file=outlasting, flush=True)
        assert os.read(reading, 100) == b"read\n"
        os.close(reading)
        for _ in range(3):
            print("dropped", file=outlasting, flush=True)
        assert outlasting.fileno() == writing
