"""Runs at a terminal that are interrupted at random moments and continued, against one that was
left alone.

    python -m tests.kit.interruptions RECIPE SHARDS OUT [--moments 20 --seed 1] [KEY=VALUE...]

Prints how each way of interrupting ended, as JSON, and fails at the first difference. Runs are
forked from this process, which has imported what they need: a run takes two seconds instead of ten.
"""

import argparse
import importlib
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
from collections.abc import Callable, Sequence
from pathlib import Path

import seer.checks.audit
from seer import cli, forkserver
from seer.engine.checkpoint.header import read_header
from seer.rundir.names import latest
from tests.kit.runs import SMALL, rows

STEPS = 8
SETTINGS = [
    f"steps={STEPS}",
    "checkpoint.every=3",
    *SMALL,
]
# What ended a process that was asked before it trained; the same command starts it then.
TOO_EARLY = {130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGHUP}
DEADLINE = 120.0  # seconds


class Terminal:
    """A process with a terminal of its own, which is drained, as a person's is.

    Args:
        function: what it does, in a fork of this process.
    """

    def __init__(self, function: Callable[[], object]):
        self.output = b""
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            be(function)

    def close(self) -> None:
        os.close(self.screen)
        self.screen = -1

    def wait(self, seconds: float) -> int | None:
        """The exit code, or minus the signal's number, once the process has ended; None after so
        many seconds.
        """
        until = time.monotonic() + seconds
        while True:
            self._drain()
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= until:
                return None

    def shows(self, text: bytes) -> bool:
        """Wait until this stands on the screen; False if it does not come."""
        until = time.monotonic() + DEADLINE
        while text not in self.output and time.monotonic() < until:
            self._drain()
        return text in self.output

    def _drain(self) -> None:
        if self.screen < 0:
            time.sleep(0.002)
        elif select.select([self.screen], [], [], 0.002)[0]:
            try:
                self.output += os.read(self.screen, 1 << 16)
            except OSError:  # nobody writes there any more
                time.sleep(0.002)


def be(function: Callable[[], object]) -> None:
    """Call a function in a process that was forked for it, and end with it."""
    # The ones that were inherited may know where in a file they are.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    code = 1
    try:
        function()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run_command(words: list[str]) -> Terminal:
    """The `seer` command at a terminal."""

    def command() -> None:
        sys.argv = ["seer", *words]
        cli.main()

    return Terminal(command)


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
    """What must be equal bit for bit: losses and samples of every step, and the digests of all
    tensors at the end.
    """
    steps = [(row["step"], row["loss"], row["grad_norm"], row["seen"]) for row in rows(run_dir)]
    header = read_header(latest(run_dir))
    return steps, {name: about["sha256"] for name, about in header["files"].items()}


def finish(words: list[str]) -> float:
    """Run to the end; the seconds that it took."""
    began = time.monotonic()
    terminal = run_command(words)
    code = terminal.wait(DEADLINE)
    assert code == 0, f"ended with {code}:\n{terminal.output.decode()}"
    terminal.close()
    return time.monotonic() - began


def interrupt(words: list[str], run_dir: Path, way: str, step: int, pause: float) -> str:
    """Interrupt a run so many seconds after it has logged a step (0: after its start); how it
    ended.
    """
    terminal = run_command([*words, f"run_dir={run_dir}"])
    metrics = run_dir / "metrics.jsonl"
    code = None
    while (
        code is None
        and step
        and not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= step)
    ):
        code = terminal.wait(0)
    if code is None:
        code = terminal.wait(pause)
    if code is None:
        WAYS[way](terminal)
        code = terminal.wait(DEADLINE)
    text = terminal.output.decode()
    if terminal.screen >= 0:
        terminal.close()
    assert "Traceback" not in text, text
    assert code in {0, 75, *TOO_EARLY}, (
        f"{way} {pause:.2f} s after step {step}: ended with {code}:\n{text}"
    )
    if code == 75 and way != "closed terminal":
        assert "the same command continues it" in text, text
    return {0: "was over", 75: "saved"}.get(code, "had not begun")


def try_all(words: list[str], out: Path, moments: int, draw: random.Random) -> dict[str, Counter]:
    """Interrupt runs, in each way until so many were training at that moment, and continue all; how
    they had ended.
    """
    seconds = finish([*words, f"run_dir={out / 'undisturbed'}"])
    expected = course(out / "undisturbed")
    outcomes: dict[str, Counter] = {}
    for way in WAYS:
        outcomes[way] = Counter()
        while outcomes[way]["saved"] < moments:  # others came before the training, or after it
            run_dir = out / f"{way.replace(' ', '-')}-{outcomes[way].total()}"
            step = draw.randrange(STEPS)
            pause = draw.uniform(0, seconds / STEPS) if step else draw.uniform(0, seconds)
            outcomes[way][interrupt(words, run_dir, way, step, pause)] += 1
            finish([*words, f"run_dir={run_dir}"])
            assert course(run_dir) == expected, f"{run_dir} came to something else"
            assert seer.checks.audit.audit(run_dir).exact, run_dir
            shutil.rmtree(run_dir)
    return outcomes


def try_recipe(
    recipe: str, shards: str, out: Path, moments: int, seed: int, overrides: Sequence[str] = ()
) -> dict[str, Counter]:
    """`try_all` with runs of a recipe, in a process that has imported what they need and has no
    threads.
    """
    forkserver.start = lambda modules: None  # type: ignore[assignment, return-value] # without workers it is not needed
    words = ["pretrain", recipe, f"data={shards}", *SETTINGS, *overrides]
    return try_all(words, out, moments, random.Random(seed))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options, overrides = parser.parse_known_args()
    for module in (
        *forkserver.TRAINING,
        *forkserver.LOADING,
        "torch._refs",
        "torch._meta_registrations",
    ):
        importlib.import_module(module)
    print(json.dumps(try_recipe(**vars(options), overrides=overrides)))


if __name__ == "__main__":
    main()
