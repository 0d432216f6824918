"""Grouped convolutions against float64 on the CPU, and that a GPU takes our kernels for them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seer.engine import convolution
from seer.engine.convolution import GroupedConv2d, convert
from tests.gpu.small import distance

# Groups, their channels, side, stride; widths of RegNetY-3.2, 8, 16 and 32 GF.
SHAPES = {
    "24": (3, 24, 14, 1),
    "24, stride 2": (9, 24, 13, 2),
    "24, one pixel": (3, 24, 1, 2),
    "56": (4, 56, 7, 1),
    "112": (2, 112, 7, 1),
    "112, stride 2": (2, 112, 8, 2),
    "232": (3, 232, 7, 1),
}
ROUNDED = {"bf16": 3e-3, "fp16": 4e-4}
SUMS = 2e-5  # of products that are exact, added in fp32


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("precision", ROUNDED)
def test_grouped_convolutions(device, shape, precision):
    groups, depth, side, stride = shape
    if device.type == "cpu" and side == 1:
        pytest.skip("PyTorch 2.11 leaves unset what no pixel of the one-pixel image reaches")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    torch.manual_seed(0)
    conv = nn.Conv2d(groups * depth, groups * depth, 3, stride, 1, groups=groups, bias=False)
    x = torch.randn(4, groups * depth, side, side).to(memory_format=torch.channels_last)
    x = x.to(dtype).to(device).requires_grad_()
    net = convert(nn.Sequential(conv)).to(device)
    with torch.autocast(device.type, dtype):
        y = net(x)
    assert y.dtype == dtype
    dy = torch.randn_like(y)
    dx, dweight = torch.autograd.grad(y, (x, conv.weight), dy)
    wide = [x.detach().double().cpu(), conv.weight.detach().to(dtype).double().cpu()]
    wide = [tensor.requires_grad_() for tensor in wide]
    expected = F.conv2d(*wide, stride=stride, padding=1, groups=groups)
    wide_dx, wide_dweight = torch.autograd.grad(expected, wide, dy.double().cpu())
    cuda = device.type == "cuda"
    # On a CPU sums are rounded more than once.
    limit = ROUNDED[precision] * (1 if cuda else 2)
    assert distance(y.detach(), expected.detach()) < limit
    assert distance(dx, wide_dx) < limit
    assert distance(dweight, wide_dweight) < (SUMS if cuda else limit)
    if cuda:
        assert convolution.kernels_of(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert dx.is_contiguous(memory_format=torch.channels_last)


def test_twice_the_same(device):
    torch.manual_seed(0)
    net = convert(nn.Sequential(nn.Conv2d(96, 96, 3, 1, 1, groups=4, bias=False))).to(device)
    assert isinstance(net[0], GroupedConv2d)
    x = torch.randn(16, 96, 28, 28, device=device).to(memory_format=torch.channels_last)
    gradients = []
    for _ in range(2):
        net.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            net(x).float().square().mean().backward()
        gradients.append(net[0].weight.grad)
    assert torch.equal(*gradients)


def test_what_no_kernel_can_do_stays_as_it_is(device):
    others = [
        nn.Conv2d(48, 48, 3, 1, 1, bias=False),
        nn.Conv2d(48, 48, 3, 1, 1, groups=2),
        nn.Conv2d(48, 96, 3, 1, 1, groups=2, bias=False),
        nn.Conv2d(48, 48, 3, 1, 0, groups=2, bias=False),
        nn.Conv2d(48, 48, 3, 1, 2, dilation=2, groups=2, bias=False),
        nn.Conv2d(48, 48, 3, 3, 1, groups=2, bias=False),
        nn.Conv2d(48, 48, 3, 1, 1, groups=2, bias=False, padding_mode="circular"),
        nn.Conv2d(48, 48, 1, groups=2, bias=False),
        # Of widths that cuDNN does better.
        nn.Conv2d(64, 64, 3, 1, 1, groups=4, bias=False),
        nn.Conv2d(128, 128, 3, 1, 1, groups=2, bias=False),
        nn.Conv2d(528, 528, 3, 1, 1, groups=2, bias=False),
        nn.Conv2d(60, 60, 3, 1, 1, groups=2, bias=False),
    ]
    net = convert(nn.Sequential(*others)).to(device)
    assert all(type(layer) is nn.Conv2d for layer in net)
