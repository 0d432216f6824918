"""The kernels of grouped convolutions against float64, and what becomes of a network's layers."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seer.backbones import BackboneConfig, build
from seer.engine import convolution
from seer.engine.convolution import GroupedConv2d, convert, kernels_of
from tests.gpu.small import distance
from tests.kit.interpreter import (
    DEVICE,
    compile_for_hopper,
    compiled,
    in_kernels,
    with_kernels,  # noqa: F401
)

EXACT = 1e-6  # of what is computed in fp32
HALF = 2**-11
POINTERS = {"x": "*bf16", "weight": "*bf16", "y": "*bf16", "dy": "*bf16", "sums": "*fp32"}


@compiled
@pytest.mark.parametrize("width", [24, 56, 112, 232])
def test_the_compiler_takes_them(width):
    """What is read comes 16 bytes at a time; no value of a tile leaves the registers."""
    pytest.importorskip("triton")
    from seer.engine import grouped

    both = {"CHANNELS": 3 * width, "DEPTH": width, "STRIDE": 2, "DOT": "tf32"}
    chosen = {
        "_grouped": grouped.tiles_of(width),
        "_weight_gradient": grouped.weight_tiles_of(width),
    }
    for name, tiles in chosen.items():
        own = {"BACKWARDS": True} if name == "_grouped" else {"TOGETHER": tiles.taps}
        sizes = {"PIXELS": tiles.pixels, "OUT": tiles.out, "INTO": tiles.into}
        kernel = getattr(grouped, name)
        code = compile_for_hopper(
            kernel, POINTERS, {**both, **own, **sizes}, "i32", tiles.warps, tiles.stages
        )
        assert code["cubin"]
        assert "cp.async.cg.shared.global" in code["ptx"]
        assert "ld.local" not in code["ptx"]


def example(
    images: int, groups: int, width: int, size: tuple[int, int], stride: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, weights and a gradient of the result."""
    draw = torch.Generator().manual_seed(0)
    channels = groups * width
    out = [(side - 1) // stride + 1 for side in size]
    x, dy = (torch.randn(images, channels, *each, generator=draw) for each in (size, out))
    weight = torch.randn(channels, width, 3, 3, generator=draw)
    last = [tensor.to(DEVICE, dtype, memory_format=torch.channels_last) for tensor in (x, dy)]
    return last[0], weight.to(DEVICE), last[1]


def errors(kernels, x: Tensor, weight: Tensor, dy: Tensor, stride: int) -> list[float]:
    """Of the result and both gradients, relative, against float64."""
    width = weight.shape[1]
    found = [
        kernels.convolve(x, weight, stride),
        kernels.input_gradient(dy, weight, tuple(x.shape[2:]), stride),
        kernels.weight_gradient(x, dy, stride, width),
    ]
    wide = [tensor.cpu().double().requires_grad_() for tensor in (x, weight.to(x.dtype))]
    y = F.conv2d(*wide, stride=stride, padding=1, groups=len(weight) // width)
    expected = [y.detach(), *torch.autograd.grad(y, wide, dy.cpu().double())]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
    return [distance(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]


@in_kernels
@settings(max_examples=4, deadline=None)
@given(
    images=st.integers(1, 2),
    groups=st.integers(1, 2),
    width=st.sampled_from([8, 24]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.sampled_from([1, 2]),
)
def test_any_shape(images, groups, width, size, stride):
    """Whole groups by one program, and groups that several programs share."""
    from seer.engine import grouped

    x, weight, dy = example(images, groups, width, size, stride, torch.float32)
    small = grouped.Tiles(16, 16, 16)
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(grouped, "tiles_of", lambda width: small)
        context.setattr(grouped, "weight_tiles_of", lambda width: small)
        assert max(errors(grouped, x, weight, dy, stride)) < EXACT


@in_kernels
def test_the_tiles_that_are_chosen():
    from seer.engine import grouped

    x, weight, dy = example(1, 2, 24, (5, 4), 1, torch.float16)
    result, images, weights = errors(grouped, x, weight, dy, 1)
    assert max(result, images) < HALF
    assert weights < EXACT  # products of halves are exact in fp32


@in_kernels
def test_the_pixels_of_a_gradient_are_shared_among_programs(monkeypatch):
    from seer.engine import grouped

    tiles = grouped.Tiles(16, 32, 32, taps=3)
    monkeypatch.setattr(grouped, "weight_tiles_of", lambda width: tiles)
    x, _, dy = example(1, 1, 24, (13, 12), 1, torch.float32)
    parts = []
    for programs in (1, 1000):
        monkeypatch.setattr(grouped, "PROGRAMS", programs)
        parts.append(grouped.weight_gradient(x, dy, 1, 24))
    assert distance(*parts) < EXACT
    assert not torch.equal(*parts)  # other sums were rounded
    assert torch.equal(parts[1], grouped.weight_gradient(x, dy, 1, 24))


@in_kernels
@pytest.mark.usefixtures("with_kernels")
def test_a_network_trains_by_them():
    """In half precision by autocast, its weights in fp32. (The interpreter has no products of bf16.)"""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(48, 48, 3, 2, 1, groups=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(48, 48, 3, 1, 1, groups=2, bias=False),
    ).to(DEVICE)
    ours = convert(deepcopy(plain))
    assert [type(layer) for layer in ours] == [GroupedConv2d, nn.ReLU, GroupedConv2d]
    images = torch.randn(1, 48, 3, 3, device=DEVICE).to(memory_format=torch.channels_last)
    gradients = []
    for net in (plain.double(), ours):
        x = images.to(next(net.parameters()).dtype).requires_grad_()
        with torch.autocast(DEVICE.type, torch.float16, enabled=net is ours):
            loss = net(x).double().square().mean()
        gradients.append(torch.autograd.grad(loss, (x, *net.parameters())))
    assert [each.dtype for each in gradients[1]] == [torch.float32] * 3
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert distance(found, expected) < 0.003


@in_kernels
@pytest.mark.usefixtures("with_kernels")
def test_what_they_do_not_take_goes_to_pytorch(monkeypatch):
    from seer.engine import grouped

    net = convert(nn.Conv2d(48, 48, 3, 1, 1, groups=2, bias=False).to(DEVICE))
    halves = torch.randn(2, 48, 4, 4, device=DEVICE, dtype=torch.bfloat16)
    last = halves.to(memory_format=torch.channels_last)
    assert kernels_of(last) is grouped
    monkeypatch.setattr(grouped, "convolve", lambda *_: pytest.fail("taken"))
    assert net(last.float()).shape == (2, 48, 4, 4)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert net(halves).shape == (2, 48, 4, 4)  # planes
        assert net(last[:0]).shape == (0, 48, 4, 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert kernels_of(last + 1) is None
    assert kernels_of(torch.cat([last, last], 1)[:, ::2]) is None  # gaps


def test_compiled_blocks_go_without_them(monkeypatch):
    monkeypatch.setattr(convolution, "kernels_for", lambda *_: pytest.fail("asked for"))
    net = convert(nn.Sequential(nn.Conv2d(48, 48, 3, 1, 1, groups=2, bias=False)))
    x = torch.randn(2, 48, 4, 4).to(memory_format=torch.channels_last)
    compiled_net = torch.compile(net, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv2d(x, net[0].weight, padding=1, groups=2)
        assert torch.equal(compiled_net(x), expected)


def test_the_layers_of_a_regnet():
    """Each block's 3x3, and nothing else; names and parameters stay."""
    net = build(BackboneConfig("regnety_032"))
    names = list(net.state_dict())
    convert(net)
    grouped = [name for name, module in net.named_modules() if isinstance(module, GroupedConv2d)]
    assert len(grouped) == 2 + 5 + 13 + 1
    assert all(name.endswith(".conv2") for name in grouped)
    assert list(net.state_dict()) == names
    narrow = convert(build(BackboneConfig("regnety_002")))
    assert not any(isinstance(module, GroupedConv2d) for module in narrow.modules())
