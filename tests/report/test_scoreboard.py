"""Scores on their scale, and pictures with their sizes."""

import io

import pytest
from PIL import Image

from seer.report.gallery import crop_sizes, pictures, rows_of
from seer.report.html import render
from seer.report.runfiles import read_run
from seer.report.scoreboard import boards
from tests.report.conftest import result, titled, write_run


def scored(path, *rows):
    return read_run(write_run(path, results=list(rows)))


def test_shares_have_one_scale_with_the_line_of_chance(tmp_path):
    rows = [titled(result(f"a {which}", v)) for which, v in (("step-1", 0.7), ("untrained", 0.4))]
    (board,) = boards([scored(tmp_path / "a", *[row | {"chance": 0.1} for row in rows])])
    assert board.ticks == [
        (0.0, "0 %"),
        (25.0, "25 %"),
        (50.0, "50 %"),
        (75.0, "75 %"),
        (100.0, "100 %"),
    ]
    assert board.chance == (10.0, "10.0 %")
    assert [(bar.style, bar.begin, bar.end) for bar in board.bars] == [
        ("s0", 0.0, pytest.approx(70.0)),
        ("base", 0.0, pytest.approx(40.0)),
    ]
    assert (board.bars[0].low, board.bars[0].high) == pytest.approx((65.0, 75.0))


@pytest.mark.parametrize("chances", [(None, None), (0.1, 0.2), (-3.0, -3.0)])
def test_chance_that_is_not_known_or_not_one_is_not_drawn(tmp_path, chances):
    rows = [
        titled(result(f"a step-{i}", 0.5)) | {"chance": chance} for i, chance in enumerate(chances)
    ]
    (board,) = boards([scored(tmp_path / "a", *rows)])
    assert board.chance is None


def test_results_of_before_chance_was_written_are_read(tmp_path):
    old = titled(result("a untrained", 0.4))
    new = titled(result("a step-1", 0.5)) | {"chance": 0.25}
    (board,) = boards([scored(tmp_path / "a", old, new)])
    assert board.chance == (25.0, "25.0 %")
    (board,) = boards([scored(tmp_path / "b", old)])
    assert board.chance is None


def test_a_scale_of_another_unit_begins_at_zero_or_below(tmp_path):
    about = {"title": "Correlation", "unit": "ρ", "headline": True}
    rows = [result(f"a step-{i}", value) | about for i, value in enumerate((-0.5, 1.5))]
    (board,) = boards([scored(tmp_path / "a", *rows)])
    places = {label: place for place, label in board.ticks}
    best, worst = board.bars
    assert best.begin == worst.end == pytest.approx(places["0"])
    assert worst.begin < worst.end < best.end
    assert board.ticks[0][0] == 0.0
    assert board.ticks[-1][0] == 100.0


def test_measures_that_stand_for_their_task_come_first(tmp_path):
    rows = [titled(result("a step-1", 0.5, "top1_k20")) for _ in range(2)]
    rows[0] |= {"metric": "top1_k10", "title": "kNN top-1, k = 10", "headline": False}
    found = boards([scored(tmp_path / "a", *rows)])
    assert [(board.title, board.headline) for board in found] == [
        ("kNN top-1, k = 20", True),
        ("kNN top-1, k = 10", False),
    ]


def test_of_several_runs_those_that_were_not_measured_are_named(tmp_path):
    a = scored(tmp_path / "a", titled(result("a step-1", 0.5)))
    b = scored(tmp_path / "b", titled(result("b untrained", 0.5)))
    (board,) = boards([a, b])
    assert board.missing == ["b"]
    (board,) = boards([b])
    assert board.missing == []


def crops(run, height: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (300, height)).save(buffer, "PNG")
    (run / "images" / "crops.png").write_bytes(buffer.getvalue())


def test_crops_are_labelled_with_their_size(run):
    crops(run, 160 + 6 + 160 * 32 // 48)
    picture, other = pictures(read_run(run))
    assert (picture.title, other.title) == ("Crops", "Nearest neighbours")
    assert other.source != picture.source
    height = 160 + 6 + 106
    assert picture.rows == [("48 px", 160 / height), ("32 px", 106 / height)]
    assert picture.caption.endswith(": 2 crops of 48 × 48 pixels, 4 crops of 32 × 32 pixels.")


def test_pictures_of_analyses_come_with_what_they_show(run):
    for name in ("attention.png", "colour.png"):
        Image.new("RGB", (30, 20)).save(run / "images" / name)
    titles = {picture.title: picture.caption for picture in pictures(read_run(run))}
    assert "when a small square there is hidden" in titles["Attention"]
    assert "what an untrained network makes" in titles["Colour and content"]


def test_a_picture_that_is_laid_out_otherwise_has_no_labels(run):
    crops(run, 99)
    (picture, _) = pictures(read_run(run))
    assert picture.rows == []
    assert "2 crops of 48 × 48 pixels" in picture.caption
    (run / "config.yaml").write_text("steps: 3\n")
    (picture, _) = pictures(read_run(run))
    assert picture.caption.endswith("altered as configured.")
    assert (crop_sizes(read_run(run)), rows_of([], 160)) == ([], [])


def flowers(value: float, **more) -> dict:
    about = {"title": "Logistic regression mean per class", "dataset": "flowers102"}
    return result("a step-1", value, "mean_per_class", "logreg") | about | more


def test_published_values_stand_on_the_scale_of_the_very_same_data_set(tmp_path):
    (board,) = boards([scored(tmp_path / "a", flowers(0.9))])
    assert board.published is not None
    (source,) = board.published.sources
    assert "arXiv:2011.13377" in source
    marks = {mark.model: mark for mark in board.published.marks}
    assert marks["SwAV (ResNet-50)"] == ("SwAV (ResNet-50)", "94.6 %", pytest.approx(94.62), 1)
    values = [mark.place for mark in board.published.marks]
    assert values == sorted(values, reverse=True)
    page = render([scored(tmp_path / "b", flowers(0.9))])
    assert 'class="mark" style="left: 94.62%"' in page
    assert source.split(":")[0] in page


@pytest.mark.parametrize(
    "other", [{"dataset": ""}, {"protocol": "mine"}, {"metric": "top1"}, {"dataset": "cars"}]
)
def test_they_do_not_of_another(tmp_path, other):
    (board,) = boards([scored(tmp_path / "a", flowers(0.9, **other))])
    assert board.published is None
    both = [flowers(0.9), flowers(0.8, **(other | {"metric": "mean_per_class"}), model="other")]
    if not other.keys() & {"metric", "protocol"}:  # which have boards of their own
        (board,) = boards([scored(tmp_path / "b", *both)])
        assert board.published is None
