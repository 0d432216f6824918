"""What only a GPU can prove, in stages, the most valuable first: `make gpu`, or

    python benchmarks/gpu/run.py [--only right,step] [--data PHOTOGRAPHS] [--out DIR] [--minutes 8]

Runs from the source tree on PyTorch 2.11 or newer. Each stage is a process of its own with a time
limit; each of its rows is printed and kept in DIR/results.jsonl as soon as it is measured, so that a
run that is cut off has given what it had. A stage that fails says why, and the next one runs. In the
end DIR/table.md holds what was measured.

`--device cpu --small` goes the same ways without a GPU, on tiny sizes; its figures mean nothing.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = "results.jsonl"
# What seer imports and few GPU machines have; of the first word pip makes a wheel.
NEEDED = ("torch", "torchvision", "simplejpeg", "cv2", "numba", "pyarrow", "typer", "submitit")

# By name, in the order of their value: the most seconds that each may take.
STAGES = {
    "right": 130,
    "step": 140,
    "layouts": 90,
    "grouped": 60,
    "crops": 40,
    "kernels": 70,
    "whole": 80,
    "compiled": 120,
    "speedrun": 220,
    "loading": 50,
}


@dataclass(frozen=True)
class Options:
    """What a stage is told: the device, whether sizes are tiny, a folder of photographs, one of
    CIFAR-10, and how many seconds it has.
    """

    device: Any
    small: bool
    data: Path | None
    cifar: Path | None
    seconds: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--only", default="", help="stages, with commas between them")
    parser.add_argument("--data", type=Path, help="a folder of photographs, for crops and loading")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as class folders, for the speedrun")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--minutes", type=float, default=8, help="of all stages together")
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # this process is that stage
    return parser.parse_args()


def main() -> int:
    options = arguments()
    missing = [name for name in NEEDED if not find_spec(name)]
    if missing:
        return refuse(f"{', '.join(missing)}: not installed here; see docs/gpu.md")
    if options.stage:
        return stage(options)
    chosen = options.only.split(",") if options.only else list(STAGES)
    unknown = [name for name in chosen if name not in STAGES]
    if unknown:
        return refuse(f"--only {unknown[0]}: there are the stages {', '.join(STAGES)}")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        return refuse(
            "no GPU that PyTorch can use on this machine; `--device cpu --small` tries the stages without"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    keep(options.out, {"stage": "machine", **machine(options.device)})
    end = time.monotonic() + 60 * options.minutes
    failed = [name for name in chosen if not run(name, options, end)]
    table = tables(options.out / RESULTS)
    (options.out / "table.md").write_text(table)
    print(table)
    if failed:
        print(f"failed or cut off: {', '.join(failed)}")
    return int(bool(failed))


def refuse(why: str) -> int:
    print(f"gpu: {why}", file=sys.stderr)
    return 2


def machine(device: str) -> dict[str, Any]:
    """Card, driver and versions."""
    import torch

    packages = ("torch", "torchvision", "triton", "numpy", "simplejpeg")
    versions = {name: metadata.version(name) for name in packages if find_spec(name)}
    found = {"python": platform.python_version(), "cores": os.cpu_count(), **versions}
    if device != "cuda":
        return {"device": "cpu", **found}
    properties = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        **found,
    }


def run(name: str, options: argparse.Namespace, end: float) -> bool:
    """Run a stage in a process of its own. Returns whether it came to its end."""
    # Tiny sizes are tried on machines that do other work, and shall end.
    most = STAGES[name] * (10 if options.small else 1)
    seconds = min(most, end - time.monotonic())
    print(f"\n== {name}, at most {seconds:.0f} s", flush=True)
    if seconds < 5:
        print("no time left")
        return False
    command = [
        sys.executable,
        __file__,
        *sys.argv[1:],
        "--stage",
        name,
        "--minutes",
        str(seconds / 60),
    ]
    began = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code: int | str = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = f"cut off after {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    keep(
        options.out,
        {
            "stage": name,
            "what": "stage",
            "code": code,
            "seconds": round(time.monotonic() - began, 1),
        },
    )
    return code == 0


def stage(options: argparse.Namespace) -> int:
    """This process's stage: its rows as they come."""
    # What processes of the stage import from, before whatever they are given besides.
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.path[:0] = [str(HERE), str(ROOT), str(HERE.parent)]
    import torch

    told = Options(
        torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu"),
        options.small,
        options.data,
        options.cifar,
        60 * options.minutes,
    )
    rows: Iterator[dict[str, Any]] = import_module(options.stage).rows(told)
    ok = True
    for row in rows:
        keep(options.out, {"stage": options.stage, **row})
        ok = ok and not row.get("failed")
    return int(not ok)


def keep(out: Path, row: dict[str, Any]) -> None:
    """Print a row, and append it to the results."""
    print("  " + "  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
    with (out / RESULTS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(path: Path) -> str:
    """The results as Markdown, a table for each stage; rows of other columns make another table."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = []
    before: tuple[str, ...] = ()
    for row in rows:
        columns = tuple(row)[1:]
        if (row["stage"], *columns) != before:
            lines += ["", f"### {row['stage']}", "", f"| {' | '.join(columns)} |"]
            lines.append("|" + "---|" * len(columns))
            before = (row["stage"], *columns)
        lines.append("| " + " | ".join(shown(row[column]) for column in columns) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
