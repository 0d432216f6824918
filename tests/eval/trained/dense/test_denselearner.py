"""A dense learner: its loss, what of it is trained, and dilation."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

from seer.backbones import BackboneConfig, build
from seer.engine.learner import Step
from seer.errors import InputError
from seer.eval.trained.dense.denselearner import OUTPUTS, DenseLearner, dilate
from seer.eval.trained.dense.options import SegmentConfig
from seer.eval.trained.dense.pairbatches import PairBatch
from seer.eval.trained.dense.segment import Segmentation
from seer.interop.foreign import Pooled
from seer.interop.levels import levels_of

STEP = Step(3, 10)


def learner(**options) -> DenseLearner:
    torch.manual_seed(0)
    config = SegmentConfig(model="", data="", **({"width": 8, "dropout": 0.0} | options))
    levels = levels_of(build(BackboneConfig("regnety_002")), "ours")
    return DenseLearner(levels, Segmentation(["a", "b", "c"]), config)


def batch(count: int = 2) -> PairBatch:
    torch.manual_seed(1)
    targets = torch.randint(-1, 3, (count, 64, 96), dtype=torch.int32)
    return PairBatch(torch.randn(count, 3, 64, 96), targets, torch.arange(count))


def test_the_loss_is_the_mean_over_known_pixels():
    module = learner(auxiliary=0.25)
    images = batch()
    output = module(images, STEP)
    values = module.head(module.backbone(images.pixels)).detach()
    large = nn.functional.interpolate(values, (64, 96), mode="bilinear").permute(0, 2, 3, 1)
    known = images.targets >= 0
    probabilities = large[known].softmax(-1)
    chosen = probabilities[torch.arange(int(known.sum())), images.targets[known].long()]
    expected = -chosen.log().mean()
    assert float(output.metrics["loss_head"]) == pytest.approx(float(expected), rel=1e-4)
    total = output.metrics["loss_head"] + 0.25 * output.metrics["loss_auxiliary"]
    assert output.loss.item() == pytest.approx(float(total))
    assert module.eval()(images, STEP).metrics[OUTPUTS].shape == (2, 3, 64, 96)


def test_a_batch_without_truth_has_no_loss_and_finite_gradients():
    module = learner()
    images = batch()
    output = module(PairBatch(images.pixels, images.targets * 0 - 1, images.index), STEP)
    output.loss.backward()
    assert float(output.loss) == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_what_is_dropped_depends_on_step_and_image_alone():
    module = learner(dropout=0.25)
    ids = torch.tensor([7, 4])
    both = module.kept(3, ids, 1000, 0)
    assert torch.equal(both[1:], module.kept(3, ids[1:], 1000, 0))
    assert not torch.equal(both, module.kept(4, ids, 1000, 0))
    assert sorted(set(both.flatten().tolist())) == [0, pytest.approx(4 / 3)]
    assert float((both == 0).double().mean()) == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("freeze", [0, 4, 5])
def test_what_is_frozen_stays(freeze):
    module = learner(freeze=freeze, batchnorm="frozen").train()
    module(batch(), STEP).loss.backward()
    moved = {
        name.split(".")[3] if "stages" in name else name.split(".")[2]
        for name, p in module.backbone.named_parameters("backbone")
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert moved == {0: {"stem", "0", "1", "2", "3"}, 4: {"3"}, 5: set()}[freeze]
    norms = [m for m in module.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    assert module.head.pooling.joined[1].training


def test_dilated_maps_are_torchvisions():
    """Of ResNet-50 with its last two stages dilated, weights copied."""
    torch.manual_seed(0)
    plain = resnet50().eval()
    dilated = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    dilated.load_state_dict(plain.state_dict())
    levels = levels_of(Pooled(plain, 2048, "torchvision:resnet"), "theirs").eval()
    dilate(levels, 8)
    assert levels.strides == (4, 8, 8, 8)
    names = {f"layer{i}": str(i) for i in range(1, 5)}
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = IntermediateLayerGetter(dilated, names)(images)
        for own, there in zip(levels(images), expected.values(), strict=True):
            torch.testing.assert_close(own, there, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "regnety_002"])
def test_our_own_are_dilated_and_keep_what_they_see(name):
    """A dilated map has, at every second place, what the network had before it: its weights are used
    as they were, up to what the edges add.
    """
    torch.manual_seed(0)
    network = build(BackboneConfig(name)).eval()
    images = torch.randn(1, 3, 128, 128)
    levels = levels_of(network, "ours")
    with torch.no_grad():
        before = levels(images)
        dilate(levels, 16)
        after = levels(images)
    assert levels.strides == (4, 8, 16, 16)
    assert [m.shape[-1] for m in after] == [32, 16, 8, 8]
    if name == "resnet50":  # squeeze-and-excitation sees all places
        np.testing.assert_allclose(after[3][..., ::2, ::2], before[3], rtol=1e-3, atol=1e-4)


def test_strides_of_pooling_are_refused():
    class Pools(nn.Module):
        def forward(self, x):
            return nn.functional.max_pool2d(x, 2)

    network = build(BackboneConfig("resnet18"))
    network.stages[3][0].conv1.stride = (1, 1)
    network.stages[3][0].shortcut.conv.stride = (1, 1)
    network.stages[3].append(Pools())
    levels = levels_of(network, "pools")
    with pytest.raises(InputError, match=r"output_stride=16: .* maps would have 4, 8, 16, 32"):
        dilate(levels, 16)
