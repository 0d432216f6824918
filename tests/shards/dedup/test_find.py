import json
import random
import shutil

import numpy as np
import pytest

from seer.data.storage.index import MANIFEST, Manifest, index_path, read_index
from seer.data.storage.reader import Reader
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.dedup import find
from shards.dedup.find import exact_duplicates
from shards.dedup.near import NONE
from shards.indexing import index
from shards.options import DedupOptions
from shards.records import quarantine, state
from shards.sources.phash import distance
from shards.verify import verify
from tests.kit.faults import at_change, contents, killed
from tests.kit.pictures import encoded


def options(workers=1, shard_size=6, shuffle=False, labels=False, **wanted):
    return BuildOptions(
        workers=workers,
        shard_size=shard_size,
        shuffle=shuffle,
        labels=labels,
        unwanted=DedupOptions(**wanted),
    )


def sources(out):
    manifest = Manifest.load(out)
    return [
        name
        for shard in manifest.shards
        for name in read_index(index_path(out / shard))["source"].to_pylist()
    ]


def reasons(out):
    return {entry["source"]: entry["reason"] for entry in quarantine.read(out)}


@pytest.fixture
def copies(folder):
    """Twelve different pictures; equal and similar copies of some; one that cannot be read."""
    files = {f"a/{i:02}.jpg": encoded(i, size=(48, 64)) for i in range(12)}
    files |= {
        "b/00.jpg": files["a/00.jpg"],
        "b/05.jpg": files["a/05.jpg"],
        "c/00.jpg": files["a/00.jpg"],
    }
    files |= {
        "b/01.png": encoded(1, "PNG", size=(24, 32)),
        "b/02.jpg": encoded(2, size=(48, 64), quality=40),
    }
    files |= {"d/03.jpg": encoded(3, mode="L", size=(48, 64)), "d/cut.jpg": files["a/00.jpg"][:300]}
    return folder(files)


def test_exact(copies, tmp_path):
    report = build([copies], tmp_path / "out", options(level="exact"))
    assert reasons(tmp_path / "out") == {
        "b/00.jpg": "exact duplicate (of a/00, same bytes)",
        "b/05.jpg": "exact duplicate (of a/05, same bytes)",
        "c/00.jpg": "exact duplicate (of a/00, same bytes)",
        "d/cut.jpg": "truncated",
    }
    assert report.quarantined == {"exact duplicate": 3, "truncated": 1}
    assert (report.samples, len(sources(tmp_path / "out"))) == (15, 15)
    assert verify(tmp_path / "out", workers=1).ok


def test_near(copies, tmp_path):
    out = tmp_path / "out"
    build([copies], out, options(level="near"))
    assert sources(out) == [f"a/{i:02}.jpg" for i in range(12)]
    assert {source: reason.split(",")[0] for source, reason in reasons(out).items()} == {
        "b/00.jpg": "exact duplicate (of a/00",
        "b/01.png": "near duplicate (of a/01",
        "b/02.jpg": "near duplicate (of a/02",
        "b/05.jpg": "exact duplicate (of a/05",
        "c/00.jpg": "exact duplicate (of a/00",
        "d/03.jpg": "near duplicate (of a/03",
        "d/cut.jpg": "truncated",
    }
    reader = Reader(Manifest.load(out))
    assert reader.read(np.arange(len(reader))) == [encoded(i, size=(48, 64)) for i in range(12)]
    assert verify(out, workers=1).ok
    assert not (out / quarantine.CONTAMINATION).exists()


def test_none_is_the_default(copies, tmp_path):
    build([copies], tmp_path / "out", BuildOptions(workers=1))
    assert set(reasons(tmp_path / "out")) == {"d/cut.jpg"}


