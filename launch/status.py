"""What became of launches: from the queue, the accounting where there is one, and the jobs' own notes."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch import attempts, queue
from launch.launches import Launch, Link, new_folder, select
from seer.errors import InputError, StoppedError


def successor(launch: Launch, id: str) -> str:
    """The job that goes on in this one's place, where requeueing was not to be had."""
    path = launch.folder / "slurm" / "resubmitted"
    for line in path.read_text().splitlines() if path.is_file() else []:
        old, new = line.split()
        id = new if id == old else id
    return id


def rows(jobs_dir: Path, what: str = "") -> list[dict[str, Any]]:
    """One row per job and array task."""
    found = [(launch, successor(launch, id), job) for launch, id, job in select(jobs_dir, what)]
    states = queue.states([id for _, id, _ in found])
    table = []
    for launch, id, job in found:
        past = attempts.read(launch.folder, job.name)
        state = states.get(id) or queue.State(_outcome(past))
        table.append({
            "job": id,
            "launch": launch.folder.name,
            "command": shlex.join(job.command),
            "state": state.state,
            "elapsed": state.elapsed,
            "place": state.place,
            "attempts": len(past) + (state.state in ("RUNNING", "COMPLETING")),
            "step": attempts.last_step(job.run_dir),
            "run_dir": job.run_dir,
            "told": past[-1].told if past and past[-1].code and state.state != "COMPLETED" else "",
        })  # fmt: skip
    return table


def _outcome(past: list[attempts.Attempt]) -> str:
    """The state of a job that SLURM has forgotten, from its own notes."""
    if not past:
        return "UNKNOWN"
    return {0: "COMPLETED", StoppedError.exit_code: "STOPPED"}.get(past[-1].code, "FAILED")


def table(found: list[dict[str, Any]]) -> None:
    """Print rows for people."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for name in ("job", "state", "elapsed", "tries", "step", "where", "command"):
        shown.add_column(name, overflow="fold")
    for row in found:
        step = str(row["step"]) if row["step"] >= 0 else ""
        command = f"{row['command']}\n{row['told']}".strip()
        shown.add_row(row["job"], row["state"], row["elapsed"], str(row["attempts"]), step, row["place"], command)
    Console().print(shown, markup=False) if found else print("no launches here")


def log_files(jobs_dir: Path, what: str, rank: int) -> list[Path]:
    """The logs of a rank of each job that `what` names."""
    files = []
    for launch, id, _ in select(jobs_dir, what):
        for job in dict.fromkeys((id, successor(launch, id))):
            files += [launch.folder / "slurm" / f"{job}_{rank}_log.{end}" for end in ("out", "err")]
    found = [path for path in files if path.is_file()]
    if not found:
        raise InputError(f"{what}: no logs of rank {rank} yet")
    return found


def cancel(jobs_dir: Path, what: str) -> list[str]:
    """Cancel the jobs that `what` names, and later links of their launches; the ids that were still active."""
    ids = []
    for launch, id, job in select(jobs_dir, what):
        link = int(job.name.partition("-")[0])
        later = [waiting for after in launch.links[link + 1 :] if not after.each for waiting in after.ids]
        same = [after.ids[int(job.name.partition("-")[2])] for after in launch.links[link + 1 :] if after.each]
        ids += [successor(launch, one) for one in (id, *later, *same)]
    states = queue.states(list(dict.fromkeys(ids)))
    active = [id for id in dict.fromkeys(ids) if id in states and states[id].active]
    if active:
        queue.cancel(active)
    return active


def unfinished(jobs_dir: Path, what: str) -> Launch:
    """A new launch of what is over and did not succeed, links and all."""
    found = select(jobs_dir, what)
    if len({launch.folder for launch, _, _ in found}) != 1:
        raise InputError(f"{what}: more than one launch; name one of them")
    launch = found[0][0]
    done = {row["job"]: row["state"] for row in rows(jobs_dir, launch.folder.name)}
    named = {id for _, id, _ in found}
    links = []
    for link in launch.links:
        states = [done[successor(launch, id)] for id in link.ids]
        if any(queue.State(state).active for id, state in zip(link.ids, states, strict=True) if id in named):
            raise InputError(f"{what}: still in the queue; `seer launch cancel {what}` first")
        left = [job for job, state in zip(link.jobs, states, strict=True) if state != "COMPLETED"]
        links += [Link(left, each=link.each)] if left else []
    if not links:
        raise InputError(f"{what}: all of it has succeeded already")
    for number, link in enumerate(links):
        link.jobs = [replace(job, name=f"{number}-{i}") for i, job in enumerate(link.jobs)]
        link.each = link.each and number > 0 and len(link.jobs) == len(links[number - 1].jobs) > 1
    return Launch(new_folder(jobs_dir, links[0].jobs[0].verb), launch.place, links, launch.cluster)
