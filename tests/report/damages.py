"""One good run directory, made by hand in a moment, and what may have become of one."""

import json
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seer import config as configuration
from seer.data import ledger
from seer.data.order import Order
from seer.data.storage.index import write_manifest
from seer.engine.checkpoint.integrity import write_header
from seer.pretrain.recipe import load_config
from seer.rundir.names import HEADER

STEPS, BATCH, SIZES = 40, 8, (16, 16, 8)
DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "9" * 5_000


def good_run(run: Path, recipe: str, data: Path) -> Path:
    """A finished run of 40 steps: all files that training, evaluation and planning leave, true to
    the audit.
    """
    data.mkdir(parents=True, exist_ok=True)
    rows = [
        {"shard": f"s{i}.tar", "samples": n, "bytes": 10_240, "sha256": f"{i}" * 64}
        for i, n in enumerate(SIZES)
    ]
    write_manifest(data, rows, {})
    run.mkdir(parents=True)
    write_manifest(run, rows, {})
    config = load_config(recipe, [f"data={data}", f"run_dir={run}", f"steps={STEPS}", "seed=3"])
    configuration.save(config, run / "config.yaml")
    order = Order(np.array(SIZES), 3, BATCH, config.loader.window)
    seen = 0
    metrics = []
    for step in range(1, STEPS + 1):
        prints = ledger.fingerprint(step - 1, order.ids((step - 1) * BATCH, BATCH))
        seen = (seen + int(prints.sum())) % ledger.MODULUS
        metrics.append(metric(step) | {"seen": seen})
    lines(run / "metrics.jsonl", metrics)
    lines(run / "results.jsonl", [score("run step-000000040", 0.7), score("run untrained", 0.4)])
    lines(run / "health.jsonl", EVENTS)
    lines(run / "skipped.jsonl", [])
    environment = {
        "time": "2026-01-02T03:04:05+00:00",
        "seer": "0.1.0",
        "cores": 2,
        "gpus": [],
        "processes": 1,
    }
    (run / "environment.json").write_text(json.dumps(environment | {"packages": {"torch": "2.14"}}))
    plan = {"chosen": {"images_per_second": 20.0}, "memory_gib": {"weights": 0.5}}
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "seer.log").write_text("2026-01-02 03:04:05,000 INFO started (0 steps done)\n")
    checkpoint = run / "checkpoints" / f"step-{STEPS:09d}"
    (checkpoint / "state").mkdir(parents=True)
    write_header(checkpoint, {"step": STEPS, "seen": seen, "tensors": {}, "files": {}})
    (run / "images").mkdir()
    for name in ("crops", "neighbours"):
        Image.new("RGB", (8, 8), "red").save(run / "images" / f"{name}.png")
    return run


def metric(step: int) -> dict[str, Any]:
    """A row of metrics.jsonl, without its fingerprint."""
    row = {
        "step": step,
        "loss": 4 - step / 100,
        "lr": 0.1,
        "samples": BATCH * step,
        "epoch": step / 5,
    }
    row |= {
        "seconds": 2.0 * step,
        "images_per_second": 4.0,
        "data_wait": 0.1,
        "time_step": 0.7,
        "perplexity": 9.0,
    }
    return row


def score(model: str, value: float) -> dict[str, Any]:
    """A row of results.jsonl."""
    row = {
        "task": "knn",
        "data": "here/images",
        "metric": "top1_k20",
        "value": value,
        "low": value - 0.05,
    }
    return row | {"high": value + 0.05, "model": model, "config_hash": "abc", "seconds": 1.0}


EVENTS = [
    {"step": 5, "event": "not_applied", "why": "loss or gradient is not finite"},
    {
        "step": 30,
        "event": "symptom",
        "name": "few_prototypes",
        "why": "few are used",
        "remedy": "use a queue",
    },
]


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


Damage = Callable[[Path], Any]


def write(name: str, content: str | bytes) -> Damage:
    """A file that holds something else."""
    encoded = content.encode() if isinstance(content, str) else content
    return lambda run: remove(run / name).write_bytes(encoded)


