"""The verbs: parse, call, print. No logic lives here, and each verb imports what it needs only when it runs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli import app as launch_app
from seer import __version__
from seer.errors import TOLD, InputError

app = typer.Typer(
    help="Pretrain vision backbones on uncurated images, and prove what they are worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
shards_app = typer.Typer(help="Build, index, verify and describe WebDataset shards.", no_args_is_help=True)
app.add_typer(shards_app, name="shards")
app.add_typer(launch_app, name="launch")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)]
Json = Annotated[str, typer.Option("--json", metavar="FILE", help="Also write the results as JSON; '-' prints them.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="A run directory (or RUN:random, RUN:step-000100), an exported file, BACKBONE:random, "
        "timm:NAME[:WEIGHTS], torchvision:NAME[:WEIGHTS], or pixels.",
    ),
]


def example(*lines: str) -> str:
    """The example under a verb's help, one command a line."""
    return "[bold]Example[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


def emit(results: Any, target: str) -> None:
    """Write results as JSON where `--json` asked for them."""
    if not target:
        return
    text = json.dumps(results, indent=2, default=str)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")


def say(*lines: str, json_target: str = "") -> None:
    """Print for people; to stderr when stdout carries the JSON."""
    for line in lines:
        print(line, file=sys.stderr if json_target == "-" else sys.stdout, flush=True)


def _version(value: bool) -> None:
    if value:
        print(f"seer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None: ...


@app.command(epilog=example("seer quickstart --out quickstart"))
def quickstart(
    out: Annotated[Path, typer.Option(help="Where images, shards, run and report go.")] = Path("quickstart"),
    minutes: Annotated[float, typer.Option(help="Time to spend on pretraining.", min=0.1)] = 4.0,
    json_target: Json = "",
) -> None:
    """Photographs that come with the package → shards → SwAV → kNN and linear against untrained → report."""
    from seer.quickstart import quickstart as run

    # The verbs that it runs print, too; stdout is for the JSON alone.
    with redirect_stdout(sys.stderr) if json_target == "-" else nullcontext():
        summary = run(out, minutes, say)
    emit(summary, json_target)


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every five seconds in a log, on stderr; yields what to call with (done, total)."""
    import time

    from rich.console import Console
    from rich.progress import Progress

    console, last = Console(stderr=True), time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def tick(done: int, total: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"{label}: {done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

        yield tick


def _of(options: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Those of a verb's options that are fields of this dataclass."""
    return {each.name: given[each.name] for each in fields(options) if each.name in given}


@shards_app.command(
    "build",
    epilog=example(
        "seer shards build ~/photos more.tar --out shards --max-side 1024",
        "seer shards build urls.parquet --columns url=URL,caption=TEXT --out shards --shorter-side 512",
        "seer shards build urls.parquet --out shards --part slurm    (in each task of a job array)",
    ),
)
def shards_build(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Folders of any depth, tars, zips, lists (parquet, csv, jsonl, txt)."),
    ],
    out: Annotated[Path, typer.Option(help="Where the shards go; an interrupted build there is continued.")],
    labels: Annotated[bool, typer.Option("--labels", help="The folder below each SOURCE is the class.")] = False,
    columns: Annotated[str, typer.Option(help="Columns of lists: url=URL,caption=TEXT,label=…,key=…,ANY=COLUMN.")] = "",
    max_side: Annotated[int | None, typer.Option(help="Shrink images whose longer side exceeds this (px).")] = None,
    shorter_side: Annotated[int | None, typer.Option(help="Shrink images whose shorter side exceeds this.")] = None,
    reencode: Annotated[int | None, typer.Option(help="Encode every image as JPEG of this quality.")] = None,
    min_side: Annotated[int | None, typer.Option(help="Leave out images whose shorter side is below this.")] = None,
    max_aspect: Annotated[float | None, typer.Option(help="Leave out images longer than so many times wide.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Leave out images of more pixels.")] = None,
    shard_size: Annotated[int, typer.Option(help="Images per shard.")] = 10_000,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    shuffle: Annotated[bool, typer.Option(help="Mix the images over the shards, always in the same way.")] = True,
    part: Annotated[str, typer.Option(help="I/N: the I-th of N processes that share the build; or slurm.")] = "",
    connections: Annotated[int, typer.Option(help="Downloads at a time, per process.")] = 256,
    per_host: Annotated[int, typer.Option(help="Downloads at a time from one host, per process.")] = 8,
    retries: Annotated[int, typer.Option(help="Further tries of what may pass (timeouts, resets, 429, 5xx).")] = 2,
    connect_timeout: Annotated[float, typer.Option(help="Seconds to connect.")] = 10,
    read_timeout: Annotated[float, typer.Option(help="Seconds between two pieces of a response.")] = 10,
    timeout: Annotated[float, typer.Option(help="Seconds of one try in all.")] = 60,
    max_bytes: Annotated[int, typer.Option(help="Leave out responses larger than this.")] = 32 << 20,
    min_success: Annotated[float, typer.Option(help="Stop when fewer of 1,000 downloads succeed; 0: never.")] = 0.05,
    agent: Annotated[str, typer.Option(help="The user agent that servers see.")] = "Mozilla/5.0 (compatible; seer)",
    ignore_robots_tag: Annotated[bool, typer.Option("--ignore-robots-tag", help="Also take noai and noindex.")] = False,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="Also connect to private addresses.")] = False,
    dedup: Annotated[str, typer.Option(help="Leave out duplicates: none, exact or near.")] = "none",
    distance: Annotated[int, typer.Option(help="Bits of 64 in which near duplicates' hashes may differ.")] = 8,
    against: Annotated[list[str] | None, typer.Option(help="Also what these earlier shards have.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave out what this evaluation set has.")] = None,
    refuse: Annotated[list[str] | None, typer.Option(help="Leave out the SHA-256 (removed.jsonl) listed here.")] = None,
    json_target: Json = "",
) -> None:
    """Make shards. Originals are kept byte for byte, and what cannot be had or decoded is listed with its reason."""
    given = locals()
    from shards.build import BuildOptions, DedupOptions, build
    from shards.download import DownloadOptions

    download = DownloadOptions(**_of(DownloadOptions, given))
    unwanted = DedupOptions(dedup, distance, against or (), exclude or (), refuse or ())
    options = BuildOptions(download=download, unwanted=unwanted, **_of(BuildOptions, given))
    with progress("building", "images") as tick:
        report = build(sources, out, options, tick)
    say(*report.lines(), json_target=json_target)
    emit(asdict(report), json_target)


