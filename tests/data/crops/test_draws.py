"""What is drawn: torchvision's distributions, by statistics with fixed seeds, and nothing but the
sample decides.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, ks_2samp, kstest, uniform
from torchvision.transforms import RandomResizedCrop

from seer.data.crops.draws import (
    ORDERS,
    UNIFORMS,
    Op,
    crop_uniforms,
    draw_appearance,
    draw_boxes,
)
from seer.data.crops.options import DEFAULT_VIEWS, MAX_CROPS, View, check_views
from seer.errors import InputError

N = 20_000
ALPHA = 1e-3  # the seeds are fixed, so a right implementation fails never, not once in a thousand


def rows(count: int = N, seed: int = 0, epoch: int = 0, crop: int = 0) -> np.ndarray:
    return crop_uniforms(seed, np.full(count, epoch), np.arange(count), crop)


@pytest.fixture(scope="module")
def looks():
    return draw_appearance(View(solarize=0.2), rows())


@pytest.mark.parametrize("name", ["large", "small"])
def test_boxes_are_distributed_as_torchvisions(name):
    view, height, width = DEFAULT_VIEWS[name], 375, 500
    ours = draw_boxes(view, np.full(N, height), np.full(N, width), rows()).box
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, view.scale, view.ratio) for _ in range(4000)]
    )

    def describe(box):
        top, left, h, w = box.T.astype(float)
        jitter = np.random.default_rng(0).random((2, len(box)))  # Kolmogorov-Smirnov wants no ties
        places = (top + jitter[0]) / (height - h + 1), (left + jitter[1]) / (width - w + 1)
        return {
            "area": h * w,
            "ratio": w / h,
            "top": places[0],
            "left": places[1],
            "height": h,
            "width": w,
        }

    ours, theirs = describe(ours), describe(theirs)
    for key in ours:
        assert ks_2samp(ours[key], theirs[key]).pvalue > ALPHA, key
    assert np.corrcoef(ours["top"], ours["left"])[0, 1] == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (40, 50), (30, 100), (1, 7), (1, 1)])
def test_where_no_box_fits_the_centre_is_taken_as_torchvision_does(shape):
    view = View(scale=[1, 1], ratio=[2 / 3, 3 / 2] if shape != (40, 50) else [5, 5])
    ours = draw_boxes(view, np.array(shape[:1]), np.array(shape[1:]), rows(1)).box[0]
    assert tuple(ours) == RandomResizedCrop.get_params(
        torch.empty(3, *shape), view.scale, view.ratio
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=20),
    st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(sorted),
    st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
)
def test_boxes_lie_within_their_images(shapes, scale, ratio):
    heights, widths = np.array(shapes).T
    top, left, height, width = draw_boxes(
        View(scale=scale, ratio=ratio), heights, widths, rows(len(shapes))
    ).box.T
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= heights).all()
    assert (left + width <= widths).all()


def test_factors_are_uniform_where_jitter_is_drawn(looks):
    jittered = looks.factors[(looks.factors != [1, 1, 1, 0]).any(1)]
    assert binomtest(len(jittered), N, 0.8).pvalue > ALPHA
    for op in Op:
        low, width = (-0.2, 0.4) if op == Op.HUE else (0.2, 1.6)
        assert kstest(jittered[:, op], uniform(low, width).cdf).pvalue > ALPHA
    correlations = np.corrcoef(jittered.T) - np.eye(4)
    assert np.abs(correlations).max() < 0.03


def test_strengths_above_one_stop_at_factor_zero_and_zero_is_off():
    strong = draw_appearance(View(jitter=1, brightness=3, contrast=0, hue=0), rows()).factors
    assert kstest(strong[:, Op.BRIGHTNESS], uniform(0, 4).cdf).pvalue > ALPHA
    assert (strong[:, Op.CONTRAST] == 1).all()
    assert (strong[:, Op.HUE] == 0).all()


def test_all_orders_of_the_jitter_are_equally_likely(looks):
    _, counts = np.unique(looks.order, axis=0, return_counts=True)
    assert len(ORDERS) == len(counts) == 24
    assert chisquare(counts).pvalue > ALPHA


def test_probabilities(looks):
    flips = draw_boxes(View(flip=0.3), np.full(N, 50), np.full(N, 50), rows()).flip
    drawn = {0.2: looks.grey, 0.5: looks.sigma > 0, 0.3: flips}
    for probability, chosen in drawn.items():
        assert binomtest(int(chosen.sum()), N, probability).pvalue > ALPHA
    assert binomtest(int(looks.solarize.sum()), N, 0.2).pvalue > ALPHA
    assert kstest(looks.sigma[looks.sigma > 0], uniform(0.1, 1.9).cdf).pvalue > ALPHA


def test_probability_one_is_always_and_zero_never():
    always = draw_appearance(View(jitter=1, grey=1, blur=1, solarize=1), rows())
    never = draw_appearance(View(jitter=0, grey=0, blur=0, solarize=0), rows())
    assert always.grey.all()
    assert always.solarize.all()
    assert (always.sigma > 0).all()
    assert (always.factors[:, Op.HUE] != 0).all()
    assert not never.grey.any()
    assert not never.solarize.any()
    assert not never.sigma.any()
    assert (never.factors == [1, 1, 1, 0]).all()


def test_a_samples_numbers_depend_on_seed_epoch_sample_and_crop_alone():
    one = crop_uniforms(3, np.array([2]), np.array([70_000_000_000]), 5)[0]
    among = crop_uniforms(3, np.array([0, 2, 9]), np.array([4, 70_000_000_000, 5]), 5)[1]
    np.testing.assert_array_equal(one, among)
    others = [
        (4, 2, 70_000_000_000, 5),
        (3, 1, 70_000_000_000, 5),
        (3, 2, 70_000_000_001, 5),
        (3, 2, 70_000_000_000, 6),
    ]
    for seed, epoch, sample, crop in others:
        other = crop_uniforms(seed, np.array([epoch]), np.array([sample]), crop)[0]
        assert (one != other).all()


def test_no_number_serves_two_crops():
    every = np.concatenate([rows(50, crop=crop) for crop in range(MAX_CROPS)])
    assert every.shape == (50 * MAX_CROPS, UNIFORMS)
    assert len(np.unique(every)) == every.size


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("count", -1),
        ("scale", [0.0, 1.0]),
        ("scale", [0.5, 1.5]),
        ("scale", [0.9, 0.1]),
        ("scale", [0.5]),
        ("ratio", [-1.0, 1.0]),
        ("ratio", [1.0, float("inf")]),
        ("blur_sigma", [2.0, 1.0]),
        ("flip", 1.1),
        ("jitter", -0.1),
        ("grey", float("nan")),
        ("brightness", -0.5),
        ("saturation", float("nan")),
        ("hue", 0.6),
    ],
)
def test_a_senseless_value_is_named(key, value):
    with pytest.raises(
        InputError, match=rf"^views\.small\.{key}(\[\d\])?: .*(is not|must rise)"
    ) as caught:
        check_views({"large": View(), "small": View(**{key: value})})
    assert "\n" not in str(caught.value)


def test_no_crops_and_too_many_crops_are_refused():
    with pytest.raises(InputError, match="no crops at all"):
        check_views({"large": View(count=0)})
    with pytest.raises(InputError, match="65 crops per image, more than the 64 that fit"):
        check_views({"large": View(count=60), "small": View(count=5)})
    check_views(DEFAULT_VIEWS)
