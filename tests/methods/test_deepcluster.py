"""DeepCluster-v2 against its definition, written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods.kmeans import spherical_kmeans
from tests.methods.tiny import SAMPLES, begin_epoch, build, make_views, train_step


def batches(count: int = 5):
    """All images, four at a time."""
    made = [make_views(seed=number, dtype=torch.float64) for number in range(count)]
    return [type(views)(views.crops, views.index + 4 * number) for number, views in enumerate(made)]


def begun(**options):
    method = build("deepcluster", **options).double()
    begin_epoch(method, batches(), Step(0, 100))
    return method


def test_banks_hold_the_embeddings_of_each_assigning_crop():
    method = build("deepcluster").double()
    expected = {0: [], 1: []}
    for views in batches():
        both = method.backbone(views.crops[0].flatten(0, 1))
        small = method.backbone(views.crops[1].flatten(0, 1))
        embeddings = F.normalize(method.head(torch.cat([both, small])), dim=1)
        for crop in (0, 1):
            expected[crop].append(embeddings.unflatten(0, (4, 4))[crop])
    begin_epoch(method, batches(), Step(0, 100))
    for crop in (0, 1):
        rows = getattr(method, f"embeddings{crop}").rows
        torch.testing.assert_close(rows, torch.cat(expected[crop]).detach())


def test_clusterings_take_the_crops_in_turns_from_rows_drawn_by_the_step():
    method = begun(prototypes=[5, 3, 4], iterations=2)
    for number, (crop, centroids) in enumerate(
        zip((0, 1, 0), method.centroids.split([5, 3, 4]), strict=True)
    ):
        rows = getattr(method, f"embeddings{crop}").rows
        chosen = np.random.default_rng([0, number]).choice(SAMPLES, len(centroids), replace=False)
        found = spherical_kmeans(rows, rows[chosen], 2)
        torch.testing.assert_close(centroids, found.centroids)
        assert torch.equal(method.assignments.rows[:, number], found.assignments)


def test_the_loss_is_the_mean_over_crops_and_clusterings():
    method = begun()
    views = batches()[2]
    large = method.backbone(views.crops[0].flatten(0, 1))
    small = method.backbone(views.crops[1].flatten(0, 1))
    embeddings = F.normalize(method.head(torch.cat([large, small])), dim=1).unflatten(0, (4, 4))
    total = 0.0
    hits = 0
    for number, centroids in enumerate(method.centroids.split([5, 3])):
        for crop in embeddings:
            for image, embedding in zip(views.index.tolist(), crop, strict=True):
                scores = [(embedding @ centroid).item() / 0.1 for centroid in centroids]
                right = scores[method.assignments.rows[image, number]]
                total -= right - math.log(sum(map(math.exp, scores)))
                hits += right == max(scores)
    output = method(views, Step(1, 100))
    assert output.metrics["cluster_accuracy"].item() == pytest.approx(hits / (2 * 4 * 4))
    assert output.loss.item() == pytest.approx(total / (2 * 4 * 4), rel=1e-10)


def test_no_gradient_moves_centroids_and_steps_renew_the_banks():
    method = begun()
    before = method.centroids.clone()
    train_step(method, batches()[0], Step(1, 100))
    rows = method.embeddings0.rows.clone()
    train_step(method, batches()[1], Step(2, 100))
    assert torch.equal(method.centroids, before)
    changed = (method.embeddings0.rows != rows).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_a_step_that_failed_renews_nothing():
    method = begun()
    train_step(method, batches()[4], Step(0, 100))
    rows = method.embeddings0.rows.clone()
    method(batches()[1], Step(1, 100))
    method(batches()[2], Step(2, 100))
    method.after_update(Step(2, 100))
    changed = (method.embeddings0.rows != rows).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [8, 9, 10, 11]


def test_a_later_epoch_clusters_what_the_steps_left_without_a_pass():
    method = begun()
    train_step(method, batches()[0], Step(4, 100))

    def no_pass():
        raise AssertionError("a pass")

    before = method.centroids.clone()
    method.before_epoch(Step(5, 100, epoch=1.0), no_pass)
    assert not torch.equal(method.centroids, before)
    rows = method.embeddings1.rows
    chosen = np.random.default_rng([5, 1]).choice(SAMPLES, 3, replace=False)
    torch.testing.assert_close(
        method.centroids[5:], spherical_kmeans(rows, rows[chosen], 10).centroids
    )


def test_a_run_whose_first_step_is_left_out_begins_with_a_pass_all_the_same():
    """Health may skip step 0."""
    method = begun()
    passes = []

    def noted():
        passes.append(1)
        return iter(())

    method.before_epoch(Step(1, 100, epoch=0.1), noted)
    assert passes == [1]


def test_micro_batches_renew_the_rows_of_all():
    method = begun()
    train_step(method, batches()[4], Step(0, 100))
    rows = method.embeddings1.rows.clone()
    for number in (1, 2):
        method(batches()[number], Step(1, 100))
    method.after_update(Step(1, 100))
    changed = (method.embeddings1.rows != rows).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("empty", ["keep", "refill"])
def test_clusters_without_images_are_counted_and_filled_if_asked_for(empty):
    """Of sixteen images that are all alike, several are drawn as the first centroids."""
    method = begun(prototypes=[5], assign=[0], empty=empty)
    rows = method.embeddings0.rows
    rows[:16] = rows[0].clone()
    method.before_epoch(Step(5, 100), list)
    chosen = np.random.default_rng([5, 0]).choice(SAMPLES, 5, replace=False)
    found = {
        way: spherical_kmeans(rows, rows[chosen], 10, way == "refill") for way in ("keep", "refill")
    }
    assert not torch.equal(found["keep"].centroids, found["refill"].centroids)
    torch.testing.assert_close(method.centroids, found[empty].centroids, rtol=1e-9, atol=1e-9)
    without = 5 - len(method.assignments.rows.unique())
    assert without > 0
    output = method(batches()[0], Step(5, 100))
    assert output.metrics["clusters_empty"].item() == pytest.approx(without / 5)


def test_more_clusters_than_images_are_refused():
    with pytest.raises(InputError, match=r"prototypes=\[3, 21\]: more clusters than the 20 images"):
        begun(prototypes=[3, 21])
    assert len(begun(prototypes=[20]).assignments.rows.unique()) == 20


def test_a_crop_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"method\.assign=\[0, 2\]: the views have 2 large crops"):
        build("deepcluster", assign=[0, 2])(make_views(), Step(0, 1))
