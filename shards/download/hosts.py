"""Who may be asked now: a limited number of requests to each host, and none to a host that is dead."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

FAULTS = 16  # in a row, without one answer, after which a host counts as dead
REST = 60.0  # seconds until a dead host is tried again
REMEMBERED = 100_000  # hosts that have failed and are not being asked just now


@dataclass
class Host:
    """One host's turns. `faults` counts failures since its last answer, `reason` is the latest of
    them.
    """

    turns: asyncio.Semaphore
    using: int = 0  # requests that have or await a turn
    faults: int = 0
    reason: str = ""
    resting_until: float = field(default=0.0)

    @property
    def given_up(self) -> bool:
        """Whether it is not to be asked: it has failed too often, and not had its rest."""
        return self.faults >= FAULTS and time.monotonic() < self.resting_until

    def ended(self, fault: str | None) -> None:
        """Note how a request ended: with an answer (None), or why there was none."""
        self.faults = self.faults + 1 if fault else 0
        if fault:
            self.reason = fault.split(" (")[0]
            self.resting_until = time.monotonic() + REST


class Hosts:
    """Hosts by name and port; those with nothing to remember are forgotten."""

    def __init__(self, limit: int):
        self.limit = limit
        self.hosts: OrderedDict[str, Host] = OrderedDict()

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[Host]:
        """Wait until a request to the host may begin; call `ended` when it has ended."""
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = Host(asyncio.Semaphore(self.limit))
        host.using += 1
        try:
            async with host.turns:
                yield host
        finally:
            host.using -= 1
            if not host.using:
                self._leave(name, host)

    def _leave(self, name: str, host: Host) -> None:
        if not host.faults:
            del self.hosts[name]
            return
        self.hosts.move_to_end(name)
        while len(self.hosts) > REMEMBERED and not next(iter(self.hosts.values())).using:
            self.hosts.popitem(last=False)
