"""Work in threads that nobody has to wait for."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any


def in_background(function: Callable, *args: Any) -> Future:
    """`function(*args)` in a thread that, unlike an executor's, does not keep the process from
    ending.
    """
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
