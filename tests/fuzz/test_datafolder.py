"""Whatever stands in a data folder is input: each of its files damaged by what it may hold, by
bytes and by links.
"""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from seer.data import ledger
from seer.data.labelled import load_labelled
from seer.data.storage import index as format
from seer.data.storage.index import (
    EXTRAS,
    MANIFEST,
    MANIFEST_SCHEMA,
    METADATA_KEY,
    UNSEALED,
    Manifest,
    index_path,
    read_index,
)
from seer.data.storage.reader import Reader
from seer.data.storage.remote import FetchConfig
from seer.rundir.names import DAMAGED, SKIPPED
from shards import prune, takedown
from shards.build import BuildOptions, build
from shards.dedup.known import of_dataset, of_list
from shards.indexing import index, index_on_first_use
from shards.options import DedupOptions
from shards.records import state
from shards.report.stats import stats
from shards.verify import verify
from tests.kit.faults import at_change, killed
from tests.kit.fuzzing import World, damaged_bytes, fuzz, trial
from tests.kit.pictures import encoded
from tests.kit.servers import be_impatient, files, serve
from tests.kit.strategies import spoiled

OPTIONS = BuildOptions(workers=1, shard_size=3, labels=True, unwanted=DedupOptions("exact"))
SHARD = "shard-000000.tar"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Eight images in two classes, one of them twice, one damaged; and a tar of two with masks."""
    root = tmp_path_factory.mktemp("sources")
    for number in range(8):
        path = root / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(min(number, 6), size=(8, 8)))
    (root / "a/broken.jpg").write_bytes(encoded(9)[:200])
    with tarfile.open(root / "a/more.tar", "w") as tar:
        for name in ("x.jpg", "x.mask.png", "x.json", "y.jpg", "y.mask.png"):
            data = encoded(20 + ord(name[0]), size=(8, 8))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return root


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory) -> Path:
    """A whole data set, of which an image was removed."""
    out = tmp_path_factory.mktemp("finished") / "data"
    build([sources], out, OPTIONS)
    key = read_index(index_path(out / SHARD))["key"][0].as_py()
    (out.parent / "keys.txt").write_text(key)
    takedown.remove(out, out.parent / "keys.txt", "keys", workers=1)
    return out


@pytest.fixture(scope="module")
def removing(sources, tmp_path_factory) -> dict[bool, Path]:
    """A data set whose removal was killed: before (False) and after (True) the manifest was
    replaced.
    """
    before, after = (tmp_path_factory.mktemp("removing") / name for name in ("before", "after"))
    build([sources], before, OPTIONS)
    manifest = Manifest.load(before)
    old = (before / MANIFEST).read_bytes()
    with state.held(before, takedown.STATE):
        takedown._replace(manifest, {SHARD: np.array([0])}, {"by": "keys", "list": "list"}, 1, None)
    shutil.copytree(before, after)
    (before / MANIFEST).write_bytes(old)
    return {False: before, True: after}


@pytest.fixture(scope="module")
def building(sources, tmp_path_factory) -> Path:
    """A build that was killed while duplicates were taken out: one shard waits in its state."""
    root = tmp_path_factory.mktemp("building")
    for moment in range(40):
        out = root / str(moment)
        assert killed(at_change(moment, False, "replace"), build, [sources], out, OPTIONS)
        if any(
            json.loads(path.read_text()).get("staged")
            for path in (out / state.STATE).glob("*.tar.json")
        ):
            return out
    raise AssertionError("no shard was ever staged")


def read(folder: Path) -> None:
    reader = Reader(Manifest.load(folder))
    ids = np.unique(np.array([0, 1, 2, 3, len(reader) - 1]).clip(0, len(reader) - 1))
    reader.read(ids)
    reader.read_samples(ids, ("mask.png", "json"))
    reader.labels(ids)
    reader.next_in_shard(0)


def remove(folder: Path) -> None:
    (folder.parent / "keys").write_text("a/0\nb/1\nnobody\n")
    try:
        takedown.remove(folder, folder.parent / "keys", "keys", workers=1)
    finally:
        (folder.parent / "keys").unlink()


READERS: list[Callable[[Path], object]] = [
    read,
    load_labelled,
    of_dataset,
    lambda folder: stats(folder, pictures=2),
    lambda folder: verify(folder, workers=1),
]
WRITERS: list[Callable[[Path], object]] = [
    remove,
    takedown.settle,
    lambda folder: verify(folder, workers=1, repair=True),
    lambda folder: index([folder], workers=1),
    lambda folder: index_on_first_use([str(folder)], lambda _: nullcontext(lambda *_: None)),
]
everything = st.sampled_from([*READERS, *WRITERS])


@pytest.fixture
def strangers(tmp_path) -> Callable[[Path], World]:
    """A copy of a data set in a fresh world."""

    def copy(folder: Path) -> World:
        shutil.rmtree(tmp_path / "world", ignore_errors=True)
        world = World(tmp_path / "world")
        shutil.copytree(folder, world.folder, dirs_exist_ok=True, symlinks=True)
        return world

    return copy


def forge(path: Path, rows: object, schema: pa.Schema) -> None:
    """Write rows of any kind as the true writer does, sealed; of other columns where the schema
    does not take them.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        reject()
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        try:
            table = pa.Table.from_pylist(rows).replace_schema_metadata(schema.metadata)
        except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError):
            reject()
    try:
        format._write(path, table, table.schema)
    except (pa.ArrowException, OSError):
        reject()


