import json
import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from launch.local import RankError, spawn
from seer.distributed import World, init, rank
from seer.engine.checkpoint import CheckpointConfig, Checkpointer, checkpoints, full_backbone_state, latest
from seer.engine.optim import SGD
from seer.engine.parallel import ParallelConfig
from seer.errors import InputError
from tests.engine import tiny
from tests.engine.tiny import STEPS, Result, Tiny

SAVED = 3  # of STEPS
EXTRA = {"samples": 24, "scaler": {"factor": 65536.0}}


def checkpointer(run_dir, **config):
    return Checkpointer(run_dir, CheckpointConfig(**config), init("cpu"))


def save_and_go_on(run_dir, mode):
    """Train, saving on the way."""
    method, module, optimizer = tiny.build(ParallelConfig(mode))
    losses = tiny.steps(method, module, optimizer, 0, SAVED)
    backbone = full_backbone_state(method)
    checkpointer(run_dir).save(SAVED, method, optimizer, EXTRA, lambda folder: (folder / "more.txt").write_text("more"))
    losses += tiny.steps(method, module, optimizer, SAVED, STEPS)
    return Result(losses, tiny.whole(method)), backbone


def load_and_go_on(run_dir, mode):
    """Continue from the checkpoint in objects that have another past."""
    method, module, optimizer = tiny.build(ParallelConfig(mode))
    tiny.steps(method, module, optimizer, STEPS, STEPS + 1)
    extra = checkpointer(run_dir).load(method, optimizer)
    assert extra == EXTRA | {"step": SAVED}
    losses = tiny.steps(method, module, optimizer, SAVED, STEPS)
    return Result(losses, tiny.whole(method))


