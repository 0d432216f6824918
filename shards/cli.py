"""`seer shards`: parses, calls, prints. Everything else in this package is imported when a command
runs.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from seer.errors import InputError
from seer.flags import flags
from seer.terminal import Json, emit, example, output_option, progress, say
from shards.options import CHECK_HELP, WORKERS_HELP, BuildOptions, SaliencyOptions

app = typer.Typer(help="Build, index, verify and describe WebDataset shards.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A directory of shards.")]
Workers = Annotated[int, typer.Option(help=WORKERS_HELP)]


def _tell(report: Any, json_target: str) -> None:
    """A verb's report, for the terminal and as JSON."""
    say(*report.lines(), json_target=json_target)
    emit(asdict(report), json_target)


@app.command(
    "build",
    epilog=example(
        "seer shards build ~/photos more.tar --out shards --max-side 1024",
        "seer shards build urls.parquet --columns url=URL,caption=TEXT --out shards --shorter-side 512",
        "seer shards build urls.parquet --out shards --part slurm    # in each task of a job array",
        "seer shards build coco --boxes train --out boxed/train    # for seer eval detect",
    ),
)
@flags
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
    options: BuildOptions,
    json_target: Json = "",
) -> None:
    """Make shards. Originals are kept byte for byte, and what cannot be had or decoded is listed
    with its reason.
    """
    from shards.boxed import build_any

    with progress("building", "images") as tick:
        report = build_any(sources, out, options, tick)
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
    workers: Workers = 0,
    check: Annotated[bool, typer.Option(help=CHECK_HELP)] = True,
    json_target: Json = "",
) -> None:
    """Make tars that someone else wrote addressable; the tars are not touched."""
    from shards.indexing import index

    with progress("indexing", "tars") as tick:
        report = index(tars, workers, check, tick, index_dir=index_dir)
    _tell(report, json_target)


@app.command("verify", epilog=example("seer shards verify shards"))
def shards_verify(
    directory: Directory,
    repair: Annotated[
        bool, typer.Option("--repair", help="Index anew what can be; tars are never touched.")
    ] = False,
    workers: Workers = 0,
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
    directory: Directory,
    keys: Annotated[Path | None, typer.Option(help="File of keys, one per line.")] = None,
    urls: Annotated[
        Path | None, typer.Option(help="File of sources (URLs or paths) as the index has them.")
    ] = None,
    hashes: Annotated[
        Path | None, typer.Option(help="File of SHA-256 in hex, or a removed.jsonl.")
    ] = None,
    workers: Workers = 0,
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


@app.command(
    "saliency",
    epilog=example(
        "seer shards saliency shards --out masked --sheet masks.png",
        "seer shards saliency shards --out masked --model u2net.onnx",
    ),
)
@flags
def shards_saliency(
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(help="Where the shards with masks go; what was interrupted is continued."),
    ],
    options: SaliencyOptions,
    sheet: Annotated[
        Path | None,
        typer.Option(
            callback=output_option, help="Also draw images beside what is left of them (.png)."
        ),
    ] = None,
    json_target: Json = "",
) -> None:
    """Write shards anew with a mask of each image's object, by which `pretrain` removes backgrounds."""
    from shards.saliency.mask_sheet import kind_of, write_sheet
    from shards.saliency.masked import add_masks

    if sheet:
        kind_of(sheet)
    with progress("finding objects", "images") as tick:
        report = add_masks(directory, out, options, tick)
    if sheet:
        write_sheet(out, sheet)
    _tell(report, json_target)


@app.command("stats", epilog=example("seer shards stats shards"))
def shards_stats(
    directory: Directory,
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
