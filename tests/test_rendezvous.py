"""Ranks that do not come, ports where others listen, environments that make no sense: one line
each, in time.
"""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from threading import Thread

import pytest
import torch.distributed as dist

from seer import distributed, rendezvous
from seer.errors import InputError, InUseError
from seer.rendezvous import Place, meet, read_place

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """Free of launchers, with a free port, impatient; what is set in it is gone afterwards."""
    monkeypatch.setattr(
        os,
        "environ",
        {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCH"))},
    )
    for name in NAMES:
        os.environ.pop(name, None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=port, SEER_JOIN_NOTICE="0.2", SEER_JOIN_LIMIT="1"
    )
    return os.environ


def place(rank: int, size: int, source: str = "RANK WORLD_SIZE") -> Place:
    return Place(rank, size, rank, size, source)


def test_rank_zero_says_who_is_missing_and_gives_up(environment, capfd):
    environment.update(RANK="0", WORLD_SIZE="4")
    where = f"127.0.0.1:{environment['MASTER_PORT']}"
    raised = []

    def first() -> None:
        try:
            meet(place(0, 4))
        except InUseError as error:
            raised.append(str(error))

    waiting = Thread(target=first)
    waiting.start()
    while not rendezvous._somebody_answers("127.0.0.1", int(environment["MASTER_PORT"])):
        pass
    store = dist.TCPStore(
        "127.0.0.1", int(environment["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=30)
    )
    store.set("seer/rank/2", "elsewhere")
    store.add("seer/arrived", 1)
    waiting.join()
    host = socket.gethostname()
    story = f"{where}: rank 0 of 4 on {host} waits there for ranks 1 and 3 after"
    remedy = "RANK=0 WORLD_SIZE=4 in the environment says 4 processes; to run alone: unset RANK WORLD_SIZE"
    assert raised[0].startswith(f"{story} 1 s; ")
    assert raised[0].endswith(remedy)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("seer: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"seer: {story} 0 s, waiting for 1 s more; ")


def test_without_rank_zero_the_others_say_so(environment, capfd):
    environment.update(RANK="1", WORLD_SIZE="2")
    with pytest.raises(
        InUseError, match=r"nobody answers rank 1 of 2 on .*: rank 0 is missing after 1 s; RANK=1"
    ):
        meet(place(1, 2))
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1  # nothing of PyTorch's
    assert "rank 0 is missing after 0 s, waiting for" in errors[0]


def test_all_meet_and_none_waits(environment, capfd):
    environment["SEER_JOIN_LIMIT"] = "60"
    environment["SEER_JOIN_NOTICE"] = "50"
    stores = {}
    ranks = [
        Thread(target=lambda rank=rank: stores.update({rank: meet(place(rank, 3))}))
        for rank in (2, 0, 1)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    stores[0].set("key", "value")
    assert stores[2].get("key") == b"value"
    assert "seer:" not in capfd.readouterr().err
    assert stores[1].check([f"seer/rank/{rank}" for rank in range(3)])


def test_a_late_rank_is_waited_for(environment, capfd):
    environment["SEER_JOIN_LIMIT"] = "60"
    first = Thread(target=meet, args=[place(0, 2)])
    first.start()
    first.join(0.6)
    assert "waits there for rank 1 after" in capfd.readouterr().err
    meet(place(1, 2))
    first.join()


def test_rank_zero_that_goes_away_while_others_wait(environment):
    environment["SEER_JOIN_LIMIT"] = "60"
    program = (
        "from datetime import timedelta; import torch.distributed as dist, time;"
        f"store = dist.TCPStore('127.0.0.1', {environment['MASTER_PORT']}, 3, True, timedelta(seconds=60), False);"
        "[time.sleep(0.01) for _ in range(6000) if not store.check(['seer/rank/1'])]"
    )
    first = subprocess.Popen([sys.executable, "-c", program])
    with pytest.raises(InUseError, match="rank 0 has gone while rank 1 of 3"):
        meet(place(1, 3))
    first.kill()
    first.wait()


def test_another_program_on_the_port(environment, monkeypatch):
    monkeypatch.setattr(rendezvous, "ANSWER", timedelta(seconds=1))
    with socket.create_server(("127.0.0.1", int(environment["MASTER_PORT"]))):
        with pytest.raises(InUseError, match="another program than rank 0 answers there"):
            meet(place(1, 2))
        with pytest.raises(InUseError, match="the port is in use there"):
            meet(place(0, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"RANK": "one", "WORLD_SIZE": "2"},
            "RANK='one' in the environment: must be a whole number from 0; unset",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK=''"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 in the environment: must be below WORLD_SIZE=2"),
        ({"RANK": "1"}, "RANK=1 in the environment: must be below WORLD_SIZE=1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "gpu0"}, "LOCAL_RANK='gpu0'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2"}, "LOCAL_RANK=2 in the environment"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE='x'"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": ""},
            "MASTER_ADDR is not in the environment",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "http"}, "MASTER_PORT='http'"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "70000"},
            "MASTER_PORT=70000 in the environment: must be",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "SEER_JOIN_LIMIT": "soon"}, "SEER_JOIN_LIMIT='soon'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "SEER_JOIN_NOTICE": "-3"}, "SEER_JOIN_NOTICE='-3'"),
        ({"SLURM_STEP_NUM_TASKS": "four"}, "SLURM_STEP_NUM_TASKS='four'"),
        (
            {"SLURM_STEP_NUM_TASKS": "4"},
            "SLURM_JOB_ID is not in the environment of this SLURM step; unset SLURM_STEP",
        ),
    ],
)
def test_an_environment_that_makes_no_sense(environment, values, message):
    environment.update(values)
    with pytest.raises(InputError) as raised:
        distributed.init("cpu")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


STEP = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip


def test_a_shell_in_a_step_of_four_tasks(environment):
    """`srun -n4 --pty bash`: the other three tasks never run."""
    environment.update(STEP)
    with pytest.raises(InUseError) as raised:
        distributed.init("cpu")
    assert "waits there for ranks 1, 2 and 3 after 1 s" in str(raised.value)
    assert "SLURM_STEP_NUM_TASKS=4 in the environment says 4 processes" in str(raised.value)
    assert str(raised.value).endswith("to run alone: unset SLURM_STEP_NUM_TASKS")
    assert not dist.is_initialized()


def test_a_step_whose_numbers_do_not_fit(environment):
    environment.update(STEP, SLURM_NODEID="1")
    with pytest.raises(InputError, match="SLURM_STEP_TASKS_PER_NODE='4' has no node 1"):
        distributed.init("cpu")


def test_many_missing_ranks_are_counted():
    assert rendezvous._ranks([3]) == "rank 3"
    assert rendezvous._ranks([1, 2]) == "ranks 1 and 2"
    assert rendezvous._ranks(list(range(1, 64))) == "ranks 1, 2, 3, 4 and 59 more"


def test_alone_nothing_is_needed(environment):
    assert read_place("RANK WORLD_SIZE") == (0, 1, 0, 1, "RANK WORLD_SIZE")
    environment["LOCAL_RANK"] = "3"  # of a launcher that shows each process all devices
    assert read_place("RANK WORLD_SIZE").local_rank == 3


@pytest.mark.parametrize("name", ["tpu", "cuda:1", "CPU", ""])
def test_unknown_devices_are_refused(name):
    with pytest.raises(InputError, match=r"is unknown \((did you mean|one of: auto, cpu, cuda)"):
        distributed.pick_device(name, 0)
