import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from seer.eval.probes.regression import Axes, Path, Sigmoids, Softmax

PENALTIES = np.logspace(5, -6, 45)
SHAPES = {"many images": (160, 8, 4), "two classes": (60, 5, 2), "fewer than features": (20, 30, 3)}


def problem(images: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different sizes, far from 0, and labels that they tell only in part."""
    random = np.random.default_rng(0)
    labels = np.arange(images) % classes
    centres = random.standard_normal((classes, width))
    features = random.standard_normal((images, width)) + centres[labels]
    return (features + 5) * np.logspace(-1, 1, width), labels


def objective(x: np.ndarray, y: np.ndarray, heads: np.ndarray, penalty: float) -> float:
    """By the definition; `heads` `(D + 1, C)`."""
    logits = x @ heads[:-1] + heads[-1]
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return losses.sum() + penalty / 2 * (heads[:-1] ** 2).sum()


def scikit_learns(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Its heads `(D + 1, C)`; of two classes it has one column, which stands for half of both."""
    oracle = LogisticRegression(
        C=1 / penalty, solver="newton-cholesky", tol=1e-9, max_iter=500
    ).fit(x, y)
    return np.vstack([oracle.coef_.T, oracle.intercept_])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("ignore")  # scikit-learn's, where it falls back to another solver
def test_the_optimum_is_scikit_learns_at_every_penalty(shape):
    x, y = problem(*SHAPES[shape])
    classes = SHAPES[shape][2]
    axes = Axes.of(torch.from_numpy(x))
    path = Path(axes, Softmax(torch.from_numpy(y), classes))
    passes = 0
    for penalty in PENALTIES.tolist():
        solution = path.solve(penalty, tolerance=1e-7, iterations=1000)
        passes += solution.passes
        heads = axes.heads(solution.values)[:, 0].numpy()
        if classes == 2:
            # One column w for two, and λ ‖w‖² where a softmax has λ (‖w/2‖² + ‖w/2‖²).
            theirs = scikit_learns(x, y, penalty / 2)
            theirs = np.hstack([-theirs, theirs]) / 2
        else:
            theirs = scikit_learns(x, y, penalty)
        expected = objective(x, y, theirs, penalty)
        ours = objective(x, y, heads, penalty)
        assert ours == pytest.approx(float(solution.losses), rel=1e-6)
        assert abs(ours - expected) <= 1e-4 * expected
        assert ours <= expected * (1 + 2e-5)
        assert solution.converged.all()
    assert passes < 45 * 40  # the benchmark's own search may take 100 iterations at each λ


@pytest.mark.filterwarnings("ignore")
def test_one_against_the_rest_is_scikit_learns_of_each_class():
    x, _ = problem(120, 6, 3)
    random = np.random.default_rng(1)
    labels = (x[:, :3] + random.standard_normal((120, 3)) > x[:, :3].mean(0)).astype(np.int64)
    labels[:10, 1] = -1
    axes = Axes.of(torch.from_numpy(x))
    path = Path(axes, Sigmoids(torch.from_numpy(labels)))
    for penalty in PENALTIES[::4].tolist():
        solution = path.solve(penalty, tolerance=1e-7, iterations=1000)
        heads = axes.heads(solution.values)[:, :, 0].numpy()
        for column in range(3):
            counted = labels[:, column] >= 0
            z, t = x[counted], labels[counted, column]
            pairs = [heads[:, column], scikit_learns(z, t, penalty)[:, 0]]
            ours, expected = (
                np.logaddexp(0, (1 - 2 * t) * (z @ head[:-1] + head[-1])).sum()
                + penalty / 2 * (head[:-1] ** 2).sum()
                for head in pairs
            )
            assert abs(ours - expected) <= 1e-4 * expected
            assert float(solution.losses[column]) == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e30])
def test_a_search_ends_at_the_same_optimum_wherever_it_begins(scale):
    x, y = problem(160, 8, 4)
    axes = Axes.of(torch.from_numpy((x * scale).astype(np.float32)))
    loss = Softmax(torch.from_numpy(y), 4)
    random = torch.Generator().manual_seed(0)
    start = torch.randn(9, 1, 4, generator=random, dtype=torch.float64)
    start[:-1] /= scale
    penalty = 0.3 * scale**2
    cold = Path(axes, loss).solve(penalty, 1e-9, 1000)
    warm = Path(axes, loss, start).solve(penalty, 1e-9, 1000)
    assert float(cold.losses) == pytest.approx(float(warm.losses), rel=1e-6)
    assert float(cold.losses) < 160 * np.log(4)


def test_heads_are_of_the_features_as_they_were():
    x, _ = problem(20, 30, 3)
    axes = Axes.of(torch.from_numpy(x))
    assert axes.values.shape == (20, 21)
    solution = torch.randn(21, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    heads = axes.heads(solution)[:, 0]
    expected = axes.values @ solution[:, 0]
    torch.testing.assert_close(torch.from_numpy(x) @ heads[:-1] + heads[-1], expected)
    torch.testing.assert_close(axes.solution(heads), solution[:, 0], rtol=1e-6, atol=1e-6)


def test_a_search_that_is_cut_short_says_so():
    x, y = problem(160, 8, 4)
    path = Path(Axes.of(torch.from_numpy(x)), Softmax(torch.from_numpy(y), 4))
    solution = path.solve(1e-3, 1e-9, 2)
    assert not solution.converged.any()
    assert solution.passes == 6
