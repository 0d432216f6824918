import io
import json
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from typer.testing import CliRunner

from seer.cli import app
from seer.data.storage.index import MANIFEST, Manifest, index_path, read_index, write_index
from seer.data.storage.reader import Reader
from seer.errors import InputError
from shards import takedown
from shards.build import BuildOptions, build
from shards.indexing import index
from shards.records import state
from shards.takedown import REMOVED, read_log, remove
from shards.verify import verify
from tests.kit.faults import at_change, contents, killed
from tests.kit.pictures import encoded


@pytest.fixture
def shards(photos, tmp_path):
    """Twenty labelled images in shards of eight, eight and four."""
    build([photos], tmp_path / "out", BuildOptions(workers=1, shard_size=8, labels=True))
    return tmp_path / "out"


@pytest.fixture
def listed(tmp_path):
    def write(*lines: str):
        (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
        return tmp_path / "list.txt"

    return write


def rows(out):
    return [
        row
        for shard in Manifest.load(out).shards
        for row in read_index(index_path(out / shard)).to_pylist()
    ]


def images(out):
    """`{key: (image, label)}` as training reads them."""
    reader, ids = Reader(Manifest.load(out)), np.arange(len(rows(out)))
    read = zip(reader.read(ids), reader.labels(ids).tolist(), strict=True)
    return dict(zip((row["key"] for row in rows(out)), read, strict=True))


def of(shards, number, row):
    return read_index(index_path(shards / f"shard-{number:06}.tar")).to_pylist()[row]


@pytest.mark.parametrize(
    ("by", "column"), [("keys", "key"), ("urls", "source"), ("hashes", "sha256")]
)
def test_what_is_named_goes_and_all_else_stays(shards, listed, by, column):
    before, files, names = images(shards), contents(shards), Manifest.load(shards).shards
    gone = [of(shards, 0, 3), of(shards, 0, 7), of(shards, 2, 0)]
    entries = [row[column].hex() if by == "hashes" else row[column] for row in gone]
    report = remove(shards, listed(*entries), by, workers=1)
    assert (report.removed, report.shards, report.unknown, report.samples, report.ok) == (
        3,
        2,
        0,
        17,
        True,
    )
    keys = {row["key"] for row in gone}
    assert images(shards) == {key: image for key, image in before.items() if key not in keys}
    assert list(images(shards)) == [key for key in before if key not in keys]
    assert Manifest.load(shards).shards == ["shard-000000.r1.tar", names[1], "shard-000002.r1.tar"]
    assert Manifest.load(shards).classes == ["cat", "dog"]
    assert Manifest.load(shards).build["removed"] == 3
    assert verify(shards, workers=1).ok
    for name in (names[1], index_path(shards / names[1]).name):
        assert contents(shards)[name] == files[name]
    assert {p.name for p in shards.iterdir()} == {MANIFEST, REMOVED} | {
        name
        for shard in Manifest.load(shards).shards
        for name in (shard, index_path(shards / shard).name)
    }
    text = b"".join(path.read_bytes() for path in shards.glob("*.tar"))
    assert not any(before[key][0] in text for key in keys)


def test_other_readers_find_a_plain_tar(shards, listed):
    before = images(shards)
    gone = of(shards, 1, 2)["key"]
    remove(shards, listed(gone), "keys", workers=1)
    path = shards / "shard-000001.r1.tar"
    listing = subprocess.run(
        ["tar", "tf", path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(listing) == 14
    assert not any(name.startswith(gone) for name in listing)
    assert path.stat().st_size % tarfile.RECORDSIZE == 0
    for sample in webdataset.WebDataset(str(path), shardshuffle=False):
        assert (sample["jpg"], int(sample["cls"])) == before[sample["__key__"]]


def test_the_log_resolves_old_sample_ids(shards, listed):
    old, before = Manifest.load(shards), rows(shards)
    gone = of(shards, 1, 5)
    file = listed(gone["key"])
    remove(shards, file, "keys", workers=1)
    (entry,) = read_log(shards)
    place = old.sizes[: old.shards.index(entry["shard"])].sum() + entry["row"]
    assert before[place]["key"] == entry["key"] == gone["key"]
    assert (entry["sha256"], entry["source"]) == (gone["sha256"].hex(), gone["source"])
    assert int(entry["phash"], 16) == gone["phash"]
    assert (entry["manifest_before"], entry["manifest_after"]) == (
        old.hash,
        Manifest.load(shards).hash,
    )
    assert (entry["by"], entry["list"], entry["becomes"]) == (
        "keys",
        str(file),
        "shard-000001.r1.tar",
    )
    assert entry["time"].endswith("+00:00")


def test_again_and_again(shards, listed):
    first, second = of(shards, 0, 0)["key"], of(shards, 0, 1)["key"]
    remove(shards, listed(first), "keys", workers=1)
    report = remove(shards, listed(first, second, "nobody"), "keys", workers=1)
    assert (report.removed, report.already, report.unknown, report.first_unknown) == (
        1,
        1,
        1,
        "nobody",
    )
    assert len(report.lines()) == 3
    assert Manifest.load(shards).shards[0] == "shard-000000.r2.tar"
    assert [entry["key"] for entry in read_log(shards)] == [first, second]
    after = contents(shards)
    report = remove(shards, listed(first, second), "keys", workers=1)
    assert (report.removed, report.already, report.ok) == (0, 2, True)
    assert remove(shards, shards / REMOVED, "hashes", workers=1).already == 2
    assert not remove(shards, listed("nobody"), "keys", workers=1).ok
    assert contents(shards) == after


def test_a_shard_that_loses_all_goes(shards, listed):
    remove(shards, listed(*(of(shards, 2, row)["key"] for row in range(4))), "keys", workers=1)
    assert Manifest.load(shards).shards == ["shard-000000.tar", "shard-000001.tar"]
    assert not list(shards.glob("shard-000002*"))
    assert {entry["becomes"] for entry in read_log(shards)} == {None}
    assert verify(shards, workers=1).ok


def test_two_workers_do_the_same(shards, listed, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    file = listed(of(shards, 0, 3)["key"], of(shards, 1, 3)["key"], of(shards, 2, 3)["key"])
    remove(shards, file, "keys", workers=1)
    remove(tmp_path / "copy", file, "keys", workers=2)
    one, other = contents(shards), contents(tmp_path / "copy")
    assert {**one, REMOVED: ""} == {**other, REMOVED: ""}  # the log has the time


def test_refused(shards, listed, tmp_path):
    before = contents(shards)
    for lines, by, message in [
        ([row["key"] for row in rows(shards)], "keys", "names every image"),
        (["", " "], "keys", "is empty"),
        (["xyz"], "hashes", "entry 1: 'xyz' is no SHA-256"),
        (["abcd"], "hashes", "entry 1: 'abcd' is no SHA-256"),
    ]:
        with pytest.raises(InputError, match=message):
            remove(shards, listed(*lines), by, workers=1)
        assert contents(shards) == before
    with pytest.raises(InputError, match=r"missing cannot be read \(No such file"):
        remove(shards, tmp_path / "missing", "keys", workers=1)
    with (
        state.held(shards, takedown.STATE),
        pytest.raises(InputError, match="is being changed by process"),
    ):
        remove(shards, listed("x"), "keys", workers=1)


def test_removals_at_the_same_time_wait_for_each_other(shards, tmp_path):
    keys = [row["key"] for row in rows(shards)[:6]]

    def until_done(key):
        path = tmp_path / f"{key.replace('/', '-')}.txt"
        path.write_text(key)
        while True:
            try:
                return remove(shards, path, "keys", workers=1)
            except InputError as error:
                if "is being changed by" not in str(error):
                    raise

    with ThreadPoolExecutor(len(keys)) as threads:
        assert [report.removed for report in threads.map(until_done, keys)] == [1] * len(keys)
    assert not {row["key"] for row in rows(shards)} & set(keys)
    assert Manifest.load(shards).samples == 14
    assert verify(shards, workers=1).ok
    assert len(read_log(shards)) == 6
    assert not (shards / takedown.STATE).exists()


def test_damage_is_not_hidden(shards, listed):
    key = of(shards, 0, 0)["key"]
    with open(shards / "shard-000000.tar", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    before = contents(shards)
    with pytest.raises(
        InputError, match=r"shard-000000\.tar is not as its manifest says; run: seer shards verify"
    ):
        remove(shards, listed(key), "keys", workers=1)
    assert contents(shards) == before


@pytest.mark.parametrize("row", [0, 1])  # the one that goes, one that stays
def test_an_index_of_other_bytes_is_not_followed(shards, listed, row):
    tar = shards / "shard-000000.tar"
    table = read_index(index_path(tar))
    moved = [offset + 512 * (i == row) for i, offset in enumerate(table["offset"].to_pylist())]
    offsets = pa.array(moved, pa.int64())
    write_index(
        index_path(tar), table.set_column(table.schema.get_field_index("offset"), "offset", offsets)
    )
    before = contents(shards)
    with pytest.raises(
        InputError,
        match=r"shard-000000\.tar is not what its index describes; run: seer shards verify",
    ):
        remove(shards, listed(table["key"][0].as_py()), "keys", workers=1)
    assert before.items() <= contents(shards).items()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("then", ["remove", "index"])
def test_killed_around_every_change(shards, listed, tmp_path, after, then):
    """Always the whole old or the whole new data set; the same command, or indexing, settles what
    was left.
    """
    file = listed(of(shards, 0, 3)["key"], *(of(shards, 2, row)["key"] for row in range(4)))
    old, done = images(shards), tmp_path / "done"
    shutil.copytree(shards, done)
    remove(done, file, "keys", workers=1)
    new, committed = images(done), set()
    for moment in range(100):
        out = tmp_path / f"out{moment}"
        shutil.copytree(shards, out)
        if not killed(
            at_change(moment, after, "replace", "unlink"), remove, out, file, "keys", workers=1
        ):
            break
        now = images(out)
        assert now in (old, new), moment
        committed.add(now == new)
        if then == "index":
            index([out], workers=1)
            assert images(out) == now
        assert remove(out, file, "keys", workers=1).ok
        assert {**contents(out), REMOVED: ""} == {**contents(done), REMOVED: ""}, moment
        assert len(read_log(out)) == 5
    assert moment > 8
    assert committed == {False, True}


def foreign(path, entries):
    """A tar of `(name, content)`, or `(name, target, kind)` for links."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, *kind in entries:
            info = tarfile.TarInfo(name)
            info.mtime = 1234.5  # which needs a PAX header
            if kind:
                info.type, info.linkname = kind[0], content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_tars_of_others_keep_everything_else(tmp_path, listed):
    long = f"{'long/' * 40}name"
    foreign(
        tmp_path / "00000.tar",
        [
            ("folder", "", tarfile.DIRTYPE),
            ("a.jpg", encoded(0)),
            ("a.json", b"{}"),
            ("a.jpg", encoded(1)),  # a name that occurs twice
            (f"{long}.jpg", encoded(2)),
            (f"{long}.txt", b"words"),
            ("cut.jpg", encoded(3)[:300]),
            ("link.jpg", "a.jpg", tarfile.SYMTYPE),
            ("other-link.jpg", f"{long}.jpg", tarfile.LNKTYPE),
            ("z.png", encoded(4, "PNG")),
            ("__meta__/notes", b"kept"),
        ],
    )
    index([tmp_path], workers=1)
    assert [row["key"] for row in rows(tmp_path)] == ["a", "a~2", long, "z"]
    remove(tmp_path, listed("a", "z"), "keys", workers=1)
    with tarfile.open(tmp_path / "00000.r1.tar") as tar:
        found = {info.name: (info.mtime, info.linkname) for info in tar.getmembers()}
    assert list(found) == [
        "folder",
        "a.jpg",
        f"{long}.jpg",
        f"{long}.txt",
        "cut.jpg",
        "other-link.jpg",
        "__meta__/notes",
    ]
    assert {time for time, _ in found.values()} == {1234.5}
    assert images(tmp_path) == {"a": (encoded(1), -1), long: (encoded(2), -1)}
    assert verify(tmp_path, workers=1).ok
    remove(tmp_path, listed(long), "keys", workers=1)
    assert images(tmp_path) == {"a": (encoded(1), -1)}
    assert verify(tmp_path, workers=1).ok
    before = contents(tmp_path)
    assert index([tmp_path], workers=1).current == 1
    assert contents(tmp_path) == before


def test_a_truncated_tar_is_whole_afterwards(tmp_path, listed):
    foreign(
        tmp_path / "0.tar", [("a.jpg", encoded(0)), ("b.jpg", encoded(1)), ("c.jpg", encoded(2))]
    )
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: whole.index(encoded(2)) + 100])
    index([tmp_path], workers=1)
    remove(tmp_path, listed("a"), "keys", workers=1)
    with tarfile.open(tmp_path / "0.r1.tar") as tar:
        assert tar.getnames() == ["b.jpg"]
    assert verify(tmp_path, workers=1).ok


def test_exit_codes(shards, listed):
    key, run = of(shards, 0, 0)["key"], CliRunner().invoke
    some = run(
        app,
        [
            "shards",
            "remove",
            str(shards),
            "--keys",
            str(listed(key, "nobody")),
            "--workers",
            "1",
            "--json",
            "-",
        ],
    )
    assert some.exit_code == 0
    assert json.loads(some.stdout)["removed"] == 1
    assert "1 are not in" in some.stderr
    assert (
        run(app, ["shards", "remove", str(shards), "--keys", str(listed("nobody"))]).exit_code == 2
    )
    assert run(app, ["shards", "remove", str(shards)]).exit_code != 0
    index_path(shards / "shard-000001.tar").unlink()
    assert run(app, ["shards", "verify", str(shards), "--workers", "1"]).exit_code == 2
    assert run(app, ["shards", "verify", str(shards), "--workers", "1", "--repair"]).exit_code == 0


def interrupted(shards, journal):
    (shards / takedown.STATE).mkdir()
    (shards / takedown.STATE / takedown.JOURNAL).write_text(json.dumps(journal))


@pytest.mark.parametrize("verb", ["remove", "index", "verify"])
def test_a_journal_that_no_removal_wrote_deletes_nothing(shards, tmp_path, listed, verb):
    before, keys = Manifest.load(shards).hash, listed("nobody")
    (tmp_path / "precious.tar").write_text("precious")
    (shards / "mine.tar").write_text("precious")
    use = {
        "remove": lambda: remove(shards, keys, "keys", workers=1),
        "index": lambda: index([shards], workers=1),
        "verify": lambda: verify(shards, workers=1, repair=True),
    }[verb]
    shard, new = "shard-000000.tar", "shard-000000.r1.tar"
    for made_of, replaced, words in [
        (before, {shard: str(tmp_path / "precious.tar")}, "is not the plain name"),
        (before, {shard: "../precious.tar"}, "is not the plain name"),
        (before, {shard: "mine.tar"}, r"mine\.tar is no new name of shard-000000\.tar"),
        (before, {shard: "shard-000001.tar"}, "is no new name of"),
        (before, {"mine.tar": None}, r"the manifest has no mine\.tar"),
        ("0" * 16, {"mine.tar": None}, r"entries\.jsonl is of other shards"),
        ("0" * 16, {shard: new}, "the manifest names what was replaced"),
        ("0" * 15, {}, "is not a manifest's hash"),
    ]:
        interrupted(shards, {"before": made_of, "log": 0, "shards": replaced})
        files = contents(tmp_path)
        with pytest.raises(InputError, match=words) as raised:
            use()
        assert str(raised.value).endswith(f"nothing was changed; remove {shards / takedown.STATE}")
        assert files.items() <= contents(tmp_path).items()
        shutil.rmtree(shards / takedown.STATE)


def test_links_in_the_state_are_not_followed(shards, tmp_path, listed):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "lock").write_text("precious")
    (shards / takedown.STATE).symlink_to(victim)
    with pytest.raises(
        InputError, match=r"\.removal is a link, and would lead out of .*; remove it"
    ):
        takedown.settle(shards)
    (shards / takedown.STATE).unlink()
    (shards / takedown.STATE).mkdir()
    (shards / takedown.STATE / "lock").symlink_to(victim / "lock")
    with pytest.raises(InputError, match=r"lock is a link"):
        takedown.settle(shards)
    shutil.rmtree(shards / takedown.STATE)
    (shards / REMOVED).symlink_to(victim / "lock")
    with pytest.raises(InputError, match=r"removed\.jsonl cannot be written"):
        remove(shards, listed(of(shards, 0, 0)["key"]), "keys", workers=1)
    assert contents(victim) == {"lock": contents(tmp_path)["victim/lock"]}
    assert (victim / "lock").read_text() == "precious"
