"""Domain adaptation: its losses by hand, its images, and what cannot be is told in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from seer.data.views import LabelledImages
from seer.distributed import World
from seer.engine.learner import Step
from seer.errors import InputError
from seer.eval.data.domains import divide, whole
from seer.eval.task import evaluate
from seer.eval.trained.adapter import Adapter, CosineHead, DomainBatch, entropy
from seer.eval.trained.mme import check, configure, domains_of, run, set_up
from seer.processes import spawn
from seer.results import latest, read_results
from seer.rundir.names import checkpoints
from tests.eval.conftest import small_model
from tests.kit.pictures import write_images
from tests.kit.runs import in_turn

QUICK = ["batch_size=16", "loader.workers=0", "log.every=1", "log.tensorboard=false", "device=cpu"]
STEP = Step(0, 10)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    """The classes of `data`, 12 images of each, in one folder."""
    root = tmp_path_factory.mktemp("target")
    write_images(root, 12, seed=2)
    return root


@pytest.fixture
def small(monkeypatch) -> None:
    for module in ("seer.eval.trained.mme.load_model", "seer.eval.task.load_model"):
        monkeypatch.setattr(module, lambda spec: small_model())


def losses(run_dir: Path) -> list[float]:
    rows = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


class Linear(nn.Module):
    """A backbone of one weight matrix, so that gradients can be worked out by hand."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight))
        self.out_dim = len(weight)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1) @ self.weight.T


def images(rng: np.random.Generator, count: int, classes: int) -> LabelledImages:
    pixels = torch.from_numpy(rng.normal(size=(count, 3, 1, 1)))
    labels = torch.from_numpy(rng.integers(0, classes, count))
    return LabelledImages(pixels, labels, torch.arange(count))


def softmax_of(
    pixels: np.ndarray, features: np.ndarray, classes: np.ndarray, t: float
) -> np.ndarray:
    z = pixels @ features.T
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    exponents = np.exp(z @ classes.T / t)
    return exponents / exponents.sum(1, keepdims=True)


def slopes(function, weights: np.ndarray) -> np.ndarray:
    """The gradient of a function of an array, by central differences."""
    gradient = np.zeros_like(weights)
    for place in np.ndindex(weights.shape):
        moved = [weights.copy(), weights.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        gradient[place] = (function(moved[0]) - function(moved[1])) / 2e-6
    return gradient


def test_outputs_that_are_not_finite_are_no_answers():
    rng = np.random.default_rng(0)
    learner = Adapter(Linear(rng.normal(size=(4, 3))), 5, "mme", 0.1, 0.5, 0, 1.0).double()
    tests = images(rng, 3, 5)
    assert learner(tests, STEP).metrics["right"].shape == (3,)
    learner.head.classify.weight.data[0] = float("nan")
    with pytest.raises(InputError, match="outputs of a test image are NaN or infinite"):
        learner(tests, STEP)


@pytest.mark.parametrize("method", ["mme", "entropy", "supervised"])
def test_losses_and_gradients_are_the_definitions(method):
    """Saito et al.: the classifier minimises CE - λ H, the features CE + λ H."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 3))
    classes = rng.normal(size=(5, 4))
    batch = DomainBatch(images(rng, 3, 5), images(rng, 2, 5), images(rng, 6, 5))
    if method == "supervised":
        batch = DomainBatch(batch.source, batch.target, None)
    learner = Adapter(Linear(features.copy()), 5, method, 0.1, 0.5, 0, 1.0).double()
    learner.head.classify.weight.data = torch.from_numpy(classes.copy())
    output = learner(batch, STEP)
    output.loss.backward()

    labelled = torch.cat([batch.source.pixels, batch.target.pixels]).flatten(1).numpy()
    labels = torch.cat([batch.source.labels, batch.target.labels]).numpy()

    def cross_entropy(f: np.ndarray, c: np.ndarray) -> float:
        p = softmax_of(labelled, f, c, 0.5)
        return -np.log(p[np.arange(5), labels]).mean()

    def uncertainty(f: np.ndarray, c: np.ndarray) -> float:
        if batch.unlabelled is None:
            return 0.0
        p = softmax_of(batch.unlabelled.pixels.flatten(1).numpy(), f, c, 0.5)
        return -(p * np.log(p + 1e-5)).sum(1).mean()

    sign = -1 if method == "mme" else 1
    value = cross_entropy(features, classes) + sign * 0.1 * uncertainty(features, classes)
    np.testing.assert_allclose(output.loss.item(), value, rtol=1e-12)
    of_classes = slopes(
        lambda c: cross_entropy(features, c) + sign * 0.1 * uncertainty(features, c), classes
    )
    of_features = slopes(
        lambda f: cross_entropy(f, classes) + 0.1 * uncertainty(f, classes), features
    )
    np.testing.assert_allclose(learner.head.classify.weight.grad, of_classes, atol=1e-8)
    np.testing.assert_allclose(learner.backbone.weight.grad, of_features, atol=1e-8)


def test_what_projects_features_is_on_their_side():
    """It lowers the entropy with the features; the classifier behind it alone raises it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 3))
    batch = DomainBatch(images(rng, 3, 5), images(rng, 2, 5), images(rng, 6, 5))

    def gradients(method):
        torch.manual_seed(0)
        learner = Adapter(Linear(features.copy()), 5, method, 0.5, 0.5, 6, 1.0).double()
        unlabelled = None if method == "supervised" else batch.unlabelled
        learner(replace(batch, unlabelled=unlabelled), STEP).loss.backward()
        return {name: weight.grad for name, weight in learner.named_parameters()}

    ours, lower, labelled = map(gradients, ("mme", "entropy", "supervised"))
    raised = ours.pop("head.classify.weight") + lower.pop("head.classify.weight")
    torch.testing.assert_close(raised, 2 * labelled["head.classify.weight"])
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, lower[name])
        assert not torch.allclose(gradient, labelled[name])


