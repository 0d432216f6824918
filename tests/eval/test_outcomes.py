import torch

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
    assert hits.double().mean() == rows[0]["value"]
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
    outcomes.path_of(out, other).write_bytes(b"damaged")
    assert verdicts([row, other], out) == []
    outcomes.path_of(out, other).unlink()
    assert verdicts([row, other], out) == []


def test_a_score_is_not_lost_where_they_cannot_be_kept(data, tmp_path, caplog):
    (tmp_path / PER_IMAGE).touch()
    (row,) = evaluate("knn", "pixels:8", data, ["k=[5]"], tmp_path / "results.jsonl")
    assert row["value"] > 0
    assert "what each image scored cannot be kept" in caplog.text
    outcomes.keep(tmp_path / "results.jsonl", row, {"hits": torch.ones(3)})
