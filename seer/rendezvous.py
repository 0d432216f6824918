"""How the ranks of a run find each other: what the environment says of this process, and waiting
until all are there.

A rank that never comes (`srun -n4 --pty bash` starts one process of four) would have PyTorch wait
half an hour and end in a traceback. So each rank leaves its mark in the store where the ranks meet;
before long rank 0 says whose is missing, everyone says so in the end, in one line.
"""

import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import torch.distributed as dist

from seer.background import in_background
from seer.errors import InputError, InUseError

# Seconds until the first word about who is missing, and until nobody waits any longer.
NOTICE_SECONDS = ("SEER_JOIN_NOTICE", 30.0)
LIMIT_SECONDS = ("SEER_JOIN_LIMIT", 900.0)
ANSWER = timedelta(seconds=60)  # that a store which listens may take; a busy host is slow
LONGEST_PAUSE = 0.2  # seconds between two looks at the store
ALL_HERE = "seer/all-here"
ARRIVED = "seer/arrived"
NAMED = 4  # missing ranks that are named


class Place(NamedTuple):
    """Where the environment puts this process; `source` are the variables that say there are
    several.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    source: str


def read_place(source: str) -> Place:
    """From torchrun's variables. Raises `InputError` for numbers that are none, or that do not fit
    together.
    """
    remedy = f"unset {' and '.join(source.split())} to run alone"
    size = whole_number("WORLD_SIZE", 1, remedy)
    rank = whole_number("RANK", 0, remedy)
    local_size = whole_number("LOCAL_WORLD_SIZE", size, remedy)
    local_rank = whole_number("LOCAL_RANK", 0, remedy)
    if rank >= size:
        raise InputError(
            f"RANK={rank} in the environment: must be below WORLD_SIZE={size}; {remedy}"
        )
    if local_rank >= local_size and size > 1:
        raise InputError(
            f"LOCAL_RANK={local_rank} in the environment: must be below LOCAL_WORLD_SIZE={local_size}"
        )
    return Place(rank, size, local_rank, local_size, source)


def whole_number(name: str, default: int, remedy: str) -> int:
    """An environment variable as a number from 0. Raises `InputError`."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(
            f"{name}='{text}' in the environment: must be a whole number from 0; {remedy}"
        )
    return int(text)


def meet(place: Place) -> dist.TCPStore:
    """The store where all ranks have met.

    Raises:
        InputError: MASTER_ADDR or MASTER_PORT are missing or make no sense.
        InUseError: another process listens there, or not all ranks have come in time.
    """
    remedy = f"give rank 0's host and a free port, or unset {' and '.join(place.source.split())} to run alone"
    address = os.environ.get("MASTER_ADDR", "")
    if not address:
        raise InputError(
            f"MASTER_ADDR is not in the environment, and there are {place.size} processes; {remedy}"
        )
    port = whole_number("MASTER_PORT", 0, remedy)
    if not 0 < port < 2**16:
        raise InputError(
            f"MASTER_PORT={port} in the environment: must be from 1 to 65535; {remedy}"
        )
    waiting = Waiting(place, f"{address}:{port}")
    store = _open_store(place, address, port, waiting)
    try:
        _wait_for_all(store, place, waiting)
    except dist.DistError as error:
        told = f"{address}:{port}: rank 0 has gone while {waiting.who()} waited"
        raise InUseError(f"{told}; {waiting.remedy()}") from error
    return store


class Waiting:
    """The clock of one wait: says a line after `NOTICE_SECONDS`, and ends the wait after
    `LIMIT_SECONDS`.
    """

    def __init__(self, place: Place, where: str):
        self.place = place
        self.where = where
        self.began = time.monotonic()
        self.notice = _seconds(*NOTICE_SECONDS)
        self.limit = _seconds(*LIMIT_SECONDS)

    def who(self) -> str:
        return f"rank {self.place.rank} of {self.place.size} on {socket.gethostname()}"

    def remedy(self) -> str:
        names = self.place.source.split()
        values = " ".join(f"{name}={os.environ.get(name, '')}" for name in names)
        return f"{values} in the environment says {self.place.size} processes; to run alone: unset {' '.join(names)}"

    def is_due(self) -> bool:
        """Whether `check` would say something."""
        return time.monotonic() - self.began >= min(self.notice, self.limit)

    def check(self, missing: str) -> None:
        """Called now and then while something is `missing`. Raises `InUseError` at the limit."""
        passed = time.monotonic() - self.began
        if passed >= self.limit:
            raise InUseError(f"{missing} after {passed:.0f} s; {self.remedy()}")
        if passed >= self.notice:
            rest = f"waiting for {self.limit - passed:.0f} s more"
            print(
                f"seer: {missing} after {passed:.0f} s, {rest}; {self.remedy()}",
                file=sys.stderr,
                flush=True,
            )
            self.notice = self.limit


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{name}='{text}' in the environment: must be seconds above 0")
    return seconds


def _open_store(place: Place, address: str, port: int, waiting: Waiting) -> dist.TCPStore:
    """Rank 0 listens, unless torchrun or `launch` does so for it; the others knock until somebody
    answers.
    """
    listens = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while not listens and not _somebody_answers(address, port):
        waiting.check(f"{address}:{port}: nobody answers {waiting.who()} there: rank 0 is missing")
        time.sleep(LONGEST_PAUSE)
    store = partial(
        dist.TCPStore,
        address,
        port,
        place.size,
        listens,
        timeout=ANSWER,
        wait_for_workers=False,
        multi_tenant=listens,
    )
    try:
        # It waits without end for a program that takes connections and says nothing; else its own
        # word comes first.
        return in_background(store).result(1.5 * ANSWER.total_seconds())
    except (dist.DistNetworkError, TimeoutError) as error:
        if "EADDRINUSE" in str(error):
            told = (
                f"{address}:{port}: the port is in use there; set another MASTER_PORT for all ranks"
            )
        elif listens:
            told = f"{address}:{port}: rank 0 cannot be reached there; MASTER_ADDR must be an address of its host"
        else:
            told = f"{address}:{port}: another program than rank 0 answers there; set another MASTER_PORT for all ranks"
        raise InUseError(told) from error


def _somebody_answers(address: str, port: int) -> bool:
    """Asked without PyTorch, whose store fills the screen with every connection that is refused."""
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def _wait_for_all(store: dist.TCPStore, place: Place, waiting: Waiting) -> None:
    store.set(_mark(place.rank), socket.gethostname())
    if store.add(ARRIVED, 1) >= place.size:  # more than that, where the same store serves again
        store.set(ALL_HERE, "")
    pause = 0.01
    # Asked again and again: a wait in the store would keep signals from this process, and warn of
    # its own end.
    while not store.check([ALL_HERE]):
        if waiting.is_due():
            missing = [rank for rank in range(place.size) if not store.check([_mark(rank)])]
            waiting.check(f"{waiting.where}: {waiting.who()} waits there for {_ranks(missing)}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _mark(rank: int) -> str:
    return f"seer/rank/{rank}"


def _ranks(missing: Sequence[int]) -> str:
    """`rank 3`; `ranks 1, 2 and 3`; `ranks 1, 2, 3, 4 and 59 more`."""
    if not missing:
        return "the last rank's answer"
    if len(missing) == 1:
        return f"rank {missing[0]}"
    shown = [str(rank) for rank in missing[:NAMED]]
    last = shown.pop()
    if len(missing) > NAMED:
        more = len(missing) - NAMED
        return f"ranks {', '.join(shown)}, {last} and {more} more"
    return f"ranks {', '.join(shown)} and {last}"
