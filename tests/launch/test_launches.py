import pickle
import shutil
from pathlib import Path

import pytest

from launch import profile
from launch.job import Job, Resources
from launch.launches import Launch, Link, new_folder, plan, select
from launch.queue import minutes
from seer.errors import InputError

FOUR = Resources(nodes=2, tasks_per_node=2)


def pretrain(tiny, shards, run, *more) -> list[str]:
    return ["pretrain", tiny, f"data={shards}", f"run_dir={run}", "parallel.mode=ddp", *more]


def test_a_chain_replaces_run_and_needs_one_process_after_the_first(tiny, shards, tmp_path):
    run = tmp_path / "run"
    then = [
        "--then",
        "eval",
        "knn",
        "--model",
        "{run}",
        "--data",
        "d",
        "--then",
        "report",
        "{runs}",
    ]
    links = plan(pretrain(tiny, shards, run) + then, FOUR, [])
    train, knn, report = (link.jobs[0] for link in links)
    assert train.run_dir == str(run)
    assert train.resources.ranks == 4
    assert knn.arguments == ("knn", "--model", str(run), "--data", "d")
    assert knn.resources.ranks == 1
    assert report.arguments == (str(run),)
    assert [job.name for job in (train, knn, report)] == ["0-0", "1-0", "2-0"]


def test_checkpoints_are_scored_by_a_job_of_one_process(tmp_path):
    command = ["score", str(tmp_path / "later"), "--data", "flowers", "--follow"]
    ((job,),) = (link.jobs for link in plan(command, Resources(), []))
    assert (job.command, job.run_dir) == (command, "")
    with pytest.raises(InputError, match="score: is one process"):
        plan(command, FOUR, [])


def test_a_sweep_is_every_combination_in_a_run_directory_of_its_own(tiny, shards, tmp_path):
    command = [
        *pretrain(tiny, shards, tmp_path),
        "--then",
        "report",
        "{run}",
        "--then",
        "report",
        "{runs}",
    ]
    first, second, third = plan(command, FOUR, ["seed=[1]", "method.head=[[32,16],[16,8]]"])
    runs = [job.run_dir for job in first.jobs]
    assert len(set(runs)) == 2
    assert runs[0] == f"{tmp_path}/seed=1,method.head=[32, 16]"
    assert [job.arguments for job in second.jobs] == [(run,) for run in runs]
    assert second.each
    assert third.jobs[0].arguments == tuple(runs)
    assert not third.each


def test_a_value_of_a_sweep_is_a_text_where_a_text_is_asked_for(tiny, shards, tmp_path):
    folder = tmp_path / "a b"
    shutil.copytree(shards, folder)
    sweep = f"data=[{shards}, {folder}]"
    (link,) = plan(pretrain(tiny, shards, tmp_path / "r #1"), FOUR, [sweep])
    assert [job.arguments[-2] for job in link.jobs] == [f"data={shards}", f"data={folder}"]
    runs = [Path(job.run_dir) for job in link.jobs]
    # A path within a value makes no folders.
    assert {run.parent for run in runs} == {tmp_path / "r #1"}
    assert all("%2F" in run.name for run in runs)


def test_values_too_long_for_a_folders_name(tiny, shards, tmp_path):
    values = ", ".join("x" * 300 + str(i) for i in range(2))
    (link,) = plan(pretrain(tiny, shards, tmp_path), FOUR, [f"checkpoint.store=[{values}]"])
    names = [Path(job.run_dir).name for job in link.jobs]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 100


