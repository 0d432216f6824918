"""Builds from the web, or from what a server on loopback makes of it."""

import json
import os
import random
import signal
from dataclasses import replace

import pytest
import webdataset

from seer.data.storage.index import Manifest, index_path, read_index
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.options import DownloadOptions
from shards.records import quarantine
from shards.verify import verify
from shards.writing import pipeline
from tests.kit.downloads import picture, serve
from tests.kit.faults import contents
from tests.kit.pictures import encoded

pytestmark = pytest.mark.usefixtures("impatient")
DOWNLOAD = DownloadOptions(allow_private=True, per_host=64, connections=32)
# For pages that would take for ever.
HASTY = replace(DOWNLOAD, read_timeout=1, timeout=5, retries=1)
OPTIONS = BuildOptions(workers=1, shard_size=10, download=DOWNLOAD)


def listed(tmp_path, server, paths, name="urls.jsonl"):
    """A list of the server's pages, with captions."""
    lines = (
        json.dumps({"url": server(path), "text": f"of {path}", "license": "CC0"}) for path in paths
    )
    (tmp_path / name).write_text("\n".join(lines))
    return tmp_path / name


def samples(out):
    """`{source: (index row, sample)}`"""
    found = {}
    for shard in Manifest.load(out).shards:
        rows = read_index(index_path(out / shard)).to_pylist()
        read = list(webdataset.WebDataset(str(out / shard), shardshuffle=False))
        assert [row["key"] for row in rows] == [sample["__key__"] for sample in read]
        found |= {row["source"]: (row, sample) for row, sample in zip(rows, read, strict=True)}
    return found


TROUBLE = {
    "status/404": "HTTP 404",
    "status/500": "HTTP 500",
    "reset/x": "connection broken",
    "cut/x": "cut short",
    "stall/x": "timed out (reading)",
    "endless/x": "too many bytes (more than 50,000)",
    "robots/x?tag=noai": "robots tag (noai)",
    "html/x": "not an image",
}


def test_what_can_be_had_is_had_and_the_rest_is_in_the_ledger(server, tmp_path):
    good = [f"ok/{i}" for i in range(30)] + [f"flaky/1/{i}" for i in range(5)] + ["late/200/7"]
    source = listed(tmp_path, server, [*good, *TROUBLE])
    options = replace(OPTIONS, download=replace(HASTY, max_bytes=50_000))
    done = []
    report = build([source], tmp_path / "out", options, lambda *now: done.append(now))
    found = samples(tmp_path / "out")
    assert found.keys() == {server(path) for path in good}
    for path in good:
        row, sample = found[server(path)]
        assert sample["jpg"] == picture(int(path.rpartition("/")[2]))
        assert sample["txt"].decode() == f"of {path}"
        assert json.loads(sample["json"]) == {"url": server(path), "licence": "CC0"}
        assert row["key"].startswith("urls/")
    entries = {entry["source"]: entry for entry in quarantine.read(tmp_path / "out")}
    assert {source: entry["reason"] for source, entry in entries.items()} == {
        server(p): r for p, r in TROUBLE.items()
    }
    assert entries[server("status/404")]["attempts"] == 1
    assert entries[server("status/500")]["attempts"] == 2
    assert entries[server("html/x")]["attempts"] == 1
    assert report.samples == 36
    assert (done[0], done[-1]) == ((0, 44), (44, 44))
    assert verify(tmp_path / "out", workers=1).ok


def test_order_is_that_of_the_list_and_not_of_arrival(server, tmp_path):
    draw = random.Random(0)
    paths = [f"late/{draw.randrange(60)}/{i}" for i in range(40)]
    source = listed(tmp_path, server, paths)
    build([source], tmp_path / "out", replace(OPTIONS, shuffle=False))
    assert list(samples(tmp_path / "out")) == [server(path) for path in paths]
    build([source], tmp_path / "again", replace(OPTIONS, shuffle=False, workers=2))
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_everything_on_one_command_line(server, tmp_path, photos):
    with webdataset.TarWriter(str(tmp_path / "in.tar"), encoder=False) as writer:
        writer.write({"__key__": "t", "png": encoded(0, "PNG"), "txt": b"words"})
    source = listed(tmp_path, server, [f"ok/{i}" for i in range(10)])
    files = tmp_path / "files.txt"
    files.write_text("".join(f"file://{path}\n" for path in sorted(photos.rglob("*.jpg"))))
    report = build([photos, tmp_path / "in.tar", source, files], tmp_path / "out", OPTIONS)
    found = samples(tmp_path / "out")
    assert report.samples == len(found) == 51
    assert found["in.tar/t.png"][1]["txt"] == b"words"
    assert (
        found[f"file://{photos}/cat/00.jpg"][1]["jpg"]
        == found[f"{photos}/cat/00.jpg"][1]["jpg"]
        == encoded(0)
    )
    assert verify(tmp_path / "out", workers=1).ok


