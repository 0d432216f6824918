"""The linear segmentation probe, and the folders that it reads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seer.eval.data.collector import ABSENT_IMAGE
from seer.eval.data.maps import RULE, rule_of, train_and_test
from seer.eval.dense import denselinear, frozen_maps, least_squares
from seer.eval.dense.denselinear import predicted, run, shares_of
from seer.eval.dense.least_squares import Sums, best_ridge
from seer.eval.dense.options import DenseLinearConfig
from seer.interop.models import load_model
from tests.kit.maps import write_pair


def halves(folder: Path, count: int = 6) -> Path:
    """Images whose dark half is class 0 and whose bright half is class 1, void along the top."""
    rng = np.random.default_rng(0)
    for number in range(count):
        left = int(rng.integers(16, 48))
        mask = np.zeros((64, 64), np.uint8)
        mask[:, left:] = 1
        image = np.repeat((mask * 200 + 20)[..., None], 3, 2)
        mask[:2] = 255
        write_pair(folder, f"{number}", image, mask)
    return folder


def test_sums_give_weighted_least_squares_and_their_error() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (40, 3))
    targets = rng.normal(size=(40, 2))
    weights = rng.integers(0, 4, 40)
    sums = Sums(3, 2)
    for part in (slice(0, 15), slice(15, 40)):
        sums.add(*(torch.from_numpy(each[part]) for each in (features, targets, weights)))
    rows = np.repeat(np.column_stack([features, np.ones(40)]), weights, 0)
    repeated = np.repeat(targets, weights, 0)
    expected = np.linalg.lstsq(rows, repeated, rcond=None)[0]
    solution = sums.solve(0.0)
    assert solution.numpy() == pytest.approx(expected)
    residuals = np.square(rows @ expected - repeated).sum() / len(rows)
    assert sums.error(solution) == pytest.approx(residuals)
    assert best_ridge(sums, sums, [1.0, 0.0, 0.1]) == 0.0


def test_shares_of_places_are_counted_pixel_by_pixel() -> None:
    mask = np.array([[0, 0, 1, -1], [0, 1, -1, -1], [2, 2, 2, 2], [2, 2, 0, 1]])
    shares, weights = shares_of(mask, 3, (2, 2))
    assert weights.tolist() == [4, 1, 4, 4]
    assert shares.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1], [0.25, 0.25, 0.5]]


def test_each_pixel_has_the_class_of_the_largest_score() -> None:
    values = torch.tensor([[[-1.0, 1.0]]])
    coefficients = torch.tensor([[-1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert predicted(values, coefficients, (1, 4)).tolist() == [[0, 0, 1, 1]]


def test_bright_and_dark_are_told_apart_and_void_is_not_scored(tmp_path: Path) -> None:
    data = halves(tmp_path)
    (data / "masks/alone.png").write_bytes(b"")
    assert rule_of(data) == RULE
    train, test = train_and_test(data)
    assert (len(train), len(test)) == (5, 1)
    config = DenseLinearConfig(size=64, levels=[2], device="cpu", void=[255])
    torch.manual_seed(0)
    miou, accuracy, _ = run(load_model("regnety_tiny:random"), train, test, config)
    assert accuracy.value > 0.9
    assert miou.details["pixels"] == 62 * 64
    assert miou.details["void_pixels"] == 2 * 64
    assert miou.details["left_out"] == {"training": {ABSENT_IMAGE: 1}, "test": {}}
    assert miou.low <= miou.value <= miou.high


def test_the_constant_is_not_made_smaller() -> None:
    """Where λ leaves nothing of the features, a guess is the weighted mean."""
    rng = np.random.default_rng(1)
    targets = rng.normal(5, 1, (30, 2))
    weights = rng.integers(1, 9, 30)
    sums = Sums(3, 2)
    arrays = (rng.normal(size=(30, 3)), targets, weights)
    sums.add(*(torch.from_numpy(each) for each in arrays))
    solution = sums.solve(1e9)
    assert solution[-1].numpy() == pytest.approx(np.average(targets, 0, weights))


def test_each_known_pixel_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy's least squares on pixels, each with the features of its place."""
    rng = np.random.default_rng(0)
    for number in range(6):
        mask = rng.integers(0, 3, (8, 8)).astype(np.uint8)
        mask[:4, :3] = 255  # so places have different numbers of pixels
        write_pair(tmp_path, f"{number}", rng.integers(0, 256, (8, 8, 3), np.uint8), mask)
    train, test = train_and_test(tmp_path)
    features = torch.from_numpy(rng.normal(size=(len(train), 2, 2, 2)))
    asked = iter([features])
    monkeypatch.setattr(frozen_maps, "maps_of", lambda *_: lambda _: next(asked, features[:1]))
    monkeypatch.setattr(least_squares, "RIDGES", [0.0])
    fits = []
    monkeypatch.setattr(
        denselinear, "predicted", lambda _, fit, shape: fits.append(fit) or np.zeros(shape, int)
    )
    config = DenseLinearConfig(device="cpu", batch_size=6, void=[255])
    denselinear.run(load_model("regnety_tiny:random"), train, test, config)
    rows, classes = [], []
    for number in range(len(train)):
        for (y, x), value in np.ndenumerate(train.mask(number)):
            if value != 255:
                rows.append([*features[number, :, y // 4, x // 4].tolist(), 1])
                classes.append(np.eye(3)[value])
    wanted = np.linalg.lstsq(np.array(rows), np.array(classes), rcond=None)[0]
    assert fits[0].numpy() == pytest.approx(wanted, abs=1e-8)
