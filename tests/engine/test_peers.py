"""Processes that are not alike do not train together."""

import socket
import time

import pytest

from seer import distributed
from seer.engine import peers
from seer.errors import InputError, InUseError
from seer.processes import spawn

HERE = {"host": "node1", "torch": "2.14.1", "numpy": "2.0", "the code of seer": "abc in /seer"}


@pytest.mark.parametrize(
    ("change", "clock", "message"),
    [
        ({}, 0.0, ""),
        ({"the code of seer": "abc in /elsewhere"}, 30.0, ""),  # the same files in another place
        ({"torch": "2.13.0"}, 0.0, "rank 3 on node2: torch is 2.13.0, and 2.14.1 on node1"),
        ({"numpy": None}, 0.0, "rank 3 on node2: numpy is not installed, and 2.0 on node1"),
        ({"fairscale": "0.4"}, 0.0, "fairscale is 0.4, and not installed on node1"),
        (
            {"the code of seer": "abd in /seer"},
            0.0,
            "the code of seer is abd in /seer, and abc in /seer on node1",
        ),
        ({}, -90.0, "rank 3 on node2: its clock is -90 s off that of node1; synchronise them"),
    ],
)
def test_differences_are_named(change, clock, message):
    other = {
        key: value
        for key, value in {**HERE, "host": "node2", **change}.items()
        if value is not None
    }
    told = peers.differs(3, (1000.0, HERE), (1000.0 + clock, other))
    assert told.startswith(message) if message.startswith("rank") else message in told
    assert bool(told) == bool(message)


def _meet() -> str:
    peers.check_peers()
    if distributed.rank() == 1:
        ahead = time.time
        time.time = lambda: ahead() + 3600
    try:
        peers.check_peers()
    except InputError as error:
        return str(error)
    return ""


def test_every_rank_refuses_a_clock_that_is_off():
    first, second = spawn(_meet, 2, device="cpu")
    assert first == second
    assert "rank 1" in first
    assert "its clock is +3600 s off" in first


def test_a_port_in_use_is_told(monkeypatch):
    monkeypatch.setattr(distributed, "_world", None)  # as in a process that has not joined one
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        place = {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for key, value in place.items():
            monkeypatch.setenv(key, value)
        with pytest.raises(InUseError, match=f"127.0.0.1:{port}: the port is in use"):
            distributed.init("cpu")
