"""What a page remarks, of columns written by hand; scores whose images were not kept differ where
their intervals do not overlap.
"""

from pathlib import Path

import pytest

from seer.eval.transfer.agenda import DataPlace
from seer.eval.transfer.lineage import FOLDER, Overlap
from seer.eval.transfer.matrix import Column, Scored
from seer.eval.transfer.remarks import remarks, shots_of
from seer.eval.transfer.verdicts import correlations, needs, rankings

TITLES = {"run": "ours", "run:random": "untrained", "pixels": "pixels", "timm:x:random": "x"}


def column(task, metric, data_set="flowers", headline=True, unit="share", **values):
    place = DataPlace(data_set, data_set, data_set, "yours", (task,), 100, 5)
    scores = {}
    for name, value in values.items():
        spec = {"run": "run", "untrained": "run:random", "pixels": "pixels"}[name]
        row = {"task": task, "metric": metric, "title": f"{task} {metric}", "unit": unit}
        row |= {"value": value, "low": value - 0.02, "high": value + 0.02, "headline": headline}
        scores[spec] = Scored(Path("results.jsonl"), row)
    return Column(place, task, metric, scores)


def test_a_model_below_pixels_or_below_itself_untrained_is_remarked():
    columns = [
        column("knn", "top1", run=0.388, untrained=0.37, pixels=0.464),
        column("linear", "top1", run=0.50, untrained=0.55, pixels=0.49),
        column("knn", "top1", "cars", run=0.40, pixels=0.42),  # intervals overlap
        column("knn", "k10", headline=False, run=0.1, untrained=0.9, pixels=0.9),
        column("geometry", "rankme", unit="number", run=3.0, untrained=30.0, pixels=100.0),
    ]
    assert remarks(columns, TITLES, {}) == [
        "ours is significantly below raw pixels: flowers, knn top1 (38.8 against 46.4 %)",
        "ours is significantly below the same untrained: flowers, linear top1 (50.0 against 55.0 %)",
    ]


def test_data_that_a_model_has_learned_from_come_first():
    columns = [column("knn", "top1", run=0.388, pixels=0.464)]
    overlaps = {("run", "flowers"): Overlap(FOLDER, "flowers/train")}
    first, second = remarks(columns, TITLES, overlaps)
    assert first == (
        "ours was trained on images of flowers (its data: flowers/train), so its score there is not transfer"
    )
    assert "below raw pixels" in second


def test_many_cases_are_counted():
    columns = [column("knn", "top1", f"set{i}", run=0.1, pixels=0.9) for i in range(5)]
    (remark,) = remarks(columns, TITLES, {})
    assert remark.count("against") == 3
    assert remark.endswith("; and 2 more")


def test_more_labels_that_make_a_model_worse_are_remarked():
    columns = [
        column("fewshot", f"top1_5way_{shots}shot", headline=shots == 20, run=value, untrained=up)
        for shots, value, up in ((20, 0.44, 0.45), (5, 0.445, 0.43), (50, 0.392, 0.46))
    ]
    (remark,) = remarks(columns, TITLES, {})
    assert (
        remark
        == "Class means of more images are worse for ours: flowers (44.5, 44.0, 39.2 % with 5, 20, 50 shots)"
    )


@pytest.mark.parametrize(("metric", "shots"), [("top1_5way_20shot", 20), ("mean_20way_1shot", 1)])
def test_shots_are_read_from_the_metric(metric, shots):
    assert shots_of(metric) == shots


def test_a_need_names_the_model_of_the_highest_mean_and_the_next():
    """Untrained has the higher rank on two of three, and the lower mean."""
    columns = [
        column("knn", "top1", "a", run=0.90, untrained=0.50, pixels=0.2),
        column("knn", "top1", "b", run=0.50, untrained=0.53, pixels=0.2),
        column("knn", "top1", "c", run=0.40, untrained=0.45, pixels=0.2),
    ]
    (need,) = needs(columns, TITLES)
    assert (need["best"], need["next"]) == ("ours", "untrained")
    assert need["difference"] == pytest.approx((1.80 - 1.48) / 3)
    assert (need["better"], need["worse"], need["scores"]) == (1, 1, 3)
    assert need["measures"] == ["knn top1"]
    assert (need["data_sets"], need["protocols"]) == (["a", "b", "c"], 1)
    (frozen,) = needs(
        [column(task, "top1", "a", run=0.9, pixels=0.2) for task in ("linear", "logreg")], TITLES
    )
    assert (frozen["scores"], frozen["data_sets"], frozen["protocols"]) == (2, ["a"], 2)


def test_ranks_are_told_with_the_order_of_mean_scores_and_axes_say_where_less_is_better():
    """Untrained is ahead on two of three data sets, the run by more where it is."""
    columns = [
        column("knn", "top1", "a", run=0.90, untrained=0.50, pixels=0.2),
        column("knn", "top1", "b", run=0.50, untrained=0.53, pixels=0.2),
        column("knn", "top1", "c", run=0.40, untrained=0.45, pixels=0.2),
    ]
    (by_task, _) = rankings(columns, TITLES)
    assert by_task["models"][0] == "untrained"
    assert by_task["by_mean_score"] == ["ours", "untrained", "pixels"]
    errors = [
        column("calibration", "ece", name, run=0.1, untrained=0.2, pixels=0.3) for name in "ab"
    ]
    for each in errors:
        for scored in each.scores.values():
            scored.row["better"] = "lower"
    (knn, calibration, both) = rankings([*columns[:2], *errors], TITLES)
    assert calibration["by_mean_score"] == ["ours", "untrained", "pixels"]
    assert knn["by_mean_score"] == ["ours", "untrained", "pixels"]
    assert both["by_mean_score"] == []
    (pair,) = correlations([*columns[:2], *errors], TITLES)
    assert (pair["x_title"], pair["y_title"]) == ("kNN", "Calibration (less is better)")
