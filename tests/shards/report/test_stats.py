import base64
import io
import json
import os
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from seer.cli import app
from seer.data.storage.index import index_path
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.report.page import write_page
from shards.report.stats import _commonest, _origin, lines, stats
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


def test_histograms_hold_every_image(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1))
    for histogram in stats(tmp_path / "out")["histograms"].values():
        assert sum(histogram["counts"]) == 20
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1


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


def test_bars_are_as_long_as_their_counts(folder, tmp_path):
    files = {f"{i}.jpg": encoded(i) for i in range(4)} | {
        f"{i}.png": encoded(9 + i, "PNG") for i in range(3)
    }
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1))
    write_page(stats(tmp_path / "out"), tmp_path / "page.html")
    rows = r"<td>(JPEG|PNG)</td><td>(\d)</td><td><i style=\"width: ([\d.]+)%\">"
    assert re.findall(rows, (tmp_path / "page.html").read_text()) == [
        ("JPEG", "4", "100.0"),
        ("PNG", "3", "75.0"),
    ]


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