def test_an_array_numbers_its_jobs():
    (link,) = plan(["shards", "stats", "part-{i}-of-{n}"], Resources(), [], array=3)
    assert [job.arguments[-1] for job in link.jobs] == [f"part-{i}-of-3" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (["pretrian", "x"], {}, "'pretrian': not a verb to launch.*did you mean 'pretrain'"),
        (["launch", "status"], {}, "'launch': not a verb"),
        (["shards", "biuld"], {}, "'biuld': not a verb"),
        (["report"], {}, "report: Missing argument"),
        (["report", "--nope", "r"], {}, "No such option.*--nope"),
        (["report", "r", "--then"], {}, "--then: expected a verb"),
        (["report", "r", "--then", "report", "{run}"], {}, "no run directory"),
        (["report", "r"], {"sweeps": ["seed"]}, "expected key="),
        (["report", "r"], {"sweeps": ["seed=3"]}, "expected key="),
        (["report", "r"], {"sweeps": ["seed=[3"]}, "--sweep seed: not readable as YAML"),
        (["report", "r"], {"sweeps": ["seed=[&a [x], *a, *b]"]}, "an alias"),
        (
            ["report", "r"],
            {"sweeps": [f"{k}={[*range(50)]}" for k in "abc"]},
            "125,000 combinations",
        ),
        (["report", "r"], {"array": 2}, "no argument has {i}"),
        (["report", "r"], {"resources": FOUR}, "report: is one process"),
        (["pretrain", "no_such_recipe"], {}, "recipe 'no_such_recipe' is unknown"),
    ],
)
def test_bad_commands_are_one_line(command, options, message):
    with pytest.raises(InputError, match=message) as told:
        plan(command, **{"resources": Resources(), "sweeps": [], **options})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["batch_size=6"], "batch_size=6 does not divide among 4 processes"),
        (["parallel.mode=none"], "parallel.mode=none is for one process"),
        (["method.prototypes=0"], "prototypes"),
        (["stepz=3"], "stepz"),
        (["data=nowhere"], "nowhere"),
        (["--nproc", "2"], "--nproc: a launched job has its processes from"),
    ],
)
def test_what_every_rank_would_refuse_is_refused_before(
    tiny, shards, tmp_path, monkeypatch, more, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        plan(pretrain(tiny, shards, tmp_path / "run", *more), FOUR, [])
    assert not (tmp_path / "run").exists()


def test_a_launch_is_found_again_and_its_jobs_can_be_pickled(tmp_path):
    folder = new_folder(tmp_path, "report")
    assert new_folder(tmp_path, "report") != folder
    jobs = [Job("report", ("r",), FOUR, folder=str(folder), name=f"0-{i}") for i in range(2)]
    launch = Launch(folder, "slurm", [Link(jobs, ["41_0", "41_1"])], {"partition": "p"})
    launch.save()
    assert Launch.load(folder) == launch
    assert pickle.loads(pickle.dumps(jobs)) == jobs
    assert [job.name for _, _, job in select(tmp_path, "41")[0]] == ["0-0", "0-1"]
    assert [job.name for _, _, job in select(tmp_path, "41_1")[0]] == ["0-1"]
    with pytest.raises(InputError, match="42: no launch or job"):
        select(tmp_path, "42")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:30", 91),
        ("72:00:00", 4320),
        ("3-0", 4320),
        ("1-12:30", 2190),
        ("1-00:00:01", 1441),
    ],
)
def test_times_are_read_as_slurm_writes_them(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "1:2:3:4", "1-"])
def test_other_times_are_refused(text):
    with pytest.raises(InputError, match="--time"):
        minutes(text)


@pytest.mark.parametrize("name", ["v100", "a100", "cpu"])
def test_profiles_come_with_seer(name):
    found = profile.load(name, ["account=mine"])
    assert found.partition
    assert found.cpus_per_task > 0
    assert found.account == "mine"


def test_a_profile_without_required_fields_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("partition: gpu\n")
    with pytest.raises(InputError, match=r"mine.yaml: cpus_per_task, memory_gb_per_task: not set"):
        profile.load(str(path), [])
    with pytest.raises(InputError, match=r"--cluster v10: unknown.*v100"):
        profile.load("v10", [])
    path.write_text("partitoin: gpu\n")
    with pytest.raises(InputError, match="did you mean 'partition'"):
        profile.load(str(path), [])
