import base64
import io
import json
import math
import os
import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from seer.cli import app
from seer.data.storage.index import index_path
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.indexing import index
from shards.options import DedupOptions
from shards.report.bars import BOTTOM, HEIGHT, TOP, count_ticks, histogram_svg, value_ticks
from shards.report.origin import _is_tail
from shards.report.page import _bars, write_page
from shards.report.stats import REST, _commonest, _histogram, _origin, lines, stats
from shards.verify import verify
from tests.kit.pictures import encoded
from tests.shards.sources.test_scan import pack


def test_figures_against_numpy(folder, tmp_path):
    sizes = [(20 + i, 40 - i) for i in range(12)]
    files = {f"{'ab'[i % 3 == 0]}/{i}.jpg": encoded(i, size=size) for i, size in enumerate(sizes)}
    files |= {
        "a/same.jpg": files["b/0.jpg"],
        "a/x.png": encoded(0, "PNG", size=(5, 10)),
        "a/cut.gif": b"GIF89a",
    }
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1, shard_size=6, labels=True))
    found = stats(tmp_path / "out")
    sizes = np.array([*sizes, sizes[0], (5, 10)])
    data = np.array([len(data) for name, data in files.items() if name != "a/cut.gif"])
    for name, values in {
        "height": sizes[:, 0],
        "width": sizes[:, 1],
        "aspect_ratio": sizes[:, 1] / sizes[:, 0],
        "image_bytes": data,
    }.items():
        assert found[name]["median"] == pytest.approx(np.median(values), abs=1e-4)
        assert (found[name]["min"], found[name]["max"]) == pytest.approx(
            (values.min(), values.max()), abs=1e-4
        )
    assert found["samples"] == 14
    assert found["formats"] == {"JPEG": 13, "PNG": 1}
    assert found["classes"] == {"a": 10, "b": 4}
    assert found["duplicates"] == 1
    assert found["unlabelled"] == 0
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert [entry["source"] for entry in found["quarantine"]] == ["a/cut.gif"]
    assert json.loads(json.dumps(found)) == found
    text = "\n".join(lines(found))
    for part in ("14 images", "13 JPEG, 1 PNG", "10 a, 4 b", "1 exact duplicates", "a/cut.gif"):
        assert part in text


def test_near_duplicates_are_looked_for_on_demand(folder, tmp_path):
    files = {f"{i}.jpg": encoded(i, size=(48, 64)) for i in range(6)}
    files |= {"x/same.jpg": files["0.jpg"], "x/near.png": encoded(1, "PNG", size=(24, 32))}
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1))
    assert stats(tmp_path / "out")["near_duplicates"] is None
    found = stats(tmp_path / "out", near=True)
    assert (found["duplicates"], found["near_duplicates"]) == (1, 1)
    assert "1 near duplicates besides" in lines(found)


def test_sources_by_host_archive_and_folder():
    sources = [
        "https://a.org/x/1.jpg",
        "http://user@b.org:80/2.jpg",
        "s3://bucket/k/3.jpg",
        "cat/4.jpg",
        "./dog/5.jpg",
    ]
    sources += [
        "00000.tar/6.jpg",
        "deep/00001.tar/7.jpg",
        "archive.zip/in/8.jpg",
        "/abs/9.jpg",
        "10.jpg",
    ]
    hosts = [
        "a.org",
        "b.org:80",
        "bucket",
        "cat",
        "dog",
        "00000.tar",
        "deep/00001.tar",
        "archive.zip",
        "abs",
        ".",
    ]
    assert [_origin(source) for source in sources] == hosts
    assert _commonest(Counter({f"h{i}": 100 - i for i in range(40)}))["…"] == sum(
        100 - i for i in range(30, 40)
    )


def test_colour_against_numpy(folder, tmp_path):
    files = {f"{i}.png": encoded(i, "PNG", size=(20 + i, 30)) for i in range(8)}
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1, shard_size=3))
    images = [
        np.asarray(Image.open(io.BytesIO(data)), float).reshape(-1, 3) for data in files.values()
    ]
    mean = np.mean([image.mean(0) for image in images], axis=0)
    square = np.mean([(image**2).mean(0) for image in images], axis=0)
    found = stats(tmp_path / "out")["colour"]
    assert found["images"] == 8
    assert found["mean"] == pytest.approx(mean, abs=0.01)
    assert found["std"] == pytest.approx(np.sqrt(square - mean**2), abs=0.01)
    assert stats(tmp_path / "out", pictures=3)["colour"]["images"] == 3


