import json

import pytest

from seer.results import append_results, describe, latest, read_results, shown, title_of
from tests.report.conftest import result


def test_results_are_appended_and_read_back_in_order(tmp_path):
    path = tmp_path / "deep" / "results.jsonl"
    assert read_results(path) == []
    first, second = result("a", 0.5), result("b", 0.6)
    append_results(path, [first])
    with open(path, "a") as file:
        file.write('{"torn')
    append_results(path, [second])
    assert read_results(path) == [first, second]


def test_a_row_that_lacks_a_key_is_refused(tmp_path):
    row = result("a", 0.5)
    del row["low"]
    with pytest.raises(AssertionError, match="low"):
        append_results(tmp_path / "results.jsonl", [row])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_result(tmp_path, value):
    for row in (result("a", value), result("a", 0.5) | {"loss": value}):
        with pytest.raises(ValueError, match="JSON"):
            append_results(tmp_path / "results.jsonl", [row])
    assert not (tmp_path / "results.jsonl").exists()


def test_a_repeated_measurement_replaces_the_earlier_one():
    old, other, new = result("a", 0.5), result("b", 0.6), result("a", 0.7)
    assert latest([old, other, new]) == [other, new]
    by_protocol = {**new, "protocol": "swav"}
    assert latest([old, by_protocol, new]) == [by_protocol, new]


def test_descriptions_are_aligned_percentages():
    lines = describe([result("net", 0.5), result("net", 0.75, "top1", "linear")])
    assert lines[0] == "knn top1_k20   50.0 %  [ 45.0 %,  55.0 %]  net"
    assert lines[1] == "linear top1    75.0 %  [ 70.0 %,  80.0 %]  net"
    assert describe([]) == []


def test_a_line_says_at_what_size_images_were_measured_unless_the_model_does():
    sizes = describe(
        [result("net", 0.5) | {"pixels": 24}, result("pixels:24", 0.5) | {"pixels": 24}]
    )
    assert [line.partition("]  ")[2] for line in sizes] == ["net  at 24 px", "pixels:24"]
    assert describe([result("pixels:24", 0.5) | {"pixels": 4}])[0].endswith("pixels:24  at 4 px")


@pytest.mark.parametrize(
    ("more", "title", "value"),
    [
        (
            {"task": "knn", "metric": "top1_k20"},
            "knn top-1, k = 20",
            "50.0 %",
        ),  # as an older seer wrote it
        ({"task": "linear", "metric": "top1_augmented"}, "linear top-1, augmented", "50.0 %"),
        (
            {"title": "Normals mean angle", "unit": "°", "better": "lower"},
            "Normals mean angle",
            "0.5 °",
        ),
        ({"title": "kNN top-1", "unit": "share"}, "kNN top-1", "50.0 %"),
    ],
)
def test_results_say_how_they_are_shown(more, title, value):
    row = result("net", 0.5) | more
    assert (title_of(row), shown(row)) == (title, value)
    assert value in describe([row])[0]


@pytest.mark.parametrize(
    "ends", [(-0.1, 0.5, 0.6), (0.4, 5.0, 6.0), (0.4, 0.3, 0.6), (0.4, 0.7, 0.6)]
)
def test_what_is_no_share_within_its_interval_is_no_result(tmp_path, ends):
    row = result("a", 0.5)
    wrong = {**row, **dict(zip(("low", "value", "high"), ends, strict=True))}
    in_degrees = {**wrong, "unit": "degrees"}
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (row, wrong, in_degrees)))
    assert read_results(path) == [row, in_degrees]
