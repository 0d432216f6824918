import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from seer.data.labelled import splits
from seer.engine.schedule import ScheduleConfig
from seer.errors import InputError
from seer.eval.probes import linear
from seer.eval.probes.holdout import Choosing, holdout
from seer.eval.probes.linear import (
    LinearConfig,
    cached_batches,
    fit,
    logits,
    shuffled,
    standardizer,
)
from tests.eval.conftest import small_model


def problem(n: int = 600, dim: int = 10, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = make_classification(
        n, dim, n_informative=6, n_redundant=0, n_classes=classes, class_sep=2.0, random_state=0
    )
    return torch.from_numpy(x), torch.from_numpy(y)


def train(x, y, lrs, config, decays=(0.0,)) -> torch.Tensor:
    settings = list(itertools.product(lrs, decays))
    return fit(cached_batches(x, y, config), len(y), x.shape[1], int(y.max()) + 1, settings, config)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


FALLING = ScheduleConfig("step", peak=1.0, milestones=[1 / 3, 2 / 3], gamma=0.1)
COSINE = ScheduleConfig("cosine", peak=1.0, final=0.0)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize("schedule", [COSINE, FALLING])
def test_a_head_is_torchs_linear_layer_under_torchs_sgd(double, nesterov, decay_bias, schedule):
    x, y = problem()
    config = LinearConfig(
        epochs=3, sgd_batch=64, nesterov=nesterov, decay_bias=decay_bias, schedule=schedule
    )
    ours = train(x, y, [0.7, 0.05], config, [0.0, 0.01])[3]

    layer = torch.nn.Linear(10, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    bias = {"params": [layer.bias], "weight_decay": 0.01 * decay_bias}
    groups = [{"params": [layer.weight]}, bias]
    sgd = torch.optim.SGD(groups, 0.05, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    if schedule is COSINE:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=3 * 10)
    else:
        scheduler = torch.optim.lr_scheduler.MultiStepLR(sgd, [10, 20], gamma=0.1)
    for epoch in range(3):
        for rows in shuffled(len(y), config, epoch):
            sgd.zero_grad()
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            # torch's momentum buffer holds gradients, ours too: rates apply at the update.
            sgd.step()
            scheduler.step()
    torch.testing.assert_close(
        ours, torch.cat([layer.weight, layer.bias[:, None]], 1).detach(), rtol=1e-9, atol=1e-12
    )


def test_steps_go_over_the_epochs_and_end_within_one():
    x, y = problem()
    x = x.float()
    seen = []

    def counted(epoch):
        for features, labels in cached_batches(x, y, config)(epoch):
            seen.append((epoch, len(labels)))
            yield features, labels

    config = LinearConfig(steps=23, epochs=1, sgd_batch=64)
    fit(counted, len(y), 10, 4, [(0.1, 0.0)], config)
    assert seen == [(step // 10, 24 if step % 10 == 9 else 64) for step in range(23)]
    (alike,) = train(x, y, [0.1], dataclasses.replace(config, steps=20))
    (epochs,) = train(x, y, [0.1], dataclasses.replace(config, steps=0, epochs=2))
    assert torch.equal(alike, epochs)


def test_rates_for_another_batch_grow_in_proportion():
    x, y = problem()
    x = x.float()
    for_256 = dataclasses.replace(COSINE, per=256)
    (scaled,) = train(x, y, [0.1], LinearConfig(epochs=2, sgd_batch=128, schedule=for_256))
    (plain,) = train(x, y, [0.05], LinearConfig(epochs=2, sgd_batch=128, schedule=COSINE))
    torch.testing.assert_close(scaled, plain)


def test_heads_trained_together_are_those_trained_alone(double):
    x, y = problem()
    config, lrs = LinearConfig(epochs=3), [0.001, 0.1, 30.0]
    together = train(x, y, lrs, config)
    for lr, head in zip(lrs, together, strict=True):
        torch.testing.assert_close(head, train(x, y, [lr], config)[0], rtol=1e-9, atol=1e-12)


def test_accuracy_is_logistic_regressions():
    x, y = problem(2000)
    x = x.float()
    scale = standardizer(x[:1000])
    heads = train(scale(x[:1000]), y[:1000], [0.1, 0.3], LinearConfig())
    ours = (logits(heads, scale(x[1000:])).argmax(-1) == y[1000:, None]).double().mean(0)
    oracle = LogisticRegression(C=1e6, max_iter=5000).fit(scale(x[:1000]), y[:1000])
    assert ours.tolist() == pytest.approx([oracle.score(scale(x[1000:]), y[1000:])] * 2, abs=0.01)


def test_standardised_features_have_mean_0_and_deviation_1_and_constants_become_0():
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 30 + 7
    x[:, 2] = 5.0
    scaled = standardizer(x)(x)
    keep = [0, 1, 3]
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0)[keep], torch.ones(3))
    assert torch.equal(scaled[:, 2], torch.zeros(500))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5)
)
def test_holdout_takes_from_every_class_and_leaves_some(labels, share, seed):
    labels = np.array(labels)
    if np.bincount(labels).max() < 2:
        with pytest.raises(InputError, match="single training image"):
            holdout(labels, share, seed)
        return
    kept, held = (part.numpy() for part in holdout(labels, share, seed))
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label in np.unique(labels):
        count, out = (labels == label).sum(), (labels[held] == label).sum()
        assert out == min(max(1, round(share * count)), count - 1)


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    config = LinearConfig(sgd_batch=16)
    orders = [torch.cat(shuffled(50, config, epoch)).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert [len(rows) for rows in shuffled(50, config, 0)] == [16, 16, 16, 2]


def test_rate_and_decay_are_chosen_together(data):
    train_images, test = splits(data)
    config = LinearConfig(epochs=5, lrs=[1e-5, 0.3], weight_decays=[50.0, 0.0])
    (score,) = linear.run(small_model(), train_images, test, config)
    assert (score.details["lr"], score.details["weight_decay"]) == (0.3, 0.0)
    (alone,) = linear.run(
        small_model(), train_images, test, LinearConfig(epochs=5, lrs=[0.3], weight_decays=[0.0])
    )
    assert score.value == alone.value
    assert "weight_decay" not in alone.details


def test_validation_images_are_what_it_is_chosen_on_and_then_trained_on(data):
    train_images, test = splits(data)
    train_images.validation = np.arange(0, 120, 5)
    config = LinearConfig(epochs=5, lrs=[0.3])
    (score,) = linear.run(small_model(), train_images, test, config)
    assert score.details["chosen_on"] == "the 24 validation images"
    kept = LinearConfig(epochs=5, lrs=[0.3], refit=False)
    (before,) = linear.run(small_model(), train_images, test, kept)
    train_images.labels[train_images.validation] = 0
    (after,) = linear.run(small_model(), train_images, test, kept)
    assert after.value == before.value
    assert (
        after.details["holdout_top1"]
        < before.details["holdout_top1"]
        == (score.details["holdout_top1"])
    )
    (refit,) = linear.run(small_model(), train_images, test, config)
    assert refit.value != score.value


def test_the_rate_is_chosen_without_the_test_images(data):
    train_images, test = splits(data)
    (score,) = linear.run(small_model(), train_images, test, LinearConfig(epochs=5))
    test.labels = (test.labels + 1) % 3
    (shuffled_score,) = linear.run(small_model(), train_images, test, LinearConfig(epochs=5))
    assert score.details["lr"] == shuffled_score.details["lr"]
    assert score.details["holdout_top1"] == shuffled_score.details["holdout_top1"]
    assert score.value > 0.5 > shuffled_score.value
    assert score.details["images"] == 60


def test_rates_that_diverge_are_left_out_and_said(data, caplog):
    train_images, test = splits(data)
    config = LinearConfig(epochs=5, lrs=[0.1, 1e38, 1e39])
    (score,) = linear.run(small_model(), train_images, test, config)
    (alone,) = linear.run(small_model(), train_images, test, dataclasses.replace(config, lrs=[0.1]))
    assert score.value == alone.value
    assert score.details == alone.details | {"diverged": [1e38, 1e39]}
    assert "diverged at the learning rates 1e+38, 1e+39, which are left out" in caplog.text


def test_where_all_rates_diverge_there_is_no_score(data):
    train_images, test = splits(data)
    with pytest.raises(
        InputError, match=r"diverged at every learning rate \(1e\+38\); give smaller lrs"
    ) as error:
        linear.run(small_model(), train_images, test, LinearConfig(epochs=5, lrs=[1e38]))
    assert "\n" not in str(error.value)


def test_a_rate_that_diverges_only_on_all_images_gives_no_score(data, monkeypatch):
    train_images, test = splits(data)

    def fit_badly(batches, samples, *arguments):
        heads = fit(batches, samples, *arguments)
        return heads * torch.nan if samples == len(train_images) else heads

    monkeypatch.setattr(linear, "fit", fit_badly)
    with pytest.raises(InputError, match=r"rate 0\.1 diverged on all training images"):
        linear.run(small_model(), train_images, test, LinearConfig(epochs=5, lrs=[0.1]))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_features_of_any_size_are_standardised(scale):
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) + 2
    x[:, 1] *= scale
    scaled = standardizer(x)(x)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(4))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), atol=1e-5, rtol=0)