def test_histograms_of_few_images_hold_every_one(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1))
    for histogram in stats(tmp_path / "out")["histograms"].values():
        assert sum(histogram["counts"]) == 20
        assert (histogram["below"], histogram["above"]) == (0, 0)
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1


def test_freaks_do_not_squeeze_a_histogram_and_are_counted():
    values = np.concatenate(
        [np.linspace(100, 200, 1000), [1.0, 2.0], [50_000.0, 60_000.0, 70_000.0]]
    )
    histogram = _histogram(values)
    assert 99 < histogram["edges"][0] < 105
    assert 195 < histogram["edges"][-1] < 201
    low, high = np.quantile(values, 0.01), np.quantile(values, 0.99)
    assert histogram["below"] == pytest.approx((values < low).sum(), abs=1)
    assert histogram["above"] == pytest.approx((values > high).sum(), abs=1)
    drawn = sum(histogram["counts"])
    assert drawn + histogram["below"] + histogram["above"] == len(values)


@given(st.lists(st.floats(0.001, 1e9), min_size=1, max_size=300))
def test_every_value_is_in_a_bin_or_counted_outside(values):
    histogram = _histogram(np.array(values))
    drawn = sum(histogram["counts"])
    assert drawn + histogram["below"] + histogram["above"] == len(values)
    assert len(values) >= 100 or histogram["below"] == histogram["above"] == 0
    svg = histogram_svg(histogram["edges"], histogram["counts"], "any", str)
    bars = list(ElementTree.fromstring(svg).iter("rect"))
    assert len(bars) == len(histogram["counts"])
    assert all(TOP - 0.1 <= float(bar.attrib["y"]) <= HEIGHT - BOTTOM for bar in bars)


@given(st.floats(0.001, 1e9), st.floats(1.01, 1e6))
def test_ticks_of_a_logarithmic_axis_are_round_and_in_their_places(low, factor):
    high = low * factor
    ticks = value_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    for value, place in ticks:
        assert low * 10 ** (place * math.log10(high / low)) == pytest.approx(value)
        assert -1e-9 <= place <= 1 + 1e-9


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(0, [0, 1]), (1, [0, 1]), (9, [0, 5, 10]), (40, [0, 10, 20, 30, 40]), (41, [0, 20, 40, 60])],
)
def test_ticks_of_counts_are_whole(most, ticks):
    assert count_ticks(most) == ticks


def test_the_page_is_whole_and_the_same_each_time(folder, tmp_path):
    files = {f"<b>{i}.jpg": encoded(i, size=(20, 70)) for i in range(5)} | {
        "cut.jpg": encoded(0)[:200]
    }
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1))
    for name in ("one", "two"):
        write_page(stats(tmp_path / "out"), tmp_path / f"{name}.html")
    text = (tmp_path / "one.html").read_text()
    assert text == (tmp_path / "two.html").read_text()
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', text)
    assert sorted(key for _, key in pictures) == [f"&lt;b&gt;{i}" for i in range(5)]
    for data, _ in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (96, 96)
    assert "cut.jpg" in text
    assert "truncated" in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("<div") == text.count("</div>")
    assert text.count("<table") == text.count("<thead")


def test_bars_are_as_long_as_their_counts(folder, tmp_path):
    files = {f"{i}.jpg": encoded(i) for i in range(4)} | {
        f"{i}.png": encoded(9 + i, "PNG") for i in range(3)
    }
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1))
    write_page(stats(tmp_path / "out"), tmp_path / "page.html")
    rows = r"(JPEG|PNG)</th><td class=\"number\">(\d)</td><td class=\"share\"><i style=\"width: ([\d.]+)%"
    assert re.findall(rows, (tmp_path / "page.html").read_text()) == [
        ("JPEG", "4", "100.0"),
        ("PNG", "3", "75.0"),
    ]


