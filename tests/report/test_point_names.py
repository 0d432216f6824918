import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from seer.report.diagrams import HEIGHT, Point, scatter, scores_over
from seer.report.point_names import DOT, Box, apart, labels_of
from tests.report.test_diagrams import numbers

ROOM = Box(50, 16, 480, 260)


def covers(label, dot) -> bool:
    box = label.box
    right, down = np.clip(dot, (box.left, box.top), (box.right, box.bottom)) - dot
    return max(abs(right), abs(down)) < DOT


@pytest.mark.parametrize("seed", range(20))
def test_names_cover_no_other_points_and_no_other_names(seed):
    random = np.random.default_rng(seed)
    middle = random.uniform((120, 60), (420, 200), (3, 2))
    dots = [tuple(middle[i % 3] + random.normal(0, 25, 2)) for i in range(8)]
    names = [f"model number {i}" for i in range(8)]
    labels, legend = labels_of(names, dots, ROOM)
    assert labels == labels_of(names, dots, ROOM)[0]
    named = [label.text for label in labels] + [line.partition(" ")[2] for line in legend]
    assert set(names) <= set(named)
    for i, label in enumerate(labels):
        if label.text == names[i]:
            assert label.box.within(ROOM)
            assert not [dot for j, dot in enumerate(dots) if j != i and covers(label, dot)]
            assert not [j for j in range(i) if labels[j].box.meets(label.box)]


def test_alone_a_name_stands_right_above_its_point_and_at_the_right_end_left_of_it():
    (first, last), _ = labels_of(["one", "a longer name"], [(100, 100), (460, 200)], ROOM)
    assert (first.anchor, last.anchor) == ("start", "end")
    assert first.y < 100


def test_names_cross_lines_only_where_there_is_no_other_place():
    beside = Box(250, 0, 250, 300)  # a line that goes through where the name would stand
    (label,), _ = labels_of(["one model"], [(220, 100)], ROOM, bars=[beside])
    assert label.anchor == "end"
    around = [beside, Box(190, 0, 190, 300)]
    assert labels_of(["one model"], [(220, 100)], ROOM, bars=around)[1] == []


def test_names_that_find_no_place_are_numbers_and_stand_below():
    """Nine models on one spot, each with a name that fills half of the width."""
    points = [
        Point(f"{'m' * 27}{i}", i, (0.5, 0.4, 0.6), (0.5 + i / 1e4, 0.4, 0.6)) for i in range(9)
    ]
    svg = scatter(points, "nine", "kNN", "Linear")
    rows = [y for y in numbers(svg, "note", "y") if y > HEIGHT]
    assert rows
    assert f'viewBox="0 0 480 {HEIGHT + 18 * len(rows)}"' in svg
    for i in range(len(rows)):
        assert f">{i + 1}</text>" in svg
        assert f">{i + 1} m" in svg
    assert 'class="note named s8"' in svg  # in its point's colour
    assert "viewBox" in scores_over(points, points, "nine", "images", "score")


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_places_move_as_little_as_keeps_them_apart(places):
    moved = np.array(apart(places, 14, -1e4, 1e4))
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= 14 - 1e-6).all()
    steps = 14 * np.arange(len(places))
    least = isotonic_regression(np.array(places)[order] - steps) + steps
    np.testing.assert_allclose(moved[order], least, atol=1e-6)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_places_stay_in_their_room(places):
    moved = apart(places, 14, 30, 256)
    assert min(moved) >= 30
    assert max(moved) <= 256 + 1e-6


def test_more_places_than_there_is_room_go_on_below():
    assert apart([40, 40, 40], 14, 30, 50) == [30, 44, 58]
