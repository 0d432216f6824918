"""All methods on the same images, network, crops and time: kNN and linear accuracy, samples/s, peak
memory, ours beside lightly's.

    python benchmarks/methods.py CIFAR10 [--minutes 4 | --images N] [--seeds 1 [--seed 0]]
    [--methods swav byol] [--network resnet10_half --crop 16] [--teacher MODEL] [--work DIR]
    [--json FILE] [--markdown FILE]

CIFAR10 is a folder of `train/CLASS/*` and `test/CLASS/*` images, of which `--per-class` are taken.
Labels are used by the evaluations alone. The network is a small RegNet of four blocks (or
`--network`), with two crops of 24 px (or `--crop`); everything else but the method and BYOL's rate
is `simclr_small`'s: AdamW with a cosine of its rate, batches of 128. Whole images of 24 px are compared.
Minutes are of one core's time and not by the clock, so that other work on the machine takes none of
them; a process's start counts. All end by that time and their schedules follow it: ours as a recipe
of `seer pretrain` (`core_minutes.py`), a peer by a loop around lightly's heads and losses
(`peers.py`) on the same network. Both are scored by the same command.
A row is written as soon as it is there, and the same command goes on where it was cut. `--arm NAME
--set KEY=VALUE` adds rows of ours with other options: an ablation.

`--race` instead times steps of either on the same crops of noise, in turns, by one core's time: what
loss, heads, teachers and optimizer cost, without reading images.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from harness import arguments, figure, interleaved, machine, report
from methods_table import Result, figures, table
from small_methods import CROP, NETWORK, VIEWS, options_of, rate_of, recipe_on

UNTRAINED, PIXELS, TEACHER = "untrained", "raw pixels", "teacher"
ARM = ", "  # between a method and the arm of an ablation
SIZE = 24  # px of the images that features are of


def run(words: list[str], work: Path) -> dict[str, float]:
    """Run a command. Returns the seconds of core time and the memory that it took."""
    print(f"$ {' '.join(words[1:])}", flush=True)
    with open(work / "log.txt", "ab") as log:
        child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"failed, see {work / 'log.txt'}: {' '.join(words)}")
    return {"seconds": usage.ru_utime + usage.ru_stime, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def seer(*words: str) -> list[str]:
    return [sys.executable, "-m", "seer", *words]


def beside(script: str, *words: str) -> list[str]:
    """The command of a script in this file's folder."""
    return [sys.executable, str(Path(__file__).with_name(script)), *words]


def subset(data: Path, work: Path, per_class: dict[str, int]) -> Path:
    """A folder of the first images of each class, by links where the file system has them."""
    out = work / "images"
    for split, count in per_class.items():
        for folder in sorted((data / split).iterdir()):
            target = out / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for image in sorted(folder.iterdir())[:count]:
                if not (target / image.name).exists():
                    _link(image, target / image.name)
    return out


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def write_recipe(method: str, given: dict[str, Any], options: argparse.Namespace) -> Path:
    """The recipe of all with a method's own options and rate, as a file."""
    values = recipe_on(options.network, options.crop)
    values["name"] = method
    values["method"] = {"name": method, **given}
    values["schedule"]["peak"] = rate_of(method)
    path = options.work / f"{method}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def train_ours(row: str, seed: int, options: argparse.Namespace) -> Result:
    """Train and score one of ours; `row` is a method, or a method and an arm."""
    method = row.partition(ARM)[0]
    more = {"teacher": options.teacher, "teacher_size": options.teacher_size}
    given = options_of(method) | (more if method == "distill" else {})
    words = [str(write_recipe(method, given, options)), str(_weights(row, "seer", seed, options))]
    words += [f"data={options.work / 'shards'}", f"seed={seed}", *options.set]
    return trained(row, "seer", seed, options, ["core_minutes.py", *words])


def train_peer(method: str, seed: int, options: argparse.Namespace) -> Result:
    """Train and score lightly's."""
    words = [method, str(options.work / "images"), str(_weights(method, "lightly", seed, options))]
    words += ["--seed", str(seed), "--network", options.network, "--crop", str(options.crop)]
    return trained(method, "lightly", seed, options, ["peers.py", *words])


def trained(
    row: str, system: str, seed: int, options: argparse.Namespace, script: list[str]
) -> Result:
    """Run a script that trains until the budget is spent, and score what it leaves."""
    budget = ["--minutes", str(options.minutes), "--images", str(options.images)]
    usage = run(beside(*script, *budget), options.work)
    out = _weights(row, system, seed, options)
    samples = json.loads(out.with_suffix(".json").read_text())["samples"]
    return finished(row, system, seed, options, evaluate(str(out), options), samples, usage)


def untrained(seed: int, options: argparse.Namespace) -> Result:
    """Score the network that a training with this seed begins with."""
    recipe = write_recipe("simclr", options_of("simclr"), options)
    out = _weights(UNTRAINED, "seer", seed, options)
    given = [f"data={options.work / 'shards'}", f"seed={seed}", "--minutes", "0"]
    run(beside("core_minutes.py", str(recipe), str(out), *given), options.work)
    return finished(UNTRAINED, "", seed, options, evaluate(str(out), options))


def _weights(row: str, system: str, seed: int, options: argparse.Namespace) -> Path:
    name = "-".join([*row.replace(ARM, " ").split(), str(seed), system])
    return options.work / f"{name}.safetensors"


def finished(
    method: str,
    system: str,
    seed: int,
    options: argparse.Namespace,
    scores: dict[str, float],
    samples: int = 0,
    usage: dict[str, float] | None = None,
) -> Result:
    result = Result(method, system, seed, options.budget, **scores, samples=samples)
    if usage:
        result.cpu_minutes = usage["seconds"] / 60
        result.samples_per_second = samples / usage["seconds"]
        result.peak_gb = usage["peak_gb"]
    return result


