import io
import os
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer.errors import InputError
from shards.archives import headers
from shards.archives.headers import DamagedTar, entries
from shards.indexing import index
from tests.kit.fuzzing import SECONDS, within_memory, within_time
from tests.kit.pictures import encoded

CASES = int(os.environ.get("SEER_FUZZ", 60))
GIGABYTES = 4 << 30

PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=150)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
TYPES = [
    tarfile.REGTYPE,
    tarfile.REGTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
]


def header(name="a.jpg", size=0, kind=b"0", **fields):
    """A block whose sum is right; `size` may be its raw field."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % headers.BLOCK)


def extended(payload, kind=b"x"):
    return header("x", len(payload), kind) + padded(payload)


def record(text):
    """A PAX record, whose length counts itself."""
    length = len(text) + 3
    while len(str(length)) + 1 + len(text) + 1 != length:
        length = len(str(length)) + len(text) + 2
    return f"{length} {text}\n".encode()


def plain(files, format=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def read(path):
    """The names before the damage, and what the damage is."""
    found = []
    try:
        for entry in entries(path):
            found.append(entry.name)
    except DamagedTar as damage:
        return found, str(damage)
    return found, ""


@given(st.lists(st.tuples(NAMES, st.sampled_from(TYPES), NAMES, st.integers(0, 1500)), max_size=6))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("format", FORMATS)
def test_entries_are_those_of_tarfile(tmp_path_factory, format, members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, kind, link, size in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = size if kind == tarfile.REGTYPE else 0
            try:
                tar.addfile(info, io.BytesIO(bytes(size)))
            except ValueError:  # too long for ustar
                continue
    path = tmp_path_factory.getbasetemp() / "oracle.tar"
    path.write_bytes(file.getvalue())
    with tarfile.open(path) as tar:
        expected = [(i.name.rstrip("/"), i.offset, i.offset_data, i.size, i.linkname) for i in tar]
    assert [
        (e.name.rstrip("/"), e.start, e.offset, e.size, e.link) for e in entries(path)
    ] == expected


def test_archives_that_were_put_together_are_read_to_the_end(tmp_path):
    parts = [plain([(f"{part}{i}.jpg", b"data") for i in range(3)]) for part in "abc"]
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(parts))
    names = [f"{part}{i}.jpg" for part in "abc" for i in range(3)]
    assert read(path) == (names, "")
    path.write_bytes(parts[0] + bytes(3 << 20) + parts[1])  # as a tape's padding
    assert read(path) == (names[:6], "")
    place = len(parts[0])
    path.write_bytes(parts[0] + b"signature".ljust(512, b"!"))
    assert read(path) == (names[:3], f"damaged tar (no header at byte {place})")
    path.write_bytes(parts[0] + b"odd" + parts[1])
    assert read(path) == (names[:3], f"damaged tar (no header at byte {place})")


def sparse_file(path, *pieces):
    """A file of `(offset, data)`, with holes between them."""
    with open(path, "wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"X"])
def test_an_extended_header_of_gigabytes_is_not_read(tmp_path, kind):
    first = header("a.jpg", 4) + padded(b"data")
    path = sparse_file(
        tmp_path / "x.tar", (0, first + header("x", GIGABYTES, kind)), (GIGABYTES + 4096, b"\0")
    )
    with within_memory(1 << 24):
        assert read(path) == (
            ["a.jpg"],
            "damaged tar (an extended header of 4,294,967,296 bytes at byte 1024)",
        )


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (header(size=b"\xff" * 12), "a negative size at byte 0"),
        (header(size=b"\x80" + b"\xff" * 11), r"truncated tar \(within a\.jpg\)"),
        (header(size=10**6) + bytes(5000), r"truncated tar \(within a\.jpg\)"),
        (extended(record("size=-5")) + header(), "a bad size in the extended header at byte 0"),
        (extended(record("size=" + "9" * 30)) + header(), "a bad size in the extended header"),
        (extended(record(f"size={10**18}")) + header(), r"truncated tar \(within a\.jpg\)"),
        (extended(b"99 path=x\n") + header(), "a bad extended header at byte 0"),
        (extended(b"path=x\n") + header(), "a bad extended header"),
        (extended(b"9" * 5000 + b" path=x\n") + header(), "a bad extended header"),
        (extended(record("path=b.jpg")), "no entry behind the extended header at byte 0"),
        (
            extended(record("path=b.jpg")) + bytes(2048),
            "no entry behind the extended header at byte 0",
        ),
        (header("x", 600, b"L") + b"name", "within the extended header at byte 0"),
        (header(size=b"88888888888\0"), "no header at byte 0"),
        (header(size=b"+0000000001\0"), "no header at byte 0"),
        (header()[:300], "no header at byte 0"),
    ],
)
def test_what_headers_must_not_claim(tmp_path, content, damage):
    (tmp_path / "x.tar").write_bytes(header("first.jpg", 4) + padded(b"data"))
    prefix = (tmp_path / "x.tar").stat().st_size
    (tmp_path / "y.tar").write_bytes(content)
    with pytest.raises(DamagedTar, match=damage):
        list(entries(tmp_path / "y.tar"))
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes() + content)
    found, said = read(tmp_path / "x.tar")
    assert found == ["first.jpg"]
    assert f"byte {prefix}" in said or "within" in said


def test_sparse_members_with_maps_that_are_no_numbers_are_passed_over(tmp_path):
    payloads = [
        record("GNU.sparse.major=x")
        + record("GNU.sparse.minor=0")
        + record("GNU.sparse.name=hole.jpg"),
        record("GNU.sparse.size=" + "9" * 5000),
        record("GNU.sparse.map=1,2,x") + record("GNU.sparse.size=5"),
    ]
    parts = [extended(payload) + header("s.jpg", 4) + padded(b"hole") for payload in payloads]
    (tmp_path / "x.tar").write_bytes(
        b"".join(parts) + header("z.jpg", 4) + padded(b"last") + bytes(1024)
    )
    found = list(entries(tmp_path / "x.tar"))
    assert [entry.kind for entry in found] == ["sparse"] * 3 + ["file"]
    assert (found[0].name, found[-1].name) == ("hole.jpg", "z.jpg")


def test_a_chain_of_extended_headers_is_no_recursion(tmp_path):
    chain = extended(record("comment=x")) * 5000 + extended(record("path=long.jpg"))
    (tmp_path / "x.tar").write_bytes(chain + header("a.jpg", 4) + padded(b"data") + bytes(1024))
    (entry,) = entries(tmp_path / "x.tar")
    assert (entry.name, entry.start, entry.offset) == ("long.jpg", 0, len(chain) + 512)


def damaged(content, chance):
    """The bytes with a few things done to them: bits flipped, blocks cut out or doubled, headers
    added.
    """
    content = bytearray(content)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(content) + 1)
        block = place // 512 * 512
        action = chance.randrange(7)
        if action == 0 and place < len(content):
            content[place] ^= 1 << chance.randrange(8)
        elif action == 1:
            del content[place:]
        elif action == 2:
            del content[block : block + 512 * chance.randrange(1, 9)]
        elif action == 3:
            content[block:block] = content[: 512 * chance.randrange(1, 20)]
        elif action == 4:
            content[block:block] = bytes(512 * chance.randrange(1, 9))
        elif action == 5:
            hostile = header(
                "h.jpg", chance.randbytes(12), chance.choice([b"0", b"x", b"L", b"S", b"1", b"g"])
            )
            content[block:block] = hostile
        else:
            text = chance.choice(["size", "path", "GNU.sparse.map", "linkpath", "GNU.sparse.major"])
            value = chance.choice(["-1", "9" * 40, "x", "../../" * 50, "", "0", "1\n2"])
            content[block:block] = extended(record(f"{text}={value}"), chance.choice([b"x", b"g"]))
    return bytes(content)


def refusal(function, *arguments, **options):
    """What it said when it refused; "" if it did not."""
    try:
        function(*arguments, **options)
    except InputError as error:
        return str(error)
    return ""


def test_fuzz_of_bytes(tmp_path):
    """No damage is more than a line, whatever the tar: nor endless, nor a matter of gigabytes."""
    sound = [
        plain(
            [
                (f"{i}.{s}", d)
                for i in range(3)
                for s, d in (("jpg", encoded(i)), ("cls", b"%d" % i))
            ],
            format,
        )
        for format in FORMATS
    ]
    sound.append(
        plain(
            [
                ("ü" * 90 + ".jpg", encoded(1)),
                ("x/" * 90 + "y.json", b"{}"),
                ("1.2.jpg", encoded(2)),
            ]
        )
    )
    chance = random.Random(0)
    path = tmp_path / "data" / "x.tar"
    path.parent.mkdir()
    outcomes = {"taken": 0, "refused": 0}
    for _ in range(CASES):
        path.write_bytes(damaged(chance.choice(sound), chance))
        with within_time(SECONDS), within_memory():
            said = refusal(index, [path], workers=1, check=False, anew=True)
        assert said.isprintable()
        outcomes["refused" if said else "taken"] += 1
        for left in set(path.parent.iterdir()) - {path}:
            left.unlink()
    assert all(outcomes.values()), outcomes
