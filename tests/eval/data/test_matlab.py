"""MATLAB files: what scipy writes is read as scipy reads it, and what is not such a list is one line."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from seer.errors import InputError
from seer.eval.data.matlab import LARGEST_MAT, read_mat
from seer.eval.data.splitting import load
from tests.kit import owners
from tests.kit.fuzzing import damaged_bytes, fuzz, within_memory

VALUES = {
    "doubles": np.arange(6.0).reshape(2, 3) / 4,
    "bytes": np.arange(256, dtype=np.uint8),
    "shorts": np.array([[-3, 5]], np.int16),
    "longs": np.array([2**40, -1]),
    "cube": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "flags": np.array([True, False]),
    "one": np.array([[7]], np.uint8),
    "nothing": np.zeros((0, 0)),
}


@pytest.mark.parametrize("compressed", [True, False])
def test_numbers_are_those_that_scipy_reads(tmp_path, compressed):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, VALUES, do_compression=compressed)
    theirs = scipy.io.loadmat(path, squeeze_me=True)
    for name in VALUES:
        ours = read_mat(path, name)
        assert ours.size == np.size(theirs[name])
        assert not ours.size or np.array_equal(ours, theirs[name]), name
    assert read_mat(path, "bytes").dtype == np.uint8


@pytest.mark.parametrize("compressed", [True, False])
def test_texts_cells_and_structures(tmp_path, compressed):
    cells = np.array(["one", "Zürich 東", np.array([[1.0, 2.0]])], dtype=object)
    kind = [("name", object), ("number", object)]
    rows = np.array([("a", 1), ("bcd", 2)], dtype=kind)
    path = tmp_path / "x.mat"
    values = {"text": "abc", "cells": cells, "rows": rows, "record": {"x": 3, "y": {"z": "w"}}}
    scipy.io.savemat(path, values, do_compression=compressed)
    assert read_mat(path, "text") == "abc"
    one, two, three = read_mat(path, "cells")
    assert (one, two, three.tolist()) == ("one", "Zürich 東", [1, 2])
    assert read_mat(path, "rows") == {"name": ["a", "bcd"], "number": [1, 2]}
    assert read_mat(path, "record") == {"x": [3], "y": [{"z": ["w"]}]}


def test_the_bytes_may_stand_in_the_other_order(tmp_path):
    flags = struct.pack(">4I", 6, 8, 6, 0)
    dims = struct.pack(">2I2i", 5, 8, 1, 3)
    name = struct.pack(">HH4s", 2, 1, b"xy")  # in the small form
    numbers = struct.pack(">2I3d", 9, 24, 1.5, 2, 3)
    body = flags + dims + name + numbers
    content = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + struct.pack(">2I", 14, len(body)) + body
    (tmp_path / "x.mat").write_bytes(content)
    theirs = scipy.io.loadmat(tmp_path / "x.mat", squeeze_me=True)
    assert read_mat(tmp_path / "x.mat", "xy").tolist() == theirs["xy"].tolist() == [1.5, 2, 3]


def header(version: bytes = b"\x00\x01IM") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + version


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(dims: list[int], body: bytes, class_: int = 6, name: bytes = b"labels") -> bytes:
    flags = element(6, struct.pack("<II", class_, 0))
    sizes = element(5, struct.pack(f"<{len(dims)}i", *dims))
    return element(14, flags + sizes + element(1, name) + body)


def nested(depth: int) -> bytes:
    content = element(14, b"")
    for _ in range(depth):
        content = matrix([1, 1], content, 1, b"")
    return content


def packed(body: bytes) -> bytes:
    content = zlib.compress(body, 9)
    return struct.pack("<II", 15, len(content)) + content


DOUBLES = element(9, struct.pack("<3d", 1, 2, 3))
V73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (V73.ljust(600, b"\0"), "written by save -v7.3, which is not read; load it in MATLAB"),
        (b"\x89HDF\r\n\x1a\n".ljust(600), "written by save -v7.3"),
        (bytes(512) + b"\x89HDF\r\n\x1a\n", "written by save -v7.3"),
        (b"", "not a MATLAB file of release 5 to 7.2"),
        (
            struct.pack("<5i", 0, 1, 3, 0, 7) + b"labels\0" + bytes(24),
            "not a MATLAB file of release",
        ),
        (header()[:100], "not a MATLAB file"),
        (header() + matrix([1, 3], DOUBLES, name=b"others"), "has no variable 'labels'"),
        (header() + matrix([1, 3], DOUBLES)[:-5], "cut short"),
        (header() + b"\x0e", "cut short"),
        (header() + matrix([2**30, 2**20], DOUBLES), "a matrix has more values than the file"),
        (header() + matrix([1, 2**28], element(14, b""), 1), "a matrix has more values than"),
        (header() + matrix([1, 3], DOUBLES, 17), "something else than numbers, texts, cells"),
        (header() + matrix([1, 3], DOUBLES, 16), "something else than numbers"),
        (header() + matrix([1, 1], nested(40), 1), "more than 16 levels"),
        (header() + packed(bytes(LARGEST_MAT + 8)), "more than 33,554,432 bytes when unpacked"),
        (header() + packed(b"x" * 64)[:-9] + bytes(9), "not readable as a list of images"),
        (header() + matrix([1, 3], b""), "not readable"),
        (b"x" * (LARGEST_MAT + 1), "larger than 33,554,432 bytes"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path, content, words):
    path = tmp_path / "x.mat"
    path.write_bytes(content)
    with within_memory(2**28), pytest.raises(InputError, match=words) as raised:
        read_mat(path, "labels")
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.mat")
    with pytest.raises(InputError, match="not a regular file"):
        read_mat(tmp_path / "x.mat", "labels")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> bytes:
    root = tmp_path_factory.mktemp("cars")
    owners.cars(root)
    return (root / "stanford_cars/devkit/cars_train_annos.mat").read_bytes()


@given(data=st.data(), compressed=st.booleans())
@fuzz(60)
def test_damaged_files_are_one_line(annotations, tmp_path_factory, data, compressed):
    content = annotations
    if not compressed:  # so that damage reaches what was packed
        size = struct.unpack_from("<I", annotations, 132)[0]
        content = annotations[:128] + zlib.decompress(annotations[136 : 136 + size])
    path = tmp_path_factory.mktemp("damaged") / "x.mat"
    path.write_bytes(data.draw(damaged_bytes(content)))
    with within_memory():
        said = ""
        try:
            read_mat(path, "annotations")
        except InputError as error:
            said = str(error)
    assert said.isprintable()


def flowers(root: Path, **changed: np.ndarray) -> Path:
    owners.flowers102(root)
    folder = root / "flowers-102"
    for file, names in {
        "imagelabels.mat": ["labels"],
        "setid.mat": ["trnid", "valid", "tstid"],
    }.items():
        values = scipy.io.loadmat(folder / file)
        kept = {name: values[name] for name in names}
        owners.save_mat(folder / file, {name: changed.get(name, kept[name]) for name in names})
    return root


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        # Off by one, either way.
        ({"labels": np.array([[0, 1, 2, 2, 1, 0, 0, 2]])}, "numbered 0 to 2, 3 of them occur; its owner counts"),
        ({"labels": np.array([[2, 3, 4, 4, 3, 2, 2, 4]])}, "numbered 2 to 4, 3 of them occur"),
        ({"labels": np.array([[1, 2, 4, 4, 2, 1, 1, 4]])}, "numbered 1 to 4, 3 of them occur"),
        ({"labels": np.array([[1.5, 2, 3, 3, 2, 1, 1, 3]])}, "no list of whole numbers"),
        ({"labels": np.array([["a", "b"]], dtype=object)}, "no list of whole numbers"),
        ({"labels": np.zeros((0, 0))}, "numbered nothing"),
        ({"trnid": np.array([[0, 1]])}, "trnid names images from 0 to 1, and imagelabels.mat has labels of 1 to 8"),
        ({"tstid": np.array([[9]])}, "names images from 9 to 9, and .* not of one release"),
        ({"tstid": np.array([[8]])}, "image_00008.jpg is listed twice, in train and test"),
    ],
)  # fmt: skip
def test_wrong_numbers_are_one_line(tmp_path, changed, words):
    with pytest.raises(InputError, match=words):
        load(flowers(tmp_path, **changed))


def test_classes_beyond_the_names_are_told(tmp_path):
    owners.cars(tmp_path)
    folder = tmp_path / "stanford_cars/devkit"
    owners.save_mat(folder / "cars_meta.mat", {"class_names": np.array(["a", "b"], dtype=object)})
    with pytest.raises(
        InputError, match=r"00001.jpg is of class 3, and .*cars_meta.mat names 1 to 2"
    ):
        load(tmp_path)
    owners.save_mat(folder / "cars_train_annos.mat", {"annotations": {"fname": "1.jpg"}})
    with pytest.raises(InputError, match="its annotations have no class"):
        load(tmp_path)
    owners.save_mat(folder / "cars_train_annos.mat", {"annotations": np.arange(3)})
    with pytest.raises(InputError, match="its annotations have no class"):
        load(tmp_path)


def test_the_labels_of_the_test_cars_may_lie_in_the_devkit(tmp_path):
    wanted = owners.cars(tmp_path)
    folder = tmp_path / "stanford_cars"
    file = "cars_test_annos_withlabels.mat"
    (folder / file).rename(folder / "devkit" / file)
    assert len(load(tmp_path).test) == len(wanted["test"])
