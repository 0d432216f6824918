"""What a data set looks like, on one page that needs no network."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from seer import files
from seer.data.storage.index import Manifest
from shards.records import state
from shards.report import sampled

TITLES = {"width": ("Width", "px"), "height": ("Height", "px")}
TITLES |= {
    "aspect_ratio": ("Aspect ratio", "width / height"),
    "image_bytes": ("Image size", "bytes"),
}
THUMBNAILS = 60
SIDE = 96
MOST_BARS = 15


@dataclass(frozen=True)
class Picture:
    """One picture of the contact sheet."""

    key: str
    size: str
    source: str  # a data: URL


def write_page(figures: dict[str, Any], out: Path) -> None:
    """Write `figures`, as `shards.report.stats.stats` gives them, and a random contact sheet to the
    file `out`.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html.j2").render(
        figures=figures,
        headlines=_headlines(figures),
        histograms=[
            (*TITLES[name], _columns(data)) for name, data in figures["histograms"].items()
        ],
        bars=[(title, _bars(counts)) for title, counts in _tables(figures).items() if counts],
        pictures=_pictures(Manifest.load(figures["directory"])),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with state.writing(out):
        # Names need not be UTF-8.
        files.write(out, page.encode("utf-8", "backslashreplace").decode())


def _headlines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    near = figures["near_duplicates"]
    lines = [
        ("Images", f"{figures['samples']:,}"),
        ("Shards", f"{figures['shards']:,}"),
        ("Gigabytes", f"{figures['bytes'] / 1e9:,.3g}"),
        ("Exact duplicates", f"{figures['duplicates']:,}"),
        ("Near duplicates", "–" if near is None else f"{near:,}"),
        ("Quarantined", f"{sum(figures['quarantined'].values()):,}"),
    ]
    return lines + (
        [("Removed on request", f"{figures['removed']:,}")] if figures["removed"] else []
    )


def _tables(figures: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {
        "Formats": figures["formats"],
        "Other members": figures["extras"],
        "Sources": figures["sources"],
        "Quarantine": figures["quarantined"],
        "Ignored files": figures["ignored"],
        "Classes": figures["classes"] or {},
    }


def _bars(counts: dict[str, int]) -> list[tuple[str, int, float]]:
    """`(name, count, share of the largest in %)`, the largest first, the small ones summed up."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in ranked[MOST_BARS:])
    shown = ranked[:MOST_BARS] + ([(f"{len(ranked) - MOST_BARS:,} others", rest)] if rest else [])
    most = max(max(count for _, count in shown), 1)
    return [(name, count, round(100 * count / most, 2)) for name, count in shown]


def _columns(histogram: dict[str, list]) -> list[tuple[str, int, float]]:
    """`(range, count, height in %)`."""
    edges = histogram["edges"]
    most = max(histogram["counts"])
    spans = zip(edges, edges[1:], histogram["counts"], strict=False)
    return [
        (f"{low:,.4g} – {high:,.4g}", count, round(100 * count / most, 2))
        for low, high, count in spans
    ]


def _pictures(manifest: Manifest) -> list[Picture]:
    pictures = []
    for key, pixels in sampled.draw(manifest, THUMBNAILS):
        data = base64.b64encode(sampled.thumbnail(pixels, SIDE)).decode()
        pictures.append(
            Picture(key, f"{pixels.shape[1]} × {pixels.shape[0]}", f"data:image/jpeg;base64,{data}")
        )
    return pictures
