"""Calibration against its definition, and temperatures against SciPy's minimum."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import minimize_scalar

from seer.errors import InputError
from seer.eval.analyses.calibration import (
    BINS,
    Part,
    bins_of,
    calibration_error,
    calibration_errors,
    measures,
    scaled_by_folds,
    sure_and_right,
    temperature_of,
)
from seer.eval.task import evaluate


def outputs_of(seed: int, images: int = 60, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(images, classes, generator=draw, dtype=torch.float64)
    return outputs, torch.randint(classes, (images,), generator=draw)


@given(st.integers(0, 10**6), st.integers(1, 80))
def test_the_error_is_that_of_the_plain_loop(seed, images):
    outputs, truth = outputs_of(seed, images)
    confidence, right = sure_and_right(outputs, truth)
    expected = 0.0
    for number in range(BINS):
        own = [i for i in range(images) if number / BINS < confidence[i] <= (number + 1) / BINS]
        if own:
            accuracy = sum(right[i] for i in own) / len(own)
            sure = sum(confidence[i] for i in own) / len(own)
            expected += len(own) / images * abs(accuracy - sure)
    assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-12)
    assert sum(count for count, _, _ in bins_of(outputs, truth)) == images


def test_images_that_are_there_twice_count_twice():
    confidence, right = sure_and_right(*outputs_of(0, 9))
    counts = np.array([[2, 0, 1, 0, 3, 1, 0, 1, 1]])
    drawn = np.repeat(np.arange(9), counts[0])
    (weighted,) = calibration_errors(confidence, right, counts)
    assert weighted == pytest.approx(calibration_error(confidence[drawn], right[drawn]))


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_is_scipys_minimum(seed):
    outputs, truth = outputs_of(seed)

    def likelihood(log_temperature: float) -> float:
        return F.cross_entropy(outputs / math.exp(log_temperature), truth).item()

    found = minimize_scalar(likelihood, bounds=(-7, 7), method="bounded", options={"xatol": 1e-10})
    assert likelihood(math.log(temperature_of(outputs, truth))) <= found.fun + 1e-12


def test_logits_that_are_too_large_by_a_factor_have_it_as_their_temperature():
    draw = torch.Generator().manual_seed(0)
    outputs = torch.randn(20_000, 3, generator=draw, dtype=torch.float64)
    truth = torch.multinomial(outputs.softmax(1), 1, generator=draw).flatten()
    assert temperature_of(5 * outputs, truth) == pytest.approx(5, rel=0.05)
    confidence, right = sure_and_right(outputs, truth)
    assert calibration_error(confidence, right) < 0.02
    assert calibration_error(*sure_and_right(5 * outputs, truth)) > 0.2


def test_folds_are_measured_by_the_temperatures_of_others():
    outputs, truth = outputs_of(0, 50)
    parts, mean = scaled_by_folds(outputs, truth, 3)
    order = np.random.default_rng(3).permutation(50)
    temperatures = []
    for number, (rows, scaled, labels) in enumerate(parts):
        fold = order[10 * number : 10 * number + 10]
        others = [i for i in order if i not in set(fold)]
        temperature = temperature_of(outputs[fold], truth[fold])
        assert rows.tolist() == others
        torch.testing.assert_close(scaled, outputs[others] / temperature)
        assert torch.equal(labels, truth[others])
        temperatures.append(temperature)
    assert mean == pytest.approx(np.exp(np.mean(np.log(temperatures))))


def test_an_image_in_four_parts_is_one_image():
    """Intervals of parts that all have one temperature are those of the images themselves."""
    outputs, truth = outputs_of(2, 100)
    images = torch.arange(100)
    plain = measures([Part(images, outputs, truth)], "", "", {})
    parts = []
    for fold in images.tensor_split(5):
        others = torch.from_numpy(np.setdiff1d(images, fold))
        parts.append(Part(others, outputs[others], truth[others]))
    folded = measures(parts, "", "", {})
    for first, second in zip(plain[1:], folded[1:], strict=True):
        assert (second.low, second.value, second.high) == pytest.approx(
            (first.low, first.value, first.high)
        )
        assert second.details["images"] == 100
    errors = [calibration_error(*sure_and_right(part.outputs, part.truth)) for part in parts]
    assert folded[0].value == pytest.approx(np.mean(errors))
    width = plain[0].high - plain[0].low
    assert folded[0].high - folded[0].low == pytest.approx(width, rel=0.25)


@pytest.mark.parametrize("scheme", ["validation", "ericsson"])
def test_the_task(data, tmp_path, scheme):
    picture = tmp_path / "reliability.png"
    options = [f"picture={picture}", f"scheme={scheme}", "count=5"]
    rows = evaluate("calibration", "pixels", data, options, tmp_path / "results.jsonl")
    found = {row["metric"]: row for row in rows}
    assert set(found) == {f"{name}{s}" for name in ("ece", "nll", "brier") for s in ("", "_scaled")}
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["better"] == "lower"
    assert [row["metric"] for row in rows if row["headline"]] == ["ece"]
    assert found["ece"]["details"]["scheme"] == scheme
    assert Image.open(picture).size == (672, 348)


def test_a_picture_of_another_kind_is_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in \.png"):
        evaluate("calibration", "pixels", data, ["picture=a.svg"], tmp_path / "results.jsonl")
