import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Mark,
    Series,
    _tick,
    line_chart,
    log_ticks,
    nice_ticks,
    number,
    running_mean,
    thin,
)

numbers = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-6)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in element.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def test_a_curve_is_drawn_where_its_values_are():
    svg = parse(line_chart([Series("a", [0, 50, 100], [0.0, 5.0, 10.0])], "a line"))
    (curve,) = [e for e in svg.iter("polyline") if "curve" in e.attrib["class"]]
    (x0, y0), (x1, y1), (x2, y2) = points(curve)
    assert (x0, x2) == (LEFT, WIDTH - RIGHT)
    assert y0 > y1 > y2
    assert y1 - y2 == pytest.approx(y0 - y1, abs=0.2)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    texts = {e.text for e in svg.iter("text")}
    assert {"0", "5", "10"} <= texts
    assert any("step" in text for text in texts)
    assert svg.attrib["aria-label"] == "a line"


def test_raw_values_stay_behind_a_running_mean_and_hovering_data_is_the_curve():
    y = [float(i % 2) for i in range(200)]
    svg = parse(line_chart([Series("a", list(range(200)), y)], "noise", smooth=True))
    raw, curve = svg.iter("polyline")
    assert "raw" in raw.attrib["class"]

    def spread(element) -> float:
        return float(np.ptp([p[1] for p in points(element)][5:-5]))

    assert spread(curve) < 0.5 * spread(raw)
    data = json.loads(svg.attrib["data-chart"])
    assert len(data["series"][0]["points"]) == len(points(curve))


def test_gaps_single_points_and_nothing_at_all():
    svg = parse(line_chart([Series("a", [1, 2, 3, 4], [1.0, None, math.nan, 2.0])], "gaps"))
    assert len(points(next(svg.iter("polyline")))) == 2
    assert parse(line_chart([Series("a", [7], [3.0])], "one point")).find("circle") is not None
    assert line_chart([Series("a", [], [])], "nothing") == ""
    assert line_chart([Series("a", [1], [None])], "nothing") == ""


