"""SLURM's answers, as its commands would give them."""

import os
import subprocess

import pytest

from launch import queue, slurm
from launch.job import Job, Resources
from launch.launches import Launch, Link
from launch.profile import Profile
from seer.errors import InputError

ANSWERS = {
    "sinfo": "gpu*|60|gpu:a100:8(S:0-1)|128|3-00:00:00\ngpu*|4|gpu:a100:4|64+|3-00:00:00\ncpu|9|(null)|32|infinite\n",
    "squeue": "41_0|RUNNING|1:02|n[1-2]\n41_1|PENDING|0:00|(Priority)\n",
    "sacct": "41_0|PENDING|00:00|None\n40|CANCELLED by 0|01:00|n1\n",
    "sacctmgr": "vision\nspeech\n",
}


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    monkeypatch.setattr(queue, "tell", lambda command, *rest: ANSWERS.get(command))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")


def test_partitions_of_unequal_nodes():
    found = queue.partitions()
    assert found["gpu"] == queue.Partition("gpu", 64, 8, 64, 4320, True)
    assert found["cpu"] == queue.Partition("cpu", 9, 0, 32, float("inf"), False)


def test_the_queue_knows_better_than_the_accounting():
    found = queue.states(["41_0", "41_1", "40", "39"])
    assert found["41_0"] == queue.State("RUNNING", "1:02", "n[1-2]")
    assert found["40"].state == "CANCELLED"
    assert not found["40"].active
    assert found["41_1"].active
    assert "39" not in found


@pytest.mark.parametrize(
    "state", ["SIGNALING", "COMPLETING", "REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED"]
)
def test_a_job_between_two_states_or_held_is_not_over(state):
    assert queue.State(state).active


@pytest.mark.parametrize(
    "state", ["COMPLETED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "REVOKED"]
)
def test_a_job_that_has_ended_is_over(state):
    assert not queue.State(state).active


@pytest.mark.parametrize(
    ("profile", "needs", "message"),
    [
        ({"partition": "cpuu"}, {}, "partition 'cpuu'.*did you mean 'cpu'"),
        ({}, {"nodes": 65}, "--nodes 65: partition gpu has 64"),
        ({"partition": "cpu"}, {"gpus_per_node": 1}, "the nodes of partition cpu have none"),
        ({}, {"minutes": 4321}, "partition gpu allows 4320"),
        ({"account": "visoin"}, {}, "--account visoin: .*did you mean 'vision'"),
    ],
)
def test_what_the_cluster_can_never_run(profile, needs, message):
    settings = Profile(**{"partition": "", "cpus_per_task": 0, "memory_gb_per_task": 0, **profile})
    with pytest.raises(InputError, match=message):
        slurm.check(settings, Resources(**needs), queue.partitions())


def test_the_cores_of_a_node_are_divided_among_its_tasks():
    settings = slurm.check(
        Profile(partition="", cpus_per_task=0, memory_gb_per_task=0),
        Resources(tasks_per_node=8),
        queue.partitions(),
    )
    assert (settings.partition, settings.cpus_per_task) == ("gpu", 8)


def test_file_systems_are_looked_up_where_a_folder_will_be(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nhost:/x /tmp nfs4 rw 0 0\nnone /tmp/my\\040x tmpfs rw 0 0\n"
    )
    assert slurm.file_system(tmp_path / "not" / "yet", str(mounts)) == "nfs4"
    assert slurm.file_system(slurm.Path("/tmp/my x/run"), str(mounts)) == "tmpfs"
    assert slurm.file_system(slurm.Path("/opt"), str(mounts)) == "ext4"


def test_the_batch_script_says_it_all(tmp_path):
    train = Job("pretrain", ("r",), Resources(64, 8, 8, 4320), run_dir="/r")
    launch = Launch(tmp_path, "slurm", [Link([train]), Link([Job("report", ("/r",))])])
    container = {"container": "image", "mounts": ["/a:/a"], "python": "python3"}
    more = {
        "environment": {"NCCL_DEBUG": "WARN"},
        "setup": ["module load x"],
        "sbatch": {"exclude": "n3"},
    }
    settings = Profile(
        partition="gpu",
        cpus_per_task=10,
        memory_gb_per_task=60,
        account="vision",
        **container,
        **more,
    )
    text, after = (slurm.script(launch, number, settings) for number in (0, 1))
    for line in ("nodes=64", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=10", "mem=491520MB", "time=4320",
                 "partition=gpu", "account=vision", "signal=USR2@300", "exclude=n3", "requeue"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    assert "export NCCL_DEBUG=WARN\n" in text
    assert text.index("module load x") < text.index("srun --unbuffered")
    assert "--container-image=image --container-mounts=/a:/a python3 -u -m submitit" in text
    assert "scontrol requeue" in text
    assert "scontrol requeue" not in slurm.script(launch, 0, settings, requeue=False)
    assert "#SBATCH --dependency='afterok:<the job before>'" in after
    assert "#SBATCH --nodes=1\n" in after


@pytest.mark.parametrize(
    ("scontrol", "again"),
    [
        (
            "echo COMPLETING None > state; kill -TERM $$",
            False,
        ),  # what ends the job reaches scontrol as well
        ("rm state; kill -TERM $$", False),  # and nobody tells the state
        ("echo COMPLETING None > state; kill -KILL $$", False),
        ("echo PENDING BeginTime > state; exit 1", False),
        ("exit 0", False),
        ("exit 1", True),  # requeueing is forbidden
    ],
)
def test_a_job_that_is_queued_again_gets_no_successor(tmp_path, scontrol, again):
    """Whatever becomes of the answer."""
    programs = {"scontrol": scontrol, "squeue": "cat state", "sbatch": "touch submitted; echo 8"}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{line}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("7_submission.sh", "7_submitted.pkl"):
        (tmp_path / name).touch()
    (tmp_path / "state").write_text("RUNNING None\n")
    after = slurm.AFTER.format(conclude="echo 0", slurm=tmp_path, requeue=slurm.REQUEUE)
    environment = {**os.environ, "SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_JOB_ID"):
        environment.pop(name, None)
    script = f"{slurm.BEFORE}\n(exit 3)\n{after}"
    done = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (tmp_path / "submitted").exists() == again
    assert done.returncode == (0 if again else 3), done.stderr
