"""The card of a run: what it says is what other tools say, and what is not there is not invented."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from seer.checks.card import model_card
from seer.interop.export import export
from seer.results import append_results
from shards.takedown import remove
from tests.pretrain.test_run import pretrain

ROW = {
    "task": "knn",
    "data": "/somewhere/flowers",
    "config_hash": "abc",
    "metric": "top1_k20",
    "title": "kNN top-1 | k = 20",
    "unit": "share",
    "better": "higher",
    "headline": True,
    "seconds": 1.0,
    "options": {},
}


@pytest.fixture
def run(tiny, shards, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(shards, data)
    pretrain(tiny, data, tmp_path / "run")
    return tmp_path / "run"


def test_a_card_says_what_a_run_learned_from_and_is_worth(run, tmp_path):
    trained = {**ROW, "model": "run step-000000005", "value": 0.5, "low": 0.4, "high": 0.6}
    untrained = {**ROW, "model": "run untrained", "value": 0.25, "low": 0.2, "high": 0.3}
    append_results(run / "results.jsonl", [trained, untrained])
    chosen = {"images_per_second": 3.0, "kwh": 1234.5, "hours": 12.0, "gpus": 4, "gpu": "h100"}
    (run / "plan.json").write_text(json.dumps({"chosen": chosen, "memory_gib": {}}))
    table = pq.read_table(next((tmp_path / "data").glob("*.index.parquet")))
    (tmp_path / "keys.txt").write_text("\n".join(table["key"].to_pylist()[:2]))
    remove(tmp_path / "data", tmp_path / "keys.txt", "keys", workers=1)
    exported = export(str(run), "timm", tmp_path / "b.safetensors")
    card = model_card(run, exported)
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "# run step-000000005\n\nregnety_tiny, " in card
    assert "load_file('b.safetensors')" in card
    assert str(tmp_path) not in card
    assert "- 5 steps, 40 samples\n" in card
    assert "- 40 images in 3 shards" in card
    assert "- Removed from the data since, which the run may have seen: 2\n" in card
    assert "- Audit: exact\n    - 5 steps took 40 samples of 40 images" in card
    assert (
        r"| kNN top-1 \| k = 20 | flowers | 50.0 % | 40.0 to 60.0 | 25.0 % | not measured |" in card
    )
    assert "Planned: 1.23e+03 kWh, 12 hours on 4 × h100" in card


def test_what_a_run_does_not_know_is_said_not_to_be_known(run, tmp_path):
    exported = export(str(run), "safetensors", tmp_path / "b.safetensors")
    (run / "manifest.parquet").unlink()
    card = model_card(run, exported)
    assert "## Data\n\nNot known: " in card
    assert "## Scores\n\nNot measured.\n" in card
    assert "## Energy\n\nNot known: the run has no plan.\n" in card