def test_without_refit_the_held_out_images_are_never_trained_on(data, monkeypatch):
    train_images, test = splits(data)
    kept, held = holdout(train_images.labels, 0.1, 0)
    monkeypatch.setattr(linear, "choosing", lambda *_: Choosing(kept, held, "some"))
    config = LinearConfig(epochs=3, lrs=[0.3], refit=False, standardize=False)
    (before,) = linear.run(small_model(), train_images, test, config)
    train_images.labels[held] = 0
    (after,) = linear.run(small_model(), train_images, test, config)
    assert after.value == before.value
    assert after.details["holdout_top1"] != before.details["holdout_top1"]
    (refit,) = linear.run(
        small_model(), train_images, test, dataclasses.replace(config, refit=True)
    )
    assert refit.details == after.details


def test_with_nothing_held_out_one_setting_is_trained_once_on_all(data, monkeypatch):
    train_images, test = splits(data)
    trained_on = []

    def counted(batches, samples, *arguments):
        trained_on.append(samples)
        return fit(batches, samples, *arguments)

    monkeypatch.setattr(linear, "fit", counted)
    config = LinearConfig(epochs=5, lrs=[0.1], holdout=0.0)
    (score,) = linear.run(small_model(), train_images, test, config)
    assert trained_on == [120]
    assert score.details == {"images": 60, "lr": 0.1}
    (refit,) = linear.run(
        small_model(), train_images, test, dataclasses.replace(config, holdout=0.1)
    )
    assert trained_on == [120, 108, 120]
    assert score.value == refit.value
    with pytest.raises(InputError, match="holdout=0: nothing is held out to choose by among 2"):
        linear.run(small_model(), train_images, test, LinearConfig(lrs=[0.1, 1.0], holdout=0.0))


