import os
import signal

import pytest

from seer.errors import LostWorkerError
from shards import pool


def die_with_the_lock(task, tick):
    pool._shared.finished.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_sharing(tasks, tick):
    next(tasks)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("shared", [False, True])
def test_a_worker_that_is_killed_ends_the_work_with_one_line(shared):
    with pytest.raises(LostWorkerError, match="run the same command again to continue") as raised:
        if shared:
            pool.share(die_while_sharing, range(8), 2, lambda count: None)
        else:
            list(pool.run(die_with_the_lock, range(8), 2))
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1