def lines(svg: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [e for e in svg.iter("line") if kind in e.attrib["class"].split()]


def test_a_mark_is_drawn_and_kept_in_sight():
    marks = [Mark(5.0, "ln K <&>")]
    svg = parse(line_chart([Series("a", [0, 1], [1.0, 2.0])], "x", marks=marks))
    (line,) = lines(svg, "reference")
    assert 0 < float(line.attrib["y1"]) < HEIGHT
    assert any(e.text == "ln K <&>" for e in svg.iter("text"))
    assert not lines(svg, "threshold")
    assert svg.find("rect") is None


def test_a_mark_that_would_press_the_curves_flat_is_left_out_if_it_may_be():
    curve = [Series("a", [0, 1], [1.0, 2.0])]
    assert "far" not in line_chart(curve, "x", marks=[Mark(6.1, "far", always=False)])
    assert "near" in line_chart(curve, "x", marks=[Mark(5.9, "near", always=False)])
    assert "far" in line_chart(curve, "x", marks=[Mark(100.0, "far")])


@pytest.mark.parametrize(("ill", "values"), [("below", [5.0, 1.0]), ("above", [1.0, 5.0])])
def test_the_side_of_a_threshold_that_is_ill_is_tinted_from_where_it_counts(ill, values):
    mark = Mark(2.0, "threshold", ill, since=25)
    svg = parse(line_chart([Series("a", [0, 100], values)], "x", from_zero=True, marks=[mark]))
    (line,) = lines(svg, "threshold")
    level = float(line.attrib["y1"])
    (area,) = svg.iter("rect")
    top = float(area.attrib["y"])
    bottom = top + float(area.attrib["height"])
    assert (top, bottom) == pytest.approx(
        (level, HEIGHT - BOTTOM) if ill == "below" else (TOP, level), abs=0.1
    )
    left = float(area.attrib["x"])
    assert left == pytest.approx(LEFT + 0.25 * (WIDTH - RIGHT - LEFT), abs=0.1)
    assert left + float(area.attrib["width"]) == pytest.approx(WIDTH - RIGHT, abs=0.1)


def test_no_side_is_tinted_before_anything_is_judged():
    mark = Mark(2.0, "threshold", "below", since=200)
    svg = parse(line_chart([Series("a", [0, 100], [1.0, 3.0])], "x", marks=[mark]))
    assert svg.find("rect") is None
    assert lines(svg, "threshold")


def test_on_a_logarithmic_axis_equal_factors_are_equally_far_apart():
    svg = parse(line_chart([Series("a", [0, 1, 2], [0.01, 0.1, 1.0])], "rate", log=True))
    (_, low), (_, middle), (_, high) = points(next(svg.iter("polyline")))
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    assert {"0.001", "0.01", "0.1", "1"} <= {e.text for e in svg.iter("text")}


def test_a_rate_that_ends_at_zero_runs_into_the_axis():
    svg = parse(line_chart([Series("a", [0, 1, 2], [0.0, 1.0, 0.0])], "rate", log=True))
    (_, first), (_, peak), (_, last) = points(next(svg.iter("polyline")))
    assert first == last == HEIGHT - BOTTOM
    assert peak < last
    flat = parse(line_chart([Series("a", [0, 1], [0.0, 0.0])], "rate", log=True))  # no logarithm
    assert len(points(next(flat.iter("polyline")))) == 2


@given(st.floats(1e-290, 1e290), st.floats(1.0, 1e12))
def test_logarithmic_ticks_cover_and_are_few(low, factor):
    ticks = log_ticks(low, low * factor)
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= low * factor * (1 - 1e-9)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 9


def test_more_runs_than_colours_are_told_apart_by_dashes():
    curves = [Series(str(i), [0, 1], [0.0, float(i)]) for i in range(12)]
    svg = parse(line_chart(curves, "many"))
    assert len({e.attrib["class"] for e in svg.iter("polyline")}) == 12


def test_names_cannot_break_the_markup():
    name = "\"'><script>&"
    svg = parse(line_chart([Series(name, [0, 1], [1.0, 2.0])], name))
    assert json.loads(svg.attrib["data-chart"])["series"][0]["name"] == name


@given(st.lists(numbers, min_size=1, max_size=30))
def test_every_point_lies_inside_the_chart(values):
    svg = parse(line_chart([Series("a", list(range(len(values))), values)], "any"))
    curve = next(e for e in svg.iter("polyline"))
    assert all(LEFT - 0.1 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points(curve))


@given(numbers, st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_round_even_and_cover(low, width, count):
    high = low + width
    if (high - low) < 1e-9 * max(abs(low), abs(high)):
        return
    ticks = nice_ticks(low, high, count)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert np.allclose(np.diff(ticks), step, rtol=1e-6, atol=1e-9 * max(map(abs, ticks)))
    assert 2 <= len(ticks) <= count + 2


def test_thinning_keeps_both_ends_and_every_extreme():
    y = np.sin(np.arange(5000) / 50)
    y[1234], y[4321] = 9.0, -9.0
    few = thin(Series("a", list(range(5000)), y.tolist()))
    assert len(few.x) <= POINTS + 2
    assert (few.x[0], few.x[-1]) == (0, 4999)
    assert dict(zip(few.x, few.y, strict=True))[1234] == 9.0
    assert dict(zip(few.x, few.y, strict=True))[4321] == -9.0
    assert few.x == sorted(few.x)


def test_running_mean_is_numpys_inside_and_shrinks_at_the_ends():
    y = np.random.default_rng(0).normal(size=400)
    means = running_mean(Series("a", list(range(400)), y.tolist())).y
    assert means[5:-5] == pytest.approx(np.convolve(y, np.ones(11) / 11, "valid"))
    assert (means[0], means[-1]) == pytest.approx((y[0], y[-1]))
    assert means[2] == pytest.approx(y[:5].mean())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0048, "0.0048"), (3e-6, "3.0e-06"), (12.345, "12.3"), (999.6, "1,000"), (1234, "1,234"),
     (76_800, "76,800"), (122_070, "122K"), (1.25e6, "1.25M"), (1e9, "1B"), (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


extremes = st.floats() | st.sampled_from(
    [0.0, 1e308, -1e308, 1e300, -1e300, 5e-324, 1e-310, math.nan, math.inf]
)
steps = st.integers(1, 2**63 - 1)


@given(
    st.lists(st.tuples(steps, extremes | st.none()), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_whatever_was_measured_is_drawn_within_the_chart(pairs, smooth, from_zero, log):
    x, y = zip(*pairs, strict=True)
    svg = line_chart([Series("a", x, y)], "any", smooth, from_zero, log)
    assert len(svg) < 20_000
    assert bool(svg) == any(v is not None and abs(v) <= 1e300 for v in y)
    for curve in parse(svg).iter("polyline") if svg else []:
        assert all(LEFT - 0.1 <= a <= WIDTH and 0 <= b <= HEIGHT for a, b in points(curve))


@given(st.floats(allow_nan=False))
def test_every_number_is_short(value):
    assert len(number(value)) <= 10


def test_after_a_huge_value_the_mean_is_what_it_was_before():
    y = [4.0] * 200 + [1e28] + [4.0] * 200
    means = running_mean(Series("a", list(range(401)), y)).y
    assert means[:190] == means[-190:] == [4.0] * 190


def test_a_million_points_are_drawn_as_few():
    x = range(1_000_000)
    svg = line_chart([Series("a", x, [math.sin(i / 1e5) for i in x])], "long", smooth=True)
    raw, curve = parse(svg).iter("polyline")
    assert len(points(curve)) == POINTS
    assert len(points(raw)) <= POINTS + 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0015, "0.0015"), (0.0005, "5e-4"), (-0.0005, "-5e-4"), (0.00025, "2.5e-4"), (1e-5, "1e-5"), (12_500, "12,500")],
)  # fmt: skip
def test_ticks_fit_their_margin(value, text):
    assert _tick(value) == text


def test_a_curve_of_zeros_lies_at_the_foot_of_its_chart():
    svg = line_chart([Series("a", [0, 1], [0.0, 0.0])], "none")
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([\d.e-]+)</text>', svg)]
    assert min(ticks) == 0


def test_a_marks_name_stands_where_fewer_points_lie():
    falling = Series("a", list(range(50)), [3 - i / 25 for i in range(50)])
    mark = Mark(1.0, "a name of some length")
    for curve, anchor in ((falling, "start"), (Series("a", falling.x, falling.y[::-1]), "end")):
        svg = line_chart([curve], "x", marks=[mark])
        assert re.search(rf'class="note" [^>]*text-anchor="{anchor}"', svg)
