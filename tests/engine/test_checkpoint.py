"""Checkpoints: what is saved comes back at any number of ranks, and nothing that happens to a file goes unnoticed."""

import json
import logging
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

from launch.local import spawn
from seer.data import store as data_store
from seer.distributed import World, init, rank
from seer.engine import checkpoint, integrity, tensorfile
from seer.engine.checkpoint import CheckpointConfig, Checkpointer
from seer.engine.integrity import checkpoints, latest
from seer.engine.mirror import Mirror
from seer.engine.optim import SGD
from seer.engine.parallel import ParallelConfig
from seer.engine.preempt import StopRequest
from seer.errors import InputError, UnsavedError
from seer.interop.models import load_backbone
from tests.engine import tiny
from tests.engine.tiny import STEPS, Result, Tiny
from tests.servers import bucket_server

SAVED = 3  # of STEPS
EXTRA = {"samples": 24, "scaler": {"factor": 65536.0}}


def checkpointer(run_dir, **config):
    return Checkpointer(run_dir, CheckpointConfig(**config), init("cpu"))


def build(mode):
    """Method, module and optimizer; `hybrid` shards them in each of two halves of the ranks."""
    return tiny.build(ParallelConfig("fsdp", shard_group=2) if mode == "hybrid" else ParallelConfig(mode))


def save_and_go_on(run_dir, mode):
    """Train, saving on the way."""
    method, module, optimizer = build(mode)
    losses = tiny.steps(method, module, optimizer, 0, SAVED)
    with checkpointer(run_dir) as saves:
        saves.save(SAVED, method, optimizer, EXTRA, {"note": "whole"})
        saved = tiny.whole(method)
        losses += tiny.steps(method, module, optimizer, SAVED, STEPS)  # which must not change what is being written
    return Result(losses, tiny.whole(method)), saved


def load_and_go_on(run_dir, mode):
    """Continue from the checkpoint in objects that have another past."""
    method, module, optimizer = build(mode)
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
    assert all(torch.equal(continued.state[name], tensor) for name, tensor in uninterrupted.state.items())


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_one_process_continues_what_two_began(runs, mode):
    dirs, results = runs
    assert_continues(load_and_go_on(dirs[mode], "none"), results[mode][0])


def _load_and_save_again(run_dirs_and_modes):
    """Continue; and save what was loaded elsewhere, unchanged, as this many processes hold it."""
    for run_dir, again, mode in run_dirs_and_modes:
        method, _, optimizer = build(mode)
        assert checkpointer(run_dir).load(method, optimizer) == EXTRA | {"step": SAVED}
        with checkpointer(again) as saves:
            saves.save(SAVED, method, optimizer, EXTRA)
    return _each(load_and_go_on, [(run_dir, mode) for run_dir, _, mode in run_dirs_and_modes])


def test_any_number_of_processes_continues(runs, tmp_path):
    """From 2 to 4 to 1, and 1 to 4, sharded and not. Four share tensors of 5 and 7 rows, unevenly; some get none."""
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
        assert sorted(p.name for p in path.iterdir()) == ["backbone.safetensors", "header.json", "state"]
        header = json.loads((path / "header.json").read_text())
        names = set()
        for file in (path / "state").iterdir():
            with safe_open(file, "pt") as tensors:
                names |= set(tensors.keys())
        assert names == set(header["tensors"])
        assert {"method.centre", "method.backbone.stem.1.num_batches_tracked"} <= names
        assert "optimizer.prototypes.weight.momentum_buffer" in names
        assert set(header["files"]) == {str(p.relative_to(path)) for p in path.glob("**/*.safetensors")}


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
        dcp.load(theirs, storage_reader=dcp.HuggingFaceStorageReader(str(path / "state")), no_dist=True)
        assert all(torch.equal(theirs[f"method.{key}"], tensor) for key, tensor in saved.items())


