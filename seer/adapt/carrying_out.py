"""Chains carried out on this host: each stage and each evaluation a process, one after another. What is
done is not done again.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

from seer.errors import InputError, LostWorkerError, StoppedError, quoted
from seer.eval.tasks import is_trained
from seer.processes import forwarding
from seer.results import read_results
from seer.rundir.chains import Chains, results_of


def carry_out(chains: Chains, folder: Path, nproc: int, say: Callable[[str], None]) -> None:
    """Train and measure what is left, and write the page.

    Raises:
        InputError, StoppedError, LostWorkerError: a stage or an evaluation ended so; the same command goes on.
    """
    for number, stage in enumerate(chains.stages, 1):
        if not stage.is_done(folder):
            say(f"stage {number} of {len(chains.stages)}: {stage.name}")
            _run([*stage.command(folder), "--nproc", str(nproc)], stage.name)
    for command in list(left(chains, folder)):
        say(f"evaluation: {command[1]} of {Path(command[3]).name}")
        processes = nproc if is_trained(command[1]) else 1
        _run([*command, "--nproc", str(processes)], f"{command[1]} of {command[3]}")
    _run(["report", str(folder)], "the page")


def left(chains: Chains, folder: Path) -> Iterator[list[str]]:
    """The evaluations whose results are not there, as commands."""
    for stage in chains.measured():
        present = {row["task"] for row in read_results(results_of(folder, stage))}
        for text, task in zip(chains.evaluations, chains.tasks(), strict=True):
            if task not in present:
                yield chains.evaluation(folder, stage, text)


def _run(command: list[str], name: str) -> None:
    """A verb in a process of its own, which is asked to stop when this one is."""
    with Popen([sys.executable, "-m", "seer", *command]) as child, forwarding([child]):
        code = child.wait()
    if code == InputError.exit_code:
        raise InputError(
            f"{name}: was refused, as said above; command: seer {' '.join(map(quoted, command))}"
        )
    if code in (StoppedError.exit_code, -2, -15):
        raise StoppedError(f"{name}: stopped as asked")
    if code:
        raise LostWorkerError(f"{name}: ended with exit code {code}; the same command goes on")