def test_labels_of_unlabelled_images_are_not_looked_at():
    rng = np.random.default_rng(1)
    parts = [images(rng, 4, 3) for _ in range(3)]
    learner = Adapter(Linear(rng.normal(size=(4, 3))), 3, "mme", 0.1, 0.05, 2, 0.1).double()
    others = LabelledImages(parts[2].pixels, (parts[2].labels + 1) % 3, parts[2].index)
    loss, same = (learner(DomainBatch(*parts[:2], last), STEP).loss for last in (parts[2], others))
    assert loss == same
    assert learner.rates() == {"backbone.": 0.1}


def test_micro_batches_hold_a_part_of_each_domain():
    rng = np.random.default_rng(2)
    batch = DomainBatch(images(rng, 4, 3), images(rng, 4, 3), images(rng, 8, 3))
    first, second = batch.chunk(2)
    assert [len(x.labels) for x in (first.source, first.target, first.unlabelled)] == [2, 2, 4]
    assert torch.equal(second.unlabelled.pixels, batch.unlabelled.pixels[4:])
    assert len(batch.to(torch.float32).index) == 16
    assert DomainBatch(batch.source, batch.target, None).chunk(2)[1].unlabelled is None


def test_entropy_is_that_of_the_softmax():
    even = entropy(torch.zeros(2, 4))
    np.testing.assert_allclose(even, np.log(4), atol=1e-4)
    assert entropy(torch.tensor([[50.0, 0.0]])) < 1e-3
    head = CosineHead(3, 0, 2, 0.05)
    logits = head(torch.randn(4, 3))
    assert torch.equal(head(1000 * torch.ones(1, 3)), head(torch.ones(1, 3)))
    assert logits.shape == (4, 2)


def test_the_parts_of_the_target_share_no_image(data, target):
    domains = divide(str(data), str(target), 3, 2, 0)
    parts = [domains.labelled, domains.validation, domains.test]
    names = [{part.bytes(i) for i in range(len(part))} for part in parts]
    assert [len(part) for part in parts] == [9, 6, 21]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
    assert np.bincount(domains.labelled.labels).tolist() == [3, 3, 3]
    assert np.bincount(domains.validation.labels).tolist() == [2, 2, 2]
    assert len(domains.source) == 3 * (40 + 20)  # all that there are
    assert len(whole(target)) == 36
    more = divide(str(data), str(target), 5, 2, 0)
    assert names[0] < {more.labelled.bytes(i) for i in range(15)}  # a budget holds the smaller ones
    other = divide(str(data), str(target), 3, 2, 1)
    assert names[0] != {other.labelled.bytes(i) for i in range(9)}


def test_it_learns_and_says_by_how_many_labels(small, data, target, tmp_path):
    out = tmp_path / "results.jsonl"
    options = [
        *QUICK,
        f"target={target}",
        "labels=4",
        "steps=40",
        "schedule.peak=0.1",
        "width=16",
        "temperature=0.2",
    ]
    options += ["backbone_rate=1", f"run_dir={tmp_path / 'run'}"]
    rows = evaluate("mme", "net", data, options, out)
    assert [row["metric"] for row in rows] == ["top1_mme_4labels", "validation_mme_4labels"]
    assert rows[0]["title"] == "Domain adaptation top-1, MME, 4 labels a class"
    assert rows[0]["headline"]
    assert rows[0]["details"] == {"images": 3 * (12 - 4 - 3), "steps": 40, "labels": 4}
    assert rows[0]["value"] > 0.5  # a third by chance
    assert rows[0]["images"] != rows[1]["images"]
    assert rows[0]["options"]["target"] == str(target)
    more = [word.replace("labels=4", "labels=1") for word in options if "run_dir" not in word]
    more = [word.replace("steps=40", "steps=1") for word in more]
    rows = evaluate(
        "mme", "net", data, [*more, f"run_dir={tmp_path / 'other'}", "method=supervised"], out
    )
    assert rows[0]["metric"] == "top1_supervised_1labels"
    assert len(latest(read_results(out))) == 4


