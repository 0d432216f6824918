"""Nothing that happens to a file of a checkpoint goes unnoticed."""

import json
import logging
import os
from contextlib import suppress

import pytest

from seer.engine.checkpoint import header as headers
from seer.engine.checkpoint import integrity, tensorfile
from seer.engine.checkpoint.header import check_file
from seer.engine.parallel import ParallelConfig
from seer.errors import InputError
from seer.interop.models import load_backbone
from seer.processes import spawn
from seer.rundir.names import checkpoints, latest
from tests.engine import tiny
from tests.engine.saving import loaded, names_in, saved, shard, writer
from tests.kit.faults import flip_a_bit, truncate


def test_formats_of_other_versions(tmp_path):
    saved(tmp_path, 1)
    header = latest(tmp_path) / "header.json"
    about = json.loads(header.read_text())
    del about["files"], about["sha256"]
    header.write_text(json.dumps(about | {"format": "seer-checkpoint/1"}))
    assert loaded(tmp_path) == 1
    header.write_text(json.dumps(about | {"format": "seer-checkpoint/0"}))
    with pytest.raises(
        InputError,
        match=r"format 'seer-checkpoint/0'; this version of seer reads 'seer-checkpoint/2'",
    ):
        loaded(tmp_path)


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
    check_file(file)
    flip_a_bit(file)
    with pytest.raises(InputError, match=r"backbone\.safetensors: damaged"):
        load_backbone(tmp_path)


def test_where_none_is_intact_nothing_is_begun_anew(tmp_path):
    saved(tmp_path, 1, 2)
    for path in checkpoints(tmp_path):
        truncate(shard(path))
    with pytest.raises(
        InputError,
        match=r"step-000000002: damaged .*, and none before it is intact; delete .* anew",
    ):
        loaded(tmp_path)
    assert len(checkpoints(tmp_path)) == 2


def _save_three(run_dir):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    with writer(run_dir, keep_last=3) as saves:
        for step in (1, 2, 3):
            saves.save(step, method, optimizer, {}, {})


def _go_on_past_damage(run_dir):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    hashed, sha256 = [], tensorfile.sha256
    tensorfile.sha256 = lambda path: hashed.append(path.name) or sha256(path)
    there = []
    with writer(run_dir, keep_last=2) as saves:
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
    assert sorted(first + second) == sorted(
        3 * [*names_in(latest(tmp_path) / "state"), "backbone.safetensors"]
    )


def test_a_tensor_that_no_file_has_in_full_is_missed(tmp_path):
    half = tensorfile.Entry("rank-00000.safetensors", "b", [0, 0], [1, 3], "F32", 0)
    header = {"tensors": {"b": ["float32", [2, 3]]}}
    with pytest.raises(integrity.DamagedError, match="b is not in its files"):
        integrity.check_whole(tmp_path, header, [half])
    integrity.check_whole(tmp_path, header, [half, half])


@pytest.mark.parametrize(
    "files",
    [{"a": {"sha256": "0" * 64}}, {"../x": {"sha256": "0"}}, {"pipe": {}}, {"a": 1}, [1], None],
)
def test_what_is_not_as_it_was_written_is_not_intact(tmp_path, files):
    (tmp_path / "a").write_bytes(b"other")
    os.mkfifo(tmp_path / "pipe")  # which to open would wait for ever
    with suppress(headers.DamagedError):  # which also stands for not finished
        assert not headers.is_intact(tmp_path, {"files": files})
