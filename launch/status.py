"""What became of launches: from the queue, the accounting where there is one, and the jobs' own
notes.
"""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch import attempts, holder, queue
from launch.job import Job
from launch.launches import RECORD, Launch, Link, new_folder, select
from seer import inputs
from seer.errors import InputError, StoppedError, printable, quoted
from seer.inputs import UnreadableError
from seer.rundir.names import LOG

ID_PATTERN = re.compile(r"\d+(_\d+)?")
SUCCESSION = re.compile(r"(\d+(?:_\d+)?) (\d+(?:_\d+)?)")
LARGEST_LOG = 4 * inputs.MEGABYTE  # of its end that is looked at
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def successor(launch: Launch, id: str) -> str:
    """The job that goes on in this one's place, where requeueing was not to be had."""
    try:
        text = inputs.read_text(inputs.inside(launch.folder, "slurm/resubmitted"), inputs.MEGABYTE)
    except (FileNotFoundError, UnreadableError):
        return id
    for old, new in SUCCESSION.findall(text):
        id = new if id == old else id
    return id


def rows(jobs_dir: Path, what: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """One row per job and array task, and what could not be read."""
    selected, unread = select(jobs_dir, what)
    found = [(launch, successor(launch, id), job) for launch, id, job in selected]
    known = queue.states(
        [id for launch, id, _ in found if launch.place == "slurm" and ID_PATTERN.fullmatch(id)]
    )
    here = {launch.folder: states_here(launch) for launch, _, _ in found if launch.place != "slurm"}
    table = []
    for launch, id, job in found:
        past = attempts.read(launch.folder, job.name)
        state = known.get(id) or queue.State(
            here.get(launch.folder, {}).get(job.name) or _outcome(past, id)
        )
        table.append({
            "job": id,
            "launch": launch.folder.name,
            "command": shlex.join(job.command),
            "state": state.state,
            "elapsed": state.elapsed,
            "place": state.place or (launch.place if launch.place != "slurm" else ""),
            "attempts": len(past) + (state.state in ("RUNNING", "COMPLETING")),
            "step": attempts.last_step(job.run_dir),
            "run_dir": job.run_dir,
            "told": past[-1].told if past and past[-1].code and state.state != "COMPLETED" else "",
        })  # fmt: skip
    return table, unread


def states_here(launch: Launch) -> dict[str, str]:
    """The state of each job of a launch that one process carries out, one after another."""
    held = holder.is_held(launch.folder)
    under_way = True  # all jobs before have ended well
    states = {}
    for job in launch.jobs:
        past = attempts.read(launch.folder, job.name) or attempts.endings(launch.folder, job.name)
        outcome = _outcome(past)
        if past and outcome == "COMPLETED":
            states[job.name] = outcome
        elif not under_way:
            states[job.name] = "PENDING" if held else "NOT RUN"
        else:
            states[job.name] = "RUNNING" if held else outcome if past else "KILLED"
            under_way = False
    return states


def _outcome(past: list[attempts.Attempt], id: str = "") -> str:
    """The state of a job that SLURM has forgotten, from its own notes."""
    if not past:
        return "UNKNOWN" if ID_PATTERN.fullmatch(id) else "NOT QUEUED"
    return {0: "COMPLETED", StoppedError.exit_code: "STOPPED"}.get(past[-1].code, "FAILED")


def table(found: list[dict[str, Any]]) -> None:
    """Print rows for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False)
    for name in ("job", "state", "elapsed", "tries", "step", "where", "command"):
        grid.add_column(name, overflow="fold")
    for row in found:
        step = str(row["step"]) if row["step"] >= 0 else ""
        command = f"{printable(row['command'])}\n{printable(row['told'])}".strip()
        cells = row["job"], row["state"], row["elapsed"], str(row["attempts"]), step, row["place"]
        grid.add_row(*(Text(printable(cell)) for cell in cells), Text(command))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # nobody wraps a log
    console.print(grid) if found else print("no launches here")


def log_files(jobs_dir: Path, what: str, rank: int) -> list[Path]:
    """The logs of a rank of each job that `what` names: of a job on this host, its run's own."""
    found = []
    launched = set()
    for launch, id, job in select(jobs_dir, what)[0]:
        launched.add(launch.place)
        if launch.place != "slurm":
            paths = [inputs.inside(Path(job.run_dir), LOG)] if job.run_dir and rank == 0 else []
        else:
            names = dict.fromkeys((id, successor(launch, id)))
            files = [f"slurm/{name}_{rank}_log.{end}" for name in names for end in ("out", "err")]
            paths = [inputs.inside(launch.folder, file) for file in files]
        found += [path for path in paths if path.is_file()]
    if not found and "slurm" not in launched:
        raise InputError(
            f"{printable(what)}: no log of rank {rank} is kept; it was printed where the launch was started"
        )
    if not found:
        raise InputError(f"{printable(what)}: no logs of rank {rank} yet")
    return list(dict.fromkeys(found))


def log_end(path: Path, lines: int) -> list[str]:
    """The last lines of a log as a terminal may have them: without colours, what else a terminal
    obeys escaped.
    """
    with inputs.open_file(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LARGEST_LOG))
        text = file.read(LARGEST_LOG).decode(errors="replace")
    text = text.replace("\r\n", "\n")
    # Of a line that was written over and over, as a bar's is, the last.
    shown = [line.rpartition("\r")[2] for line in text.split("\n")]
    if shown[-1] == "":
        shown.pop()
    colourless = [COLOURS.sub("", line) for line in shown[-lines:]]
    return [printable(line.expandtabs()) for line in colourless]


