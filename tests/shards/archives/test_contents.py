import random

import pytest

from shards.archives import contents
from shards.archives.contents import (
    AMBIGUOUS,
    COMPANIONS,
    IMAGES,
    TOO_LARGE,
    UNJOINED,
    read_contents,
)
from tests.kit.pictures import encoded
from tests.shards.sources.test_scan import pack


def samples(path):
    """`{image: its companions' suffixes}`"""
    return {sample.image.name: sorted(sample.companions) for sample in read_contents(path).samples}


def test_dots_in_names_are_no_companions(tmp_path):
    files = [(f"2021.05.{day:02} 12.00.jpg", encoded(day)) for day in range(1, 5)]
    files += [
        ("2021.05.01 12.00.cls", b"1"),
        ("v1.2/Mr. Smith.jpg", encoded(5)),
        ("shot.0001.jpg", encoded(6)),
    ]
    files += [("shot.0002.jpg", encoded(7)), ("shot.0002.seg.png", encoded(8, "PNG"))]
    found = samples(pack(tmp_path / "x.tar", files))
    assert len(found) == 7
    assert found["2021.05.01 12.00.jpg"] == ["cls"]
    assert found["shot.0002.jpg"] == ["seg.png"]


@pytest.mark.parametrize("seed", range(3))
def test_members_of_a_sample_are_joined_wherever_they_stand(tmp_path, seed):
    files = [(f"{i}.{suffix}", b"x") for i in range(9) for suffix in ("jpg", "cls", "txt")]
    random.Random(seed).shuffle(files)
    found = read_contents(pack(tmp_path / "x.tar", files))
    assert {sample.key: sorted(sample.companions) for sample in found.samples} == {
        str(i): ["cls", "txt"] for i in range(9)
    }
    assert [sample.image.name for sample in found.samples] == [
        name for name, _ in files if name.endswith("jpg")
    ]
    assert (found.strays, found.notes.counts) == ([], {COMPANIONS: 18})


def test_what_may_belong_to_several_belongs_to_none(tmp_path):
    files = [
        ("a.jpg", b"1"),
        ("b.jpg", b"2"),
        ("a.jpg", b"3"),
        ("c.jpg", b"4"),
        ("a.cls", b"0"),
        ("c.cls", b"1"),
    ]
    files += [("d.jpg", b"5"), ("c.cls", b"2"), ("alone.cls", b"3"), ("a/b.cls", b"4")]
    found = read_contents(pack(tmp_path / "x.tar", files))
    assert [(sample.key, sorted(sample.companions)) for sample in found.samples] == [
        ("a", []),
        ("b", []),
        ("a", []),
        ("c", []),
        ("d", []),
    ]
    assert found.notes.counts == {AMBIGUOUS: 3, UNJOINED: 2}
    assert found.notes.examples[UNJOINED] == "alone.cls"


def test_whatever_is_no_image_of_its_own_is_told(tmp_path):
    files = [
        ("a.left.jpg", b"1"),
        ("a.right.jpg", b"2"),
        ("a.txt", b"x"),
        (".hidden.jpg", b"3"),
        ("b.\x1b[2J.txt", b"x"),
    ]
    found = read_contents(pack(tmp_path / "x.tar", files))
    assert found.notes.lines() == [
        f"1 {COMPANIONS}, for example a.txt",
        "1 entries of tars passed over (hidden), for example .hidden.jpg",
        f"1 {IMAGES}, for example a.right.jpg of a.left.jpg",
        f"1 {UNJOINED}, for example b.\\x1b[2J.txt",
    ]


def test_companions_that_would_not_fit_in_memory_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "MAX_COMPANIONS", 1000)
    files = [("a.jpg", b"1"), ("a.npy", bytes(600)), ("a.bin", bytes(600)), ("a.cls", b"2")]
    found = read_contents(pack(tmp_path / "x.tar", files))
    assert sorted(found.samples[0].companions) == ["cls", "npy"]
    assert found.notes.counts == {COMPANIONS: 2, TOO_LARGE: 1}
