import re

from seer.report.diagrams import Point, rank_diagram, scatter, short

POINT = Point("ours", 0, (0.5, 0.4, 0.6), (0.8, 0.7, 0.85))
OTHER = Point('<b>"their', 3, (0.9, 0.85, 0.95), (0.3, 0.2, 0.4))


def numbers(svg: str, kind: str, name: str) -> list[float]:
    tags = [tag for tag in re.findall(r"<[^>]+>", svg) if f'class="{kind}' in tag]
    return [float(re.search(rf' {name}="(-?[\d.]+)"', tag)[1]) for tag in tags]


def test_points_and_error_bars_lie_where_their_values_are():
    svg = scatter([POINT, OTHER], "both", "kNN", "Linear")
    x = numbers(svg, "dot", "cx")
    y = numbers(svg, "dot", "cy")
    assert x[0] < x[1]
    assert y[0] < y[1]  # down is less
    begins = numbers(svg, "error", "x1")
    ends = numbers(svg, "error", "x2")
    # The first model's horizontal bar: a tenth to either side, on the scale of the distance of the two.
    scale = (x[1] - x[0]) / 0.4
    assert abs(begins[0] - (x[0] - 0.1 * scale)) < 0.2
    assert abs(ends[0] - (x[0] + 0.1 * scale)) < 0.2
    assert "<b>" not in svg
    assert scatter([], "", "", "") == ""


def test_models_that_are_not_told_apart_are_joined_at_their_ranks():
    names = [("a", 0), ("b", 1), ("c", 2)]
    svg = rank_diagram(names, [1.0, 2.0, 3.0], [[1, 2]], 1.2, "ranks")
    ticks = numbers(svg, "grid", "x1")
    assert len(ticks) == 3
    critical, joined = zip(numbers(svg, "span", "x1"), numbers(svg, "span", "x2"), strict=True)
    assert abs((critical[1] - critical[0]) - 1.2 * (ticks[1] - ticks[0])) < 0.2
    assert joined == (ticks[1] - 4, ticks[2] + 4)


def test_long_names_keep_both_ends():
    assert short("abc", 3) == "abc"
    assert short("abcdefghij", 5) == "ab…ij"
