"""CIFAR's pickles and binary files: nothing in them runs, and what is not such a file is one line."""

import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.errors import InputError
from seer.eval.data.pickled import unpickled
from seer.eval.data.splitting import load
from tests.kit import owners
from tests.kit.fuzzing import damaged_bytes, fuzz, within_memory, within_time

ROWS = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/attacked",)


@pytest.mark.parametrize("write", [owners.python2_pickle, lambda x: pickle.dumps(x, protocol=2)])
def test_what_is_read_is_what_pickle_reads(tmp_path, write):
    content = {b"data": ROWS, b"labels": [3, 1], b"filenames": [b"a.png", b"b.png"]}
    path = tmp_path / "x"
    path.write_bytes(write(content))
    theirs = pickle.loads(path.read_bytes(), encoding="bytes")
    ours = unpickled(path)
    assert np.array_equal(ours["data"], theirs[b"data"])
    assert ours["labels"] == theirs[b"labels"]
    assert ours["filenames"] == ["a.png", "b.png"]


def test_the_tests_write_what_python_2_wrote():
    opcodes = {op.name for op, _, _ in pickletools.genops(owners.python2_pickle({b"data": ROWS}))}
    assert {"SHORT_BINSTRING", "BINSTRING"} <= opcodes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"data": Attack()}), r"it asks for (posix|nt|os).system"),
        (pickle.dumps({"data": np.array([Attack()], dtype=object)}), "an? |it asks for"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "it asks for builtins.eval"),
        (b"cnumpy.core.multiarray\n_reconstruct.system\n.", "it asks for"),
        (pickle.dumps({"data": ROWS.astype(float)}), "something else than bytes"),
        (pickle.dumps({"data": np.asfortranarray(ROWS)}, protocol=2), "something else than bytes"),
        (pickle.dumps({"data": [1]}), "has no 'data' of 3,072 bytes an image"),
        (owners.python2_pickle({b"data": ROWS[:, :99], b"labels": [0, 1]}), "has no 'data' of 3,072"),
        (owners.python2_pickle({b"data": ROWS, b"labels": [0]}), "no 'labels' for each of its images"),
        (owners.python2_pickle({b"data": ROWS, b"labels": [0, "x"]}), "a label is no number"),
        (owners.python2_pickle({b"data": ROWS, b"labels": [0, 3]}), "label 3, which is none of the 3"),
        (owners.python2_pickle({b"data": ROWS, b"labels": [-1, 0]}), "a label is no number"),
        (pickle.dumps([1, 2]), "not a pickle of arrays and lists"),
        (b"", "not a pickle of arrays"),
        (b"\x80\x02N" + b"r\xff\xff\xff\x7f" + b".", "not a pickle of arrays"),  # a place far away
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "not a pickle of arrays"),
        (b"P\n.", "not a pickle of arrays"),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_one_line(tmp_path, content, words):
    owners.cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py/data_batch_3"
    path.write_bytes(content)
    with within_memory(2**28), pytest.raises(InputError, match=words) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_names_of_classes_that_are_none(tmp_path):
    owners.cifar10(tmp_path)
    meta = tmp_path / "cifar-10-batches-py/batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": 3}))
    with pytest.raises(InputError, match=r"batches.meta: has no 'label_names', the classes' names"):
        load(tmp_path)
    meta.unlink()
    with pytest.raises(InputError, match="holds no class folders"):
        load(tmp_path)


def test_a_binary_file_of_another_length(tmp_path):
    owners.cifar10_binary(tmp_path)
    path = tmp_path / "cifar-10-batches-bin/data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"3,072 bytes are no images of 3,073 each"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"data_batch_2 or data_batch_2\.bin is missing"):
        load(tmp_path)


@given(data=st.data())
@fuzz(100)
def test_damaged_pickles_are_one_line(tmp_path_factory, data):
    content = owners.python2_pickle({b"data": ROWS[:, :40], b"labels": [3, 1], b"names": [b"x"]})
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(data.draw(damaged_bytes(content)))
    with within_time(20), within_memory():
        said = ""
        try:
            unpickled(path)
        except InputError as error:
            said = str(error)
    assert said.isprintable()
