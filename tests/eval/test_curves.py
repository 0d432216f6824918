"""Rows of scores.jsonl as curves, and in words."""

import pytest

from seer.eval.curves import below_pixels, curves, newest_rows


def row(step: int, value: float, model: str = "", **changes) -> dict:
    fixed = {"task": "knn", "metric": "top1_k20", "title": "kNN top-1, k = 20", "data": "flowers"}
    measured = {"step": step, "value": value, "model": model or f"a step-{step:09d}"}
    return {**fixed, **measured, "headline": True, "comparable": "c", "unit": "share", **changes}


BEGINNINGS = [row(0, 0.3, "a untrained"), row(0, 0.45, "pixels:24")]


def against(difference: float, p: float) -> dict:
    return {"pixels": {"difference": difference, "low": -0.06, "high": -0.01, "p": p}}


def test_the_newest_score_stands_beside_what_it_is_compared_with():
    measured = [
        *BEGINNINGS,
        row(20, 0.41),
        row(10, 0.2),
        row(20, 0.412),
        row(20, 0.9, headline=False),
    ]
    (curve,) = curves(measured)
    assert [(r["step"], r["value"]) for r in curve.rows] == [(10, 0.2), (20, 0.412)]
    assert curve.in_words() == (
        "kNN top-1, k = 20 41.2 % at step 20 (untrained 30.0 %, raw pixels 45.0 %)"
    )
    assert curves(BEGINNINGS) == []


def test_of_a_protocol_that_changed_the_one_gone_on_with_is_shown():
    other = [row(0, 0.5, "pixels:24", comparable="d"), row(30, 0.6, comparable="d")]
    (curve,) = curves([*BEGINNINGS, row(10, 0.2), row(20, 0.3), *other])
    assert [r["step"] for r in curve.rows] == [30]
    assert curve.baselines_in_words() == "raw pixels 50.0 %"
    assert newest_rows([*BEGINNINGS, row(10, 0.2), *other]) == other


@pytest.mark.parametrize(
    ("step", "difference", "p", "told"),
    [
        (50, -0.038, 0.01, True),
        (100, -0.038, 0.00001, True),
        (49, -0.038, 0.01, False),  # networks begin below pixels
        (50, -0.038, 0.05, False),  # as likely by chance
        (50, 0.038, 0.01, False),  # above
    ],
)
def test_a_score_below_raw_pixels_is_told_where_it_counts(step, difference, p, told):
    words = below_pixels(row(step, 0.412, against=against(difference, p)), 100)
    assert bool(words) is told
    if told:
        assert "is 41.2 %, below raw pixels by more than chance: -3.8 [-6.0, -1.0], p" in words
        assert words.endswith("p = 0.01" if p == 0.01 else "p < 0.0001")


def test_where_less_is_better_more_is_worse():
    worse = row(60, 0.5, better="lower", against=against(0.1, 0.01))
    assert below_pixels(worse, 100)
    assert not below_pixels({**worse, "against": against(-0.1, 0.01)}, 100)
    assert below_pixels(row(60, 0.5), 100) == ""
