"""What the batches of a loader need of memory, against what they take."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from seer.data import workers
from seer.data.crops.arena import Arena
from seer.data.workers import Need, memory_needed
from seer.distributed import World
from seer.errors import InputError
from seer.pretrain.recipe import load_config
from seer.pretrain.rehearsal import check_memory, loader_bytes, loader_memory
from tests.kit.shards import write_shards

SHAPES = [(6, 8, 8, 3), (9, 4, 4, 3)]
CROPS = sum(int(np.prod(shape)) * 4 for shape in SHAPES)


def test_batches_in_one_process_take_no_shared_memory():
    assert memory_needed("processes", 0, 2, SHAPES, np.float32) == Need(0, 2 * CROPS)
    assert memory_needed("threads", 3, 2, SHAPES, np.float32) == Need(0, 8 * CROPS)


def test_workers_take_the_arena_that_they_are_given(monkeypatch):
    """The same numbers reach the arena as reach the sum."""
    arenas = []

    class Counted(Arena):
        def __init__(self, *args):
            super().__init__(*args)
            arenas.append(self)
            raise InputError("far enough")

    class Task:
        encoded = False
        share = 3

        class cutter:  # noqa: N801
            dtype = np.float32
            shapes = staticmethod(lambda count: SHAPES)

    monkeypatch.setattr(workers, "Arena", Counted)
    with pytest.raises(InputError, match="far enough"):
        next(workers.processes(Task(), range(9), 3, 2, None))
    need = memory_needed("processes", 3, 2, SHAPES, np.float32)
    assert need == Need(arenas[0].memory.nbytes + workers.SMALL_TENSORS, 0)
    assert arenas[0].memory.nbytes == 3 * 4 * CROPS


def test_encoded_batches_are_as_many_as_are_under_way():
    need = memory_needed("processes", 3, 2, SHAPES, np.uint8, encoded_bytes=1000)
    assert need == Need(8 * 1000 + workers.SMALL_TENSORS, 0)


@pytest.fixture
def config(tiny):
    return lambda *overrides: load_config(tiny, ["data=shards", "loader.workers=2", *overrides])


def test_the_plan_counts_what_the_loader_takes(config):
    """8 images of 2 crops of 24 and 2 of 16 pixels each, finished in the workers or not."""
    batch = 8 * (2 * 24**2 + 2 * 16**2) * 3
    assert loader_bytes(config(), 1) == 2 * 4 * batch * 4 + workers.SMALL_TENSORS
    assert (
        loader_bytes(config("loader.device_augment=true"), 1)
        == 2 * 4 * batch + workers.SMALL_TENSORS
    )
    assert (
        loader_bytes(config("loader.prefetch=5"), 2)
        == 2 * 7 * batch * 4 // 2 + workers.SMALL_TENSORS
    )
    on_device = config("loader.device_augment=true", "loader.device_decode=true")
    assert (
        loader_memory(on_device, 1, image_bytes=904).shared == 6 * 8 * 5000 + workers.SMALL_TENSORS
    )


def test_too_little_shared_memory_is_told_before_workers_start(config, tmp_path, monkeypatch):
    manifest = write_shards(tmp_path / "shards", [16])
    need = loader_memory(config(), 2).shared
    monkeypatch.setattr("seer.pretrain.rehearsal.shared_free", lambda: 2 * need)
    check_memory(config(), manifest, World(0, 2, 0, 2))
    monkeypatch.setattr("seer.pretrain.rehearsal.shared_free", lambda: 2 * need - 1)
    with pytest.raises(
        InputError,
        match=r"^/dev/shm has [23] MiB free .* docker run --shm-size=1g, or --ipc=host; else",
    ):
        check_memory(config(), manifest, World(0, 2, 0, 2))
    check_memory(config(), manifest, World(0, 2, 0, 1))  # the other rank is on another host
    check_memory(config("loader.workers=0"), manifest, World(0, 2, 0, 2))
    monkeypatch.setattr("seer.pretrain.rehearsal.shared_free", lambda: None)
    check_memory(config(), manifest, World(0, 2, 0, 2))


LOAD = """
import json, os, sys
from seer.data.crops.multicrop import MultiCrop, View
from seer.data.storage.index import Manifest
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.workers import memory_needed

def used():
    status = os.statvfs("/dev/shm")
    return (status.f_blocks - status.f_bfree) * status.f_frsize

if __name__ == "__main__":
    manifest = Manifest.load(sys.argv[1])
    config, crops = LoaderConfig(device_augment=True), MultiCrop({"a": View(size=480, count=1)}, 0, finish=False)
    need = memory_needed(config.mode, config.workers, config.prefetch, crops.shapes(11), crops.dtype).shared
    loader = Loader(manifest, Order(manifest.sizes, 0, 11, 4), crops, batch_size=11, config=config)
    most = max(used() for _ in loader.iterate(0, 12))
    print(json.dumps([need, most]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="mounts a tmpfs, as root",
)
def test_a_loader_lives_in_the_shared_memory_that_it_is_said_to_need(tmp_path):
    """In Docker's 64 MB, of which it needs nearly all."""
    probe = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True
    )
    if probe.returncode:
        pytest.skip("no mount namespaces here")
    write_shards(tmp_path / "shards", [44])
    (tmp_path / "load.py").write_text(LOAD)
    command = f"mount -t tmpfs -o size=64m tmpfs /dev/shm && '{sys.executable}' load.py shards"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    need, most = json.loads(done.stdout)
    assert 0.9 * 2**26 < need < 2**26
    assert most <= need