def cancel(jobs_dir: Path, what: str) -> list[str]:
    """Cancel the jobs that `what` names, and later links of their launches; the ids that were still
    active.
    """
    ids: list[str] = []
    stopped = []
    for launch, id, job in select(jobs_dir, what)[0]:
        if launch.place == "slurm":
            ids += _with_later(launch, id, job)
        elif states_here(launch)[job.name] == "RUNNING":
            holder.stop(launch.folder)
            stopped.append(id)
    ids = [id for id in dict.fromkeys(ids) if ID_PATTERN.fullmatch(id)]
    states = queue.states(ids)
    active = [id for id in ids if id in states and states[id].active]
    if active:
        queue.cancel(active)
    return stopped + active


def _with_later(launch: Launch, id: str, job: Job) -> list[str]:
    """A job and what waits for it, or what goes on in their places."""
    link, place = (int(number) for number in job.name.split("-"))
    later = launch.links[link + 1 :]
    waiting = [name for after in later if not after.each for name in after.ids]
    same = [after.ids[place] for after in later if after.each and place < len(after.ids)]
    return [successor(launch, name) for name in (id, *waiting, *same)]


def check_ours(launch: Launch) -> None:
    """Raise `InputError` unless a record is this user's own: resubmitting runs what it holds.

    A launch writes where it stands into each of its jobs, so one that was unpacked or copied from
    elsewhere is told.
    """
    path = launch.folder / RECORD
    recorded = {job.folder for job in launch.jobs}
    if path.stat().st_uid != os.geteuid() or recorded != {str(launch.folder.absolute())}:
        raise InputError(
            f"{path}: not recorded here by you, so its commands are not run; read it, and launch them with "
            "`seer launch slurm`"
        )


def unfinished(jobs_dir: Path, what: str) -> Launch:
    """A new launch of what is over and did not succeed, links and all."""
    found, _ = select(jobs_dir, what)
    if len({launch.folder for launch, _, _ in found}) != 1:
        raise InputError(f"{what}: more than one launch; name one of them")
    launch = found[0][0]
    if launch.place != "slurm":
        raise InputError(
            f"{printable(what)}: not of a cluster; run its command again, the run goes on where it stopped"
        )
    check_ours(launch)
    done = {row["job"]: row["state"] for row in rows(jobs_dir, launch.folder.name)[0]}
    named = {id for _, id, _ in found}
    links = []
    for link in launch.links:
        names = launch.names(link)
        states = [done[successor(launch, id)] for id in names]
        if any(
            queue.State(state).active
            for id, state in zip(names, states, strict=True)
            if id in named
        ):
            raise InputError(
                f"{what}: still in the queue; `seer launch cancel {quoted(what)}` first"
            )
        left = [job for job, state in zip(link.jobs, states, strict=True) if state != "COMPLETED"]
        links += [Link(left, each=link.each)] if left else []
    if not links:
        raise InputError(f"{what}: all of it has succeeded already")
    for number, link in enumerate(links):
        link.jobs = [replace(job, name=f"{number}-{i}") for i, job in enumerate(link.jobs)]
        link.each = link.each and number > 0 and len(link.jobs) == len(links[number - 1].jobs) > 1
    return Launch(new_folder(jobs_dir, links[0].jobs[0].verb), launch.place, links, launch.cluster)
