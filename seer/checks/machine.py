"""What this machine offers to a run: each finding is ok, a warning or a failure, and says what to
do about it.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import torch.distributed as dist

from seer.data.crops import arena
from seer.data.crops.multicrop import DEFAULT_VIEWS, MultiCrop
from seer.data.loader import LoaderConfig
from seer.data.storage.index import Manifest
from seer.data.storage.store import Url, place
from seer.data.workers import memory_needed
from seer.errors import InputError

PYTHON = (3, 11)
TORCH = (2, 13)
WRITTEN = 64 * 2**20  # bytes of the test file
SLOW = 100.0  # MB/s; SEER's checkpoint of 9 GB takes a minute and a half at that
LITTLE = 20e9  # bytes free
USUAL_SHARE = 64  # images of a batch per rank: SwAV's


@dataclass(frozen=True)
class Finding:
    """`remedy` says what to do; "" where nothing needs to be done."""

    level: Literal["ok", "warning", "failure"]
    subject: str
    told: str
    remedy: str = ""

    def __str__(self) -> str:
        return (
            f"{self.level:8}{self.subject:12}{self.told}{'; ' if self.remedy else ''}{self.remedy}"
        )


def software() -> Iterator[Finding]:
    """Python, PyTorch, CUDA, shared memory, and what ranks talk by."""
    here = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < PYTHON
    yield Finding(
        "failure" if old else "ok", "Python", here, "install 3.11 or newer" if old else ""
    )
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    old = version < TORCH
    yield Finding(
        "failure" if old else "ok",
        "PyTorch",
        torch.__version__,
        "pip install -U torch" if old else "",
    )
    yield _cuda()
    yield shared_memory()
    yield load()
    backends = {
        "gloo": dist.is_gloo_available(),
        "NCCL": dist.is_nccl_available() and torch.cuda.is_available(),
    }
    told = ", ".join(name for name, present in backends.items() if present) or "none"
    needed = "NCCL" if torch.cuda.is_available() else "gloo"
    if backends[needed]:
        yield Finding("ok", "ranks", told)
    else:
        yield Finding(
            "failure",
            "ranks",
            f"{told}, without {needed}",
            "install a PyTorch that is built with it",
        )


def load() -> Finding:
    """Whether other processes leave this host's cores to a run."""
    cores = os.cpu_count() or 1
    busy = os.getloadavg()[0]
    told = f"{busy:.1f} processes at work in the last minute, {cores} cores"
    if busy <= cores:
        return Finding("ok", "load", told)
    return Finding("warning", "load", told, "training shares these with others, and takes longer")


def _cuda() -> Finding:
    count = torch.cuda.device_count()
    if count:
        kinds = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(count)}))
        return Finding("ok", "CUDA", f"{torch.version.cuda}, {count} × {kinds}")
    if torch.version.cuda is None:
        return Finding(
            "warning", "CUDA", "this PyTorch is built without it", "runs are for the CPU"
        )
    if shutil.which("nvidia-smi"):
        remedy = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; the driver may be too old"
        return Finding(
            "failure",
            "CUDA",
            f"PyTorch is built for {torch.version.cuda} and sees no device",
            remedy,
        )
    return Finding("warning", "CUDA", "no GPU here", "runs are for the CPU")


def shared_memory() -> Finding:
    """Whether the loaders of a usual run, one rank per GPU, have room for their batches under
    /dev/shm.
    """
    free = arena.shared_free()
    if free is None:
        return Finding("ok", "shm", f"no {arena.SHARED} here")
    loader = LoaderConfig()
    crops = MultiCrop(DEFAULT_VIEWS, 0)
    need = memory_needed(
        loader.mode, loader.workers, loader.prefetch, crops.shapes(USUAL_SHARE), crops.dtype
    )
    needed = need.shared * max(1, torch.cuda.device_count())
    told = f"{free / 2**20:.0f} MiB free in {arena.SHARED}"
    if needed <= free:
        return Finding("ok", "shm", told)
    remedy = f"loaders of {USUAL_SHARE} images per rank need {needed / 2**20:.0f}: {arena.docker_remedy(needed)}"
    return Finding("warning", "shm", told, remedy)


HOLD = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


def file_system(folder: Path) -> Iterator[Finding]:
    """Whether a run directory can be in `folder`: renames, locks, speed, space."""
    subject = "files"
    try:
        with TemporaryDirectory(prefix=".seer-doctor-", dir=folder) as name:
            yield _rename(Path(name))
            yield _lock(Path(name))
            yield _speed(Path(name))
    except OSError as error:
        told = f"{folder} cannot be written: {error.strerror}"
        yield Finding(
            "failure", subject, told, "give another --dir, where run directories are to be"
        )
        return
    free = shutil.disk_usage(folder).free
    level: Literal["ok", "warning"] = "warning" if free < LITTLE else "ok"
    remedy = "checkpoints need room: seer plan tells how much" if free < LITTLE else ""
    yield Finding(level, "space", f"{free / 1e9:.0f} GB free in {folder}", remedy)


def _rename(folder: Path) -> Finding:
    """As checkpoints are published: a full folder takes a new name; files are replaced."""
    (folder / "hidden").mkdir()
    (folder / "hidden" / "file").write_text("new")
    (folder / "hidden").rename(folder / "shown")
    (folder / "old").write_text("old")
    (folder / "shown" / "file").replace(folder / "old")
    if (folder / "old").read_text() == "new" and not (folder / "hidden").exists():
        return Finding("ok", "rename", "whole folders and files at once")
    return Finding(
        "failure", "rename", "a renamed file kept its old content", "put run directories elsewhere"
    )


def _lock(folder: Path) -> Finding:
    """Whether a second process is kept out; a first one may hold a lock only within itself."""
    import fcntl

    path = folder / "lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Finding(
                "failure",
                "locks",
                f"none here ({error.strerror})",
                "mount with locks (Lustre: -o flock)",
            )
        code = subprocess.run(
            [sys.executable, "-c", HOLD, str(path)], capture_output=True
        ).returncode
    if code == 3:
        return Finding("ok", "locks", "a second process is kept out")
    remedy = "two runs in one directory go unnoticed; mount with locks (Lustre: -o flock)"
    return Finding("warning", "locks", "a second process is not kept out", remedy)


def _speed(folder: Path) -> Finding:
    block = os.urandom(2**20)
    began = time.perf_counter()
    with (folder / "data").open("wb") as file:
        for _ in range(WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = WRITTEN / (time.perf_counter() - began) / 1e6
    slow = rate < SLOW
    remedy = "checkpoints will take long; seer plan tells their size" if slow else ""
    return Finding(
        "warning" if slow else "ok", "speed", f"{rate:.0f} MB/s written and synchronised", remedy
    )


def data(where: str) -> Finding:
    """Whether the manifest of shards can be read, from a store with its credentials."""
    began = time.perf_counter()
    try:
        manifest = Manifest.load(where)
        found = place(where)
    except InputError as error:
        return Finding("failure", "data", str(error))
    seconds = time.perf_counter() - began
    kind = f"the {found.scheme} store answers" if isinstance(found, Url) else "here"
    return Finding(
        "ok",
        "data",
        f"{manifest.samples:,} samples in {where}: {kind}, manifest read in {seconds:.2f} s",
    )