@shards_app.command("index", epilog=example("seer shards index /data/laion/*.tar"))
def shards_index(
    tars: Annotated[list[str], typer.Argument(metavar="TAR...", help="Tars, or folders that hold them.")],
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    check: Annotated[bool, typer.Option(help="Decode every image, or look at headers only.")] = True,
    json_target: Json = "",
) -> None:
    """Make tars that someone else wrote addressable; the tars are not touched."""
    from shards.index import index

    with progress("indexing", "tars") as tick:
        report = index(tars, workers, check, tick)
    say(*report.lines(), json_target=json_target)
    emit(asdict(report), json_target)


def index_tars(*folders: str) -> None:
    """Index tars that have no manifest yet, where that can be written."""
    from shards.index import index_on_first_use

    @contextmanager
    def shown(folder: Path) -> Iterator[Callable[[int, int], None]]:
        say(f"{folder} holds tars without a manifest; indexing them", json_target="-")
        with progress("indexing", "tars") as tick:
            yield tick

    index_on_first_use(folders, shown)


@shards_app.command("verify", epilog=example("seer shards verify shards"))
def shards_verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of shards.")],
    repair: Annotated[bool, typer.Option("--repair", help="Index anew what can be; tars are never touched.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    json_target: Json = "",
) -> None:
    """Compare every byte with index and manifest. Exit code 2 when something is wrong."""
    from shards.verify import verify

    with progress("verifying", "shards") as tick:
        report = verify(directory, workers, tick, repair)
    say(*report.lines(), json_target=json_target)
    emit(asdict(report), json_target)
    raise typer.Exit(2 if report.problems else 0)


@shards_app.command("remove", epilog=example("seer shards remove shards --hashes takedown.txt"))
def shards_remove(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of shards.")],
    keys: Annotated[Path | None, typer.Option(help="File of keys, one per line.")] = None,
    urls: Annotated[Path | None, typer.Option(help="File of sources (URLs or paths) as the index has them.")] = None,
    hashes: Annotated[Path | None, typer.Option(help="File of SHA-256 in hex, or a removed.jsonl.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    json_target: Json = "",
) -> None:
    """Take images out of shards for good, and note which. Exit code 2 when none of them is there."""
    from shards.takedown import remove

    lists = {by: path for by, path in {"keys": keys, "urls": urls, "hashes": hashes}.items() if path}
    if len(lists) != 1:
        raise InputError("give one of --keys FILE, --urls FILE and --hashes FILE")
    ((by, path),) = lists.items()
    with progress("removing", "shards") as tick:
        report = remove(directory, path, by, workers, tick)
    say(*report.lines(), json_target=json_target)
    emit(asdict(report), json_target)
    raise typer.Exit(0 if report.ok else 2)


@shards_app.command("stats", epilog=example("seer shards stats shards"))
def shards_stats(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of shards.")],
    near: Annotated[bool, typer.Option("--near", help="Look for near duplicates, too.")] = False,
    page: Annotated[Path | None, typer.Option(help="Also write a page of plots and random images (.html).")] = None,
    json_target: Json = "",
) -> None:
    """Describe shards: sizes, formats, labels, sources, duplicates, what was quarantined and why."""
    from shards.page import write_page
    from shards.stats import lines, stats

    figures = stats(directory, near)
    if page:
        write_page(figures, page)
    say(*lines(figures), json_target=json_target)
    emit(figures, json_target)


@app.command(
    epilog=example(
        "seer pretrain swav_small data=shards/ steps=5000",
        "seer pretrain swav_regnety_016 data=shards/ batch_size=64 --nproc 2",
    )
)
def pretrain(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")],
    overrides: Overrides = None,
    nproc: Annotated[int, typer.Option(help="Processes on this host.", min=1)] = 1,
) -> None:
    """Pretrain a backbone. The same command again continues the run."""
    from launch.local import spawn
    from seer.pretrain import load_config, run

    resolved = load_config(config, overrides or [])
    index_tars(resolved.data)
    run_dir = spawn(run, nproc, resolved, device=resolved.device)[0] if nproc > 1 else run(resolved)
    say(f"run     {run_dir}", f"report  seer report {run_dir}")


@app.command(
    epilog=example(
        "seer plan swav_regnety_256gf --gpus 512 --gpu v100-32g",
        "seer plan swav_resnet50_800ep --gpus 64 --gpu a100-40g --price 1.5 --sweep",
        "seer plan swav_regnety_016 --gpus 128 --gpu h100 --calibrate runs/short",
    ),
)
def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")],
    overrides: Overrides = None,
    *,
    gpus: Annotated[int, typer.Option(help="Processes, each with a GPU.", min=1)],
    gpu: Annotated[str, typer.Option(help="v100-16g, v100-32g, a100-40g, a100-80g, h100, h200, b200, l40s, cpu.")],
    price: Annotated[float | None, typer.Option(help="Of one GPU-hour, in your currency.", min=0)] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Take the efficiency from this run on the same kind of GPU.")
    ] = None,
    images_per_core: Annotated[
        float, typer.Option(help="Images that one core makes ready per second; seer doctor measures it.", min=1)
    ] = 100,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also an eighth to eight times as many GPUs.")] = False,
    plot: Annotated[Path, typer.Option(help="Where the chart of --sweep goes.")] = Path("plan.svg"),
    json_target: Json = "",
) -> None:
    """What a run needs and costs: memory, hours, energy; whether it fits, and what would make it fit."""
    from seer.plan import Options, draw
    from seer.plan import plan as run

    found = run(config, overrides or [], gpus, gpu, Options(price, calibrate, images_per_core, sweep))
    if sweep:
        draw(found.sweep, plot)
    say(*found.lines(), json_target=json_target)
    emit(asdict(found), json_target)


@app.command(
    "eval",
    epilog=example(
        "seer eval knn --model runs/swav_small --data cifar10 k=[20,200]",
        "seer eval linear --model timm:resnet18 --data flowers",
    ),
)
def evaluate(
    task: Annotated[str, typer.Argument(metavar="TASK", help="knn or linear.")],
    model: ModelOption,
    data: Annotated[str, typer.Option("--data", help="A folder with train/ and test/ (or val/): classes or shards.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="results.jsonl to append to (default: the run's own).")] = None,
    json_target: Json = "",
) -> None:
    """Measure a backbone on labelled images; values come with 95 % intervals."""
    from seer.eval.task import evaluate as run
    from seer.report.results import describe

    index_tars(data, *(f"{data}/{split}" for split in ("train", "test", "val")))
    rows = run(task, model, data, overrides or [], out)
    say(*describe(rows), json_target=json_target)
    emit(rows, json_target)


@app.command(epilog=example("seer embed --model runs/swav_small --data photos/ --out features.parquet"))
def embed(
    model: ModelOption,
    data: Annotated[str, typer.Option("--data", help="A folder of images of any depth, or shards.")],
    out: Annotated[Path, typer.Option(help="features.parquet or features.npz")],
    json_target: Json = "",
) -> None:
    """Write a backbone's features of every image."""
    from seer.eval.embed import embed as run

    index_tars(data)
    summary = run(model, data, out)
    say(f"{summary['samples']} × {summary['dimensions']} features in {out}", json_target=json_target)
    emit(summary, json_target)


@app.command(epilog=example("seer export runs/swav_small --to timm --out backbone.safetensors"))
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run directory or an exported file.")],
    to: Annotated[str, typer.Option("--to", help="safetensors, torchvision or timm.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    json_target: Json = "",
) -> None:
    """Write a backbone for another library, and check that it gives the same features there."""
    from seer.interop.export import export as run

    summary = run(model, to, out)
    say(*(f"{key:14} {value}" for key, value in summary.items()), json_target=json_target)
    emit(summary, json_target)


@app.command(epilog=example("seer doctor --data shards/ --images-per-second 2000"))
def doctor(
    data: Annotated[str, typer.Option("--data", help="Shards: find out what limits reading, decoding and cropping.")],
    images_per_second: Annotated[float, typer.Option(help="What one accelerator consumes.", min=1)] = 1000,
    json_target: Json = "",
) -> None:
    """Measure what limits throughput on this machine, and how many cores one accelerator needs."""
    from seer.doctor import lines, measure

    found = measure(data)
    say(*lines(found, images_per_second), json_target=json_target)
    emit(asdict(found) | {"limits": found.limits}, json_target)


@app.command(epilog=example("seer audit runs/swav_small", "seer audit runs/swav_small --step 5000"))
def audit(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    key: Annotated[list[str] | None, typer.Option(help="Say which steps took the sample of this key.")] = None,
    step: Annotated[int | None, typer.Option(help="Name the samples of this step (from 1) instead.")] = None,
    json_target: Json = "",
) -> None:
    """Prove what a run saw and how often. Exit code 2 when it is not what the order prescribes."""
    from seer.audit import audit as run
    from seer.audit import batch

    if step is not None:
        rows = [row for path in runs for row in batch(path, step)]
        say(*("{key}  {shard} row {row}".format(**row) for row in rows), json_target=json_target)
        return emit(rows, json_target)
    with progress("auditing", "steps") as tick:
        found = [run(path, key or [], tick) for path in runs]
    say(*(line for one in found for line in one.lines()), json_target=json_target)
    emit([asdict(one) | {"exact": one.exact} for one in found], json_target)
    raise typer.Exit(0 if all(one.exact for one in found) else 2)


@app.command(epilog=example("seer report runs/swav_small", "seer report runs/a runs/b --out comparison.html"))
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[Path, typer.Option(help="Where a page over several runs goes.")] = Path("comparison.html"),
) -> None:
    """Write RUN/report.html, one self-contained page; over several runs, one page with their curves together."""
    from seer.report.html import write_comparison, write_report

    say(f"report  {write_comparison(runs, out) if len(runs) > 1 else write_report(runs[0])}")


def main() -> None:
    """The `seer` command. Exit codes: 0 done, 2 the user's input is wrong (one line), 75 stopped as asked, 1 ours."""
    try:
        app()
    except TOLD as error:
        print(f"seer: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("seer: interrupted; the same command continues where it stopped", file=sys.stderr)
        raise SystemExit(130) from None