def test_what_is_summed_up_has_no_bar_and_dwarfs_none():
    counts = {f"c{i:02}": 20 - i for i in range(20)}
    rows = _bars(counts)
    assert rows[0] == ("c00", 20, 100.0)
    assert rows[-1] == ("5 others", 1 + 2 + 3 + 4 + 5, None)
    assert sum(count for _, count, _ in rows) == sum(counts.values())
    assert _bars({REST: 1000, "a": 4, "b": 2}) == [
        ("a", 4, 100.0),
        ("b", 2, 50.0),
        ("all others", 1000, None),
    ]


def test_classes_come_first_with_their_number(folder, tmp_path):
    files = {f"{name}/{i}.jpg": encoded(i) for name in ("b", "a") for i in range(3)}
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1, labels=True))
    write_page(stats(tmp_path / "out"), tmp_path / "page.html")
    cards = re.findall(r"<h3>(\w[\w ]*) <span>([^<]*)</span>", (tmp_path / "page.html").read_text())
    names = [name for name, _ in cards]
    assert names.index("Classes") < names.index("Sources") < names.index("Formats")
    assert dict(cards)["Classes"] == "2"


def test_names_neither_turn_around_nor_hide_what_follows(folder, tmp_path):
    name = "x" * 90 + "\u202egpj"
    files = {f"{name}/{i}.jpg": encoded(i) for i in range(3)} | {"\u200bbad\u202e.jpg": b"no image"}
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1, labels=True))
    write_page(stats(tmp_path / "out"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.replace("\n", "").isprintable()
    assert "\\u200bbad\\u202e.jpg" in page
    (row,) = re.findall(r'<th scope="row">(x+….*?)</th>', page)[:1]
    assert row.endswith("x\\u202egpj")


def test_axes_have_ticks_and_say_what_is_not_drawn(folder, tmp_path, monkeypatch):
    files = {f"{i}.jpg": encoded(i, size=(40 + i, 60)) for i in range(10)}
    files |= {"wide.jpg": encoded(11, size=(40, 900)), "narrow.jpg": encoded(12, size=(40, 9))}
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1))
    monkeypatch.setattr("shards.report.stats.OUTSIDE", 0.1)
    write_page(stats(tmp_path / "out"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Median 60. Not drawn: 1 below 60, down to 9; 1 above 60.6, up to 900." in text
    (place, title) = re.findall(r'<p class="place">(.*?)</p>\n<h1>(.*?)</h1>', text)[0]
    assert (place, title) == (str(tmp_path / "out"), "out")
    (height,) = re.findall(r'<svg [^>]*aria-label="Height from[^>]*>(.*?)</svg>', text, re.DOTALL)
    labels = re.findall("<text[^>]*>([^<]*)</text>", height)
    assert "0" in labels
    assert len(labels) >= 4


def test_duplicates_are_shown_beside_what_they_repeat(folder, tmp_path):
    files = {f"{i}.jpg": encoded(i, size=(48, 64)) for i in range(6)}
    files |= {"x/same.jpg": files["0.jpg"], "x/near.png": encoded(1, "PNG", size=(24, 32))}
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1, shuffle=False, shard_size=3))
    figures = stats(tmp_path / "out", near=True)
    exact, near = figures["pairs"]
    assert (exact["keys"], exact["distance"]) == (["0", "x/same"], None)
    assert near["keys"] == ["1", "x/near"]
    assert near["distance"] >= 0
    assert stats(tmp_path / "out")["pairs"] == [exact]
    write_page(figures, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    pairs = re.findall(r'<li class="card pair">(.*?)</li>', text, re.DOTALL)
    shown = [re.findall(r'base64,([^"]+)" alt="([^"]+)"', pair) for pair in pairs]
    assert [[key for _, key in pair] for pair in shown] == [["0", "x/same"], ["1", "x/near"]]
    sizes = [[Image.open(io.BytesIO(base64.b64decode(d))).size for d, _ in pair] for pair in shown]
    assert sizes == [[(64, 48), (64, 48)], [(64, 48), (32, 24)]]  # whole, and never enlarged
    assert "Equal bytes" in pairs[0]
    assert f"Near: {near['distance']} of 64 bits" in pairs[1]


def test_pairs_are_few_and_the_first(folder, tmp_path):
    data = encoded(0)
    build(
        [folder({f"{i:02}.jpg": data for i in range(20)})],
        tmp_path / "out",
        BuildOptions(workers=1),
    )
    figures = stats(tmp_path / "out")
    assert figures["duplicates"] == 19
    assert [pair["places"] for pair in figures["pairs"]] == [[0, i] for i in range(1, 13)]


def test_the_page_says_how_the_shards_were_built(folder, tmp_path):
    images = folder({f"{i}.jpg": encoded(i, size=(48, 64)) for i in range(6)})
    test = folder({"a.jpg": encoded(1, size=(48, 64)), "b.jpg": encoded(4, size=(48, 64))}, "test")
    other = folder({"z.jpg": encoded(40, size=(48, 64))}, "other")
    unwanted = DedupOptions(exclude=[str(test), str(other)])
    options = BuildOptions(workers=1, shard_size=2, unwanted=unwanted)
    build([images], tmp_path / "out", options)
    figures = stats(tmp_path / "out")
    assert figures["build"]["excluded"] == {str(test): 2, str(other): 0}
    assert set(figures["build"]["changed"]) == {"shard_size", "exclude"}  # nobody gave a distance
    text = lines(figures)
    assert f"evaluation set {test}: 2 images left out" in text
    assert f"evaluation set {other}: 0 images left out" in text
    write_page(figures, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for path, count in ((test, 2), (other, 0)):
        row = rf'<code>{path}</code></th><td class="number">{count}</td>'
        assert re.search(row, page)
    assert re.search(r"<code>shard_size</code></th><td[^>]*>2</td>", page)
    assert str(images) in page


def test_an_evaluation_set_that_was_given_from_elsewhere_is_the_same(tmp_path):
    for path in ("test", "./test", "../b/test", "/a/b/test", "b/test/"):
        assert _is_tail(path, "/a/b/test"), path
    for path in ("est", "a/test", "other"):
        assert not _is_tail(path, "/a/b/test"), path


def test_no_evaluation_set_and_no_build_are_told(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1))
    write_page(stats(tmp_path / "out"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "None was named" in page
    assert "All as they are by default." in page
    assert "No exact duplicates; near ones were not looked for" in page
    (tmp_path / "tars").mkdir()
    pack(tmp_path / "tars" / "x.tar", [("a.jpg", encoded(0)), ("b.jpg", encoded(1))])
    index([tmp_path / "tars" / "x.tar"], workers=1)
    write_page(stats(tmp_path / "tars"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "these tars were not built by seer shards build" in page


def test_missing_index_is_one_line(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1))
    index_path(tmp_path / "out" / "shard-000000.tar").unlink()
    with pytest.raises(InputError, match="run: seer shards index"):
        stats(tmp_path / "out")


def test_a_page_that_cannot_be_written_is_told_before_the_work(photos, tmp_path, monkeypatch):
    build([photos], tmp_path / "out", BuildOptions(workers=1))
    monkeypatch.setattr("shards.report.stats.stats", lambda *_: pytest.fail("the work was begun"))
    (tmp_path / "file").write_text("x")
    for page, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "x.html", "is a file, not a folder"),
        (tmp_path / "file" / "y" / "x.html", "is a file, not a folder"),
        ("/proc/x.html", "cannot be written"),
    ):
        result = CliRunner().invoke(
            app, ["shards", "stats", str(tmp_path / "out"), "--page", str(page)]
        )
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)


def test_names_that_are_no_utf8(tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    root.mkdir()
    for i in range(3):
        (root / os.fsdecode(b"%d\xe9.jpg" % i)).write_bytes(encoded(i))
    pack(
        root / os.fsdecode(b"t\xe9.tar"), [(os.fsdecode(b"m\xe9.jpg"), encoded(4)), ("m.cls", b"1")]
    )
    pq.write_table(pa.table({"jpg": [encoded(5)]}), tmp_path / "list.parquet")
    (tmp_path / "list.parquet").rename(root / os.fsdecode(b"l\xe9.parquet"))
    out = tmp_path / os.fsdecode(b"o\xe9")
    sources = [root, root / os.fsdecode(b"l\xe9.parquet")]
    assert build(sources, out, BuildOptions(workers=1)).samples == 5
    assert verify(out, workers=1).ok
    figures = stats(out)
    assert any("caf\\xe9" in source for source in figures["sources"])
    write_page(figures, tmp_path / os.fsdecode(b"p\xe9.html"))
    json.dumps(figures, allow_nan=False)
