"""`seer shards`: parses, calls, prints. Everything else in this package is imported when a command
runs.
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from seer.errors import InputError
from seer.terminal import Json, emit, example, output_option, progress, say

app = typer.Typer(help="Build, index, verify and describe WebDataset shards.", no_args_is_help=True)


def _of(options: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Those of a verb's options that are fields of this dataclass."""
    return {each.name: given[each.name] for each in fields(options) if each.name in given}


def _tell(report: Any, json_target: str) -> None:
    """A verb's report, for the terminal and as JSON."""
    say(*report.lines(), json_target=json_target)
    emit(asdict(report), json_target)


@app.command(
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
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of any depth, tars, zips, lists (parquet, csv, jsonl, txt).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Where the shards go; an interrupted build there is continued.")
    ],
    labels: Annotated[
        bool, typer.Option("--labels", help="The folder below each SOURCE is the class.")
    ] = False,
    columns: Annotated[
        str, typer.Option(help="Columns of lists: url=URL,caption=TEXT,label=…,key=…,ANY=COLUMN.")
    ] = "",
    max_side: Annotated[
        int | None, typer.Option(help="Shrink images whose longer side exceeds this (px).")
    ] = None,
    shorter_side: Annotated[
        int | None, typer.Option(help="Shrink images whose shorter side exceeds this.")
    ] = None,
    reencode: Annotated[
        int | None, typer.Option(help="Encode every image as JPEG of this quality.")
    ] = None,
    min_side: Annotated[
        int | None, typer.Option(help="Leave out images whose shorter side is below this.")
    ] = None,
    max_aspect: Annotated[
        float | None, typer.Option(help="Leave out images longer than so many times wide.")
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Leave out images of more pixels.")] = None,
    check: Annotated[
        bool, typer.Option(help="Decode every image, or look at headers only.")
    ] = True,
    shard_size: Annotated[int, typer.Option(help="Images per shard.")] = 10_000,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    shuffle: Annotated[
        bool, typer.Option(help="Mix the images over the shards, always in the same way.")
    ] = True,
    part: Annotated[
        str, typer.Option(help="I/N: the I-th of N processes that share the build; or slurm.")
    ] = "",
    connections: Annotated[int, typer.Option(help="Downloads at a time, per process.")] = 256,
    per_host: Annotated[
        int, typer.Option(help="Downloads at a time from one host, per process.")
    ] = 8,
    retries: Annotated[
        int, typer.Option(help="Further tries of what may pass (timeouts, resets, 429, 5xx).")
    ] = 2,
    connect_timeout: Annotated[float, typer.Option(help="Seconds to connect.")] = 10,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds between two pieces of a response.")
    ] = 10,
    timeout: Annotated[float, typer.Option(help="Seconds of one try in all.")] = 60,
    max_bytes: Annotated[int, typer.Option(help="Leave out responses larger than this.")] = 32
    << 20,
    min_success: Annotated[
        float, typer.Option(help="Stop when fewer of 1,000 downloads succeed; 0: never.")
    ] = 0.05,
    agent: Annotated[
        str, typer.Option(help="The user agent that servers see.")
    ] = "Mozilla/5.0 (compatible; seer)",
    ignore_robots_tag: Annotated[
        bool, typer.Option("--ignore-robots-tag", help="Also take noai and noindex.")
    ] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Also file://, s3://, private addresses.")
    ] = False,
    dedup: Annotated[str, typer.Option(help="Leave out duplicates: none, exact or near.")] = "none",
    distance: Annotated[
        int, typer.Option(help="Bits of 64 in which near duplicates' hashes may differ.")
    ] = 8,
    against: Annotated[
        list[str] | None, typer.Option(help="Also what these earlier shards have.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out what this evaluation set has.")
    ] = None,
    refuse: Annotated[
        list[str] | None, typer.Option(help="Leave out the SHA-256 (removed.jsonl) listed here.")
    ] = None,
    json_target: Json = "",
) -> None:
    """Make shards. Originals are kept byte for byte, and what cannot be had or decoded is listed
    with its reason.
    """
    given = locals()
    from shards.build import BuildOptions, DedupOptions, build
    from shards.sources.policy import DownloadOptions

    download = DownloadOptions(**_of(DownloadOptions, given))
    unwanted = DedupOptions(dedup, distance, against or (), exclude or (), refuse or ())
    options = BuildOptions(download=download, unwanted=unwanted, **_of(BuildOptions, given))
    with progress("building", "images") as tick:
        report = build(sources, out, options, tick)
    _tell(report, json_target)


