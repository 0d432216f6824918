"""What befalls processes, files and shards."""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from seer import cli, forkserver
from seer.data.storage.index import index_path, read_index


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(arm: Callable[[], None], function: Callable, *arguments, **options) -> bool:
    """Call a function in a forked process that `arm` prepares; whether SIGKILL ended it."""
    child = os.fork()
    if child == 0:
        arm()
        function(*arguments, **options)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def at_change(moment: int, after: bool, *changes: str) -> Callable[[], None]:
    """What arms a process to be killed before or after its call number `moment` (from 0) of these
    functions of `os`.
    """

    def arm() -> None:
        left = moment

        def dying(function):
            def call(*arguments, **options):
                nonlocal left
                left -= 1
                if left < 0 and not after:
                    die()
                result = function(*arguments, **options)
                if left < 0:
                    die()
                return result

            return call

        for name in changes:
            setattr(os, name, dying(getattr(os, name)))

    return arm


def contents(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, hidden ones included."""
    files = [Path(root, name) for root, _, names in os.walk(directory) for name in names]
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    bit = random.Random(file.name).randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def spoil(shards: Path, out: Path, rows: dict[str, list[int]]) -> Path:
    """A copy of `shards` in which the images in these rows of each shard can no longer be decoded."""
    shutil.copytree(shards, out)
    for shard, damaged in rows.items():
        index = read_index(index_path(out / shard)).to_pylist()
        with open(out / shard, "r+b") as file:
            for row in damaged:
                file.seek(index[row]["offset"])
                file.write(bytes(min(64, index[row]["size"])))
    return out


def kill_command(words: list[str], until: Path) -> None:
    """Run a command of seer, in a process that has imported what it needs, and kill it as soon as a
    file is there.
    """
    process = forkserver.start(forkserver.TRAINING).Process(target=run_command, args=(words,))
    process.start()
    while not until.exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()


def run_command(words: list[str]) -> None:
    sys.argv = ["seer", *words]
    cli.main()