@fuzz(6)
@given(st.data())
def test_manifests(finished, strangers, data):
    world = strangers(finished)
    table = Manifest.load(finished).table
    note = json.loads(table.schema.metadata[METADATA_KEY])
    rows = table.select(MANIFEST_SCHEMA.names).to_pylist()
    if data.draw(st.booleans()):
        rows = data.draw(spoiled(rows))
    else:
        note = data.draw(spoiled(note))
    schema = MANIFEST_SCHEMA.with_metadata({METADATA_KEY: json.dumps(note).encode()})
    forge(world.folder / MANIFEST, rows, schema)
    trial(world, data.draw(everything), world.folder)


@fuzz(6)
@given(st.data())
def test_indices(finished, strangers, data):
    world = strangers(finished)
    path = data.draw(st.sampled_from(sorted(world.folder.glob("*.index.parquet"))))
    rows = read_index(path).to_pylist()
    with_extras = [place for place, row in enumerate(rows) if row[EXTRAS]]
    if with_extras and data.draw(st.booleans()):
        place = with_extras[0]
        rows[place] |= {EXTRAS: data.draw(spoiled(rows[place][EXTRAS]))}
    else:
        rows = data.draw(spoiled(rows))
    forge(path, rows, format.INDEX_SCHEMA)
    trial(world, data.draw(everything), world.folder)