@app.command(
    "index",
    epilog=example(
        "seer shards index /data/laion/*.tar",
        "seer shards index /read/only/laion --index-dir laion",
    ),
)
def shards_index(
    tars: Annotated[
        list[str], typer.Argument(metavar="TAR...", help="Tars, or folders that hold them.")
    ],
    index_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where indices and manifest go, with links to the tars; else beside them."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    check: Annotated[
        bool, typer.Option(help="Decode every image, or look at headers only.")
    ] = True,
    json_target: Json = "",
) -> None:
    """Make tars that someone else wrote addressable; the tars are not touched."""
    from shards.indexing import index

    with progress("indexing", "tars") as tick:
        report = index(tars, workers, check, tick, index_dir=index_dir)
    _tell(report, json_target)


@app.command("verify", epilog=example("seer shards verify shards"))
def shards_verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of shards.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Index anew what can be; tars are never touched.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    json_target: Json = "",
) -> None:
    """Compare every byte with index and manifest. Exit code 2 when something is wrong."""
    from shards.verify import verify

    with progress("verifying", "shards") as tick:
        report = verify(directory, workers, tick, repair)
    _tell(report, json_target)
    raise typer.Exit(2 if report.problems else 0)


@app.command("remove", epilog=example("seer shards remove shards --hashes takedown.txt"))
def shards_remove(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of shards.")],
    keys: Annotated[Path | None, typer.Option(help="File of keys, one per line.")] = None,
    urls: Annotated[
        Path | None, typer.Option(help="File of sources (URLs or paths) as the index has them.")
    ] = None,
    hashes: Annotated[
        Path | None, typer.Option(help="File of SHA-256 in hex, or a removed.jsonl.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    json_target: Json = "",
) -> None:
    """Take images out of shards for good, and note which. Exit code 2 when none of them is there."""
    from shards.sources.places import linked_shards
    from shards.takedown import remove

    lists = {
        by: path for by, path in {"keys": keys, "urls": urls, "hashes": hashes}.items() if path
    }
    if len(lists) != 1:
        raise InputError("give one of --keys FILE, --urls FILE and --hashes FILE")
    ((by, path),) = lists.items()
    linked = len(linked_shards(directory))
    with progress("removing", "shards") as tick:
        report = remove(directory, path, by, workers, tick)
    _tell(report, json_target)
    if linked and report.removed:
        say(
            f"of {linked:,} shards the tars lie elsewhere and are left as they are: take the images out of them, too",
            json_target=json_target,
        )
    raise typer.Exit(0 if report.ok else 2)


@app.command("stats", epilog=example("seer shards stats shards"))
def shards_stats(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of shards.")],
    near: Annotated[bool, typer.Option("--near", help="Look for near duplicates, too.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            callback=output_option, help="Also write a page of plots and random images (.html)."
        ),
    ] = None,
    json_target: Json = "",
) -> None:
    """Describe shards: sizes, formats, labels, sources, duplicates, what was quarantined and why."""
    from shards.report.page import write_page
    from shards.report.stats import lines, stats

    figures = stats(directory, near)
    if page:
        write_page(figures, page)
    say(*lines(figures), json_target=json_target)
    emit(figures, json_target)
