"""One batch ahead: the device's work for the next batch is done beside the current step.

A thread of its own hands it out, because decoding on the device keeps the thread that asks for it
waiting; and it goes to a stream of its own, so that copies run beside the step's kernels.
"""

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lane(Protocol):
    """Where work for a device is done, and how its results pass to those who use them."""

    def run(self, work: Callable[[], Result]) -> tuple[Result, Any]:
        """Do the work in the calling thread; what it gave, and what `hand_over` needs to know."""

    def hand_over(self, result: Any, done: Any) -> None:
        """Let the calling thread use the result."""


class SideStream:
    """A stream beside the current one. Memory goes back to it, but not while the other uses it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], Result]) -> tuple[Result, Any]:
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            result = work()
            return result, self.stream.record_event()

    def hand_over(self, result: Any, done: Any) -> None:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(done)
        for tensor in tensors_of(result):
            if tensor.device.type == self.device.type:
                tensor.record_stream(current)


# By the type of the device; on others nothing is made ahead.
LANES: dict[str, Callable[[torch.device], Lane]] = {"cuda": SideStream}


def one_ahead(
    items: Iterator[Item], prepare: Callable[[Item], Result], lane: Lane | None
) -> Generator[tuple[Result, float]]:
    """`prepare` of each item, and for how many seconds its consumer waited for that.

    With a lane, the next item is taken, and its preparation begun, before a result is handed out.
    Items are taken by the consumer's thread; what taking or preparing one raises is raised when its
    turn has come. Closing waits for the preparation under way.
    """
    if lane is None:
        for item in items:
            yield prepare(item), 0.0
        return
    with ThreadPoolExecutor(1, thread_name_prefix="seer-ahead") as pool:

        def begin() -> Future | None:
            try:
                item = next(items)
            except StopIteration:
                return None
            except Exception as error:
                failed: Future = Future()
                failed.set_exception(error)
                return failed
            return pool.submit(lane.run, lambda: prepare(item))

        coming = begin()
        while coming is not None:
            began = time.perf_counter()
            result, done = coming.result()
            waited = time.perf_counter() - began
            lane.hand_over(result, done)
            coming = begin()
            yield result, waited


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in dataclasses, tuples, lists and dicts, at any depth."""
    if isinstance(value, Tensor):
        yield value
        return
    parts: Any = ()
    if is_dataclass(value):
        parts = (getattr(value, field.name) for field in fields(value))
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (tuple, list)):
        parts = value
    for part in parts:
        yield from tensors_of(part)
