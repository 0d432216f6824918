"""What a run saw: told from the run directory, and true whatever happened on the way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from seer import config as configuration
from seer import jsonl
from seer.checks.audit import audit, batch
from seer.data import ledger
from seer.data.storage.index import Manifest, index_path, read_index, write_index
from seer.errors import InputError
from seer.eval.embed import embed
from seer.pretrain.recipe import load_config
from seer.pretrain.run import run
from seer.processes import spawn
from tests.kit.faults import spoil
from tests.kit.servers import be_impatient


@pytest.fixture(scope="module")
def history(tiny, shards, tmp_path_factory):
    """A run of 7 steps over 40 images, one of them damaged, continued after 3 steps by two
    processes.
    """
    root = tmp_path_factory.mktemp("audited")
    data = spoil(shards, root / "shards", {"shard-000001.tar": [4]})
    settings = [
        f"data={data}",
        f"run_dir={root / 'run'}",
        "checkpoint.every=3",
        "log.every=2",
        "steps=7",
    ]
    stopped = load_config(tiny, [*settings, "schedule.warmup=1"])
    stopped.steps = 3
    run(stopped)
    # As a run killed after step 3 would have left it.
    config = load_config(tiny, [*settings, "schedule.warmup=1", "parallel.mode=ddp"])
    configuration.save(config, root / "run" / "config.yaml")
    spawn(run, 2, config)
    return root / "run", data


def test_a_continued_run_saw_what_the_order_says(history):
    found = audit(history[0])
    assert (found.steps, found.samples, found.images) == (7, 56, 40)
    assert (found.epochs, found.least, found.most) == (1, 1, 2)
    assert found.fingerprints == 6  # steps 1, 2, 3 (the last before the kill), 4, 6, 7
    assert found.exact


def test_the_damaged_sample_is_in_the_ledger(history):
    run_dir, data = history
    manifest = Manifest.load(data)
    spoiled = int(manifest.sizes[0]) + 4
    entries = ledger.read(run_dir, 56)
    assert {(entry.id, entry.replacement) for entry in entries} == {(spoiled, spoiled + 1)}
    assert audit(run_dir).damaged == len(entries) >= 1
    row = next(row for row in batch(run_dir, entries[0].position // 8 + 1) if row["id"] == spoiled)
    assert (row["shard"], row["row"], row["replacement"]) == ("shard-000001.tar", 4, spoiled + 1)


def test_steps_and_keys_name_each_other(history):
    run_dir, data = history
    key = read_index(index_path(Path(data) / "shard-000000.tar"))["key"][2].as_py()
    steps = audit(run_dir, [key]).found[key]
    assert len(steps) in (1, 2)
    for step in range(1, 8):
        assert (key in {row["key"] for row in batch(run_dir, step)}) == (step in steps)


def test_a_batch_that_was_not_taken_is_noticed(history, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("config.yaml", "manifest.parquet", "metrics.jsonl"):
        (run_dir / name).write_bytes((history[0] / name).read_bytes())
    rows = jsonl.read(run_dir / "metrics.jsonl")
    rows[2]["seen"] ^= 1
    jsonl.write(run_dir / "metrics.jsonl", rows)
    found = audit(run_dir)
    assert found.wrong == [rows[2]["step"]]
    assert not found.exact


def test_fingerprints_name_sets():
    steps, ids = np.array([0, 0, 1, 1]), np.array([5, 9, 2, 7])
    whole = ledger.fingerprint(steps, ids).sum() % ledger.MODULUS
    assert ledger.fingerprint(steps[::-1], ids[::-1]).sum() % ledger.MODULUS == whole
    assert ledger.fingerprint(steps, ids[[2, 1, 0, 3]]).sum() % ledger.MODULUS != whole


def test_the_ledger_ends_where_it_is_asked_to(history):
    """A killed run has entered steps that it will take again."""
    run_dir, _ = history
    entries = ledger.read(run_dir, 56)
    assert len(entries) == 2
    assert ledger.read(run_dir, entries[1].position) == entries[:1]


def test_steps_can_be_audited_when_the_store_cannot_be_asked(history, tmp_path, monkeypatch):
    be_impatient(monkeypatch)
    run_dir = shutil.copytree(history[0], tmp_path / "run")
    config = configuration.read(run_dir / "config.yaml") | {"data": "http://127.0.0.1:1/shards"}
    (run_dir / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    assert audit(run_dir).exact
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1"):
        audit(run_dir, ["key"])


def test_a_batch_larger_than_the_data_is_damage(history, tmp_path):
    """Which would be millions of epochs to go through."""
    run_dir = shutil.copytree(history[0], tmp_path / "run")
    config = configuration.read(run_dir / "config.yaml") | {"batch_size": 2**24}
    (run_dir / "config.yaml").write_text(json.dumps(config))
    message = r"config.yaml: batch_size: 16,777,216 is more than the \d+ images of the run"
    with pytest.raises(InputError, match=message):
        audit(run_dir)


def test_an_index_that_the_manifest_contradicts_names_no_keys(history, tmp_path):
    run_dir, shards = (
        shutil.copytree(history[0], tmp_path / "run"),
        shutil.copytree(history[1], tmp_path / "shards"),
    )
    config = configuration.read(run_dir / "config.yaml") | {"data": str(shards)}
    (run_dir / "config.yaml").write_text(json.dumps(config))
    path = index_path(shards / "shard-000000.tar")
    write_index(path, read_index(path).slice(1))
    with pytest.raises(InputError, match="samples and the manifest says"):
        audit(run_dir, ["key"])
    with pytest.raises(InputError, match="samples and the manifest says"):
        embed("regnety_002:random", shards, tmp_path / "features.parquet")


def test_wrong_questions(history, tmp_path):
    with pytest.raises(InputError, match="not a run directory"):
        audit(tmp_path)
    with pytest.raises(InputError, match="no such sample"):
        audit(history[0], ["nobody"])
    with pytest.raises(InputError, match="counted from 1"):
        batch(history[0], 0)
    with pytest.raises(InputError, match="is a run of 7 steps"):
        batch(history[0], 8)


def test_the_command_line(history, capsys):
    from seer.cli import app

    with pytest.raises(SystemExit) as ended:
        app(["audit", str(history[0]), "--json", "-"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)[0]["exact"] is True