def remove(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def change(name: str, how: Callable[[bytes], bytes]) -> Damage:
    return lambda run: (run / name).write_bytes(how((run / name).read_bytes()))


def add(name: str, content: str) -> Damage:
    """Lines before those that a file holds."""
    return change(name, lambda old: content.encode() + b"\n" + old)


def cut(name: str, share: float) -> Damage:
    """A file of which only the first share is left."""
    return change(name, lambda old: old[: int(len(old) * share)])


def zeros(name: str) -> Damage:
    """A file of the right size that a power failure filled with zeros, as file systems do."""
    return change(name, lambda old: bytes(len(old)))


def folder(name: str) -> Damage:
    return lambda run: remove(run / name).mkdir()


def pipe(name: str) -> Damage:
    return lambda run: os.mkfifo(remove(run / name))


def link(name: str, to: str) -> Damage:
    return lambda run: os.symlink(to, remove(run / name))


def row(file: str, /, **changes: Any) -> Damage:
    """A first row that is like a good one but for some values."""
    good = {
        "metrics.jsonl": metric(1) | {"seen": 1},
        "results.jsonl": score("m", 0.5),
        "health.jsonl": EVENTS[1],
    }
    return add(file, json.dumps(good[file] | changes))


def missing(name: str) -> Damage:
    return lambda run: remove(run / name)


def all_missing(run: Path) -> None:
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def misnamed(run: Path) -> None:
    for name in ("step-x", "step-", "step-1", "step--00000001"):
        (run / "checkpoints" / name).mkdir()
        (run / "checkpoints" / name / HEADER).touch()


def foreign(run: Path) -> None:
    """A run of another tool, which has files of the same names."""
    all_missing(run)
    (run / "config.yaml").write_text(
        "trainer: {max_epochs: 3}\nmodel: [resnet, 18]\nmethod: moco\nviews: 2\n"
    )
    lines(
        run / "metrics.jsonl", [{"_step": 1, "train/loss": 2.0}, {"_step": 2, "train/loss": "nan"}]
    )
    (run / "hparams.yaml").write_text("lr: 0.1\n")


def future(run: Path) -> None:
    """A run of a newer seer: keys and values that this one does not know."""
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        config + "curriculum: {stages: [{from: 0, size: 24}], kind: ramp}\n"
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines(
        run / "metrics.jsonl",
        [r | {"phase": "warm", "per_layer": {"a": 1}, "tags": ["x"]} for r in rows],
    )
    lines(run / "health.jsonl", [*EVENTS, {"step": 9, "event": "revived", "by": {"whom": None}}])
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(
        json.dumps(environment | {"seer": "97.0.0", "chips": [{"kind": "q"}]})
    )


def png(pixels: int) -> bytes:
    """The head of a PNG that says it has so many pixels a side."""
    header = b"IHDR" + pixels.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = [
        len(c[4:]).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big")
        for c in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BOMB = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]"
                                                            for i in range(1, 10)])  # fmt: skip
GIANT = {"metrics.jsonl": "x" * 2**21, "results.jsonl": "x" * 2**21, "health.jsonl": "x" * 2**21}
HEAD = f"checkpoints/step-{STEPS:09d}/{HEADER}"
SMALL = "environment.json", "plan.json", "config.yaml"
JSONL = "metrics.jsonl", "results.jsonl", "health.jsonl"
TEXTS = *JSONL, "environment.json", "plan.json", "config.yaml"

