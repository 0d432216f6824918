import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from seer.eval import outcomes
from seer.eval.baselines import verdicts
from seer.eval.task import evaluate
from seer.rundir.names import PER_IMAGE


def test_what_each_image_scored_is_kept_and_rows_of_one_test_set_are_compared(data, tmp_path):
    out = tmp_path / "results.jsonl"
    options = ["k=[5]"]
    rows = [
        evaluate("knn", model, data, options, out)[0]
        for model in ("pixels:8", "pixels:2", "pixels:8")
    ]
    assert len({row["comparable"] for row in rows}) == 1
    assert len(list((tmp_path / PER_IMAGE).iterdir())) == 2  # the third again as the first
    hits = outcomes.read(out, rows[0])["hits"]
    assert hits.mean() == rows[0]["value"]
    (line,) = verdicts(rows[:2], out)
    assert line.startswith("kNN top-1, k = 5, pixels:8 against pixels:2: ")
    assert "than chance (p" in line


def test_other_options_data_or_files_are_not_compared(data, tmp_path):
    out = tmp_path / "results.jsonl"
    (row,) = evaluate("knn", "pixels:8", data, ["k=[5]"], out)
    (warmer,) = evaluate("knn", "pixels:2", data, ["k=[5]", "temperature=1"], out)
    (fewer,) = evaluate("knn", "pixels:2", data / "train", ["k=[5]"], out)
    assert len({row["comparable"], warmer["comparable"], fewer["comparable"]}) == 3
    assert verdicts([row, warmer, fewer], out) == []
    (other,) = evaluate("knn", "pixels:2", data, ["k=[5]"], out)
    outcomes.path_of(out, other).unlink()
    assert verdicts([row, other], out) == []


HITS = np.array([True, False])
WRONG = {
    "another measure": {"hats": HITS},
    "labels alone": {"labels": np.arange(2)},
    "no images": {"hits": HITS[:0]},
    "numbers for hits": {"hits": np.arange(2)},
    "hits of several classes": {"hits": HITS[None]},
    "more labels than hits": {"hits": HITS, "labels": np.arange(3)},
    "more classes than scores": {"scores": np.ones((2, 3)), "labels": np.ones((2, 4), int)},
    "episodes of several classes": {"accuracies": np.ones((2, 3))},
    "values of several classes": {"values": np.ones((2, 3))},
    "queries of no episode": {"hits": HITS, "images": np.arange(2)},
    "more queries than images": {"hits": np.ones((2, 3), bool), "images": np.ones((2, 2), int)},
    "what is not finite": {"scores": np.full((2, 3), np.nan), "labels": np.ones((2, 3), int)},
}


@pytest.mark.parametrize("what", [*WRONG, "damaged", "long header", "a folder", "a link out"])
def test_what_was_not_kept_by_seer_is_nothing(tmp_path, what):
    row = {"comparable": "c", "metric": "top1", "model": "m", "config_hash": "h"}
    out = tmp_path / "run" / "results.jsonl"
    outcomes.keep(out, row, {"hits": HITS})
    assert outcomes.read(out, row)["hits"].tolist() == [True, False]
    path = outcomes.path_of(out, row)
    if what in WRONG:
        save_file(WRONG[what], path)
    elif what == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "long header":
        path.write_bytes((2**60).to_bytes(8, "little"))
    else:
        path.rename(tmp_path / "elsewhere")
        path.mkdir() if what == "a folder" else path.symlink_to(tmp_path / "elsewhere")
    assert outcomes.read(out, row) == {}
    assert outcomes.read(out, {}) == {}


def test_a_score_is_not_lost_where_they_cannot_be_kept(data, tmp_path, caplog):
    (tmp_path / PER_IMAGE).touch()
    (row,) = evaluate("knn", "pixels:8", data, ["k=[5]"], tmp_path / "results.jsonl")
    assert row["value"] > 0
    assert "what each image scored cannot be kept" in caplog.text
    outcomes.keep(tmp_path / "results.jsonl", row, {"hits": torch.ones(3)})


def test_what_is_too_much_to_be_read_again_is_not_kept(tmp_path, caplog, monkeypatch):
    row = {"comparable": "c", "metric": "top1", "model": "m", "config_hash": "h"}
    monkeypatch.setattr(outcomes, "LARGEST", outcomes.MEGABYTE + 100)
    outcomes.keep(tmp_path / "results.jsonl", row, {"hits": np.ones(101, bool)})
    assert "too much to be kept" in caplog.text
    assert not (tmp_path / PER_IMAGE).exists()
    outcomes.keep(tmp_path / "results.jsonl", row, {"hits": np.ones(100, bool)})
    assert len(outcomes.read(tmp_path / "results.jsonl", row)["hits"]) == 100
