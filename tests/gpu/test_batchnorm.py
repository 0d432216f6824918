"""BatchNorm's own kernels against its formulas, in float64 on the CPU."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from seer.engine import batchnorm
from seer.engine.batchnorm import Statistics, _Synchronised, convert
from tests.gpu.small import distance, group_of_one

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of what is summed in fp32, and of what is rounded to the type in the end.
SUMS = 2e-5
ROUNDED = {"fp32": 2e-6, "bf16": 4e-3, "fp16": 5e-4}
SHAPES = {"NC": (64, 24), "NCHW": (8, 24, 7, 5), "one pixel": (16, 24, 1, 1)}
EPSILON = 1e-5


def limits_of_sums(x: Tensor, dy: Tensor, precision: str) -> tuple[float, float]:
    """Of Σ dy and of Σ dy·(x − mean), relative to the results.

    For planes in half precision Σ dy, too, is less exact than a sum in fp32 (docs/gpu.md).
    PyTorch's kernel for planes that are not channels last rounds each product that it sums to the
    type of its inputs (`Float2` in ATen's Normalization.cuh), in its own BatchNorm as well. These
    errors are at most half a unit in the last place of each product and independent, so that of
    the sum is below the root of the sum of the products' squares, in such units.
    """
    if not x.is_cuda or x.dim() == 2 or x.is_contiguous(memory_format=torch.channels_last):
        return SUMS, SUMS
    over = [d for d in range(x.dim()) if d != 1]
    wide = x.detach().cpu().double()
    products = dy.cpu().double() * (wide - wide.mean(over, keepdim=True))
    half_unit = torch.finfo(DTYPES[precision]).eps / 2
    rounding = half_unit * products.square().sum(over).sqrt().norm()
    return max(SUMS, ROUNDED[precision]), SUMS + float(rounding / products.sum(over).norm())


def example(shape, dtype, layout, device, seed) -> Tensor:
    """Values about 3, as the type holds them."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3
    values = values.to(device, dtype)
    return values.to(memory_format=layout) if values.dim() == 4 else values


def exact(x: Tensor, dy: Tensor, gamma: Tensor) -> dict[str, Tensor]:
    """The formulas, by definition."""
    x, dy, gamma = (tensor.detach().cpu().double() for tensor in (x, dy, gamma))
    over = [d for d in range(x.dim()) if d != 1]
    count = x.numel() / x.shape[1]
    mean = x.mean(over, keepdim=True)
    variance = (x - mean).square().mean(over, keepdim=True)
    total = dy.sum(over, keepdim=True)
    along = (dy * (x - mean)).sum(over, keepdim=True)
    inverse = (variance + EPSILON).rsqrt()
    gamma = gamma.view(1, -1, *[1] * (x.dim() - 2))
    dx = gamma * inverse * (dy - total / count - (x - mean) * inverse.square() * along / count)
    sums = torch.stack([total.flatten(), along.flatten()])
    return {"mean": mean.flatten(), "variance": variance.flatten(), "sums": sums, "dx": dx}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("precision", DTYPES)
def test_kernels_equal_the_formulas(device, shape, layout, precision):
    x, dy = (example(shape, DTYPES[precision], layout, device, seed) for seed in (0, 1))
    gamma = torch.linspace(0.5, 2, shape[1], device=device)
    expected = exact(x, dy, gamma)
    on_gpu = device.type == "cuda"
    sums_of = batchnorm._sums_cuda if on_gpu else batchnorm._sums
    dx_of = batchnorm._dx_cuda if on_gpu else batchnorm._dx

    mean, variance, count = batchnorm._combine(batchnorm._moments(x)[None])
    assert mean.dtype == variance.dtype == torch.float32
    assert count == x.numel() / shape[1]
    assert distance(mean, expected["mean"]) < SUMS
    assert distance(variance, expected["variance"]) < SUMS

    sums = sums_of(dy, x, mean, variance, EPSILON)
    limits = limits_of_sums(x, dy, precision)
    for ours, theirs, limit in zip(sums, expected["sums"], limits, strict=True):
        assert distance(ours, theirs) < limit
    dx = dx_of(dy, x, gamma, mean, variance, count, sums, EPSILON)
    assert dx.dtype == x.dtype
    if dx.dim() == 4:
        assert dx.is_contiguous(memory_format=layout)
    assert distance(dx, expected["dx"]) < ROUNDED[precision]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("precision", DTYPES)
def test_the_synchronised_function_is_batch_norm(device, layout, precision):
    """With a group of this process alone, NCCL's on a GPU."""
    dtype = DTYPES[precision]
    x, dy = (example(SHAPES["NCHW"], dtype, layout, device, seed) for seed in (0, 1))
    x.requires_grad_()
    weight = torch.linspace(0.5, 2, 24, device=device, requires_grad=True)
    bias = torch.linspace(-1, 1, 24, device=device, requires_grad=True)
    with group_of_one(device):
        y, *_ = _Synchronised.apply(x, weight, bias, EPSILON, dist.group.WORLD)
        ours = torch.autograd.grad(y, (x, weight, bias), dy)
    wide = [t.detach().cpu().double().requires_grad_() for t in (x, weight, bias)]
    expected = F.batch_norm(wide[0], None, None, *wide[1:], training=True, eps=EPSILON)
    theirs = torch.autograd.grad(expected, wide, dy.cpu().double())
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    assert distance(y.detach(), expected.detach()) < ROUNDED[precision]
    of_bias, of_weight = limits_of_sums(x, dy, precision)
    limits = (ROUNDED[precision], of_weight, of_bias)
    for a, b, limit in zip(ours, theirs, limits, strict=True):
        assert distance(a, b) < max(limit, SUMS)


def test_statistics_come_back_from_nan(device):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8))
    convert(net.to(device), None)
    x = torch.randn(4, 3, 8, 8, device=device)
    net(x)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    statistics = Statistics(net)
    statistics.keep()
    net(x * float("nan"))
    assert net[1].running_mean.isnan().all()
    assert net[1].num_batches_tracked == 2
    statistics.restore()
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert net(x).isfinite().all()
