"""Curves of scores as TensorBoard reads them."""

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seer.eval.tensorboard import Board
from tests.eval.test_curves import BEGINNINGS, row

TAG = "score/kNN top-1, k = 20"


def points(folder) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars(TAG)]


def test_points_stand_in_their_order_whenever_they_were_scored(tmp_path):
    own = tmp_path / "tensorboard" / "events.out.tfevents.1.of.the.training"
    own.parent.mkdir()
    own.touch()
    board = Board(tmp_path)
    board.write(BEGINNINGS, 0)
    board.write([*BEGINNINGS, row(20, 0.4)], 20)
    board.write([*BEGINNINGS, row(20, 0.4), row(30, 0.5)], 30)
    assert points(tmp_path / "tensorboard/score") == [(20, 0.4), (30, 0.5)]
    assert points(tmp_path / "tensorboard/pixels") == [(0, 0.45), (20, 0.45), (30, 0.45)]
    Board(tmp_path).write([*BEGINNINGS, row(20, 0.4), row(30, 0.5), row(40, 0.6)], 40)
    board.write([*BEGINNINGS, row(20, 0.4), row(30, 0.5), row(40, 0.6), row(10, 0.3)], 10)
    expected = [(10, 0.3), (20, 0.4), (30, 0.5), (40, 0.6)]
    assert points(tmp_path / "tensorboard/score") == expected
    assert own.is_file()


def test_a_run_without_tensorboard_gets_none(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"log": {"tensorboard": False}}))
    Board(tmp_path).write([*BEGINNINGS, row(20, 0.4)], 20)
    assert not (tmp_path / "tensorboard").exists()
