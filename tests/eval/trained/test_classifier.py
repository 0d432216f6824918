"""The loss of mixed and smoothed labels by hand, and each stage's rate."""

import numpy as np
import pytest
import torch

from seer.backbones import BackboneConfig, build
from seer.data.views import LabelledImages
from seer.engine.learner import Step
from seer.engine.optim import OptimConfig, build_optimizer
from seer.errors import InputError
from seer.eval.trained.classifier import Classifier
from tests.eval.conftest import small_model
from tests.kit import networks  # noqa: F401  # which makes `regnety_tiny` known


def test_the_loss_is_of_both_labels_of_a_mixed_image_each_smoothed():
    torch.manual_seed(0)
    learner = Classifier(small_model().backbone, 4, 1.0, smoothing=0.2).double().eval()
    batch = LabelledImages(
        torch.randn(4, 3, 16, 16, dtype=torch.float64),
        torch.tensor([2, 0, 1, 1]),
        torch.arange(4),
        torch.tensor([0.75, 0.75, 0.5, 0.5]),
    )
    output = learner(batch, Step(0, 1))
    logits = learner.head(learner.backbone(batch.pixels)).detach().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = np.full((4, 4), 0.2 / 4)
    for image, (own, neighbour, share) in enumerate(
        [(2, 0, 0.75), (0, 2, 0.75), (1, 1, 0.5), (1, 1, 0.5)]
    ):
        targets[image, own] += 0.8 * share
        targets[image, neighbour] += 0.8 * (1 - share)
    assert output.loss.item() == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-12)


@pytest.mark.parametrize("name", ["regnety_tiny", "resnet18"])
def test_stages_learn_the_slower_the_further_they_are_from_the_classifier(name):
    learner = Classifier(build(BackboneConfig(name)), 5, head_rate=20.0, layer_decay=0.5)
    factors = {
        parameter: group["factor"]
        for group in build_optimizer(learner, OptimConfig()).param_groups
        for parameter in group["params"]
    }
    expected = {"stem": 0.5**5, "0": 0.5**4, "1": 0.5**3, "2": 0.5**2, "3": 0.5}
    for key, parameter in learner.named_parameters():
        _, *place = key.split(".")
        rate = 20.0 if key.startswith("head.") else expected[place[place[0] == "stages"]]
        assert factors[parameter] == rate, key


def test_a_network_of_unknown_stages_has_no_rates_by_stage():
    with pytest.raises(InputError, match=r"layer_decay=0\.5: the stages of this model are not"):
        Classifier(small_model().backbone, 5, 1.0, layer_decay=0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_no_answers(value):
    learner = Classifier(small_model().backbone, 4, 1.0).eval()
    batch = LabelledImages(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), torch.arange(2))
    assert learner(batch, Step(0, 1)).metrics["right"].shape == (2,)
    learner.head.bias.data[0] = value
    with pytest.raises(InputError, match="outputs of a test image are NaN or infinite"):
        learner(batch, Step(0, 1))
