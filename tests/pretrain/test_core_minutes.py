"""`benchmarks/core_minutes.py` trains as `seer pretrain` does, until a time is spent."""

import itertools
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from seer.errors import InputError
from seer.interop.models import load_model
from seer.methods.base import Method
from seer.pretrain.recipe import Pretrain, load_config
from seer.pretrain.run import run
from seer.speedrun import timed as pace

SHARES = ["schedule.warmup=0.4", "method.freeze=0"]  # of a time there are no steps


@pytest.fixture
def timed(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import core_minutes

    return core_minutes


def config_of(tiny: str, shards: Path, tmp_path: Path, *overrides: str) -> Pretrain:
    return load_config(tiny, [f"data={shards}", f"run_dir={tmp_path / 'run'}", *SHARES, *overrides])


def weights(method: Method) -> dict[str, Tensor]:
    return method.backbone.state_dict()


def test_by_images_it_is_the_run_of_as_many_steps(timed, tiny, shards, tmp_path):
    config = config_of(tiny, shards, tmp_path, "optim.clip_grad=0.5")
    training, samples = timed.train(config, timed.Budget(0, 5 * 8))
    assert samples == 5 * 8
    expected = load_model(str(run(config))).backbone.state_dict()
    begun = load_model(f"{config.run_dir}:random").backbone.state_dict()
    moved = 0.0
    for key, value in weights(training.learner).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
        moved = max(moved, float((value - begun[key]).abs().max()))
    assert moved > 1e-2


def test_by_time_it_ends_when_the_core_has_worked_so_long(
    timed, tiny, shards, tmp_path, monkeypatch
):
    seconds = itertools.count(0, 2)
    monkeypatch.setattr(timed.time, "process_time", lambda: next(seconds))
    rates = []
    monkeypatch.setattr(
        pace, "value", lambda schedule, tick, ticks: rates.append(tick / ticks) or 0.1
    )
    _, samples = timed.train(config_of(tiny, shards, tmp_path), timed.Budget(0.1))
    assert samples == 3 * 8
    assert rates == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-6)


def test_no_time_leaves_the_untrained_network(timed, tiny, shards, tmp_path):
    config = config_of(tiny, shards, tmp_path, "steps=1")
    training, samples = timed.train(config, timed.Budget(0))
    assert samples == 0
    begun = load_model(f"{run(config)}:random").backbone.state_dict()
    for key, value in weights(training.learner).items():
        torch.testing.assert_close(value, begun[key], rtol=0, atol=0)


def test_steps_are_refused_where_there_is_a_time(timed, tiny, shards, tmp_path):
    config = config_of(tiny, shards, tmp_path, "schedule.warmup=2")
    with pytest.raises(InputError, match=r"schedule\.warmup=2: what has a time"):
        timed.train(config, timed.Budget(1))


def test_what_a_run_refuses_is_refused(timed, tiny, shards, tmp_path):
    config = config_of(tiny, shards, tmp_path, "views.large.background_removal=0.5")
    with pytest.raises(InputError, match="has no masks"):
        timed.train(config, timed.Budget(1))


def test_an_output_that_cannot_be_written_is_told_before_the_training(
    timed, tiny, shards, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(timed, "train", lambda *_: pytest.fail("trained for nothing"))
    monkeypatch.setattr("sys.argv", ["core_minutes.py", tiny, str(tmp_path), f"data={shards}"])
    with pytest.raises(SystemExit) as ended:
        timed.main()
    assert ended.value.code == 2
    assert "it is a folder" in capsys.readouterr().err