def test_augmented_training_is_deterministic_sees_new_crops_and_works(data):
    train_images, test = splits(data)
    model = small_model()
    config = LinearConfig(
        augment=True, epochs=4, lrs=[0.03, 0.3], sgd_batch=32, batch_size=20, refit=False
    )
    (score,) = linear.run(model, train_images, test, config)
    assert model.backbone.seen == len(train_images) + len(test) + 4 * (len(train_images) - 12)
    (again,) = linear.run(small_model(), train_images, test, dataclasses.replace(config, threads=1))
    assert again == score
    assert score.metric == "top1_augmented"
    assert score.value > 0.5

    rows, identity = torch.arange(len(train_images)), torch.nn.Identity()
    batches = linear.augmented_batches(small_model(), train_images, rows, identity, config)
    first, second = (torch.cat([x for x, _ in batches(epoch)]) for epoch in (0, 1))
    assert first.shape == second.shape == (120, 12)
    assert not torch.equal(first.sort(0).values, second.sort(0).values)
    labels = torch.cat([y for _, y in batches(0)])
    assert labels.bincount().tolist() == [40, 40, 40]


@pytest.mark.parametrize(
    "option",
    [
        {"lrs": []},
        {"lrs": [0.0]},
        {"weight_decays": []},
        {"holdout": 1.0},
        {"epochs": 0},
        {"steps": -1},
        {"schedule": ScheduleConfig("step", peak=1.0, milestones=[0.5, 0.5])},
        {"sgd_batch": 0},
        {"crop_scale": [0.5, 0.2]},
    ],
)
def test_wrong_options_are_named(data, option):
    with pytest.raises(InputError, match=next(iter(option))):
        linear.run(small_model(), *splits(data), LinearConfig(**option))
