"""Processes on this host."""

from collections.abc import Callable
from typing import Any

from seer.distributed import spawn


def run_processes(function: Callable, nproc: int, *args) -> list[Any]:
    """`function(*args)` in this process for `nproc` 1, else in `nproc` processes that form one world.

    Returns what each rank returned. The first failure ends all of them and is raised here.
    """
    return [function(*args)] if nproc == 1 else spawn(function, nproc, *args)
