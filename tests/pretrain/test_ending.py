"""The end of a run: told at once when it is over, with what limited it and what comes next."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from seer.pretrain.ending import Shares, is_finished, last_lines, limited_by, shares
from seer.pretrain.recipe import load_config
from seer.pretrain.run import run
from seer.rundir.names import latest
from seer.terminal import outlasting_terminal
from seer.verbs import train
from tests.kit.torchless import without_torch


@pytest.fixture(scope="module")
def finished(tiny, shards, tmp_path_factory) -> Path:
    """A run of two steps, in a folder whose name a shell would take apart."""
    run_dir = tmp_path_factory.mktemp("runs") / "it's [1] #2"
    return run(load_config(tiny, [f"data={shards}", f"run_dir={run_dir}", "steps=2"]))


def test_what_is_wrong_and_what_is_done_is_told_before_torch_is_imported(tiny, shards, finished):
    train = ["pretrain", tiny, f"data={shards}", "steps=2"]
    wrong = {
        "batchsize=3": "batchsize: unknown key (did you mean 'batch_size'?)",
        "loader.wrokers=2": "loader.wrokers: unknown key (did you mean 'workers'?)",
        "method.name=swaw": "method.name: 'swaw' is unknown (did you mean 'swav'?)",
        "method.prototype=5": "method.prototype: unknown key (did you mean 'prototypes'?)",
        "backbone.name=resnet5": "unknown backbone 'resnet5' (did you mean 'resnet50'?)",
        "optim.name=sgdd": "optim.name: 'sgdd' is unknown (did you mean 'sgd'?)",
        "batch_size=0": "batch_size: 0 is not a whole number from 1 to",
        "accumulate=3": "batch_size=8 does not divide among",
        "schedule.warmup=30": "schedule.warmup: 30 steps, but the run has 2",
        "data=/nowhere": "data=/nowhere: does not exist; give a folder of images or of shards",
        f"run_dir={finished}": "",
    }
    other = [*train, f"run_dir={finished}", "seed=5"]
    unknown = ["pretrain", "swav_smal", "data=x"]
    elsewhere = {
        "speedrun cpu data=x minuts=3": "minuts: unknown key (did you mean 'minutes'?)",
        "plan swav_small stebs=3 --gpus 1 --gpu cpu": "stebs: unknown key (did you mean 'steps'?)",
        "plan swav_small --gpus 1 --gpu rtx4090": "(did you mean 'rtx-4090'?)",
        "eval knn --model m --data d kk=3": "kk: unknown key (did you mean 'k'?)",
        "eval linear --model m --data d epochs=-3": "epochs: -3 is not a whole number from 1",
        "eval finetune --model m --data d optim.name=adam": "(did you mean 'adamw'?)",
        "eval kn --model m --data d": "task 'kn' is unknown (did you mean 'knn'?)",
    }
    outcomes = without_torch(
        *([*train, item] for item in wrong), other, unknown, *map(str.split, elsewhere)
    )

    refused, rest = outcomes[: len(wrong) - 1], outcomes[len(wrong) - 1 :]
    over, differs, no_recipe, *misspelt = rest
    for (code, out, err), message in zip(refused, wrong.values(), strict=False):
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert over[0] == 0
    assert over[1].startswith(f"finished: 2 steps of 2\nrun     {finished}\n")
    assert differs[0] == 2
    assert "belongs to another configuration: seed is 3 there and 5 here" in differs[2]
    assert "recipe 'swav_smal' is unknown (did you mean 'swav_small'?)" in no_recipe[2]
    for (code, out, err), message in zip(misspelt, elsewhere.values(), strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err


def test_the_commands_of_the_last_lines_can_be_pasted(tiny, shards, finished):
    config = load_config(tiny, [f"data={shards}", f"run_dir={finished}", "steps=2"])
    commands = [line[8:] for line in last_lines(config) if "seer " in line]
    model = str(finished)
    assert [shlex.split(line, comments=True) for line in commands] == [
        ["seer", "eval", "all", "--model", model, "--data", "LABELLED"],
        ["seer", "report", model],
    ]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_first_says_that_a_run_is_over(
    rank, tiny, shards, finished, monkeypatch, capsys
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("seer.forkserver.start", lambda modules: None)
    monkeypatch.setattr("seer.pretrain.run.run", lambda config, remarks: None)
    with outlasting_terminal():
        train.pretrain(tiny, [f"data={shards}", f"run_dir={finished}", "steps=2"])
    said = capsys.readouterr().out.splitlines()
    assert said[:1] == (["finished: 2 steps of 2"] if rank == "0" else [])


def test_a_run_is_finished_while_its_last_checkpoint_is_whole_and_its_data_are_the_same(
    tiny, shards, finished, tmp_path
):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    config = load_config(tiny, [f"data={shards}", f"run_dir={copy}", "steps=2"])
    assert is_finished(config)
    assert not is_finished(replace(config, steps=3))
    assert not is_finished(replace(config, run_dir=str(tmp_path / "none")))

    for name in ("backbone.safetensors", "state/rank-00000.safetensors", "header.json"):
        file = latest(copy) / name
        content = file.read_bytes()
        file.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
        assert not is_finished(config), name
        file.unlink()
        assert not is_finished(config), name
        file.write_bytes(content)
    assert is_finished(config)


def rows(*waits: float) -> list[dict]:
    """Rows a second apart, in each of which so much of it was waiting; the rest was the step."""
    return [
        {"step": i + 1, "seconds": float(i), "data_wait": wait, "time_step": 1 - wait}
        for i, wait in enumerate(waits)
    ]


def test_shares_are_means_over_time_without_the_first_row():
    assert shares(rows(0.9)) is None
    assert shares([]) is None
    uneven = rows(1.0, 0.2, 0.6)
    uneven[2]["seconds"] = 4.0  # three seconds after the row before
    assert shares(uneven).wait == pytest.approx((0.2 + 3 * 0.6) / 4)
    assert shares(uneven).step == pytest.approx((0.8 + 3 * 0.4) / 4)


WAITING = Shares(0.64, 0.3, {"read": 0.1, "decode": 1.5, "crop": 0.3, "augment": 0.1})
BUSY = Shares(0.02, 0.97, {"read": 0.1, "decode": 0.5, "crop": 0.3, "augment": 0.1})


def test_what_limited_a_run_is_told_from_what_was_measured(tiny, shards):
    def told(spent: Shares | None, overrides: list[str], cores: int, gpus: int = 0) -> str:
        config = load_config(tiny, [f"data={shards}", "loader.workers=2", *overrides])
        ran_on = {"cores": cores, "gpus": ["NVIDIA L4"] * gpus, "processes": 1}
        return limited_by(config, spent, ran_on)

    # Two workers left 36 % of the time for the step: six would have left all of it.
    waiting = told(WAITING, [], cores=16, gpus=1)
    assert waiting.startswith(
        "waiting for data 64 % of the time: loader.workers=6 (2 now, 16 cores) or "
    )
    assert waiting.endswith(
        "smaller images in a new run_dir, by seer shards build IMAGES --out SHARDS --shorter-side 48 "
        "(decoding takes longest)"
    )
    assert "waiting" in told(replace(WAITING, wait=0.15), [], cores=16, gpus=1)
    assert "waiting" not in told(replace(WAITING, wait=0.149), [], cores=16, gpus=1)
    assert "loader.workers=3 (2 now, 4 cores)" in told(WAITING, [], cores=4, gpus=1)
    assert "loader.workers" not in told(WAITING, [], cores=2, gpus=1)
    cropping = replace(WAITING, parts={**WAITING.parts, "crop": 5.0})
    assert "loader.device_augment=true in a new run_dir" in told(cropping, [], 2, gpus=1)
    assert told(cropping, [], cores=2) == ""  # nothing to move the work to

    on_gpu = told(BUSY, [], cores=16, gpus=1)
    assert on_gpu.startswith(
        "the steps themselves, 97 % of the time: precision=bf16 in a new run_dir"
    )
    tuned = ["precision=bf16", "parallel.compile=true"]
    assert told(BUSY, tuned, cores=16, gpus=1) == ""
    assert "--nproc 4, a process per core" in told(BUSY, ["parallel.mode=ddp"], cores=4)
    assert told(BUSY, [], cores=1) == ""
    assert told(None, [], cores=4) == ""
