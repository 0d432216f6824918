"""Checkpoints: what is saved comes back at any number of ranks, and what cannot be saved is told."""

import json
import os
import random
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file

from seer.distributed import World, init, local, rank, size
from seer.engine.checkpoint import checkpointer, integrity, tensorfile
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.health import RollbackError
from seer.engine.parallel import ParallelConfig
from seer.engine.preempt import StopRequest
from seer.errors import InputError, UnsavedError
from seer.processes import spawn
from seer.rundir.names import checkpoints, latest
from seer.schema import check_options
from tests.engine import tiny
from tests.engine.saving import load_into, loaded, names_in, saved, writer
from tests.engine.tiny import STEPS, Result, Tiny

SAVED = 3  # of STEPS
EXTRA = {"samples": 24, "scaler": {"factor": 65536.0}}


def build(mode):
    """Method, module and optimizer; `hybrid` shards them in each of two halves of the ranks."""
    return tiny.build(
        ParallelConfig("fsdp", shard_group=2) if mode == "hybrid" else ParallelConfig(mode)
    )


def save_and_go_on(run_dir, mode):
    """Train, saving on the way."""
    method, module, optimizer = build(mode)
    losses = tiny.steps(method, module, optimizer, 0, SAVED)
    with writer(run_dir) as saves:
        saves.save(SAVED, method, optimizer, EXTRA, {"note": "whole"})
        saved = tiny.whole(method)
        # Which must not change what is being written.
        losses += tiny.steps(method, module, optimizer, SAVED, STEPS)
    return Result(losses, tiny.whole(method)), saved


def load_and_go_on(run_dir, mode):
    """Continue from the checkpoint in objects that have another past."""
    method, module, optimizer = build(mode)
    tiny.steps(method, module, optimizer, STEPS, STEPS + 1)
    extra = writer(run_dir).load(method, optimizer)
    assert extra == EXTRA | {"step": SAVED}
    losses = tiny.steps(method, module, optimizer, SAVED, STEPS)
    return Result(losses, tiny.whole(method))