def _each(function, run_dirs_and_modes):
    return [function(*one) for one in run_dirs_and_modes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run directories with a checkpoint each, saved by one process, DDP and FSDP, and what the runs came to."""
    folder = tmp_path_factory.mktemp("runs")
    dirs = {name: folder / name for name in ("none", "ddp", "fsdp")}
    results = {"none": save_and_go_on(dirs["none"], "none")}
    two = spawn(_each, 2, save_and_go_on, [(dirs["ddp"], "ddp"), (dirs["fsdp"], "fsdp")], device="cpu")
    return dirs, results | dict(zip(("ddp", "fsdp"), two[0], strict=True)), two[1]


def assert_continues(result, uninterrupted, tolerance=1e-9):
    for a, b in zip(result.losses, uninterrupted.losses[SAVED:], strict=True):
        assert abs(a - b) < tolerance
    for name, tensor in uninterrupted.state.items():
        assert (result.state[name] - tensor).abs().max() < tolerance, name


def test_one_process_continues_bit_for_bit(runs):
    dirs, results, _ = runs
    continued, (uninterrupted, _) = load_and_go_on(dirs["none"], "none"), results["none"]
    assert continued.losses == uninterrupted.losses[SAVED:]
    assert all(torch.equal(continued.state[name], tensor) for name, tensor in uninterrupted.state.items())


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_one_process_continues_what_two_began(runs, mode):
    dirs, results, _ = runs
    assert_continues(load_and_go_on(dirs[mode], "none"), results[mode][0])


def test_any_number_of_processes_continues(runs):
    """Four ranks share tensors of 5 and 7 rows, so shards are uneven and some are empty."""
    dirs, results, _ = runs
    for nproc, *pairs in (2, ("none", "fsdp"), ("fsdp", "ddp")), (4, ("none", "ddp"), ("fsdp", "fsdp")):
        work = [(dirs[began], goes_on) for began, goes_on in pairs]
        continued = spawn(_each, nproc, load_and_go_on, work, device="cpu")[0]
        for (began, _), result in zip(pairs, continued, strict=True):
            assert_continues(result, results[began][0])


def test_a_checkpoint_holds_nothing_to_unpickle(runs):
    for run_dir in runs[0].values():
        path = latest(run_dir)
        assert path.name == "step-000000003"
        assert sorted(p.name for p in path.iterdir()) == ["header.json", "more.txt", "state"]
        names = set()
        for file in (path / "state").iterdir():
            with safe_open(file, "pt") as tensors:
                names |= set(tensors.keys())
        assert names == set(json.loads((path / "header.json").read_text())["tensors"])
        assert {"method.centre", "method.backbone.stem.1.num_batches_tracked"} <= names
        assert "optimizer.prototypes.weight.momentum_buffer" in names


def test_the_whole_backbone_is_gathered_on_rank_0(runs):
    _, results, on_rank_1 = runs
    reference = tiny.build(ParallelConfig())[0].backbone.state_dict()
    for name, (_, backbone) in results.items():
        assert {n: t.shape for n, t in backbone.items()} == {n: t.shape for n, t in reference.items()}
        for tensor_name, tensor in backbone.items():
            assert tensor.is_contiguous()
            torch.testing.assert_close(tensor, results["none"][1][tensor_name], msg=lambda m, n=name: f"{n}: {m}")
    assert [backbone for _, backbone in on_rank_1] == [{}, {}]


def test_adamw_counts_go_with_it(tmp_path):
    """State that is not of its parameter's shape: AdamW's count of steps."""

    def adam_steps(count, load):
        method, *_ = tiny.build(ParallelConfig())
        optimizer = torch.optim.AdamW(method.backbone.parameters(), lr=0.1)
        assert (checkpointer(tmp_path).load(method, optimizer) is not None) == load
        for number in range(STEPS - count, STEPS):
            method.backbone(tiny.batch(number).crops[1][0]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if number == 1 and not load:
                checkpointer(tmp_path).save(2, method, optimizer)
        return method.state_dict()

    uninterrupted, continued = adam_steps(STEPS, False), adam_steps(STEPS - 2, True)
    assert all(torch.equal(uninterrupted[name], tensor) for name, tensor in continued.items())


def saved(run_dir, *steps, **config):
    method, _, optimizer = tiny.build(ParallelConfig())
    for step in steps:
        checkpointer(run_dir, **config).save(step, method, optimizer)
    return [int(path.name.removeprefix("step-")) for path in checkpoints(run_dir)]


def test_the_newest_and_every_nth_are_kept(tmp_path):
    assert saved(tmp_path, 1, 2, 4, 5, 6, 7, keep_last=2, keep_every=4) == [4, 6, 7]
    assert saved(tmp_path, 7, keep_last=1) == [4, 6, 7]  # already there: left alone
    assert saved(tmp_path, 8, keep_last=1) == [8]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000008"]


def test_when_one_is_due(tmp_path):
    assert [s for s in range(1, 9) if checkpointer(tmp_path, every=4).due(s)] == [4, 8]
    assert not checkpointer(tmp_path, every=0).due(4)
    with pytest.raises(InputError, match="keep_last"):
        checkpointer(tmp_path, keep_last=0)


def test_without_a_checkpoint_nothing_is_loaded(tmp_path):
    method, _, optimizer = tiny.build(ParallelConfig())
    assert latest(tmp_path) is None
    assert checkpointer(tmp_path).load(method, optimizer) is None


def _die_while_saving(run_dir):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    checkpointer(run_dir).save(1, method, optimizer)
    checkpointer(run_dir).save(2, method, optimizer, add=lambda _: os.kill(os.getpid(), signal.SIGKILL))


def test_an_interrupted_save_is_no_checkpoint(tmp_path):
    with pytest.raises(RankError, match="rank 0 was killed"):
        spawn(_die_while_saving, 2, tmp_path, device="cpu")
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-000000001", ".step-000000002.tmp"}
    assert latest(tmp_path).name == "step-000000001"
    assert saved(tmp_path, 3) == [1, 3]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000000001", "step-000000003"}


def _disk_full(run_dir):
    method, _, optimizer = tiny.build(ParallelConfig("ddp"))

    def add(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"step-000000002: cannot be written .*No space left"):
        checkpointer(run_dir).save(2, method, optimizer, add=add)
    return rank()


def test_a_save_that_fails_on_rank_0_fails_everywhere(tmp_path):
    saved(tmp_path, 1)
    assert spawn(_disk_full, 2, tmp_path, device="cpu") == [0, 1]
    assert latest(tmp_path).name == "step-000000001"


def load_into(method, run_dir):
    optimizer = SGD(method.parameters())
    return Checkpointer(run_dir, CheckpointConfig(), World()).load(method, optimizer)


def test_another_architecture_is_named(tmp_path):
    saved(tmp_path, 1)
    wider = Tiny(width=6)
    before = wider.backbone.stem[0].weight.clone()
    with pytest.raises(
        InputError, match=r"method.backbone.stem.0.weight is \[4, 3, 3, 3\] there and \[6, 3, 3, 3\] here"
    ):
        load_into(wider, tmp_path)
    assert torch.equal(wider.backbone.stem[0].weight, before)
    deeper, shallower = Tiny(), Tiny()
    deeper.backbone.stages[0].append(torch.nn.Linear(1, 1, bias=False))
    with pytest.raises(InputError, match=r"method.backbone.stages.0.3.weight is missing there; use another run_dir"):
        load_into(deeper, tmp_path)
    del shallower.prototypes
    with pytest.raises(InputError, match=r"method.prototypes.weight is only there"):
        load_into(shallower, tmp_path)


def cut_a_shard(path):
    (shard,) = (path / "state").iterdir()
    shard.write_bytes(shard.read_bytes()[:-100])


def lose_a_shard(path):
    (shard,) = (path / "state").iterdir()
    shard.unlink()


def garble_the_header(path):
    (path / "header.json").write_text("{")


def age(path):
    (path / "header.json").write_text('{"format": "seer-checkpoint/0"}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_a_shard, "step-000000002: damaged .*; delete it to continue from the one before"),
        (lose_a_shard, "step-000000002: damaged .* is in none of its files.; delete it"),
        (garble_the_header, "step-000000002: damaged .header.json cannot be read.; delete it"),
        (age, "format 'seer-checkpoint/0'; this version of seer reads"),
    ],
)
def test_damage_is_named(tmp_path, damage, message, caplog):
    saved(tmp_path, 1, 2)
    damage(latest(tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        load_into(Tiny().double(), tmp_path)
    assert "\n" not in str(caught.value)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    method, _, optimizer = tiny.build(ParallelConfig())
    with pytest.raises(InputError, match="step-000000001: cannot be written"):
        checkpointer(Path(tmp_path)).save(1, method, optimizer)