@pytest.mark.parametrize("done", [False, True])
@fuzz(6)
@given(st.data())
def test_journals(removing, strangers, done, data):
    world = strangers(removing[done])
    path = (
        world.folder
        / takedown.STATE
        / data.draw(st.sampled_from([takedown.JOURNAL, takedown.ENTRIES]))
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    spoil_rows(data, path, rows)
    tars = set(world.folder.glob("*.tar"))
    said = trial(world, data.draw(st.sampled_from(WRITERS)), world.folder)
    if said and path.exists():
        assert set(world.folder.glob("*.tar")) == tars
    trial(world, data.draw(everything), world.folder)


def spoil_rows(data: st.DataObject, path: Path, rows: list) -> None:
    """Write rows of JSON, one of them damaged, or all of them as one."""
    place = data.draw(st.integers(0, len(rows) - 1))
    rows = [*rows[:place], data.draw(spoiled(rows[place])), *rows[place + 1 :]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@fuzz(5)
@given(st.data())
def test_states_of_builds(building, sources, strangers, data):
    world = strangers(building)
    path = data.draw(
        st.sampled_from(
            sorted(p for p in (world.folder / state.STATE).iterdir() if p.suffix == ".json")
        )
    )
    path.write_text(json.dumps(data.draw(spoiled(json.loads(path.read_text())))))
    trial(world, build, [sources], world.folder, OPTIONS)


@fuzz(5)
@given(st.data())
def test_removals_of_builds(building, sources, strangers, data):
    world = strangers(building)
    path = world.folder / state.STATE / prune.REMOVALS
    table = prune.REMOVALS_FORMAT.parse(path.read_bytes())
    forge(path, data.draw(spoiled(table.to_pylist())), prune.REMOVALS_FORMAT.schema)
    trial(world, build, [sources], world.folder, OPTIONS)


@pytest.mark.parametrize("name", ["quarantine.jsonl", "removed.jsonl"])
@fuzz(5)
@given(st.data())
def test_logs(finished, strangers, name, data):
    world = strangers(finished)
    path = world.folder / name
    spoil_rows(data, path, [json.loads(line) for line in path.read_text().splitlines()])
    trial(world, data.draw(everything), world.folder)
    trial(world, of_list, path)


@fuzz(10)
@given(st.data())
def test_ledgers(strangers, tmp_path, data):
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    ledger.write(
        run, 0, [ledger.Damaged(3, 1, 2, "truncated"), ledger.Damaged(5, 1, 2, "truncated")]
    )
    ledger.skip(run, [3, 4], "not finite", lambda step: ["a/0"])
    world = strangers(run)
    for path in (world.folder / SKIPPED, next((world.folder / DAMAGED).iterdir())):
        spoil_rows(data, path, [json.loads(line) for line in path.read_text().splitlines()])
    trial(world, ledger.read, world.folder, 100)
    trial(world, ledger.skipped, world.folder)


def all_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".tar" and path.stat().st_size
    )


@pytest.mark.parametrize("which", ["finished", "before", "after", "building"])
@fuzz(6)
@given(st.data())
def test_bytes(finished, removing, building, sources, strangers, which, data):
    folder = {
        "finished": finished,
        "before": removing[False],
        "after": removing[True],
        "building": building,
    }[which]
    world = strangers(folder)
    path = data.draw(st.sampled_from(all_files(world.folder)))
    content = path.read_bytes()
    if path.suffix == ".parquet" and data.draw(st.booleans()):
        path.write_bytes(resealed(data.draw(damaged_bytes(unsealed(content)))))
    else:
        path.write_bytes(data.draw(damaged_bytes(content)))
    use = (
        data.draw(everything)
        if which != "building"
        else (lambda folder: build([sources], folder, OPTIONS))
    )
    trial(world, use, world.folder)


def unsealed(content: bytes) -> bytes:
    """A sealed Parquet file as it was before it was sealed."""
    import pyarrow.parquet as pq

    seal = (pq.read_metadata(pa.BufferReader(content)).metadata or {}).get(format.SEAL_KEY)
    return UNSEALED.join(content.rsplit(seal, 1)) if seal else content


def resealed(content: bytes) -> bytes:
    return format._sealed(content)


@pytest.mark.parametrize("which", ["finished", "before", "after", "building"])
@fuzz(6)
@given(st.data())
def test_links_and_pipes(finished, removing, building, sources, strangers, which, data):
    """In a file's place a link to a file, a folder or nothing outside, a pipe, or a folder."""
    folder = {
        "finished": finished,
        "before": removing[False],
        "after": removing[True],
        "building": building,
    }[which]
    world = strangers(folder)
    names = sorted(str(path.relative_to(world.folder)) for path in world.folder.rglob("*"))
    more = [
        ".indexing",
        ".removal",
        ".build",
        ".removal/lock",
        ".build/lock",
        ".build/alone",
        ".removal/new",
    ]
    more += [
        "shard-000000.r1.tar",
        "shard-000001.r1.tar",
        ".build/shard-000001.tar.new",
        ".build/removals.parquet",
    ]
    path = world.folder / data.draw(st.sampled_from([*names, *more]))
    if path.parent.is_dir():
        put_in_the_way(
            data.draw(st.sampled_from(["file", "copy", "folder", "nothing", "pipe", "directory"])),
            path,
            world,
        )
    use = (
        data.draw(everything)
        if which != "building"
        else (lambda folder: build([sources], folder, OPTIONS))
    )
    trial(world, use, world.folder)


def put_in_the_way(what: str, path: Path, world: World) -> None:
    victim = world.root / "victim"
    if what == "copy" and path.exists():  # what it was, but elsewhere
        shutil.move(path, victim / "moved")
        path.symlink_to(victim / "moved")
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "directory":
        (path / "full").mkdir(parents=True)
    else:
        path.symlink_to(
            {"file": victim / "x", "folder": victim, "nothing": victim / "new", "copy": victim}[
                what
            ]
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch, serve(files(root)) as running:
        be_impatient(patch)
        yield running.url, root


@pytest.mark.parametrize("fetch", ["ranges", "shards"])
@fuzz(5)
@given(st.data())
def test_stores(finished, strangers, server, fetch, tmp_path, data):
    """The cache lies in the folder of the world that may change; the data come from elsewhere."""
    url, root = server
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(finished, root)
    (tmp_path / "empty").mkdir(exist_ok=True)
    world = strangers(tmp_path / "empty")
    schema = MANIFEST_SCHEMA.with_metadata(
        {METADATA_KEY: Manifest.load(finished).table.schema.metadata[METADATA_KEY]}
    )
    rows = data.draw(spoiled(Manifest.load(finished).table.to_pylist()))
    forge(root / MANIFEST, rows, schema)

    def read() -> None:
        reader = Reader(Manifest.load(url), FetchConfig(fetch, str(world.folder / "cache"), 0.01))
        reader.read(np.arange(min(4, len(reader))))

    trial(world, read)