DAMAGES: dict[str, Damage] = {
    **{f"{name} missing": missing(name) for name in (*TEXTS, "manifest.parquet", "seer.log", "images/crops.png")},
    **{f"{name} empty": write(name, "") for name in (*TEXTS, "manifest.parquet", "images/crops.png")},
    **{f"{name} truncated": cut(name, 0.6) for name in (*TEXTS, "manifest.parquet", "images/crops.png")},
    **{f"{name} of zeros": zeros(name) for name in (*TEXTS, "manifest.parquet", "images/crops.png")},
    **{f"{name} binary": write(name, bytes(range(256)) * 4) for name in (*TEXTS, "manifest.parquet")},
    **{f"{name} a folder": folder(name) for name in (*TEXTS, "manifest.parquet", "seer.log", "images/crops.png")},
    **{f"{name} a pipe": pipe(name) for name in (*TEXTS, "seer.log", "images/crops.png")},
    **{f"{name} a device": link(name, "/dev/zero") for name in (*TEXTS, "images/crops.png")},
    **{f"{name} a link out": link(name, "/etc/passwd") for name in (*TEXTS, "images/crops.png")},
    **{f"{name} a link to itself": link(name, Path(name).name) for name in (*TEXTS, "images/crops.png")},
    **{f"{name} nested": add(name, DEEP) for name in JSONL},
    **{f"{name} of another type": add(name, '[1]\n"x"\n3\nnull\ntrue\n{}') for name in JSONL},
    **{f"{name} with a huge number": add(name, '{"step": 1, "loss": ' + HUGE + "}") for name in JSONL},
    **{f"{name} with a huge line": add(name, text) for name, text in GIANT.items()},
    **{f"{name} nested": write(name, DEEP) for name in SMALL},
    **{f"{name} another value": write(name, "[1, 2]") for name in SMALL},
    **{f"{name} huge": write(name, "{" + " " * 2**24 + "}") for name in SMALL},
    "config.yaml a bomb": write("config.yaml", BOMB),
    "config.yaml of wrong types": write("config.yaml", "steps: x\nbatch_size: [1]\nviews: [2]\nmethod: {name: [a]}\n"),
    "config.yaml of huge numbers": write("config.yaml", f"steps: {2**62}\nbatch_size: {HUGE}\nname: x"),
    "config.yaml with an environment variable": write("config.yaml", "steps: 40\nname: ${oc.env:HOME}\n"),
    "environment.json of wrong types": write("environment.json", '{"processes": "x", "gpus": 3, "seer": 1}'),
    "environment.json of huge numbers": write("environment.json", f'{{"processes": {HUGE}, "cores": {2**62}}}'),
    "plan.json of wrong types": write("plan.json", '{"chosen": [], "memory_gib": {"a": "b"}}'),
    "metrics.jsonl without steps": add("metrics.jsonl", '{"loss": 3}'),
    "metrics.jsonl with a step of text": row("metrics.jsonl", step="seven"),
    "metrics.jsonl with a step of 2^62": row("metrics.jsonl", step=2**62),
    "metrics.jsonl with a negative step": row("metrics.jsonl", step=-5),
    "metrics.jsonl with a fraction as step": row("metrics.jsonl", step=1.5),
    "metrics.jsonl with NaN": row("metrics.jsonl", loss=math.nan, seconds=math.nan, lr=math.inf, data_wait=-math.inf),
    "metrics.jsonl with null": row("metrics.jsonl", loss=None, seconds=None, lr=None, samples=None, time_step=None),
    "metrics.jsonl with 1e308": row("metrics.jsonl", loss=1e308, seconds=1e308, lr=-1e308, images_per_second=1e308),
    "metrics.jsonl with subnormal numbers": row("metrics.jsonl", loss=5e-324, seconds=5e-324, lr=0, samples=5e-324),
    "metrics.jsonl with texts": row("metrics.jsonl", loss="low", seconds="long", seen="all", perplexity=[1]),
    "metrics.jsonl with lists": row("metrics.jsonl", loss=[4], seconds={}, seen=[], log_prototypes="x"),
    "metrics.jsonl twice": change("metrics.jsonl", lambda old: old * 2),
    "metrics.jsonl out of order": change("metrics.jsonl", lambda old: b"".join(reversed(old.splitlines(True)))),
    "metrics.jsonl with many names": row("metrics.jsonl", **{f"m{i}": i for i in range(5_000)}),
    "results.jsonl with NaN": row("results.jsonl", value=math.nan, low=math.nan, high=math.inf),
    "results.jsonl with texts": row("results.jsonl", value="high", task=3, metric=None, model=["m"]),
    "results.jsonl with huge values": row("results.jsonl", value=1e308, low=-1e308, high=10**300),
    "results.jsonl with markup": row("results.jsonl", model="<script>alert(1)</script>", data="\x1b[2J"),
    "health.jsonl of wrong types": row("health.jsonl", step="x", name=[1], why=None, remedy=3),
    "health.jsonl without a reason": add("health.jsonl", '{"step": 3, "event": "symptom"}'),
    "health.jsonl with an endless rollback": row("health.jsonl", event="rollback", to="x", skipped=[1]),
    "health.jsonl with control characters": row("health.jsonl", name="a\x1b[2J", why="b\x07\x9b", remedy="\u202ec"),
    "skipped.jsonl of wrong types": write("skipped.jsonl", '{"step": "x"}\n{}\n[]\n{"step": 3}\n'),
    "images/crops.png another picture": lambda run: Image.new("RGB", (4, 4)).save(run / "images/crops.png", "BMP"),
    "images/crops.png a page": write("images/crops.png", b"\x89PNG\r\n\x1a\n<script>alert(1)</script>"),
    "images/crops.png of 10^9 pixels": write("images/crops.png", png(30_000)),
    "images/crops.png huge": write("images/crops.png", b"\x89PNG\r\n\x1a\n" + bytes(2**26)),
    "checkpoints of other names": misnamed,
    "a checkpoint without a header": missing(HEAD),
    "a checkpoint's header empty": write(HEAD, ""),
    "a checkpoint's header of another kind": write(HEAD, '{"format": "seer-checkpoint/1"}'),
    "a checkpoint's header of the future": write(HEAD, '{"format": "seer-checkpoint/9"}'),
    "checkpoints a file": lambda run: (run / "checkpoints").rename(run / "old") and (run / "checkpoints").touch(),
    "no file at all": all_missing,
    "another tool's run": foreign,
    "a newer seer's run": future,
}  # fmt: skip
