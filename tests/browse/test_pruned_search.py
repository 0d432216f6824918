import numpy as np
import pytest
import torch

from seer.browse import pruned_search
from seer.browse.pruned_search import Index, neighbour_graph


def features(rows: int = 700, width: int = 40, seed: int = 0) -> torch.Tensor:
    """Of very different sizes along random directions, not negative."""
    random = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=random))
    points = torch.randn(rows, width, generator=random) * torch.arange(1, width + 1) ** -0.9
    return (points @ turn).clamp(min=0)


def exact(bank: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Cosines in float64."""
    bank = bank.astype(np.float64)
    lengths = np.linalg.norm(bank, axis=1) * np.linalg.norm(query.astype(np.float64))
    return bank @ query / lengths


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("k", [1, 7, 700, 900])
def test_the_nearest_are_those_of_float64(k, scale, monkeypatch):
    monkeypatch.setattr(pruned_search, "SMALL", 0)
    bank = features()
    bank[11] = bank[12]  # alike
    index = Index.of(bank * scale, kept=10)
    for row in (0, 12, 333):
        near, rows = index.nearest(bank[row] * scale, k)
        cosines = exact(bank.numpy(), bank[row].numpy())
        assert len(rows) == min(k, len(bank)) == len(set(rows.tolist()))
        np.testing.assert_allclose(near.numpy(), np.sort(cosines)[::-1][:k], atol=2e-6)
        np.testing.assert_allclose(cosines[rows.numpy()], near.numpy(), atol=2e-6)


def test_few_rows_are_compared_with(monkeypatch):
    """And those that are left out lie below the k-th nearest."""
    bank = features()
    index = Index.of(bank, kept=24)
    candidates = index.candidates(bank[5], 8).numpy()
    cosines = exact(bank.numpy(), bank[5].numpy())
    assert 8 <= len(candidates) < len(bank) / 4
    left_out = np.setdiff1d(np.arange(len(bank)), candidates)
    assert cosines[left_out].max() < np.sort(cosines)[-8]


def test_a_graph_has_the_nearest_others_also_among_many_that_are_alike():
    bank = torch.nn.functional.normalize(features(60), dim=1)
    bank[10:30] = bank[10]  # more than are asked for
    places = torch.cat([neighbour_graph(bank, 5, 0, 25), neighbour_graph(bank, 5, 25, 60)]).numpy()
    assert places.shape == (60, 5)
    assert not (places == np.arange(60)[:, None]).any()
    cosines = (bank @ bank.T).numpy()
    np.fill_diagonal(cosines, -2)
    expected = np.sort(cosines, axis=1)[:, :-6:-1]
    np.testing.assert_allclose(np.take_along_axis(cosines, places, 1), expected, atol=1e-6)


def test_of_fewer_than_are_asked_for_a_graph_has_all():
    bank = torch.eye(3)
    assert neighbour_graph(bank, 15, 0, 3).shape == (3, 2)
    assert neighbour_graph(bank[:1], 15, 0, 1).shape == (1, 0)