def test_the_whole_backbone_lies_beside_the_shards(runs):
    for run_dir, (_, saved) in zip(runs[0].values(), runs[1].values(), strict=True):
        file = latest(run_dir) / "backbone.safetensors"
        whole = load_file(file)
        assert set(whole) == {key.removeprefix("backbone.") for key in saved if key.startswith("backbone.")}
        assert all(torch.equal(saved[f"backbone.{key}"], tensor) for key, tensor in whole.items())
        with safe_open(file, "pt") as tensors:
            assert tensors.metadata() == {"note": "whole"}


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
                with checkpointer(tmp_path) as saves:
                    saves.save(2, method, optimizer)
        return method.state_dict()

    uninterrupted, continued = adam_steps(STEPS, False), adam_steps(STEPS - 2, True)
    assert all(torch.equal(uninterrupted[name], tensor) for name, tensor in continued.items())


def saved(run_dir, *steps, **config):
    """Save the initial state as that of these steps; which steps there are checkpoints of then."""
    method, _, optimizer = tiny.build(ParallelConfig())
    with checkpointer(run_dir, **config) as saves:
        for step in steps:
            with torch.no_grad():
                method.centre.fill_(step)
            saves.save(step, method, optimizer, {"about": step}, {})
    return [int(path.name.removeprefix("step-")) for path in checkpoints(run_dir)]


def load_into(method, run_dir, **config):
    optimizer = SGD(method.parameters())
    return Checkpointer(run_dir, CheckpointConfig(**config), World()).load(method, optimizer)