def test_labels_and_empty_shards(copies, tmp_path):
    build([copies], tmp_path / "out", options(level="near", labels=True, shard_size=3))
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == ["a", "b", "c", "d"]
    # The last two had nothing but copies.
    assert manifest.shards == [f"shard-{i:06}.tar" for i in range(4)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == manifest.shards


def test_the_first_in_the_shuffled_order_stays(copies, tmp_path):
    build([copies], tmp_path / "all", options(shuffle=True))
    build([copies], tmp_path / "out", options(shuffle=True, level="exact"))
    order = sources(tmp_path / "all")
    same = [["a/00.jpg", "b/00.jpg", "c/00.jpg"], ["a/05.jpg", "b/05.jpg"]]
    gone = {name for group in same for name in sorted(group, key=order.index)[1:]}
    assert sources(tmp_path / "out") == [name for name in order if name not in gone]


@pytest.mark.parametrize(
    ("level", "kept"), [("exact", ["b/01.png", "b/02.jpg", "d/03.jpg"]), ("near", [])]
)
def test_against_earlier_builds(copies, folder, tmp_path, level, kept):
    build([copies / "a"], tmp_path / "earlier", BuildOptions(workers=1))
    new = folder({"z.jpg": encoded(50, size=(48, 64))}, "new")
    for name in ("b", "c", "d"):
        shutil.copytree(copies / name, new / name)
    out = tmp_path / "out"
    build([new], out, options(level=level, against=[str(tmp_path / "earlier")]))
    assert sources(out) == ["z.jpg", *kept]
    assert (
        reasons(out)["c/00.jpg"] == f"exact duplicate (of 00 in {tmp_path / 'earlier'}, same bytes)"
    )
    assert (level == "exact") or reasons(out)["b/01.png"].startswith("near duplicate (of 01 in")


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_evaluation_sets_are_left_out_and_reported(copies, folder, tmp_path, kind):
    test = folder(
        {"x/one.png": encoded(1, "PNG", size=(48, 64)), "y/seven.jpg": encoded(7, size=(48, 64))},
        "test",
    )
    (test / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    if kind == "shards":
        build([test], tmp_path / "test-shards", BuildOptions(workers=1))
        test = tmp_path / "test-shards"
    out = tmp_path / "out"
    report = build([copies], out, options(exclude=[str(test)]))  # whatever --dedup says
    assert report.quarantined == {"in an evaluation set": 3, "truncated": 1}
    assert set(reasons(out)) == {"a/01.jpg", "a/07.jpg", "b/01.png", "d/cut.jpg"}
    found = [json.loads(line) for line in (out / quarantine.CONTAMINATION).read_text().splitlines()]
    assert [entry["source"] for entry in found] == ["a/01.jpg", "a/07.jpg", "b/01.png"]
    assert {entry["dataset"] for entry in found} == {str(test)}
    assert found[1]["like"] == ("y/seven.jpg" if kind == "folder" else "y/seven")
    assert [entry["distance"] is None for entry in found] == [False, True, False]
    assert any("contamination: 3 images" in line for line in report.lines())
    assert verify(out, workers=1).ok


def test_a_copy_of_what_is_in_an_evaluation_set_goes_for_that_reason(folder, tmp_path):
    root = folder({"a.jpg": encoded(1), "b.jpg": encoded(1)})
    test = folder({"t.png": encoded(1, "PNG")}, "test")
    root.joinpath("c.jpg").write_bytes(encoded(2))
    build([root], tmp_path / "out", options(level="near", exclude=[str(test)]))
    assert {reason.split(" (")[0] for reason in reasons(tmp_path / "out").values()} == {
        find.IN_EVALUATION
    }
    assert sources(tmp_path / "out") == ["c.jpg"]


def test_refused_images_stay_out(copies, tmp_path):
    build([copies], tmp_path / "all", options())
    rows = [
        row
        for shard in Manifest.load(tmp_path / "all").shards
        for row in _rows(tmp_path / "all", shard)
    ]
    digests = {row["source"]: row["sha256"].hex() for row in rows}
    refused = tmp_path / "refused.txt"
    refused.write_text(
        f"{digests['a/05.jpg']}\n\n{'0' * 64}\n" + json.dumps({"sha256": digests["a/09.jpg"]})
    )
    build([copies], tmp_path / "out", options(refuse=[str(refused)]))
    assert set(reasons(tmp_path / "out")) == {"a/05.jpg", "b/05.jpg", "a/09.jpg", "d/cut.jpg"}
    assert "refused (" in reasons(tmp_path / "out")["b/05.jpg"]
    refused.write_text("no hash\n")
    with pytest.raises(InputError, match=r"refused\.txt, entry 1: 'no hash' is no SHA-256"):
        build([copies], tmp_path / "other", options(refuse=[str(refused)]))


def _rows(out, shard):
    return read_index(index_path(out / shard)).to_pylist()


def test_nothing_is_left(copies, tmp_path):
    with pytest.raises(
        InputError, match="none of 19 images is usable: 18 in an evaluation set, 1 truncated"
    ):
        build([copies], tmp_path / "out", options(exclude=[str(copies)]))
    assert not (tmp_path / "out").exists()


def test_the_number_of_workers_does_not_matter(copies, tmp_path):
    wanted = {"level": "near", "exclude": [str(copies / "d")], "shuffle": True}
    build([copies], tmp_path / "one", options(**wanted))
    build([copies], tmp_path / "two", options(workers=2, **wanted))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_parts_of_a_build_leave_out_the_same(copies, tmp_path):
    wanted = DedupOptions("near", exclude=[str(copies / "d")])
    build([copies], tmp_path / "one", BuildOptions(workers=1, shard_size=4, unwanted=wanted))
    for number in (2, 1):
        part = BuildOptions(workers=1, shard_size=4, unwanted=wanted, part=f"{number}/2")
        report = build([copies], tmp_path / "parts", part)
    assert report.complete
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"level": "some"}, "--dedup: 'some' is unknown .one of: exact, near, none"),
        ({"level": "near", "distance": 17}, "--distance: 17 is not a whole number from 0 to 16"),
        ({"against": ["x"]}, "--against needs to know"),
        ({"exclude": ["/no/such"]}, "/no/such does not exist"),
    ],
)
def test_options_that_make_no_sense(copies, tmp_path, wanted, message):
    with pytest.raises(InputError, match=message):
        build([copies], tmp_path / "out", options(**wanted))
    assert not (tmp_path / "out").exists()


