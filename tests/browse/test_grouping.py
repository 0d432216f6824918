import numpy as np
from sklearn.cluster import DBSCAN

from seer.browse.grouping import Grouping, alike, clusters, majority


def test_groups_are_sorted_by_size_and_their_images_by_nearness():
    members = np.array([2, 0, 2, -1, 2, 0])
    nearness = np.array([0.1, 0.5, 0.9, 1.0, 0.3, 0.7])
    grouping = Grouping("prototype", members, nearness, 4)
    assert grouping.by_size.tolist() == [2, 0]
    assert grouping.empty == 2
    assert [grouping.rows(group).tolist() for group in range(4)] == [[5, 1], [], [2, 4, 0], []]


def test_clusters_are_those_that_the_data_have():
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 20)
    grouping = clusters((np.eye(3)[truth] + random.normal(0, 0.02, (60, 3))).astype(np.float32))
    assert grouping.count == 3
    assert len(set(zip(truth, grouping.members, strict=True))) == 3
    assert clusters(np.ones((1, 4), np.float32)).count == 1


def test_sets_of_alike_images_are_those_of_single_linkage():
    random = np.random.default_rng(1)
    points = random.normal(size=(80, 3))
    points[40:60] = points[:20] + random.normal(0, 0.01, (20, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = points @ points.T
    np.fill_diagonal(cosines, -1)
    places = np.argsort(-cosines, axis=1)
    grouping = alike(np.take_along_axis(cosines, places, 1), places, 0.995)
    # DBSCAN with one neighbour is single linkage.
    distance = np.sqrt(2 - 2 * 0.995)
    expected = DBSCAN(eps=distance, min_samples=2).fit_predict(points)
    pairs = set(zip(grouping.members, expected, strict=True))
    assert len(pairs) == len(set(expected)) == len(set(grouping.members))
    assert dict(pairs)[-1] == -1
    assert grouping.empty == 0


def test_the_most_frequent_label_and_its_share_of_all():
    assert majority(np.array([1, 1, 0, -1])) == (1, 0.5)
    assert majority(np.array([-1])) is None
