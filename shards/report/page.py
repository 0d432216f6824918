"""What a data set looks like, on one page that needs no network."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from seer import __version__, files
from seer.data.storage.index import Manifest
from seer.templates import template
from shards.records import state
from shards.report import sampled
from shards.report.bars import histogram_svg
from shards.report.pairs import MOST
from shards.report.stats import REST

THUMBNAILS = 60
SIDE = 96
PAIR_SIDE = 128
MOST_BARS = 15
LONGEST = 300  # characters of an option's value


def _pixels(value: float) -> str:
    return f"{value:,.4g}"


def _bytes(value: float) -> str:
    """Bytes with a unit: `850 B`, `12 kB`, `1.5 MB`."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} B"


Shown = Callable[[float], str]
# How each measure is headed, its unit, and how a value is shown.
TITLES: dict[str, tuple[str, str, Shown]] = {
    "width": ("Width", "px", _pixels),
    "height": ("Height", "px", _pixels),
    "aspect_ratio": ("Aspect ratio", "width / height", _pixels),
    "image_bytes": ("Size of the files", "", _bytes),
}


@dataclass(frozen=True)
class Picture:
    """A thumbnail: a key, the image's size in pixels, and a data: URL, "" if it cannot be shown."""

    key: str
    size: str = ""
    source: str = ""


@dataclass(frozen=True)
class Histogram:
    """A histogram and, in words, its middle and what lies outside of it."""

    title: str
    unit: str
    svg: Markup
    words: str


def write_page(figures: dict[str, Any], out: Path) -> None:
    """Write `figures`, as `shards.report.stats.stats` gives them, duplicates beside their originals
    and a random contact sheet to the file `out`.
    """
    manifest = Manifest.load(figures["directory"])
    page = template(Path(__file__).parent, "page.html.j2").render(
        figures=figures,
        title=Path(figures["directory"]).resolve().name,
        headlines=_headlines(figures),
        histograms=[_histogram(name, figures) for name in figures["histograms"]],
        bars=[(title, about, _bars(counts)) for title, about, counts in _tables(figures) if counts],
        pairs=_pairs(manifest, figures["pairs"]),
        options=_options(figures["build"]),
        pictures=_pictures(manifest),
        most_pairs=MOST,
        version=__version__,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with state.writing(out):
        # Names need not be UTF-8.
        files.write(out, page.encode("utf-8", "backslashreplace").decode())


def _headlines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    near = figures["near_duplicates"]
    excluded = figures["build"]["excluded"]
    lines = [
        ("Images", f"{figures['samples']:,}"),
        ("Shards", f"{figures['shards']:,}"),
        ("Size", _bytes(figures["bytes"])),
        ("Exact duplicates", f"{figures['duplicates']:,}"),
        ("Near duplicates", "not looked for" if near is None else f"{near:,}"),
        ("Left out for evaluation", f"{sum(excluded.values()):,}" if excluded else "no set named"),
        ("Quarantined", f"{sum(figures['quarantined'].values()):,}"),
    ]  # fmt: skip
    return lines + (
        [("Removed on request", f"{figures['removed']:,}")] if figures["removed"] else []
    )


def _tables(figures: dict[str, Any]) -> list[tuple[str, str, dict[str, int]]]:
    """`(title, what is to be known besides, counts)` of what is drawn as bars."""
    classes = figures["classes"] or {}
    about = f"{len(classes):,}"
    if figures["unlabelled"]:
        about += f"; {figures['unlabelled']:,} images have none"
    return [
        ("Classes", about, classes),
        ("Sources", "host, archive or first folder", figures["sources"]),
        ("Formats", "", figures["formats"]),
        ("Other members", "files beside the images", figures["extras"]),
        ("Quarantine", "why images were left out", figures["quarantined"]),
        ("Ignored files", "no images", figures["ignored"]),
    ]


def _bars(counts: dict[str, int]) -> list[tuple[str, int, float | None]]:
    """`(name, count, share of the largest in %)`, the largest first; the small ones summed up,
    without a bar, which would dwarf all others.
    """
    named = {name: count for name, count in counts.items() if name != REST}
    ranked = sorted(named.items(), key=lambda item: -item[1])
    most = max([1, *named.values()])
    rows: list[tuple[str, int, float | None]] = [
        (name, count, round(100 * count / most, 2)) for name, count in ranked[:MOST_BARS]
    ]
    further = len(ranked) - MOST_BARS
    rest = counts.get(REST, 0) + sum(count for _, count in ranked[MOST_BARS:])
    if rest:
        rows.append(("all others" if REST in counts else f"{further:,} others", rest, None))
    return rows


def _histogram(name: str, figures: dict[str, Any]) -> Histogram:
    title, unit, shown = TITLES[name]
    if figures[name]["min"] == figures[name]["max"]:
        value = shown(figures[name]["min"]) + (" px" if unit == "px" else "")
        return Histogram(title, unit, Markup(), f"The same for all images: {value}.")
    bins = figures["histograms"][name]
    edges = bins["edges"]
    outside = []
    if bins["below"]:
        least = shown(figures[name]["min"])
        outside.append(f"{bins['below']:,} below {shown(edges[0])}, down to {least}")
    if bins["above"]:
        most = shown(figures[name]["max"])
        outside.append(f"{bins['above']:,} above {shown(edges[-1])}, up to {most}")
    words = f"{title} from {shown(edges[0])} to {shown(edges[-1])}"
    median = shown(figures[name]["median"])
    label = f"{words}, median {median}"
    svg = histogram_svg(edges, bins["counts"], label, shown)
    beyond = f"Not drawn: {'; '.join(outside)}." if outside else "All images are drawn."
    return Histogram(title, unit, Markup(svg), f"Median {median}. {beyond}")


def _options(build: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """`(name, value, whether it was changed)` of the options of a build, the changed ones first."""
    changed = set(build["changed"])
    rows = [(name, _text(value), name in changed) for name, value in build["options"].items()]
    return sorted(rows, key=lambda row: not row[2])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "–"
    text = "–" if value in (None, "") else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _pairs(
    manifest: Manifest, pairs: list[dict[str, Any]]
) -> list[tuple[Picture, Picture, int | None]]:
    """The earlier image and its duplicate, and the bits between their hashes."""
    places = [place for pair in pairs for place in pair["places"]]
    pictures = {
        place: _picture(key, pixels, sampled.reduced(pixels, PAIR_SIDE))
        for place, key, pixels in sampled.pictures_at(manifest, places)
    }
    rows = []
    for pair in pairs:
        first, second = (
            pictures.get(place, Picture(key))
            for place, key in zip(pair["places"], pair["keys"], strict=True)
        )
        rows.append((first, second, pair["distance"]))
    return rows


def _pictures(manifest: Manifest) -> list[Picture]:
    return [
        _picture(key, pixels, sampled.thumbnail(pixels, SIDE))
        for key, pixels in sampled.draw(manifest, THUMBNAILS)
    ]


def _picture(key: str, pixels: np.ndarray, thumbnail: bytes) -> Picture:
    data = base64.b64encode(thumbnail).decode()
    size = f"{pixels.shape[1]} × {pixels.shape[0]}"
    return Picture(key, size, f"data:image/jpeg;base64,{data}")