def test_a_straggler_does_not_hold_up_the_blocks_behind_it(server, tmp_path):
    """The first URL is answered only when all others have been asked for, blocks later."""
    others = pipeline.OPEN_BLOCKS * 10 - 1
    paths = [f"last/{others}", *(f"ok/{i}" for i in range(others))]
    server.asked.clear()
    patient = replace(OPTIONS, shuffle=False, download=replace(DOWNLOAD, retries=0))
    build([listed(tmp_path, server, paths)], tmp_path / "out", patient)
    assert list(samples(tmp_path / "out")) == [server(path) for path in paths]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again_and_the_same_bytes_in_the_end(server, tmp_path, seed):
    paths = [*(f"ok/{i}" for i in range(50)), "status/404", "html/x", "robots/x?tag=noai"]
    source = listed(tmp_path, server, paths)
    build([source], tmp_path / "whole", OPTIONS)
    draw = random.Random(seed)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, lambda *_: die())
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.02, 0.15))
            build([source], tmp_path / "out", OPTIONS)
            os._exit(0)
        draw.random()
        os.waitpid(child, 0)
    build([source], tmp_path / "out", OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_too_few_successes_end_the_build_and_nothing_is_lost(server, tmp_path):
    paths = [
        *(f"ok/{i}" for i in range(20)),
        *(f"status/404/{i}" for i in range(60)),
        *(f"ok/{i}" for i in range(20)),
    ]
    source = listed(tmp_path, server, paths)
    strict = replace(DOWNLOAD, min_success=0.5, window=20)
    options = replace(OPTIONS, shuffle=False, download=strict)
    with pytest.raises(
        InputError, match=r"only \d of the last 20 downloads succeeded \(\d+ HTTP 404\), .* 0\.5; "
    ) as it:
        build([source], tmp_path / "out", options)
    assert "\n" not in str(it.value)
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    records = {
        path.name: json.loads(path.read_text())
        for path in (tmp_path / "out" / ".build").glob("shard-*.json")
    }
    assert all(record["samples"] for record in records.values()), (
        "a shard of failures counts as finished"
    )
    with pytest.raises(InputError, match="only"):  # in several processes as well
        build([source], tmp_path / "out", replace(options, workers=2))
    lax = replace(options, download=replace(strict, min_success=0))
    assert build([source], tmp_path / "out", lax).samples == 40
    build([source], tmp_path / "whole", lax)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_list_of_dead_hosts_ends(tmp_path, server):
    """Nobody listens at these addresses, or somebody who never answers."""
    urls = [f"http://127.0.{i % 250}.{1 + i // 250}:9/x.jpg" for i in range(500)] + [
        server(f"silent/{i}") for i in range(30)
    ]
    options = replace(OPTIONS, shard_size=200, download=replace(HASTY, min_success=0))
    with serve("127.0.0.2") as alive:
        (tmp_path / "dead.txt").write_text("\n".join([*urls, alive("ok/1")]))
        report = build([tmp_path / "dead.txt"], tmp_path / "out", options)
    assert report.samples == 1
    assert report.quarantined["cannot connect"] == 500
    assert report.quarantined.get("timed out", 0) + report.quarantined.get("host given up", 0) == 30


def test_private_addresses_need_to_be_allowed(server, tmp_path):
    source = listed(tmp_path, server, ["ok/1"])
    with pytest.raises(InputError, match="none of 1 images is usable: 1 private address"):
        build(
            [source],
            tmp_path / "out",
            replace(OPTIONS, download=replace(DOWNLOAD, allow_private=False)),
        )
    assert not (tmp_path / "out").exists()


def test_what_decides_the_content_is_part_of_the_identity(server, tmp_path):
    source = listed(tmp_path, server, ["ok/1", "ok/2"])
    build([source], tmp_path / "out", OPTIONS)
    faster = replace(DOWNLOAD, connections=7, retries=9, timeout=99, min_success=0)
    assert build([source], tmp_path / "out", replace(OPTIONS, download=faster)).already_complete
    for download_options in (
        replace(DOWNLOAD, max_bytes=7),
        replace(DOWNLOAD, ignore_robots_tag=True),
    ):
        with pytest.raises(InputError, match="holds another build"):
            build([source], tmp_path / "out", replace(OPTIONS, download=download_options))
    with pytest.raises(InputError, match="columns was none, now url=url"):
        build([source], tmp_path / "out", replace(OPTIONS, columns="url=url"))
