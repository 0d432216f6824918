"""Batches made ahead, with a lane that is no stream: order, counts, errors and the end are the same
as without.
"""

import threading
from dataclasses import dataclass
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from seer.data import ahead, ledger
from seer.data.ahead import one_ahead, tensors_of
from seer.data.crops.multicrop import MultiCrop, View
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from tests.kit.pictures import coloured_jpeg
from tests.kit.shards import write_shards

MODES = [
    LoaderConfig(workers=0),
    LoaderConfig(workers=2, mode="threads"),
    LoaderConfig(workers=1, mode="processes"),
]
BATCH = 6


class FakeLane:
    """Works where it is called, and notes what happened in which thread."""

    def __init__(self) -> None:
        self.ran_in: list[int] = []
        self.handed: list[tuple[object, object, int]] = []

    def run(self, work):
        self.ran_in.append(threading.get_ident())
        return work(), f"event {len(self.ran_in)}"

    def hand_over(self, result, done):
        self.handed.append((result, done, threading.get_ident()))


@pytest.fixture
def lanes(monkeypatch) -> list[FakeLane]:
    """The lanes of all loaders made from now on."""
    made = []

    def make(device: torch.device) -> FakeLane:
        made.append(FakeLane())
        return made[-1]

    monkeypatch.setitem(ahead.LANES, "cpu", make)
    return made


def helpers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("seer-ahead")]


def test_one_item_is_prepared_beside_the_one_in_use():
    lane = FakeLane()
    began = [threading.Event() for _ in range(5)]
    taken = []

    def items():
        for number in range(5):
            taken.append(number)
            yield number

    def prepare(number: int) -> int:
        began[number].set()
        return 10 * number

    results = one_ahead(items(), prepare, lane)
    assert taken == []  # nothing before it is asked for
    for number in range(5):
        result, waited = next(results)
        assert result == 10 * number
        assert waited >= 0
        assert taken == list(range(min(number + 2, 5)))
        assert number == 4 or began[number + 1].wait(10)  # without our asking for it
        assert number > 2 or not began[number + 2].is_set()
    assert next(results, None) is None
    us = threading.get_ident()
    assert us not in lane.ran_in
    assert lane.handed == [(10 * n, f"event {n + 1}", us) for n in range(5)]
    assert not helpers()


def test_without_a_lane_everything_happens_when_it_is_asked_for():
    taken = []
    results = one_ahead((taken.append(n) or n for n in range(3)), lambda n: -n, None)
    assert next(results) == (0, 0.0)
    assert taken == [0]
    assert [result for result, _ in results] == [-1, -2]


@pytest.mark.parametrize("at", ["taking", "preparing"])
def test_an_error_comes_when_its_turn_has_come(at):
    def items():
        for number in range(5):
            if at == "taking" and number == 2:
                raise KeyError("two")
            yield number

    def prepare(number: int) -> int:
        if number == 2:
            raise KeyError("two")
        return number

    results = one_ahead(items(), prepare, FakeLane())
    assert [next(results)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(results)
    assert next(results, None) is None
    assert not helpers()


def test_closing_waits_for_the_preparation_under_way():
    release = threading.Event()
    finished = []

    def prepare(number: int) -> int:
        if number:
            release.wait(10)
        finished.append(number)
        return number

    results = one_ahead(iter(range(5)), prepare, FakeLane())
    next(results)
    threading.Timer(0.05, release.set).start()
    results.close()
    assert finished == [0, 1]
    assert not helpers()


@dataclass
class Nest:
    crops: tuple
    more: dict


def test_all_tensors_of_a_batch_are_found():
    a, b, c = (torch.full((1,), float(n)) for n in range(3))
    assert [t.item() for t in tensors_of(Nest((a, [b, 5]), {"c": c, "d": None}))] == [0, 1, 2]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """28 pictures, of which three are damaged."""
    root = tmp_path_factory.mktemp("ahead")
    return write_shards(
        root, [11, 17], image=lambda i: b"" if i in (3, 9, 20) else coloured_jpeg(i)
    )


def make(manifest, config, **options) -> Loader:
    order = Order(manifest.sizes, seed=3, lanes=4, window=5)
    crops = MultiCrop({"large": View(size=12, count=2)}, seed=3, finish=False)
    return Loader(manifest, order, crops, batch_size=BATCH, config=config, **options)


def course(loader: Loader, run_dir, stop: int = 9, survey: bool = False) -> list[tuple]:
    """What a consumer sees, batch by batch."""
    course = []
    for number, views in enumerate(loader.iterate(0, 20, skipped=(4,))):
        assert loader.wait_seconds >= 0
        assert {"read", "decode", "crop", "finish"} <= loader.work_seconds.keys()
        damaged = [(e.position, e.id) for e in ledger.read(run_dir, 28)]
        pixels = [crops.clone() for crops in views.crops]
        course.append((views.index.tolist(), pixels, loader.seen, loader.replaced, damaged))
        if survey and number == 2:
            assert len([sample for batch in loader.survey(0) for sample in batch.index]) == 30
        if number == stop:
            break
    return course


def same(a: tuple, b: tuple) -> bool:
    return a[0] == b[0] and a[2:] == b[2:] and all(map(torch.equal, a[1], b[1]))


@pytest.mark.parametrize("config", MODES, ids=["inline", "threads", "processes"])
def test_a_consumer_sees_the_same(manifest, config, lanes, tmp_path, monkeypatch):
    """Also what is counted, although the batch after it has been made; and with a survey between."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before = make(manifest, config, run_dir=tmp_path / "a")
    ours = course(before, tmp_path / "a", survey=True)
    assert len(lanes[0].handed) == 10
    assert len(lanes[0].ran_in) == 11  # one was made for nothing
    monkeypatch.delitem(ahead.LANES, "cpu")
    plain = course(make(manifest, config, run_dir=tmp_path / "b"), tmp_path / "b")
    assert len(lanes) == 1
    assert len(ours) == len(plain) == 10
    assert all(map(same, ours, plain))
    assert plain[-1][3] > 0
    assert not helpers()
    assert not active_children()


def test_the_last_batch_is_followed_by_none(manifest, lanes):
    loader = make(manifest, MODES[0])
    batches = list(loader.iterate(5, 8))
    expected = loader.order.ids(5 * BATCH, 3 * BATCH)
    np.testing.assert_array_equal(torch.cat([views.index for views in batches]), expected)
    assert len(lanes[0].ran_in) == 3
    assert list(make(manifest, MODES[0]).iterate(4, 4)) == []