def test_it_goes_on_where_it_was_stopped(small, data, target, tmp_path):
    """Bit by bit, though the labelled images are fewer than their part of a batch."""
    options = [*QUICK, f"target={target}", "labels=1", "steps=4", "width=8", "checkpoint.every=2"]
    whole_run, part_run = tmp_path / "whole", tmp_path / "part"
    run(configure("mme", "net", str(data), [*options, f"run_dir={whole_run}"]))
    shutil.copytree(whole_run, part_run)
    shutil.rmtree(checkpoints(part_run)[-1])
    expected = losses(whole_run)
    (part_run / "metrics.jsonl").write_text("")
    run(configure("mme", "net", str(data), [*options, f"run_dir={part_run}"]))
    assert losses(part_run) == expected[2:]


@pytest.mark.parametrize(("method", "counts"), [("mme", [4, 4, 8]), ("supervised", [4, 4])])
def test_half_of_a_batch_is_unlabelled(small, data, target, tmp_path, method, counts):
    options = [*QUICK, f"target={target}", f"method={method}", f"run_dir={tmp_path / 'run'}"]
    config = configure("mme", "net", str(data), options)
    training = set_up(config, small_model(), domains_of(config), World(0, 1))
    (batch,) = training.batches.iterate(0, 1)
    parts = [part for part in (batch.source, batch.target, batch.unlabelled) if part]
    assert [len(part.labels) for part in parts] == counts


@pytest.mark.slow
def test_processes_together_are_one(data, target, tmp_path):
    options = [*QUICK, f"target={target}", "labels=2", "precision=fp64", "size=24", "steps=2"]
    configs = []
    for mode in ("none", "ddp", "fsdp"):
        place = [f"parallel.mode={mode}", f"run_dir={tmp_path / mode}", "width=8"]
        configs.append(configure("mme", "regnety_tiny:random", str(data), [*options, *place]))
    together = spawn(in_turn, 2, run, configs[1:], device="cpu")[0]
    values = [[score.value for score in scores] for scores in (run(configs[0]), *together)]
    numbers = [losses(Path(config.run_dir)) for config in configs]
    assert values[0] == values[1] == values[2]
    np.testing.assert_allclose(numbers[1:], [numbers[0]] * 2, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["labels=9"], r"labels=9: class \S+ has 12 images in .*; use labels=8 or less"),
        (["validation=30"], "give fewer for validation="),
        (["epochs=3"], "epochs: the domains have epochs of their own; give steps="),
        (["target="], "target"),
        (["target=nowhere"], "nowhere"),
        (["method=dann"], "method"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(small, data, target, options, message):
    with pytest.raises(InputError, match=message) as raised:
        configure("mme", "net", str(data), [*QUICK, f"target={target}", *options])
    assert "\n" not in str(raised.value)


def test_a_domain_is_not_adapted_to_itself(data):
    with pytest.raises(InputError, match="is the source itself"):
        divide(str(data), f"{data}/.", 3, 2, 0)


def test_a_class_of_one_domain_is_named(small, data, target, tmp_path):
    odd = tmp_path / "odd"
    shutil.copytree(target, odd)
    first = sorted(path.name for path in odd.iterdir())[0]
    (odd / first).rename(odd / "zebra")
    with pytest.raises(InputError, match=f"{first}: in .* alone; source and target have the same"):
        configure("mme", "net", str(data), [*QUICK, f"target={odd}"])
    shutil.copytree(target / first, odd / first)
    with pytest.raises(InputError, match=f"zebra: in {odd} alone"):
        configure("mme", "net", str(data), [*QUICK, f"target={odd}"])


def test_quarters_of_a_batch_divide_among_processes(small, data, target):
    config = configure("mme", "net", str(data), [*QUICK, f"target={target}", "parallel.mode=ddp"])
    check(config, 4)
    with pytest.raises(
        InputError, match=r"batch_size=16: its quarters do not divide among 3 .* use batch_size=12"
    ):
        check(config, 3)
