import pytest
import torch
from torch.nn import functional as F

from seer.eval.probes import search as searching
from seer.eval.probes.search import search
from tests.eval.probes.test_knn import points

CPU = torch.device("cpu")


def brute_force(queries, bank, metric):
    """Nearness of every query to everything, one pair at a time."""
    if metric == "cosine":
        return F.cosine_similarity(queries[:, None], bank[None], dim=-1)
    return -(queries[:, None] - bank[None]).square().sum(-1) / 2


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("block", "chunk"), [(2**25, 2**24), (35, 70), (5, 7), (290, 300)])
def test_blocks_and_chunks_change_nothing_and_search_is_brute_force(
    monkeypatch, metric, block, chunk
):
    (bank, _), (queries, _) = points(0, 301), points(1, 101)
    monkeypatch.setattr(searching, "BLOCK", block * bank.shape[1])
    monkeypatch.setattr(searching, "CHUNK", chunk)
    monkeypatch.setattr(searching, "FEW", 2)
    nearness, places = search(queries, bank, 4, CPU, metric)
    table = brute_force(queries.double(), bank.double(), metric)
    assert places.tolist() == table.argsort(dim=1, descending=True)[:, :4].tolist()
    expected = table.sort(dim=1, descending=True).values[:, :4].float()
    torch.testing.assert_close(nearness, expected, rtol=1e-4, atol=1e-5)


def test_neighbours_of_one_group_and_of_the_last_few(monkeypatch):
    """All nearest in one group of those that are ranked together, and beyond the last whole one."""
    monkeypatch.setattr(searching, "FEW", 2)
    bank = -torch.ones(330, 2) + torch.arange(330)[:, None] * torch.tensor([1e-5, 0.0])
    for places in (range(64, 69), range(325, 330), [3, 70, 140, 300, 329]):
        near = bank.clone()
        near[list(places)] = torch.tensor([[1.0, 1.0 + i / 10] for i in range(5)])
        _, nearest = search(torch.ones(1, 2), near, 5, CPU)
        assert nearest[0].tolist() == list(places)


def test_all_can_be_asked_for(monkeypatch):
    (bank, _), (queries, _) = points(0, 30), points(1, 10)
    monkeypatch.setattr(searching, "BLOCK", 35)
    _, places = search(queries, bank, 30, CPU)
    assert (places.sort(1).values == torch.arange(30)).all()


def test_distances_far_from_0_do_not_cancel():
    (bank, _), (queries, _) = points(0, 300), points(1, 50)
    far = [(bank + 1000).double(), (queries + 1000).double()]
    _, places = search(far[1].float(), far[0].float(), 5, CPU, "euclidean")
    table = brute_force(far[1].float().double(), far[0].float().double(), "euclidean")
    assert places.tolist() == table.argsort(dim=1, descending=True)[:, :5].tolist()


def test_euclidean_neighbours_of_huge_features():
    (bank, _), (queries, _) = points(0, 300), points(1, 50)
    _, places = search(queries, bank, 5, CPU, "euclidean")
    _, scaled = search(queries * 2.0**100, bank * 2.0**100, 5, CPU, "euclidean")
    assert torch.equal(scaled, places)


def test_neighbours_of_features_of_any_size_are_the_same():
    (bank, _), (queries, _) = points(0, 300), points(1, 50)
    similarity, nearest = search(queries, bank, 9, CPU)
    for scale in (2.0**-100, 2.0**100):
        scaled = search(queries * scale, bank * scale, 9, CPU)
        assert torch.equal(scaled[0], similarity)
        assert torch.equal(scaled[1], nearest)
