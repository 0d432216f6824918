import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.report.plots import (
    HEIGHT,
    LEFT,
    POINTS,
    RIGHT,
    WIDTH,
    Series,
    line_chart,
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


def test_a_reference_is_marked_and_kept_in_sight():
    svg = parse(line_chart([Series("a", [0, 1], [1.0, 2.0])], "x", reference=(5.0, "ln K <&>")))
    (line,) = [e for e in svg.iter("line") if e.attrib["class"] == "reference"]
    assert 0 < float(line.attrib["y1"]) < HEIGHT
    assert any(e.text == "ln K <&>" for e in svg.iter("text"))


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
    [(0, "0"), (0.0048, "0.0048"), (3e-6, "3.0e-06"), (12.345, "12.3"), (999.6, "1e+03"), (1234, "1,234"),
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
)
def test_whatever_was_measured_is_drawn_within_the_chart(pairs, smooth, from_zero):
    x, y = zip(*pairs, strict=True)
    svg = line_chart([Series("a", x, y)], "any", smooth=smooth, from_zero=from_zero)
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
