"""Runs at a terminal that are interrupted at random moments and continued, against one that was left alone.

    python -m tests.interruptions RECIPE SHARDS OUT [--moments 20 --seed 1] [KEY=VALUE...]

Prints how each way of interrupting ended, as JSON, and fails at the first difference. Runs are forked from this
process, which has imported what they need: a run takes two seconds instead of ten.
"""

import argparse
import json
import os
import pty
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import seer.audit
import seer.pretrain
from seer import cli, forkserver
from seer.engine.integrity import latest, read_header
from tests.conftest import rows

SETTINGS = ["steps=12", "checkpoint.every=5", "views.large.size=16", "views.small.count=0"]
# What ended a process that was asked before it trained; the same command starts it then.
TOO_EARLY = {130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGHUP}
DEADLINE = 120.0  # seconds


class Terminal:
    """A process with a terminal of its own, which is drained, as a person's is."""

    def __init__(self, words: list[str]):
        self.output = b""
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            run_command(words)

    def close(self) -> None:
        os.close(self.screen)
        self.screen = -1

    def wait(self, seconds: float) -> int | None:
        """The exit code, or minus the signal's number, once the process has ended; None after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            self._drain()
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= until:
                return None

    def _drain(self) -> None:
        if self.screen < 0:
            time.sleep(0.002)
        elif select.select([self.screen], [], [], 0.002)[0]:
            try:
                self.output += os.read(self.screen, 1 << 16)
            except OSError:  # nobody writes there any more
                time.sleep(0.002)


def run_command(words: list[str]) -> None:
    """Be the `seer` command, in a process that was forked for it."""
    sys.argv = ["seer", *words]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def press_ctrl_c(terminal: Terminal) -> None:
    os.write(terminal.screen, b"\x03")


def send(number: int) -> Callable[[Terminal], None]:
    return lambda terminal: os.kill(terminal.pid, number)


WAYS: dict[str, Callable[[Terminal], None]] = {
    "Ctrl-C": press_ctrl_c,
    "SIGTERM": send(signal.SIGTERM),
    "SIGUSR1": send(signal.SIGUSR1),
    "closed terminal": Terminal.close,
}


def course(run_dir: Path) -> tuple[list[tuple], dict[str, str]]:
    """What must be equal bit for bit: losses and samples of every step, and the digests of all tensors at the end."""
    steps = [(row["step"], row["loss"], row["grad_norm"], row["seen"]) for row in rows(run_dir)]
    header = read_header(latest(run_dir))
    return steps, {name: about["sha256"] for name, about in header["files"].items()}


def finish(words: list[str]) -> float:
    """Run to the end; the seconds that it took."""
    began = time.monotonic()
    terminal = Terminal(words)
    code = terminal.wait(DEADLINE)
    assert code == 0, f"ended with {code}:\n{terminal.output.decode()}"
    terminal.close()
    return time.monotonic() - began


def interrupt(words: list[str], way: str, moment: float) -> str:
    """Interrupt a run after so many seconds; how it ended."""
    terminal = Terminal(words)
    code = terminal.wait(moment)
    if code is None:
        WAYS[way](terminal)
        code = terminal.wait(DEADLINE)
    text = terminal.output.decode()
    if terminal.screen >= 0:
        terminal.close()
    assert "Traceback" not in text, text
    assert code in {0, 75, *TOO_EARLY}, f"{way} after {moment:.2f} s: ended with {code}:\n{text}"
    if code == 75 and way != "closed terminal":
        assert "the same command continues it" in text, text
    return {0: "was over", 75: "saved"}.get(code, "had not begun")


def try_all(words: list[str], out: Path, moments: int, draw: random.Random) -> dict[str, Counter]:
    """Interrupt and continue as often as asked in each way; how the interrupted runs ended."""
    finish([*words, f"run_dir={out / 'undisturbed'}"])  # the first pays for what is compiled and cached
    shutil.rmtree(out / "undisturbed")
    seconds = finish([*words, f"run_dir={out / 'undisturbed'}"])
    expected = course(out / "undisturbed")
    outcomes: dict[str, Counter] = {}
    for way in WAYS:
        outcomes[way] = Counter()
        for number in range(moments):
            run_dir = out / f"{way.replace(' ', '-')}-{number}"
            command = [*words, f"run_dir={run_dir}"]
            outcomes[way][interrupt(command, way, draw.uniform(0.1, 1) * seconds)] += 1
            finish(command)
            assert course(run_dir) == expected, f"{run_dir} came to something else"
            assert seer.audit.audit(run_dir).exact, run_dir
            shutil.rmtree(run_dir)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options, overrides = parser.parse_known_args()
    forkserver.start = lambda modules: None  # type: ignore[assignment, return-value] # without workers it is not needed
    words = ["pretrain", options.recipe, f"data={options.shards}", *SETTINGS, *overrides]
    print(json.dumps(try_all(words, options.out, options.moments, random.Random(options.seed))))


if __name__ == "__main__":
    main()
