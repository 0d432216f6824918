import io
import subprocess
import tarfile

import pytest
import webdataset
from webdataset.tariterators import base_plus_ext

from shards.archives import tars
from shards.build import BuildOptions, build
from tests.kit.pictures import encoded

NAMES = [
    "a.jpg",
    "a.cls",
    "deep/er/b.seg.png",
    "ü ß/雪.jpg",
    f"{'long/' * 40}{'x' * 120}.jpg",
    "q~2.jpg",
]


def write(path, names=NAMES):
    with open(path, "wb") as file:
        writer = tars.TarWriter(file)
        offsets = [writer.add(name, name.encode() * 50) for name in names]
        writer.close()
    return writer, offsets


def test_written_tar_is_what_tarfile_and_gnu_tar_read(tmp_path):
    writer, offsets = write(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        infos = tar.getmembers()
        assert [tar.extractfile(info).read() for info in infos] == [
            name.encode() * 50 for name in NAMES
        ]
    assert [info.name for info in infos] == NAMES
    assert [info.offset_data for info in infos] == offsets
    assert {
        (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) for info in infos
    } == {(0, 0, 0, "", "", 0o644)}
    listed = subprocess.run(
        ["tar", "tf", tmp_path / "x.tar", "--quoting-style=literal"], capture_output=True, text=True
    )
    assert listed.returncode == 0
    assert listed.stdout.splitlines() == NAMES
    assert writer.bytes == (tmp_path / "x.tar").stat().st_size
    assert writer.bytes % tarfile.RECORDSIZE == 0
    assert writer.sha256.hexdigest() == tars.sha256_file(tmp_path / "x.tar")


def test_webdataset_reads_what_was_written(tmp_path):
    write(tmp_path / "x.tar")
    samples = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    found = {
        f"{s['__key__']}.{suffix}": data
        for s in samples
        for suffix, data in s.items()
        if suffix[0] != "_"
    }
    assert found == {name: name.encode() * 50 for name in NAMES}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_foreign_tars(tmp_path, format):
    names = [name for name in NAMES if format != tarfile.USTAR_FORMAT or len(name) < 100]
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            tar.addfile(info, io.BytesIO(name.encode()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("other.jpg")
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
        for name in (".hidden.jpg", "deep/._a.jpg", "__meta__/x.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    found = list(tars.members(tmp_path / "x.tar"))
    assert [member.name for member in found] == names
    data = [
        tars.read_range(str(tmp_path / "x.tar"), member.offset, member.size) for member in found
    ]
    assert data == [name.encode() for name in names]


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_sparse_members_and_links_with_a_size_do_not_end_a_tar(tmp_path, format):
    """What they claim as their size is more than the archive holds."""
    (tmp_path / "a.jpg").write_bytes(b"first")
    with open(tmp_path / "hole.jpg", "wb") as file:
        file.truncate(10_000_000)
        file.write(b"end")
    (tmp_path / "z.jpg").write_bytes(b"last")
    command = [
        "tar",
        "-cf",
        "x.tar",
        f"--format={format}",
        "--sparse",
        "a.jpg",
        "hole.jpg",
        "z.jpg",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "x.tar").stat().st_size < 100_000
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.jpg", 10_000_000
        tar.addfile(link)
    found = list(tars.members(tmp_path / "x.tar"))
    data = {
        member.name: tars.read_range(str(tmp_path / "x.tar"), member.offset, member.size)
        for member in found
    }
    assert data == {"a.jpg": b"first", "z.jpg": b"last"}


def test_names_that_climb_or_are_absolute_stay_below_the_output(tmp_path):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for i, name in enumerate(
            ["../../up.jpg", "/etc/passwd.jpg", "a/../../b.jpg", "./c.jpg", "..jpg"]
        ):
            info = tarfile.TarInfo(name)
            info.size = len(encoded(i))
            tar.addfile(info, io.BytesIO(encoded(i)))
    build([tmp_path / "in.tar"], tmp_path / "out", BuildOptions(workers=1))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = tar.getnames()
    # The last is a hidden file.
    assert sorted(names) == ["a/b.jpg", "c.jpg", "etc/passwd.jpg", "up.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == {"in.tar", "out"}


def test_keys_are_webdatasets():
    for name in [*NAMES, "a/b.c/d.tar.gz", "x/Y.JPG"]:
        key, suffix = base_plus_ext(name)
        assert tars.split_name(name) == (key, suffix.lower())


def test_runs_of_one_key():
    names = ["a.jpg", "a.cls", "b.jpg", "a.jpg", "a.jpg", "a.txt"]
    groups = [
        (key, sorted(group)) for key, group in tars.runs(tars.Member(name, 0, 0) for name in names)
    ]
    assert groups == [("a", ["cls", "jpg"]), ("b", ["jpg"]), ("a", ["jpg"]), ("a", ["jpg", "txt"])]


def test_truncated_at_any_byte(tmp_path):
    _, offsets = write(tmp_path / "whole.tar", ["a.jpg", "b.jpg", "c.jpg"])
    whole = (tmp_path / "whole.tar").read_bytes()
    path = tmp_path / "cut.tar"
    for length in range(0, offsets[-1] + 512, 100):
        path.write_bytes(whole[:length])
        found, damage = [], None
        try:
            for member in tars.members(path):
                found.append(member.name)
        except tars.DamagedTar as error:
            damage = str(error)
        complete = [
            name for name, offset in zip("abc", offsets, strict=True) if offset + 250 <= length
        ]
        assert found == [f"{name}.jpg" for name in complete]
        boundary = length % 512 == 0 and length in [o - 512 for o in offsets[1:]]
        assert damage or boundary or length >= offsets[-1] + 250, f"cut at {length} went unnoticed"


def test_a_bad_header_in_mid_file_is_no_end(tmp_path):
    _, offsets = write(tmp_path / "x.tar", ["a.jpg", "b.jpg", "c.jpg"])
    with open(tmp_path / "x.tar", "r+b") as file:
        file.seek(offsets[1] - 512 + 3)
        file.write(b"!")
    found = tars.members(tmp_path / "x.tar")
    assert next(found).name == "a.jpg"
    with pytest.raises(tars.DamagedTar, match=f"no header at byte {offsets[1] - 512}"):
        next(found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"\x1f\x8b123", "gzip"), (b"no tar at all" * 99, "damaged")],
)
def test_what_is_no_tar_is_named(tmp_path, content, reason):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(tars.DamagedTar, match=reason):
        list(tars.members(tmp_path / "x.tar"))


def test_a_replaced_file_is_read_anew(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    assert tars.read_range(str(path), 0, 3) == b"old"
    (tmp_path / "y").write_bytes(b"new")
    (tmp_path / "y").replace(path)
    assert tars.read_range(str(path), 0, 3) == b"new"
    with pytest.raises(OSError, match="shorter"):
        tars.read_range(str(path), 1, 3)
