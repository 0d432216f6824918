"""Comparing a network of ours with another library's of the same architecture."""

from functools import cache

import torch
from torch import Tensor, nn

from seer.backbones import build
from seer.backbones.base import Backbone


@cache
def on_meta(name: str) -> Backbone:
    """A backbone without memory; shared by the tests, which must not change it."""
    with torch.device("meta"):
        return build(name)


@torch.no_grad()
def settle(network: Backbone, size: int = 32) -> Backbone:
    """Give every BatchNorm random weights, and the statistics of random images, so that no layer is
    a near-identity.

    Variances of a few pixels can be next to nothing; dividing by them would blow up the last bits
    of a convolution, in which two calls may differ.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
        norm.momentum = 1.0
    network.train()(torch.randn(4, 3, size, size))
    for norm in norms:
        norm.momentum = 0.1
        norm.running_var.clamp_(min=0.1)
    return network.eval()


def features_and_gradient(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features, and the gradient with respect to the images of a fixed nonlinear function of the
    features.
    """
    images = images.clone().requires_grad_()
    features = network(images)
    (gradient,) = torch.autograd.grad(features.square().mean(), images)
    return features.detach(), gradient


def assert_same_function(ours: nn.Module, theirs: nn.Module, size: int = 32) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    for mine, other in zip(
        features_and_gradient(ours, images), features_and_gradient(theirs, images), strict=True
    ):
        assert mine.abs().max() > 1e-3, "nothing to compare"
        assert (mine - other).abs().max() < 1e-4


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def assert_features_agree(features: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-4 of the largest one: convolutions of one network may differ by a few bits from call to
    call.
    """
    assert (features - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item())
