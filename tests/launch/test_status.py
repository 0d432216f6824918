"""seer launch status, logs, cancel and resubmit: of launches on this host, of damaged records and
of strangers'.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from launch import attempts, holder, status
from launch.cli import app
from launch.job import Job, Resources
from launch.launches import LAUNCH, Launch, Link, launches
from launch.profile import recorded
from seer.errors import InputError
from tests.kit.fuzzing import World, damaged_bytes, fuzz, trial
from tests.kit.strategies import damaged


def seer(*words: str) -> tuple[int, str]:
    """Exit code and all that `seer launch` prints."""
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, InputError):
        return 2, f"{done.output}seer: {done.exception}"
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def record(
    folder: Path, place: str = "local", ids: tuple[str, ...] = (), run_dir: str = "", count: int = 1
) -> Launch:
    """A launch that stands in `folder`."""
    jobs = [
        Job("report", ("r",), Resources(), run_dir, str(folder), f"0-{i}") for i in range(count)
    ]
    launch = Launch(folder, place, [Link(jobs, list(ids))])
    launch.save()
    return launch


@pytest.fixture
def jobs(tmp_path) -> Path:
    return tmp_path / "jobs"


def test_every_verb_answers_after_a_launch_on_this_host(tmp_path, jobs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.local.spawn", lambda job, nproc, device: job())  # in this process
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert "no launches here" in seer("status")[1]
    code, text = seer("local", "--retries", "0", "--backoff", "0", "--", "report", "nothere")
    assert code == 2
    (folder,) = jobs.iterdir()
    code, text = seer("status")
    assert code == 0
    assert f"{folder.name}.0-0" in text
    assert "FAILED" in text
    rows = json.loads(seer("status", folder.name, "--json", "-")[1])
    assert [(row["job"], row["state"], row["place"]) for row in rows] == [
        (f"{folder.name}.0-0", "FAILED", "local")
    ]
    assert seer("status", f"jobs/{folder.name}/")[0] == 0
    code, text = seer("logs", folder.name)
    assert (code, "was printed where the launch was started" in text) == (2, True)
    assert "nothing: all of it is over" in seer("cancel", folder.name)[1]
    code, text = seer("resubmit", folder.name)
    assert (code, "not of a cluster; run its command again" in text) == (2, True)


@pytest.mark.parametrize("verb", ["status", "logs", "cancel", "resubmit"])
@pytest.mark.parametrize("what", ["4711", "../x", "-1", "x\x1b[2J", "a/b/c", "4711_3"])
def test_unknown_ids_are_one_line(jobs, verb, what):
    record(jobs / "x")
    for folder in (jobs, jobs / "empty", jobs / "x" / "launch.json"):
        code, text = seer(verb, "--jobs", str(folder), "--", what)
        assert code == 2
        assert "no launch or job of that name" in text
        assert text.isprintable()


def test_a_launch_under_way_is_seen_and_can_be_cancelled(jobs, tmp_path):
    record(jobs / "x", count=2)
    assert [row["state"] for row in status.rows(jobs)[0]] == ["KILLED", "NOT RUN"]
    code = "import sys, time; from pathlib import Path; from launch.holder import holding\n"
    code += "with holding(Path(sys.argv[1])): print(1, flush=True); time.sleep(600)"
    root = str(Path(holder.__file__).parent.parent)
    command = [sys.executable, "-c", code, str(jobs / "x")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert [row["state"] for row in status.rows(jobs)[0]] == ["RUNNING", "PENDING"]
        assert status.cancel(jobs, "x") == ["x.0-0"]
        assert process.wait(60) == -signal.SIGTERM
    assert [row["state"] for row in status.rows(jobs)[0]] == ["KILLED", "NOT RUN"]


def test_a_strangers_process_is_not_stopped(jobs, monkeypatch):
    record(jobs / "x")
    sent: list = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    ours = holder.Holder.this()
    assert ours.lives_here
    forged = [
        vars(ours),  # nobody holds the lock
        {**vars(ours), "started": ours.started + 1},  # the number has gone to another process
        {**vars(ours), "host": "elsewhere"},
        {**vars(ours), "pid": 2**31},
    ]
    for values in forged:
        (jobs / "x" / ".running").write_text(json.dumps(values))
        assert "nothing: all of it is over" in seer("cancel", "x", "--jobs", str(jobs))[1]
        with pytest.raises(InputError, match="not a process of yours"):
            holder.stop(jobs / "x")
    monkeypatch.setattr(holder, "is_held", lambda folder: True)
    for values in forged[1:]:
        (jobs / "x" / ".running").write_text(json.dumps(values))
        assert seer("cancel", "x", "--jobs", str(jobs))[0] == 2
    assert sent == []


def test_jobs_that_were_not_queued_are_told(jobs, monkeypatch):
    """As when sbatch failed between two links, or was interrupted."""
    launch = record(jobs / "x", "slurm", ids=("41",))
    launch.links.append(Link([Job("report", ("r",), folder=str(jobs / "x"), name="1-0")]))
    launch.save()
    assert [row["state"] for row in status.rows(jobs)[0]] == ["UNKNOWN", "NOT QUEUED"]


def test_attempts_say_what_became_of_a_chain(jobs):
    folder = jobs / "x"
    record(folder, count=3)
    for name, code in (("0-0", 0), ("0-1", 75)):
        attempts.conclude(folder, name, "", code)
    assert [row["state"] for row in status.rows(jobs)[0]] == ["COMPLETED", "STOPPED", "NOT RUN"]


def test_a_damaged_record_leaves_the_others_to_be_shown(jobs):
    record(jobs / "a")
    record(jobs / "b")
    (jobs / "b" / "launch.json").write_text("{")
    (jobs / "c").mkdir()
    (jobs / "c" / "launch.json").symlink_to("/etc/passwd")
    (jobs / "d").mkdir()
    os.mkfifo(jobs / "d" / "launch.json")
    code, text = seer("status", "--jobs", str(jobs))
    assert code == 0
    assert "a.0-0" in text
    for name, reason in (
        ("b", "not readable as JSON"),
        ("c", "leads out of"),
        ("d", "not a regular file"),
    ):
        assert f"seer: {jobs / name / 'launch.json'}: {reason}" in text
    code, text = seer("logs", "b", "--jobs", str(jobs))
    assert (code, "launch.json: not readable as JSON" in text) == (2, True)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["../../etc/x"], "is not the number of a job"),
        (["--help"], "is not the number"),
        (["1", "2"], "2 ids of 1 jobs"),
    ],
)
def test_ids_are_numbers_and_as_many_as_jobs(jobs, ids, message):
    record(jobs / "x", "slurm", tuple(ids))
    _, (unread,) = launches(jobs)
    assert message in unread


def test_logs_show_what_lies_in_the_launch_alone(jobs, tmp_path):
    record(jobs / "x", "slurm", ("7",))
    slurm = jobs / "x" / "slurm"
    slurm.mkdir()
    (slurm / "7_0_log.out").write_text("begun\n10 %\r100 %\n\x1b[32mgreen\x1b[0m \x1b[2J\n")
    code, text = seer("logs", "7", "--jobs", str(jobs))
    assert code == 0
    assert text.splitlines()[1:] == ["begun", "100 %", "green \\x1b[2J"]
    (slurm / "7_0_log.err").symlink_to("/etc/passwd")
    code, text = seer("logs", "7", "--jobs", str(jobs))
    assert (code, "leads out of" in text, "root:" in text) == (2, True, False)


def test_logs_of_a_run_on_this_host_are_its_own(jobs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    record(jobs / "x", run_dir=str(run))
    assert seer("logs", "x", "--jobs", str(jobs))[0] == 2
    (run / "seer.log").write_text("a\nb\n")
    assert seer("logs", "x", "--jobs", str(jobs), "--lines", "1")[1].splitlines() == [
        f"==> {run / 'seer.log'}",
        "b",
    ]
    (run / "seer.log").unlink()
    (run / "seer.log").symlink_to("/etc/passwd")
    code, text = seer("logs", "x", "--jobs", str(jobs))
    assert (code, "root:" in text) == (2, False)


def test_a_strangers_launch_is_not_resubmitted(jobs, tmp_path, monkeypatch):
    submitted: list = []
    monkeypatch.setattr("launch.slurm.submit", lambda *arguments: submitted.append(arguments))
    record(tmp_path / "elsewhere" / "x", "slurm", ("7",))
    shutil.copytree(tmp_path / "elsewhere" / "x", jobs / "x")
    code, text = seer("resubmit", "7", "--jobs", str(jobs))
    assert (code, "not recorded here by you" in text) == (2, True)
    record(jobs / "x", "slurm", ("7",))
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert seer("resubmit", "7", "--jobs", str(jobs))[0] == 2
    assert submitted == []


@pytest.mark.parametrize(
    "values", [{"partition": 3, "x": 1}, {"cpus_per_task": "many"}, {"sbatch": [1]}, {"python": {}}]
)
def test_a_recorded_profile_is_checked(values):
    good = {"partition": "p", "cpus_per_task": 1, "memory_gb_per_task": 1.0}
    assert recorded(good).partition == "p"
    with pytest.raises(InputError, match="the launch's record: cluster"):
        recorded(good | values)


RECORD_VERBS = (
    lambda jobs: status.rows(jobs),
    lambda jobs: status.log_files(jobs, "x", 0),
    lambda jobs: status.cancel(jobs, "x"),
    lambda jobs: status.unfinished(jobs, "x"),
)


ATTEMPT = '{"id": "local.1", "when": 1795730593.5, "code": 1, "told": "why", "step": -1}\n'


@fuzz(40)
@given(damaged(LAUNCH), st.sampled_from(RECORD_VERBS))
def test_damaged_records_by_their_schema(tmp_path_factory, value, verb):
    world = World(tmp_path_factory.mktemp("fuzz") / "world")
    (world.folder / "x").mkdir()
    (world.folder / "x" / "launch.json").write_text(json.dumps(value))
    trial(world, verb, world.folder)


@fuzz(40)
@given(st.data(), st.sampled_from(RECORD_VERBS))
def test_damaged_records_by_their_bytes(tmp_path_factory, data, verb):
    world = World(tmp_path_factory.mktemp("fuzz") / "world")
    record(world.folder / "x", run_dir="run")
    (world.folder / "x" / "attempts").mkdir()
    (world.folder / "x" / "attempts" / "0-0.jsonl").write_text(ATTEMPT)
    file = data.draw(st.sampled_from(["launch.json", "attempts/0-0.jsonl"]))
    path = world.folder / "x" / file
    # The same in every case.
    content = path.read_bytes().replace(str(world.root).encode(), b"/home")
    path.write_bytes(data.draw(damaged_bytes(content)))
    trial(world, verb, world.folder)
