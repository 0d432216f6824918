"""For how long a save stops the training, and how fast it is written, against torch.save and
torch's own checkpoints.

    python benchmarks/checkpoint.py [--backbone regnety_160 --rounds 5 --dir DIR] [--json FILE]

The state is that of SwAV with LARC-SGD: parameters, buffers and momentum. A save of ours is over
when the files are hashed, on the disk, and the whole backbone lies beside the shards; those of the
others are flushed as well, and are neither hashed nor is the backbone taken out. `unchecked` is
ours without looking whether all values are finite. All take turns; the best round counts, the first
is not counted (it is the one in which staging memory is first touched; it is printed).
"""

import argparse
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from harness import arguments, figure, report

from seer.backbones import build
from seer.distributed import World
from seer.engine.checkpoint import tensorfile
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.checkpoint.tensorfile import is_finite
from seer.engine.checkpoint.tensors import named_state
from seer.engine.optim import OptimConfig, build_optimizer
from seer.methods.swav import SwAV, SwAVConfig

# Begins a save; returns what waits for its end.
Save = Callable[[Path, int], Callable[[], None] | None]


def training(backbone: str) -> tuple[SwAV, torch.optim.Optimizer]:
    """A method and its optimizer after one step."""
    method = SwAV(build(backbone), SwAVConfig(head=[2048, 128], prototypes=3000))
    optimizer = build_optimizer(method, OptimConfig(weight_decay=1e-6))
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return method, optimizer


def contestants(method: SwAV, optimizer: torch.optim.Optimizer, folder: Path) -> dict[str, Save]:
    """Savers by name; `seer` and `dcp.async_save` come back before the files are there."""
    state = named_state(method, optimizer)
    checkpointer = Checkpointer(folder, CheckpointConfig(keep_last=1), World())

    def seer(path: Path, number: int) -> Callable[[], None]:
        checkpointer.save(number, method, optimizer, backbone={"format": "pt"})
        return checkpointer.finish

    def unchecked(path: Path, number: int) -> Callable[[], None]:
        tensorfile.is_finite = lambda values: True
        wait = seer(path, number + 1_000_000)  # by another name than that of the turn before

        def done() -> None:
            wait()
            tensorfile.is_finite = is_finite

        return done

    def torch_save(path: Path, number: int) -> None:
        with open(path, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    def dcp_save(path: Path, number: int) -> None:
        dcp.save(state, storage_writer=dcp.FileSystemWriter(path))

    def dcp_async(path: Path, number: int) -> Callable[[], None]:
        saving = dcp.async_save(state, storage_writer=dcp.FileSystemWriter(path))
        return lambda: saving.result() and None  # type: ignore[union-attr]

    ours = {"seer": seer, "unchecked": unchecked}
    return ours | {"torch.save": torch_save, "dcp.save": dcp_save, "dcp.async_save": dcp_async}


def measure(
    savers: dict[str, Save], folder: Path, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds until each saver comes back, and until its files are on the disk: of the best round."""
    blocked, complete = (dict.fromkeys(savers, float("inf")) for _ in range(2))
    for number in range(rounds + 1):
        for name, save in savers.items():
            path = folder / name
            began = time.perf_counter()
            wait = save(path, number)
            stopped = time.perf_counter() - began
            if wait is not None:
                wait()
            took = time.perf_counter() - began
            if number == 0:
                print(f"first, {name:16} stops for {stopped:6.3f} s of {took:6.3f} s", flush=True)
            else:
                blocked[name], complete[name] = (
                    min(blocked[name], stopped),
                    min(complete[name], took),
                )
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            os.sync()
    return blocked, complete


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--backbone", default="regnety_160")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    method, optimizer = training(options.backbone)
    megabytes = sum(tensor.nbytes for tensor in named_state(method, optimizer).values()) / 1e6
    with tempfile.TemporaryDirectory(dir=options.dir) as temporary:
        folder = Path(temporary)
        savers = contestants(method, optimizer, folder)
        blocked, complete = measure(savers, folder, options.rounds)
    share = complete["seer"] / complete.pop("unchecked") - 1
    print(f"looking whether all values are finite lengthens a save by {100 * share:.1f} %")
    peers = {name: blocked[name] for name in savers if name not in ("seer", "unchecked")}
    stops = {"seer, if it waited": complete["seer"], **peers}
    rates = {name: megabytes / seconds for name, seconds in complete.items()}
    what = f"SwAV on {options.backbone} ({megabytes:,.0f} MB)"
    report(
        [
            figure(f"training stopped by a save, {what}", "s", blocked["seer"], stops),
            figure(f"state saved per second, {what}", "MB/s", rates.pop("seer"), rates),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