def _each(function, run_dirs_and_modes):
    return [function(*one) for one in run_dirs_and_modes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run directories with a checkpoint each, saved by one process, DDP and FSDP, and what the runs
    came to.
    """
    folder = tmp_path_factory.mktemp("runs")
    dirs = {name: folder / name for name in ("none", "ddp", "fsdp")}
    results = {"none": save_and_go_on(dirs["none"], "none")}
    two = spawn(
        _each, 2, save_and_go_on, [(dirs["ddp"], "ddp"), (dirs["fsdp"], "fsdp")], device="cpu"
    )
    return dirs, results | dict(zip(("ddp", "fsdp"), two[0], strict=True))


def assert_continues(result, uninterrupted, tolerance=1e-9):
    for a, b in zip(result.losses, uninterrupted.losses[SAVED:], strict=True):
        assert abs(a - b) < tolerance
    for name, tensor in uninterrupted.state.items():
        assert (result.state[name] - tensor).abs().max() < tolerance, name


def test_one_process_continues_bit_for_bit(runs):
    dirs, results = runs
    continued, (uninterrupted, _) = load_and_go_on(dirs["none"], "none"), results["none"]
    assert continued.losses == uninterrupted.losses[SAVED:]
    assert all(
        torch.equal(continued.state[name], tensor) for name, tensor in uninterrupted.state.items()
    )


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_one_process_continues_what_two_began(runs, mode):
    dirs, results = runs
    assert_continues(load_and_go_on(dirs[mode], "none"), results[mode][0])


def _load_and_save_again(run_dirs_and_modes):
    """Continue; and save what was loaded elsewhere, unchanged, as this many processes hold it."""
    for run_dir, again, mode in run_dirs_and_modes:
        method, _, optimizer = build(mode)
        assert writer(run_dir).load(method, optimizer) == EXTRA | {"step": SAVED}
        with writer(again) as saves:
            saves.save(SAVED, method, optimizer, EXTRA)
    return _each(load_and_go_on, [(run_dir, mode) for run_dir, _, mode in run_dirs_and_modes])


@pytest.mark.slow
def test_any_number_of_processes_continues(runs, tmp_path):
    """From 2 to 4 to 1, and 1 to 4, sharded and not. Four share tensors of 5 and 7 rows, unevenly;
    some get none.
    """
    dirs, results = runs
    pairs = [("none", "ddp"), ("ddp", "fsdp"), ("fsdp", "hybrid")]
    work = [(dirs[began], tmp_path / began, goes_on) for began, goes_on in pairs]
    continued = spawn(_load_and_save_again, 4, work, device="cpu")[0]
    for (began, _), result in zip(pairs, continued, strict=True):
        assert_continues(result, results[began][0])
        assert_continues(load_and_go_on(tmp_path / began, "none"), results[began][0])


def test_a_checkpoint_holds_what_it_says_and_nothing_to_unpickle(runs):
    for run_dir in runs[0].values():
        path = latest(run_dir)
        assert path.name == "step-000000003"
        assert sorted(p.name for p in path.iterdir()) == [
            "backbone.safetensors",
            "header.json",
            "state",
        ]
        header = json.loads((path / "header.json").read_text())
        names = set()
        for file in (path / "state").iterdir():
            with safe_open(file, "pt") as tensors:
                names |= set(tensors.keys())
        assert names == set(header["tensors"])
        assert {"method.centre", "method.backbone.stem.1.num_batches_tracked"} <= names
        assert "optimizer.prototypes.weight.momentum_buffer" in names
        assert set(header["files"]) == {
            str(p.relative_to(path)) for p in path.glob("**/*.safetensors")
        }


def test_the_ranks_write_about_as_much_each(runs):
    for name in ("ddp", "fsdp"):
        sizes = [file.stat().st_size for file in (latest(runs[0][name]) / "state").iterdir()]
        assert len(sizes) == 2
        assert max(sizes) < 1.2 * min(sizes)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_pytorchs_own_reader_reads_the_shards(runs):
    for name, run_dir in runs[0].items():
        path, saved = latest(run_dir), runs[1][name][1]
        theirs = {f"method.{key}": torch.empty_like(tensor) for key, tensor in saved.items()}
        dcp.load(
            theirs, storage_reader=dcp.HuggingFaceStorageReader(str(path / "state")), no_dist=True
        )
        assert all(torch.equal(theirs[f"method.{key}"], tensor) for key, tensor in saved.items())


def test_the_whole_backbone_lies_beside_the_shards(runs):
    for run_dir, (_, state) in zip(runs[0].values(), runs[1].values(), strict=True):
        file = latest(run_dir) / "backbone.safetensors"
        whole = load_file(file)
        assert set(whole) == {
            key.removeprefix("backbone.") for key in state if key.startswith("backbone.")
        }
        assert all(torch.equal(state[f"backbone.{key}"], tensor) for key, tensor in whole.items())
        with safe_open(file, "pt") as tensors:
            assert tensors.metadata() == {"note": "whole"}


def test_adamw_counts_go_with_it(tmp_path):
    """State that is not of its parameter's shape: AdamW's count of steps."""

    def adam_steps(count, load):
        method, *_ = tiny.build(ParallelConfig())
        optimizer = torch.optim.AdamW(method.backbone.parameters(), lr=0.1)
        assert (writer(tmp_path).load(method, optimizer) is not None) == load
        for number in range(STEPS - count, STEPS):
            method.backbone(tiny.batch(number).crops[1][0]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if number == 1 and not load:
                with writer(tmp_path) as saves:
                    saves.save(2, method, optimizer)
        return method.state_dict()

    uninterrupted, continued = adam_steps(STEPS, False), adam_steps(STEPS - 2, True)
    assert all(torch.equal(uninterrupted[name], tensor) for name, tensor in continued.items())


def test_the_newest_and_every_nth_are_kept(tmp_path):
    assert saved(tmp_path, 1, 2, 4, 5, 6, 7, keep_last=2, keep_every=4) == [4, 6, 7]
    assert saved(tmp_path, 7, keep_last=1) == [4, 6, 7]  # already there: left alone
    assert saved(tmp_path, 8, keep_last=1) == [8]
    assert names_in(tmp_path / "checkpoints") == ["step-000000008"]
    with pytest.raises(InputError, match="keep_last"):
        check_options(CheckpointConfig(keep_last=0), "checkpoint")


def test_without_a_checkpoint_nothing_is_loaded(tmp_path):
    method, _, optimizer = tiny.build(ParallelConfig())
    assert latest(tmp_path) is None
    assert writer(tmp_path).load(method, optimizer) is None


def test_saves_run_beside_the_training_one_at_a_time(tmp_path, monkeypatch):
    method, _, optimizer = tiny.build(ParallelConfig())
    disk, write, writing = threading.Semaphore(0), tensorfile.write, []

    def slow(path, blocks):
        writing.append(path.parent.parent.name)
        assert disk.acquire(timeout=60)
        return write(path, blocks)

    monkeypatch.setattr(tensorfile, "write", slow)
    saves = writer(tmp_path)
    saves.save(1, method, optimizer)  # comes back although the disk is stuck
    second = threading.Thread(target=saves.save, args=(2, method, optimizer))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert writing == [".step-000000001.tmp"]
    disk.release(2)
    second.join(60)
    saves.finish()
    assert writing == [".step-000000001.tmp", ".step-000000002.tmp"]
    assert len(checkpoints(tmp_path)) == 2


def _die(line):
    """Have this process killed before line number `line` of what a save runs in the background; 0:
    never.

    Returns:
        The lines that have been run so far.
    """
    run: list[int] = []
    files = {module.__file__ for module in (checkpointer, integrity, tensorfile)}

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            run.append(frame.f_lineno)
            if len(run) == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    return run


@pytest.mark.slow
def test_killed_at_any_moment_of_a_save(tmp_path):
    lines = _die(0)
    saved(tmp_path / "count", 1)
    threading.settrace(None)  # type: ignore[arg-type]
    total = len(lines)
    moments = sorted({*random.Random(1).sample(range(1, total), 14), *range(total - 50, total, 4)})
    went_on_from = []
    for moment in moments:
        run_dir = tmp_path / str(moment)
        saved(run_dir, 1)
        if (child := os.fork()) == 0:
            _die(moment)
            saved(run_dir, 2, keep_last=1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        went_on_from.append(loaded(run_dir))
        assert saved(run_dir, 3, keep_last=9)[-1] == 3
        assert not [name for name in names_in(run_dir / "checkpoints") if name.startswith(".")]
    assert went_on_from == sorted(went_on_from)  # the checkpoint becomes visible at one moment
    assert set(went_on_from) == {1, 2}


def test_what_could_not_be_written_is_tried_again(tmp_path, monkeypatch, caplog):
    fsync, failures = tensorfile.flush, [OSError(5, "Input/output error")]

    def flaky(file):
        if failures:
            raise failures.pop()
        fsync(file)

    monkeypatch.setattr(tensorfile, "flush", flaky)
    monkeypatch.setattr(checkpointer, "PAUSES", (0.0,))
    assert saved(tmp_path, 1) == [1]
    assert (
        "step-000000001: cannot be written ([Errno 5] Input/output error); once more in 0 s"
        in caplog.text
    )
    assert loaded(tmp_path) == 1


def _save_on_a_full_disk(run_dir):
    """Rank 1 can write a kilobyte."""
    checkpointer.PAUSES = (0.0,)
    method, _, optimizer = tiny.build(ParallelConfig("ddp"))
    asked = StopRequest()
    saves = Checkpointer(run_dir, CheckpointConfig(), init("cpu"), asked)
    if rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    saves.save(2, method, optimizer)
    with pytest.raises(
        UnsavedError,
        match=r"step-000000002: cannot be written .*File too large.*; earlier ones are",
    ):
        saves.finish()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    saves.save(3, method, optimizer)
    saves.finish()
    return asked.by


def test_a_save_that_fails_on_one_rank_fails_everywhere_and_asks_the_run_to_stop(tmp_path):
    saved(tmp_path, 1)
    assert spawn(_save_on_a_full_disk, 2, tmp_path, device="cpu") == ["a save that failed"] * 2
    assert names_in(tmp_path / "checkpoints") == ["step-000000001", "step-000000003"]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointer, "PAUSES", ())
    (tmp_path / "checkpoints").write_text("a file")
    method, _, optimizer = tiny.build(ParallelConfig())
    saves = writer(Path(tmp_path))
    saves.save(1, method, optimizer)
    with pytest.raises(UnsavedError, match="step-000000001: cannot be written"):
        saves.save(2, method, optimizer)


def test_another_architecture_is_named(tmp_path):
    saved(tmp_path, 1)
    wider = Tiny(width=6)
    before = wider.backbone.stem[0].weight.clone()
    with pytest.raises(
        InputError,
        match=r"method.backbone.stem.0.weight is \[4, 3, 3, 3\] there and \[6, 3, 3, 3\] here",
    ):
        load_into(wider, tmp_path)
    assert torch.equal(wider.backbone.stem[0].weight, before)
    deeper, shallower = Tiny(), Tiny()
    deeper.backbone.stages[0].append(torch.nn.Linear(1, 1, bias=False))
    with pytest.raises(
        InputError, match=r"method.backbone.stages.0.3.weight is missing there; use another run_dir"
    ):
        load_into(deeper, tmp_path)
    del shallower.prototypes
    with pytest.raises(InputError, match=r"method.prototypes.weight is only there"):
        load_into(shallower, tmp_path)


def test_going_back_takes_later_ones_back(tmp_path):
    saved(tmp_path, 1, 2, 3, keep_last=3)
    method, _, optimizer = tiny.build(ParallelConfig())
    assert writer(tmp_path).load(method, optimizer, until=2)["step"] == 2
    assert method.centre.tolist() == [2] * 5
    assert names_in(tmp_path / "checkpoints") == ["step-000000001", "step-000000002"]


def test_what_is_not_proven_is_hidden_and_keeps_nothing_from_staying(tmp_path):
    method, _, optimizer = tiny.build(ParallelConfig())
    folder = tmp_path / "checkpoints"
    with writer(tmp_path, keep_last=1) as saves:
        for step, good in ((1, True), (2, False), (3, True)):
            saves.save(step, method, optimizer, proven=False)
            if good:
                saves.confirm()
            saves.finish()
            assert names_in(folder) == ["step-000000001" if step < 3 else "step-000000003"]
        saves.save(4, method, optimizer, proven=False)  # and nothing follows
    assert names_in(folder) == ["step-000000003"]


def _save_what_is_not_finite(run_dir, mode):
    """One value of the momentum, which one rank saves; which checkpoints there are then."""
    method, module, optimizer = build(mode)
    tiny.steps(method, module, optimizer, 0, 1)
    with writer(run_dir) as saves:
        saves.save(1, method, optimizer)
        for parameter in (method.head[0].weight, method.backbone.stem[0].weight):
            values = local(optimizer.state[parameter]["momentum_buffer"])
            if values.numel() and rank() == size() - 1:
                values[(0,) * values.dim()] = float("inf")
        saves.save(2, method, optimizer, proven=False)
        saves.confirm()
        with pytest.raises(
            RollbackError, match="momentum_buffer is not finite after this step"
        ) as raised:
            saves.finish()
        assert (raised.value.first, raised.value.last) == (2, 2)
        assert writer(run_dir).load(method, optimizer) == {"step": 1}
    return [path.name for path in checkpoints(run_dir)]


def _in_each_mode(run_dir, modes):
    return [_save_what_is_not_finite(run_dir / mode, mode) for mode in modes]


def test_what_is_not_finite_is_saved_by_no_rank(tmp_path):
    assert _in_each_mode(tmp_path, ["none"]) == [["step-000000001"]]
    together = spawn(_in_each_mode, 2, tmp_path, ["fsdp"], device="cpu")
    assert together == [[["step-000000001"]]] * 2


def test_what_is_not_finite_is_not_gone_on_from(tmp_path, caplog, monkeypatch):
    saved(tmp_path, 1)
    method, _, optimizer = tiny.build(ParallelConfig())
    method.centre[2] = float("nan")
    with monkeypatch.context() as patched:
        # As versions before did not look.
        patched.setattr(tensorfile, "is_finite", lambda values: True)
        with writer(tmp_path) as saves:
            saves.save(2, method, optimizer, {"about": 2})
    assert len(checkpoints(tmp_path)) == 2
    assert loaded(tmp_path) == 1
    assert "damaged (method.centre is not finite)" in caplog.text


def test_a_save_is_late_by_the_clock_of_rank_0(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(checkpointer.time, "monotonic", lambda: now[0])
    method, _, optimizer = tiny.build(ParallelConfig())
    saves = writer(tmp_path, minutes=0.5)
    late = []
    for now[0] in (1029.0, 1030.0, 1100.0):
        late.append(saves.late())
    saves.save(1, method, optimizer)
    assert [*late, saves.late()] == [False, True, True, False]
    saves.finish()
    now[0] = 1e9
    assert saves.late()
    assert not writer(tmp_path, minutes=0).late()
    assert not Checkpointer(tmp_path, CheckpointConfig(minutes=0.5), World(rank=1)).late()