def test_other_options_are_another_build(copies, tmp_path):
    build([copies], tmp_path / "out", options(level="exact"))
    with pytest.raises(InputError, match="dedup was exact, now near; distance was None, now 3"):
        build([copies], tmp_path / "out", options(level="near", distance=3))


def test_earlier_shards_without_perceptual_hashes(copies, tmp_path):
    build([copies / "b"], tmp_path / "earlier", BuildOptions(workers=1))
    for path in tmp_path.glob("earlier/*.parquet"):
        path.unlink()
    index([tmp_path / "earlier"], workers=1, check=False)
    wanted = options(level="near", against=[str(tmp_path / "earlier")])
    with pytest.raises(
        InputError, match=r"has no perceptual hashes; run: seer shards index .*/earlier"
    ):
        build([copies], tmp_path / "out", wanted)
    assert state.record_of(tmp_path / "out", "shard-000000.tar")
    index([tmp_path / "earlier"], workers=1)
    assert build([copies], tmp_path / "out", wanted).continued == 4


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_around_every_rename(copies, tmp_path, after):
    """Shards are written, what goes is decided, and they are written again: after each moment the
    build continues.
    """
    wanted = options(level="near", exclude=[str(copies / "d")])
    build([copies], tmp_path / "undisturbed", wanted)
    for moment in range(100):
        out = tmp_path / f"out{moment}"
        if not killed(at_change(moment, after, "replace"), build, [copies], out, wanted):
            break
        build([copies], out, wanted)
        assert contents(out) == contents(tmp_path / "undisturbed"), f"killed at rename {moment}"
    assert 20 < moment < 40


def test_exact_duplicates_against_a_dictionary():
    draw = np.random.default_rng(0)
    digests = draw.integers(0, 2**64, (40, 2), dtype=np.uint64)[draw.integers(0, 40, 300)]
    digests[:, 1] = np.where(draw.random(300) < 0.2, digests[:, 1] + np.uint64(1), digests[:, 1])
    for fixed, among_others in [(0, True), (100, True), (100, False)]:
        first, expected = dict[tuple, int](), []
        for place, digest in enumerate(map(tuple, digests.tolist())):
            leader = first.setdefault(digest, place)
            goes = leader != place and place >= fixed and (leader < fixed or among_others)
            expected.append(leader if goes else NONE)
        assert exact_duplicates(digests, fixed, among_others).tolist() == expected


def test_seeded_sets_against_comparing_all(folder, tmp_path):
    """Which images stay, decided here image by image from the indices of a build without
    deduplication.
    """
    draw = random.Random(0)
    for case in range(3):
        files = {}
        for i in range(40):
            seed, quality = draw.randrange(12), draw.choice([30, 75, 95])
            files[f"{i:02}.jpg"] = encoded(
                seed, size=draw.choice([(24, 32), (48, 64)]), quality=quality
            )
        root = folder(files, f"images{case}")
        build([root], tmp_path / f"all{case}", options(shard_size=7, shuffle=True))
        build(
            [root],
            tmp_path / f"out{case}",
            options(shard_size=7, shuffle=True, level="near", distance=4),
        )
        kept = []
        for shard in Manifest.load(tmp_path / f"all{case}").shards:
            for row in _rows(tmp_path / f"all{case}", shard):
                hashes = np.array([row["phash"], *(other["phash"] for other in kept)], np.uint64)
                if not (distance(hashes[:1], hashes[1:]) <= 4).any():
                    kept.append(row)
        assert sources(tmp_path / f"out{case}") == [row["source"] for row in kept]
        assert (tmp_path / f"out{case}" / MANIFEST).exists()