def evaluate(model: str, options: argparse.Namespace, size: int = SIZE) -> dict[str, float]:
    """kNN and linear top-1 in percent."""
    scores = {}
    for task, more in {"knn": ["k=[20]"], "linear": []}.items():
        out = options.work / "scores.jsonl"
        out.unlink(missing_ok=True)
        place = ["--model", model, "--data", str(options.work / "images"), "--out", str(out)]
        run(seer("eval", task, *place, *more, f"size={size}", "threads=1"), options.work)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        (value,) = [row["value"] for row in rows if row.get("headline")]
        scores[task] = 100 * value
    return scores


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Method, system and seed of each row, in the order in which they are made."""
    from peers import PEERS

    from seer.methods import METHODS

    methods = options.methods or [m for m in METHODS if m != "distill" or options.teacher]
    systems = options.systems
    seeds = range(options.seed, options.seed + options.seeds)
    if "seer" in systems:
        arm = ARM + options.arm if options.arm else ""
        for seed in seeds:
            yield from ((method + arm, "seer", seed) for method in methods)
        if not arm:
            yield from ((UNTRAINED, "", seed) for seed in seeds)
            yield PIXELS, "", 0
        if not arm and "distill" in methods:
            yield TEACHER, "", 0
    if "lightly" in systems:
        for seed in seeds:
            yield from ((method, "lightly", seed) for method in methods if method in PEERS)


def make(method: str, system: str, seed: int, options: argparse.Namespace) -> Result:
    if method == TEACHER:
        scores = evaluate(options.teacher, options, options.teacher_size or SIZE)
        return finished(method, system, seed, options, scores)
    if method == PIXELS:
        return finished(method, system, seed, options, evaluate("pixels", options))
    if method == UNTRAINED:
        return untrained(seed, options)
    return (train_ours if system == "seer" else train_peer)(method, seed, options)


def race(method: str, network: str, crop: int, rounds: int = 6) -> dict:
    """Samples/s of a core in steps of ours and of lightly's, without images to read."""
    import torch
    from peers import PEERS, optimizer_of
    from step import random_views, seer_step

    from seer.backbones import build
    from seer.backbones.options import BackboneConfig
    from seer.methods import METHODS, make

    torch.manual_seed(0)
    torch.set_num_threads(1)
    recipe = recipe_on(network, crop)
    batch = recipe["batch_size"]
    config = BackboneConfig(**recipe["backbone"])
    views = random_views(batch, {crop: VIEWS})
    ours = make(build(config), METHODS[method].Config(**options_of(method)), 10 * batch)
    backbone = build(config)
    peer = PEERS[method](backbone, backbone.out_dim)
    optimizer = optimizer_of(peer)
    crops = [view.contiguous() for view in views.crops[0]]

    def peers_step() -> None:
        peer.loss(crops, 0.5).backward()
        optimizer.step()
        optimizer.zero_grad()

    contestants = {"seer": seer_step(ours, views, "fp32", optim="adamw"), "lightly": peers_step}
    seconds = interleaved(contestants, rounds, clock=time.process_time)
    rates = {name: batch / value for name, value in seconds.items()}
    about = f"{method} step, {config.name}, batch {batch}, {VIEWS} crops of {crop} px, one core"
    return figure(about, "samples/s", rates["seer"], {"lightly": rates["lightly"]})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--race", action="store_true", help="time steps alone; no data needed")
    parser.add_argument("--minutes", type=float, default=4, help="of one core")
    parser.add_argument("--images", type=int, default=0, help="seen by each, in place of minutes")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--crop", type=int, default=CROP, help="px of a crop")
    parser.add_argument("--methods", nargs="*", help="default: all, distill where it has a teacher")
    parser.add_argument("--teacher", default="", help="MODEL that distill learns from")
    parser.add_argument("--teacher-size", type=int, default=0, help="px that it sees")
    parser.add_argument("--per-class", type=int, default=1000, help="images to train on")
    parser.add_argument("--test", type=int, default=500, help="images of each class to test on")
    parser.add_argument("--systems", nargs="*", default=["seer", "lightly"], help="whose methods")
    parser.add_argument("--arm", default="", help="what rows of ours with --set are called")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of ours alone")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-methods"))
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if options.race:
        from peers import PEERS

        given = options.network, options.crop
        report([race(method, *given) for method in options.methods or PEERS], options.json)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    per_class = {"train": options.per_class, "test": options.test}
    equal = f"{options.images:,} images" if options.images else f"{options.minutes:g} core-minutes"
    options.budget = f"{equal}, {options.per_class} images of each class, {machine()}"
    options.budget += f", {options.network}, {options.crop} px"
    images = subset(options.data, options.work, per_class)
    if not (options.work / "shards").exists():
        words = seer("shards", "build", str(images / "train"), "--out")
        run([*words, str(options.work / "shards")], options.work)
    rows = options.work / "rows.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    results = [result for result in results if result.budget == options.budget]
    done = {(result.method, result.system, result.seed) for result in results}
    for method, system, seed in wanted(options):
        if (method, system, seed) in done:
            continue
        results.append(make(method, system, seed, options))
        with rows.open("a") as file:
            file.write(json.dumps(asdict(results[-1])) + "\n")
        print(results[-1], flush=True)
        if options.markdown:
            options.markdown.write_text("\n".join(table(results)) + "\n")
    print("\n".join(table(results)))
    report(figures(results), options.json)


if __name__ == "__main__":
    main()
