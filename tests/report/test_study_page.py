import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from seer.report.study_page import render
from seer.rundir.studies import Arm, Study, results_of, write_study
from tests.report.conftest import metric, result, titled, write_run


def arm(name: str, parameters: int, published: str = "") -> Arm:
    return Arm(name, "swav_small", [], False, "resnet18", parameters, 100, 5, 0.1, published)


def written(folder: Path, arms: list[Arm], scores: list[float | None], **changes) -> Path:
    """A study with results by hand; None: no file."""
    about = {"title": "Sizes", "x": "parameters", "task": "linear", "protocol": "seer"}
    about |= {"metric": "top1_augmented", "dataset": "imagenet"}
    study = Study(**about | changes, labelled="imagenet", options=[], arms=arms)
    write_study(study, folder)
    for one_arm, score in zip(arms, scores, strict=True):
        if score is not None:
            row = titled(result(one_arm.name, score, "top1", "linear"))
            row |= {"metric": study.metric, "protocol": study.protocol}
            row |= {"dataset": study.dataset} if study.dataset else {}
            results_of(folder, one_arm).write_text(json.dumps(row) + "\n")
    return folder


def places(page: str, kind: str) -> list[tuple[float, float]]:
    circles = re.findall(rf'<circle class="{kind}[^>]*cx="([\d.]+)" cy="([\d.]+)"', page)
    return [(float(x), float(y)) for x, y in circles]


SEER_32 = arm("32GF", 141_000_000, "SEER, RegNetY-32GF")
SEER_256 = arm("256GF", 1_272_000_000, "SEER, RegNetY-256GF")


def test_scores_stand_beside_what_is_published_of_the_same_network(tmp_path):
    """Ours equal the published ones, and so do their places."""
    page = render(written(tmp_path, [SEER_32, SEER_256], [0.7403, 0.7751]))
    assert places(page, "dot") == places(page, "reference")
    (low, high) = places(page, "dot")
    assert low[0] < high[0]
    assert low[1] > high[1]  # downwards
    assert "SEER, RegNetY-32GF 74.0 %" in page
    assert "MODEL_ZOO" in page
    assert "69.0 – 79.0" in page
    assert "Not measured" not in page
    assert "No published points" not in page


def test_an_arm_without_results_has_no_number_and_is_named(tmp_path):
    page = render(written(tmp_path, [SEER_32, SEER_256], [0.7, None]))
    assert "Not measured: 256GF." in page
    assert len(places(page, "dot")) == 1
    assert len(places(page, "reference")) == 2
    nothing = render(written(tmp_path / "b", [arm("a", 5)], [None], dataset=""))
    assert "Not measured: a." in nothing
    assert "<circle" not in nothing


def test_published_points_are_of_the_same_data_set_and_measure_only(tmp_path):
    folder = written(tmp_path, [SEER_32], [0.5])
    own = results_of(folder, SEER_32)
    row = json.loads(own.read_text())
    row.pop("dataset")
    own.write_text(json.dumps(row) + "\n")
    page = render(folder)
    assert "No published points" in page
    assert not places(page, "reference")
    row |= {"protocol": "vissl"}  # measured otherwise than the study says
    own.write_text(json.dumps(row) + "\n")
    assert "Not measured: 32GF." in render(folder)


@pytest.mark.parametrize("x", ["parameters", "images", "arm"])
def test_equal_amounts_are_said_and_names_stand_side_by_side(tmp_path, x):
    page = render(written(tmp_path, [arm("a", 7), arm("b", 7)], [0.2, 0.4], x=x))
    (a, b) = places(page, "dot")
    if x == "arm":
        assert a[0] < b[0]
        assert "Equal in" not in page
    else:
        assert a[0] == b[0]
        assert "one above the other: a, b." in page


def test_names_of_strangers_are_text(tmp_path):
    page = render(written(tmp_path, [arm("<b>x", 7)], [0.2], title="<script>"))
    assert "<script>" not in page
    assert "<b>x" not in page


def test_what_arms_took_stands_beside_their_scores(tmp_path):
    arms = [arm("a", 7), arm("b", 7)]
    written(tmp_path, arms, [0.2, 0.4], x="arm")
    rows = [metric(step, memory_gib=62.5 / step) for step in (50, 100)]  # the most comes first
    write_run(tmp_path / "a")
    (tmp_path / "a/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = [
        {"event": "not_applied", "step": 7, "why": "x"},
        {"event": "symptom", "step": 9, "name": "collapse", "why": "x", "remedy": "y"},
    ]
    (tmp_path / "a/health.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    page = render(tmp_path)
    for told in (
        "3m 20s",
        "16 images/s",
        "1.25 GiB",
        "1 steps not applied",
        "Collapse since step 9",
    ):
        assert told in page, told
    assert page.count("<td>–<span></span></td>") == 2  # of b, that nobody trained


def test_seeds_have_a_mean_and_a_range(tmp_path):
    seeds = [replace(arm(f"a seed {n}", 7), group="a", seed=n) for n in range(3)]
    page = render(written(tmp_path, [*seeds, arm("b", 7)], [0.2, 0.4, None, 0.3], x="arm"))
    assert page.count("a, mean") == 1
    assert "2 of 3 seeds" in page
    assert "<b>30.0 %</b><span>seeds 20.0 – 40.0</span>" in page
