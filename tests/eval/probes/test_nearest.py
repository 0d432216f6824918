import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from seer.eval.probes import nearest
from seer.eval.probes.fewshot import Episodes
from seer.eval.probes.nearest import Part, Rows, accuracies
from seer.eval.probes.options import FewshotConfig

CONFIG = FewshotConfig(ways=3, queries=5, episodes=20)


def some(width: int = 6, images: int = 120) -> tuple[torch.Tensor, np.ndarray, Part]:
    """Features, labels, and episodes of three shots."""
    features = torch.randn(images, width, generator=torch.Generator().manual_seed(0))
    labels = np.arange(images) % 4
    (part,) = Episodes(labels, np.arange(4), 3, CONFIG).parts(width)
    return features, labels, part


def by_scikit_learn(features: torch.Tensor, part: Part) -> np.ndarray:
    """The shares of queries that go to their own way, of which the first wins where several are
    equally far.
    """
    values = features.double().numpy()
    shares = []
    for support, queries in zip(part.support.numpy(), part.queries.numpy(), strict=True):
        ways = np.arange(len(support))
        oracle = NearestCentroid().fit(
            values[support].reshape(-1, values.shape[1]), ways.repeat(support.shape[1])
        )
        asked = values[queries].reshape(-1, values.shape[1])
        shares.append(oracle.score(asked, ways.repeat(queries.shape[1])))
    return np.array(shares)


@pytest.fixture(params=["compiled", "gathered"])
def way_to_measure(request, monkeypatch):
    """Both on small features, and only one episode's images copied at a time."""
    monkeypatch.setattr(nearest, "COMPILED", 0 if request.param == "compiled" else 2**62)
    monkeypatch.setattr(nearest, "GATHERED", 1)
    monkeypatch.setattr(nearest, "CENTROIDS", 3 * 3 * 37)


def doubt_nothing(monkeypatch) -> None:
    monkeypatch.setattr(nearest, "SAFETY", -1)


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1e3, 1), (0, 1e25), (0, 1e-30)])
@pytest.mark.parametrize("width", [1, 6, 37])
def test_answers_are_those_of_float64_far_from_the_origin_and_at_any_scale(
    way_to_measure, offset, scale, width
):
    features, _, part = some(width)
    moved = (features + offset) * scale
    assert accuracies(Rows(moved), part).tolist() == by_scikit_learn(moved, part).tolist()


def test_without_doubts_float32_decides_the_same_where_nothing_is_near(way_to_measure, monkeypatch):
    features, _, part = some(37)
    expected = by_scikit_learn(features, part)
    doubt_nothing(monkeypatch)
    assert accuracies(Rows(features), part).tolist() == expected.tolist()


def test_what_float32_cannot_tell_is_decided_exactly(way_to_measure, monkeypatch):
    """Ways that differ by a few units in the last place of large features, many of them by nothing:
    the squares of 3 (q − c) are whole numbers, by which the first of the nearest ways is known.
    """
    units = torch.from_numpy(np.random.default_rng(0).integers(-2, 3, (120, 64)))
    features = (4096 + units * 2.0**-10).float()
    _, _, part = some()
    centroids = units[part.support].sum(2)
    farness = (3 * units[part.queries][:, :, :, None] - centroids[:, None, None]).square().sum(4)
    expected = farness.numpy().argmin(3) == np.arange(CONFIG.ways)[:, None]
    shares = expected.reshape(CONFIG.episodes, -1).mean(1)
    assert accuracies(Rows(features), part).numpy() == pytest.approx(shares)
    doubt_nothing(monkeypatch)
    assert accuracies(Rows(features), part).numpy() != pytest.approx(shares)


def test_copies_go_to_the_first_way(way_to_measure):
    """All images alike; and the images of two classes in another order."""
    _, _, part = some()
    alike = accuracies(Rows(torch.full((120, 6), 0.1)), part)
    assert alike.tolist() == pytest.approx([1 / 3] * CONFIG.episodes)
    values = torch.randn(8, 33, generator=torch.Generator().manual_seed(1))
    rows = torch.cat([values, values.flip(0)])
    support = torch.tensor([[[0, 1, 2], [15, 14, 13]], [[15, 14, 13], [1, 2, 0]]])
    queries = torch.tensor([[[3, 4, 5], [6, 7, 8]], [[3, 4, 5], [6, 7, 8]]])
    assert accuracies(Rows(rows), Part(support, queries)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_blocks_change_nothing(threads, monkeypatch):
    features, labels, part = some(37)
    expected = accuracies(Rows(features), part)
    monkeypatch.setattr(nearest, "COMPILED", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert accuracies(Rows(features), part).tolist() == expected.tolist()
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr("seer.eval.probes.fewshot.CHUNK", 1)
    single = Episodes(labels, np.arange(4), 3, CONFIG).parts(37)
    assert [float(accuracies(Rows(features), part)) for part in single] == expected.tolist()
