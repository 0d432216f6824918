"""Three classical estimates of what is salient, each from its paper; `(H, W)` maps from 0 to 1.

All take the border of an image for background, by and large: the first by how much of a region's
surroundings lies on the border, the second by how long a random walk takes to get there, the third
by the barrier of colours on the way there.
"""

from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from shards.saliency.barrier import minimum_barrier
from shards.saliency.regions import Regions, distances, normalised

# Of boundary connectivity, as in the paper: colours count as alike to this distance, contrast
# reaches so far in the image, and neighbours are drawn together at least so much.
ALIKE = 10.0
REACH = 0.25
LEAST_TOGETHER = 0.1
BACKGROUND = 5.0  # weight of the background's term beside the foreground's, as in their code
SHARPNESS = 10.0  # of the random walk's edges: 1 / σ² of the paper, for colours from 0 to 1
LEAST_LONGER = 0.2  # share by which a walk is longer at least where there is an object
BORDER = 0.1  # width of the four strips whose colours are background, as a share of the sides


def boundary_connectivity(regions: Regions) -> np.ndarray:
    """Zhu et al. 2014 (CVPR, "Saliency Optimization from Robust Background Detection"): contrast with
    regions that are background, weighed against their own connectivity to the border, by least
    squares (equations 3 to 9).
    """
    background = background_probability(regions)
    near = np.exp(-(distances(regions.places) ** 2) / (2 * REACH**2))
    foreground = normalised((regions.unlike * near) @ background)
    return regions.spread(normalised(balanced(regions, background, foreground)))


def background_probability(regions: Regions) -> np.ndarray:
    """`(N,)`: 1 - exp(-c² / 2) of the connectivity c: the border's length that a region's surroundings
    take up, over the square root of their area (equations 3 to 6). Surroundings are by geodesic
    distance of colours, where what differs as little as nearest neighbours do counts as equal.
    """
    unlike = regions.unlike
    beside = regions.adjacent | np.outer(regions.border, regions.border)
    np.fill_diagonal(beside, False)
    nearest = np.where(beside, unlike, np.inf).min(1)
    steps = np.maximum(unlike - nearest[np.isfinite(nearest)].mean(), 0)
    # Sparse, where a step of nothing is a step; of a full matrix it would be none.
    links = coo_array((steps[beside], np.nonzero(beside)), steps.shape).tocsr()
    geodesic = dijkstra(links, directed=False)
    surroundings = np.exp(-(geodesic**2) / (2 * ALIKE**2))
    length = surroundings @ regions.border
    connectivity = length / np.sqrt(surroundings.sum(1))
    return 1 - np.exp(-(connectivity**2) / 2)


def balanced(regions: Regions, background: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """`(N,)` s that minimise Σ b s² + Σ f (s - 1)² + Σ w (s_i - s_j)² over regions and neighbours
    (equation 9).
    """
    alike = np.exp(-(regions.unlike**2) / (2 * ALIKE**2)) + LEAST_TOGETHER
    together = np.where(regions.adjacent, alike, 0)
    smoothness = np.diag(together.sum(1)) - together
    system = smoothness + np.diag(BACKGROUND * background + foreground + 1e-9)
    return np.linalg.solve(system, foreground)


def absorption_time(regions: Regions) -> np.ndarray:
    """Jiang et al. 2013 (ICCV, "Saliency Detection via Absorbing Markov Chain"): how many steps a walk
    among like colours takes to the border. Regions are linked to their neighbours and theirs, those
    on the border to each other, and each of these to a twin that absorbs. Unlike in the paper, it is how
    many times as many steps as if all colours were alike: else the middle of any flat image is salient.
    """
    nothing = np.zeros_like(regions.colours)
    longer = steps_to_border(regions, normalised(regions.colours)) / steps_to_border(
        regions, nothing
    )
    more = np.maximum(longer - 1, 0)
    return regions.spread(more / max(more.max(), LEAST_LONGER))


def steps_to_border(regions: Regions, colours: np.ndarray) -> np.ndarray:
    """`(N,)`: the expected number, the sums of the fundamental matrix (section 3), for `(N, 3)` colours
    from 0 to 1.
    """
    two_rings = regions.adjacent.astype(float) @ regions.adjacent > 0
    linked = regions.adjacent | two_rings | np.outer(regions.border, regions.border)
    np.fill_diagonal(linked, True)
    alike = np.exp(-SHARPNESS * distances(colours))
    among = np.where(linked, alike, 0)
    # A region's links with twins: the twins of those on the border that it is linked with.
    away = among[:, regions.border].sum(1)
    transitions = among / (among.sum(1) + away)[:, None]
    return np.linalg.solve(np.eye(len(transitions)) - transitions, np.ones(len(transitions)))


def barrier_distance(lab: np.ndarray) -> np.ndarray:
    """Zhang et al. 2015 (ICCV, "Minimum Barrier Salient Object Detection at 80 FPS"), MB+: the lowest
    barrier between a pixel and the border, summed over the channels of `(H, W, 3)` Lab, and how far
    its colour is from those of the border's strips.
    """
    channels = [np.ascontiguousarray(channel, np.float32) for channel in np.moveaxis(lab, 2, 0)]
    barriers = np.sum([minimum_barrier(channel) for channel in channels], axis=0)
    return normalised(normalised(barriers) + normalised(foreign_colour(lab)))


def foreign_colour(lab: np.ndarray) -> np.ndarray:
    """`(H, W)`: Mahalanobis distance from the colours of each of the border's four strips, each map
    from 0 to 1, all added but the largest (section 4.1).
    """
    height, width = lab.shape[:2]
    tall = max(1, int(BORDER * height))
    wide = max(1, int(BORDER * width))
    strips = (lab[:tall], lab[-tall:], lab[:, :wide], lab[:, -wide:])
    maps = np.stack([normalised(mahalanobis(lab, strip.reshape(-1, 3))) for strip in strips])
    return maps.sum(0) - maps.max(0)


def mahalanobis(lab: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """`(H, W)` distances of `(H, W, 3)` from the distribution of `(M, 3)`."""
    centred = (lab - sample.mean(0)).astype(np.float64)
    covariance = np.cov(sample.astype(np.float64), rowvar=False, bias=True) + 1e-2 * np.eye(3)
    return np.sqrt(np.einsum("hwi,ij,hwj->hw", centred, np.linalg.inv(covariance), centred))


# Of an image in Lab and its regions.
ESTIMATORS: dict[str, Callable[[np.ndarray, Regions], np.ndarray]] = {
    "connectivity": lambda lab, regions: boundary_connectivity(regions),
    "absorption": lambda lab, regions: absorption_time(regions),
    "barrier": lambda lab, regions: barrier_distance(lab),
}
