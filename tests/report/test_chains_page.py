import json
import re

from seer.report.chains_page import render
from seer.report.diagrams import WIDTH
from seer.report.point_names import LETTER, TALL
from seer.rundir.chains import Chains, Result, Stage, results_of, write_chains
from tests.report.conftest import result, titled


def written(folder, scores: dict[str, float | None], title: str = "Chains"):
    stages = [Stage(name, "swav_small", [], "", 5) for name in scores]
    points = [Result("Base", "", 0, "base")]
    for steps in (50, 500):
        points += [Result("HPT", "", steps, f"b{steps}"), Result("B+T", "", steps, f"b{steps}")]
    chains = Chains(title, "flowers", ["linear size=32"], stages, points)
    write_chains(chains, folder)
    for name, score in scores.items():
        if score is not None:
            row = titled(result(name, score, "top1", "linear"))
            results_of(folder, name).write_text(json.dumps(row) + "\n")
    return folder


def test_scores_are_lines_over_steps_and_what_has_none_a_level(tmp_path):
    page = render(written(tmp_path, {"base": 0.5, "b50": 0.6, "b500": 0.7}))
    lines = re.findall(r'<polyline class="curve (s\d)" points="([^"]+)"', page)
    assert [style for style, _ in lines] == ["s1", "s2"]
    (x50, y50), (x500, y500) = [tuple(map(float, at.split(","))) for at in lines[0][1].split()]
    assert x50 < x500
    assert y50 > y500  # downwards
    level = re.search(r'<line class="error s0" x1="52.0" x2="[\d.]+" y1="([\d.]+)"', page)
    # Linear: as far below 60 % as that is below 70 %.
    assert abs(float(level[1]) - y50 - (y50 - y500)) < 0.2
    assert page.count("<b>70.0 %</b>") == 2
    assert page.count("<b>50.0 %</b>") == 2  # in both columns
    assert "One training under two names: HPT and B+T." in page


def test_names_stand_at_the_ends_of_lines_apart_and_once_for_lines_that_lie_on_each_other(tmp_path):
    page = render(written(tmp_path, {"base": 0.7, "b50": 0.1, "b500": 0.7}))
    named = (
        r'<text class="note named (s\d)" x="([\d.]+)" y="([\d.]+)" text-anchor="start" >([^<]+)<'
    )
    (base, x, y, name), (both, _, lower, second) = re.findall(named, page)
    assert (base, name, both, second) == ("s0", "Base", "s2", "HPT, B+T")
    assert abs(float(lower) - float(y)) >= TALL - 0.1
    ends = re.findall(r'<polyline class="curve s1" points="[^"]* ([\d.]+),([\d.]+)"', page)
    (end_x, end_y) = map(float, ends[0])
    assert end_x < float(x)
    assert float(x) + LETTER * len(second) < WIDTH
    assert abs(end_y + 4 - (float(y) + float(lower)) / 2) < 0.2  # both ends are at 70 %


def test_what_is_not_measured_is_named_and_has_no_number(tmp_path):
    page = render(written(tmp_path, {"base": None, "b50": 0.6, "b500": None}))
    assert "Not measured by linear: base, b500." in page
    assert "<svg" in page
    nothing = render(written(tmp_path / "b", {"base": None, "b50": None, "b500": None}, "<script>"))
    assert "<svg" not in nothing
    assert "<script>" not in nothing


def test_other_scores_than_the_headline_are_not_drawn(tmp_path):
    folder = written(tmp_path, {"base": 0.5, "b50": 0.6, "b500": 0.7})
    more = titled(result("b500", 0.9, "top1", "linear"))
    more |= {"metric": "top5", "title": "Linear top-5", "headline": False}
    with open(results_of(folder, "b500"), "a") as file:
        file.write(json.dumps(more) + "\n")
    page = render(folder)
    assert page.count("<b>70.0 %</b>") == 2
    assert "90.0" not in page
