"""The classical estimates against their definitions, solved in another way."""

import cv2
import networkx as nx
import numpy as np
import pytest
from skimage.color import rgb2lab

from shards.saliency.barrier import minimum_barrier
from shards.saliency.estimators import (
    ALIKE,
    BACKGROUND,
    ESTIMATORS,
    LEAST_TOGETHER,
    SHARPNESS,
    background_probability,
    balanced,
    foreign_colour,
    mahalanobis,
    steps_to_border,
)
from shards.saliency.regions import Regions, distances, normalised, regions_of, to_lab
from shards.saliency.salience import classical, cut_off, guided


def scene(height: int = 90, width: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A disc of another colour on a textured ground, and where it is."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    inside = (y - 0.5 * height) ** 2 + (x - 0.55 * width) ** 2 < (0.27 * height) ** 2
    ground = np.array([90, 120, 60]) + draw.normal(0, 12, (height, width, 3))
    disc = np.array([200, 90, 70]) + draw.normal(0, 12, (height, width, 3))
    levels = np.where(inside[..., None], disc, ground)
    return cv2.blur(levels.clip(0, 255).astype(np.uint8), (3, 3)), inside


def few_regions(seed: int = 0) -> Regions:
    """A grid of four by three regions of random colours."""
    draw = np.random.default_rng(seed)
    labels = np.arange(12).reshape(3, 4).repeat(5, 0).repeat(5, 1)
    rows, columns = np.divmod(np.arange(12), 4)
    border = (rows % 2 == 0) | (columns % 3 == 0)
    steps = np.abs(rows[:, None] - rows) + np.abs(columns[:, None] - columns)
    places = np.stack([rows / 3, columns / 4], 1)
    return Regions(labels, draw.uniform(0, 30, (12, 3)), places, border, steps == 1)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return (found & truth).sum() / (found | truth).sum()


def test_regions_are_what_they_say():
    image, _ = scene()
    lab = to_lab(image)
    np.testing.assert_allclose(lab, rgb2lab(image), atol=0.6)
    regions = regions_of(lab, 40)
    count = len(regions.border)
    assert set(np.unique(regions.labels)) == set(range(count))
    for number in range(count):
        where = regions.labels == number
        np.testing.assert_allclose(
            regions.colours[number], lab[where].mean(0), rtol=1e-3, atol=1e-3
        )
        middle = np.argwhere(where).mean(0) / where.shape
        np.testing.assert_allclose(regions.places[number], middle)
        on_border = where[0].any() or where[-1].any() or where[:, 0].any() or where[:, -1].any()
        assert regions.border[number] == on_border
        around = cv2.dilate(
            where.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        )
        touching = set(np.unique(regions.labels[around.astype(bool)])) - {number}
        assert set(np.flatnonzero(regions.adjacent[number])) == touching


def test_boundary_connectivity_is_by_shortest_paths():
    regions = few_regions()
    unlike = distances(regions.colours)
    graph = nx.Graph()
    pairs = [
        (i, j)
        for i in range(12)
        for j in range(i)
        if regions.adjacent[i, j] or (regions.border[i] and regions.border[j])
    ]
    nearest = [min(unlike[a, b] for a, b in pairs if i in (a, b)) for i in range(12)]
    for i, j in pairs:
        graph.add_edge(i, j, weight=max(0.0, unlike[i, j] - np.mean(nearest)))
    paths = dict(nx.all_pairs_dijkstra_path_length(graph))
    for i, found in enumerate(background_probability(regions)):
        like = {j: np.exp(-(paths[i][j] ** 2) / (2 * ALIKE**2)) for j in range(12)}
        length = sum(like[j] for j in range(12) if regions.border[j])
        connectivity = length / np.sqrt(sum(like.values()))
        assert found == pytest.approx(1 - np.exp(-(connectivity**2) / 2), rel=1e-6)


def test_no_other_saliency_costs_less():
    regions = few_regions()
    draw = np.random.default_rng(1)
    background, foreground = draw.random(12), draw.random(12)

    def cost(s: np.ndarray) -> float:
        total = BACKGROUND * (background * s**2).sum() + (foreground * (s - 1) ** 2).sum()
        for i in range(12):
            for j in range(i):
                if regions.adjacent[i, j]:
                    unlike = np.linalg.norm(regions.colours[i] - regions.colours[j])
                    weight = np.exp(-(unlike**2) / (2 * ALIKE**2)) + LEAST_TOGETHER
                    total += weight * (s[i] - s[j]) ** 2
        return total

    best = balanced(regions, background, foreground)
    for _ in range(50):
        assert cost(best) < cost(best + draw.normal(0, 0.01, 12))


def test_the_walks_to_the_border_are_as_long_in_simulation():
    regions = few_regions()
    colours = normalised(regions.colours)
    near = nx.from_numpy_array(regions.adjacent)
    weights: dict[int, dict[int, float]] = {}
    for i in range(12):
        links = set(nx.single_source_shortest_path_length(near, i, 2))
        if regions.border[i]:
            links |= set(np.flatnonzero(regions.border).tolist())
        weights[i] = {}
        for j in links:
            alike = np.exp(-SHARPNESS * np.linalg.norm(colours[i] - colours[j]))
            weights[i][j] = alike
            if regions.border[j]:
                weights[i][100 + j] = alike
    draw = np.random.default_rng(0)
    expected = steps_to_border(regions, colours)
    for start in (5, 6, 0):
        walks = []
        for _ in range(1500):
            place, steps = start, 0
            while place < 100:
                links = weights[place]
                share = np.cumsum(list(links.values()))
                place = list(links)[int(np.searchsorted(share, draw.random() * share[-1]))]
                steps += 1
            walks.append(steps)
        error = np.std(walks) / np.sqrt(len(walks))
        assert np.mean(walks) == pytest.approx(expected[start], abs=4 * error)


def exact_barrier(image: np.ndarray) -> np.ndarray:
    """For each lowest level: the least highest one by which the border is reached."""
    height, width = image.shape
    grid = nx.grid_2d_graph(height, width)
    best = np.full(image.shape, np.inf)
    levels = np.unique(image)
    for low in levels:
        for high in levels[levels >= low]:
            inside = [n for n in grid if low <= image[n] <= high]
            for part in nx.connected_components(grid.subgraph(inside)):
                if any(y in (0, height - 1) or x in (0, width - 1) for y, x in part):
                    for node in part:
                        best[node] = min(best[node], high - low)
    return best


def test_the_barrier_is_nearly_the_exact_one():
    draw = np.random.default_rng(0)
    image = cv2.blur(draw.integers(0, 60, (9, 11)).astype(np.float32), (3, 3)).round()
    image[3:6, 4:7] += 40
    found, exact = minimum_barrier(image), exact_barrier(image)
    assert (found >= exact).all()
    assert (found == exact).mean() > 0.85
    assert (found - exact).max() <= 6
    assert (found[[0, -1]] == 0).all()


def test_colours_are_foreign_by_mahalanobis():
    draw = np.random.default_rng(0)
    sample = draw.normal(0, [1, 2, 4], (500, 3))
    lab = draw.normal(0, 5, (4, 5, 3))
    inverse = np.linalg.inv(np.cov(sample.T, bias=True) + 0.01 * np.eye(3))
    for y, x in np.ndindex(4, 5):
        away = lab[y, x] - sample.mean(0)
        assert mahalanobis(lab, sample)[y, x] == pytest.approx(np.sqrt(away @ inverse @ away))


def test_the_strip_that_a_colour_is_farthest_from_does_not_count():
    lab = np.random.default_rng(1).normal(0, 5, (30, 20, 3))
    lab[:3] += 20  # an object that reaches the upper edge
    maps = []
    for strip in (lab[:3], lab[27:], lab[:, :2], lab[:, 18:]):
        away = mahalanobis(lab, strip.reshape(-1, 3))
        maps.append((away - away.min()) / (away.max() - away.min()))
    three_nearest = np.sort(maps, axis=0)[:3]
    np.testing.assert_allclose(foreign_colour(lab), three_nearest.sum(0), atol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_each_finds_the_disc(name):
    image, truth = scene()
    lab = to_lab(image)
    map = ESTIMATORS[name](lab, regions_of(lab))
    assert map.shape == truth.shape
    assert map.min() == 0
    assert map.max() == pytest.approx(1)
    assert iou(cut_off(map, 0.0, 0.01), truth) > 0.8


def test_all_together_find_it_better_and_its_mirror_image_alike():
    image, truth = scene(180, 240)
    mask = cut_off(classical(image), 0.0, 0.01)
    assert iou(mask, truth) > 0.93
    mirrored = cut_off(classical(image[:, ::-1].copy()), 0.0, 0.01)
    assert iou(mirrored[:, ::-1], mask) > 0.95


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (12, 9), (400, 7), (16, 16)])
@pytest.mark.parametrize("flat", [True, False])
def test_any_image_has_a_map(shape, flat):
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (*shape, 3), dtype=np.uint8)
    map = classical(np.full_like(image, 77) if flat else image)
    assert map.ndim == 2
    assert np.isfinite(map).all()
    assert ((map >= 0) & (map <= 1)).all()


def test_pieces_and_holes_that_are_small_go():
    map = np.zeros((40, 50))
    map[5:30, 5:30] = 1
    map[10:12, 10:12] = 0
    map[35:37, 40:42] = 1
    mask = cut_off(map, 0.5, 0.01)
    expected = np.zeros_like(mask)
    expected[5:30, 5:30] = True
    assert np.array_equal(mask, expected)
    assert np.array_equal(cut_off(map, 0.0, 0.0), map == 1)
    assert not cut_off(np.zeros((5, 5)), 0.0, 0.01).any()


def test_smoothing_keeps_to_the_edges_of_its_guide():
    guide = np.zeros((60, 60))
    guide[:, 30:] = 1
    draw = np.random.default_rng(0)
    smooth = guided(0.2 + 0.6 * guide + draw.normal(0, 0.1, guide.shape), guide)
    assert smooth[:, :28].std() < 0.05
    assert abs(smooth[:, 27].mean() - 0.2) < 0.03
    assert abs(smooth[:, 33].mean() - 0.8) < 0.03