def loaded(run_dir, **config):
    """The step that a new process goes on from; that its header and its tensors are of one step is checked here."""
    method = Tiny().double()
    extra = load_into(method, run_dir, **config)
    assert extra == {"about": extra["step"], "step": extra["step"]}
    assert method.centre.tolist() == [extra["step"]] * 5
    return extra["step"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_and_every_nth_are_kept(tmp_path):
    assert saved(tmp_path, 1, 2, 4, 5, 6, 7, keep_last=2, keep_every=4) == [4, 6, 7]
    assert saved(tmp_path, 7, keep_last=1) == [4, 6, 7]  # already there: left alone
    assert saved(tmp_path, 8, keep_last=1) == [8]
    assert names_in(tmp_path / "checkpoints") == ["step-000000008"]
    with pytest.raises(InputError, match="keep_last"):
        checkpointer(tmp_path, keep_last=0)


def test_without_a_checkpoint_nothing_is_loaded(tmp_path):
    method, _, optimizer = tiny.build(ParallelConfig())
    assert latest(tmp_path) is None
    assert checkpointer(tmp_path).load(method, optimizer) is None


def test_saves_run_beside_the_training_one_at_a_time(tmp_path, monkeypatch):
    method, _, optimizer = tiny.build(ParallelConfig())
    disk, write, writing = threading.Semaphore(0), tensorfile.write, []

    def slow(path, blocks):
        writing.append(path.parent.parent.name)
        assert disk.acquire(timeout=60)
        return write(path, blocks)

    monkeypatch.setattr(tensorfile, "write", slow)
    saves = checkpointer(tmp_path)
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
    """Have this process killed before line number `line` of what a save runs in the background; 0: never.

    Returns:
        The lines that have been run so far.
    """
    run: list[int] = []
    files = {module.__file__ for module in (checkpoint, integrity, tensorfile)}

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
    monkeypatch.setattr(checkpoint, "PAUSES", (0.0,))
    assert saved(tmp_path, 1) == [1]
    assert "step-000000001: cannot be written ([Errno 5] Input/output error); once more in 0 s" in caplog.text
    assert loaded(tmp_path) == 1


def _save_on_a_full_disk(run_dir):
    """Rank 1 can write a kilobyte."""
    checkpoint.PAUSES = (0.0,)
    method, _, optimizer = tiny.build(ParallelConfig("ddp"))
    asked = StopRequest()
    saves = Checkpointer(run_dir, CheckpointConfig(), init("cpu"), asked)
    if rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    saves.save(2, method, optimizer)
    with pytest.raises(UnsavedError, match=r"step-000000002: cannot be written .*File too large.*; earlier ones are"):
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
    monkeypatch.setattr(checkpoint, "PAUSES", ())
    (tmp_path / "checkpoints").write_text("a file")
    method, _, optimizer = tiny.build(ParallelConfig())
    saves = checkpointer(Path(tmp_path))
    saves.save(1, method, optimizer)
    with pytest.raises(UnsavedError, match="step-000000001: cannot be written"):
        saves.save(2, method, optimizer)


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


def test_formats_of_other_versions(tmp_path):
    saved(tmp_path, 1)
    header = latest(tmp_path) / "header.json"
    about = json.loads(header.read_text())
    del about["files"], about["sha256"]
    header.write_text(json.dumps(about | {"format": "seer-checkpoint/1"}))
    assert loaded(tmp_path) == 1
    header.write_text(json.dumps(about | {"format": "seer-checkpoint/0"}))
    with pytest.raises(InputError, match=r"format 'seer-checkpoint/0'; this version of seer reads 'seer-checkpoint/2'"):
        loaded(tmp_path)


def shard(path):
    (file,) = (path / "state").iterdir()
    return file


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    bit = random.Random(file.name).randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def replace_in_header(path, old, new):
    text = (path / "header.json").read_text()
    assert text.count(old) == 1
    (path / "header.json").write_text(text.replace(old, new))


DAMAGES = {
    "a flipped bit in a shard": lambda path: flip_a_bit(shard(path)),
    "a flipped bit in the backbone": lambda path: flip_a_bit(path / "backbone.safetensors"),
    "a flipped bit in the header": lambda path: flip_a_bit(path / "header.json"),
    "another step in the header": lambda path: replace_in_header(path, '"step": 2', '"step": 3'),
    "a truncated shard": lambda path: truncate(shard(path)),
    "a truncated header": lambda path: truncate(path / "header.json"),
    "an empty header": lambda path: (path / "header.json").write_bytes(b""),
    "a missing shard": lambda path: shard(path).unlink(),
    "a folder for a shard": lambda path: (
        shard(path).rename(path / "x"),
        (path / "state/rank-00000.safetensors").mkdir(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_newest_intact_one_is_used_and_one_line_says_so(tmp_path, damage, caplog):
    saved(tmp_path, 1, 2)
    damage(latest(tmp_path))
    assert loaded(tmp_path) == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "step-000000002: damaged (" in record.getMessage()
    assert record.getMessage().endswith("; going on from step-000000001")
    assert "\n" not in record.getMessage()


def test_a_backbone_is_verified_before_it_is_used(tmp_path):
    saved(tmp_path, 1)
    file = latest(tmp_path) / "backbone.safetensors"
    integrity.check_file(file)
    flip_a_bit(file)
    with pytest.raises(InputError, match=r"backbone\.safetensors: damaged"):
        load_backbone(tmp_path)


def test_where_none_is_intact_nothing_is_begun_anew(tmp_path):
    saved(tmp_path, 1, 2)
    for path in checkpoints(tmp_path):
        truncate(shard(path))
    with pytest.raises(InputError, match=r"step-000000002: damaged .*, and none before it is intact; delete .* anew"):
        loaded(tmp_path)
    assert len(checkpoints(tmp_path)) == 2


def _save_three(run_dir):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    with checkpointer(run_dir, keep_last=3) as saves:
        for step in (1, 2, 3):
            saves.save(step, method, optimizer, {}, {})


def _go_on_past_damage(run_dir):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    hashed, sha256 = [], tensorfile.sha256
    tensorfile.sha256 = lambda path: hashed.append(path.name) or sha256(path)
    there = []
    with checkpointer(run_dir, keep_last=2) as saves:
        assert saves.load(method, optimizer) == {"step": 1}
        verified = list(hashed)
        for step in (2, 3):
            saves.save(step, method, optimizer, {}, {})
            saves.finish()
            there.append(names_in(run_dir / "checkpoints"))
    tensorfile.sha256 = sha256
    assert saves.load(method, optimizer) == {"step": 3}
    return there, verified


def test_damaged_ones_are_replaced_and_do_not_count_as_kept(tmp_path):
    spawn(_save_three, 2, tmp_path, device="cpu")
    for path in checkpoints(tmp_path)[1:]:
        truncate(path / "state/rank-00001.safetensors")
    (there, first), (_, second) = spawn(_go_on_past_damage, 2, tmp_path, device="cpu")
    assert there == [["step-000000001", "step-000000002"], ["step-000000002", "step-000000003"]]
    # Together the ranks have read every file of the three once.
    assert sorted(first + second) == sorted(3 * [*names_in(latest(tmp_path) / "state"), "backbone.safetensors"])


def test_going_back_takes_later_ones_back(tmp_path):
    saved(tmp_path, 1, 2, 3, keep_last=3)
    method, _, optimizer = tiny.build(ParallelConfig())
    assert checkpointer(tmp_path).load(method, optimizer, until=2)["step"] == 2
    assert method.centre.tolist() == [2] * 5
    assert names_in(tmp_path / "checkpoints") == ["step-000000001", "step-000000002"]


@pytest.fixture
def bucket(monkeypatch):
    with bucket_server(monkeypatch) as url:
        yield url


def test_a_store_has_what_the_run_directory_has(tmp_path, bucket, caplog):
    store = f"{bucket}/run"
    assert saved(tmp_path / "a", 1, 2, 4, 5, 6, keep_last=1, keep_every=4, store=store) == [4, 6]
    elsewhere = tmp_path / "b"
    assert loaded(elsewhere, store=store) == 6
    assert names_in(elsewhere / "checkpoints") == ["step-000000006"]
    there = Mirror(store, World())
    assert there.checkpoints() == ["step-000000004", "step-000000006"]
    assert not data_store.names(there.url / "step-000000005")  # nothing is left of those that need not stay
    # What is newest where it is intact, whether here or there; here, if there as well.
    assert saved(elsewhere, 7) == [6, 7]
    assert loaded(elsewhere, store=store) == 7
    truncate(shard(latest(elsewhere)))
    truncate(shard(elsewhere / "checkpoints/step-000000006"))
    assert loaded(elsewhere, store=store) == 6
    assert caplog.messages[-1].endswith("; going on from step-000000006 of the store")
    assert names_in(elsewhere / "checkpoints/step-000000006") == ["backbone.safetensors", "header.json", "state"]


def _save_to(run_dir, store):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    with checkpointer(run_dir, store=store) as saves:
        saves.save(1, method, optimizer, {}, {})


def _load_from(run_dir, store):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    return checkpointer(run_dir, store=store).load(method, optimizer)


def test_ranks_share_what_is_copied(tmp_path, bucket):
    store = f"{bucket}/shared"
    spawn(_save_to, 2, tmp_path / "a", store, device="cpu")
    assert spawn(_load_from, 4, tmp_path / "b", store, device="cpu") == [{"step": 1}] * 4
    here, there = ({str(p.relative_to(tmp_path / x)): p.read_bytes() for p in (tmp_path / x).rglob("*.*")
                    if p.is_file()} for x in "ab")  # fmt: skip
    assert here == there
    assert len(here) == 4


def test_what_is_not_all_there_is_no_checkpoint(tmp_path, bucket, monkeypatch):
    store = f"{bucket}/other"
    saved(tmp_path, 1, store=store)
    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "_put", killed_before_the_header(Mirror._put))
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, 2, store=store)
    assert Mirror(store, World()).checkpoints() == ["step-000000001"]
    assert loaded(tmp_path / "elsewhere", store=store) == 1


def killed_before_the_header(put):
    def half(self, folder, files):
        if list(files) == ["header.json"]:
            raise KeyboardInterrupt
        put(self, folder, files)

    return half


def test_a_store_that_fails_does_not_end_the_run(tmp_path, bucket, caplog):
    assert saved(tmp_path, 1, 2, store="s3://no-such-bucket/run") == [1, 2]
    assert "step-000000002 is in " in caplog.messages[-1]
    assert loaded(tmp_path, store="s3://no-such-bucket/run") == 2
    with pytest.raises(InputError, match="give a folder in a store"):
        checkpointer(tmp_path, store="https://example.org/run")


def test_a_tensor_that_no_file_has_in_full_is_missed(tmp_path):
    half = tensorfile.Entry("rank-00000.safetensors", "b", [0, 0], [1, 3], "F32", 0)
    header = {"tensors": {"b": ["float32", [2, 3]]}}
    with pytest.raises(integrity.DamagedError, match="b is not in its files"):
        integrity.check_whole(tmp_path, header, [half])
    integrity.check_whole(tmp_path, header, [half, half])
