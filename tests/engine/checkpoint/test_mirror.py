"""The copies of checkpoints in a store."""

import pytest

from seer.data.storage import store as data_store
from seer.distributed import World
from seer.engine.checkpoint.mirror import Mirror
from seer.engine.parallel import ParallelConfig
from seer.errors import InputError
from seer.processes import spawn
from seer.rundir.names import latest
from tests.engine import tiny
from tests.engine.saving import loaded, names_in, saved, shard, writer
from tests.kit.faults import truncate
from tests.kit.servers import bucket_server


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
    # Nothing is left of those that need not stay.
    assert not data_store.names(there.url / "step-000000005")
    # What is newest where it is intact, whether here or there; here, if there as well.
    assert saved(elsewhere, 7) == [6, 7]
    assert loaded(elsewhere, store=store) == 7
    truncate(shard(latest(elsewhere)))
    truncate(shard(elsewhere / "checkpoints/step-000000006"))
    assert loaded(elsewhere, store=store) == 6
    assert caplog.messages[-1].endswith("; going on from step-000000006 of the store")
    assert names_in(elsewhere / "checkpoints/step-000000006") == [
        "backbone.safetensors",
        "header.json",
        "state",
    ]


def _save_to(run_dir, store):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    with writer(run_dir, store=store) as saves:
        saves.save(1, method, optimizer, {}, {})


def _load_from(run_dir, store):
    method, _, optimizer = tiny.build(ParallelConfig("fsdp"))
    return writer(run_dir, store=store).load(method, optimizer)


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
        writer(tmp_path, store="https://example.org/run")
