import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from seer.distributed import rank
from seer.engine import batchnorm
from seer.engine.batchnorm import BatchNorm, _Synchronised, convert, statistics_spared
from seer.processes import spawn


def example(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def synchronised(x, weight, bias):
    return _Synchronised.apply(x, weight, bias, 1e-5, None)[0]


SHAPES = {"NC": (5, 3), "NCL": (4, 3, 5), "NCHW": (4, 3, 2, 5)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_are_right(shape, affine):
    x = example(*shape).requires_grad_()
    parameters = (
        [example(3, seed=1).requires_grad_(), example(3, seed=2).requires_grad_()]
        if affine
        else [None, None]
    )
    assert torch.autograd.gradcheck(synchronised, (x, *parameters))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_process_equals_torch(layout):
    x = example(4, 3, 5, 6).to(memory_format=layout).requires_grad_()
    weight, bias, dy = (
        example(3, seed=1).requires_grad_(),
        example(3, seed=2).requires_grad_(),
        example(4, 3, 5, 6, seed=3),
    )
    ours = synchronised(x, weight, bias)
    theirs = F.batch_norm(x, None, None, weight, bias, training=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert ours.is_contiguous(memory_format=layout)
    for a, b in zip(
        *(torch.autograd.grad(y, (x, weight, bias), dy) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("apply", ["alone", "synchronised"])
def test_half_precision_is_computed_in_fp32(dtype, apply):
    """Means far from zero would be lost in half precision; the output rounds once."""
    x = (example(64, 3, 4, 4, dtype=torch.float32) + 100).to(dtype).requires_grad_()
    dy = example(64, 3, 4, 4, dtype=torch.float32, seed=1).to(dtype)
    norm = convert(nn.BatchNorm2d(3), None)
    with torch.autocast("cpu", dtype):
        y = norm(x) if apply == "alone" else synchronised(x, norm.weight, norm.bias)
    assert y.dtype == dtype
    (dx,) = torch.autograd.grad(y, x, dy)
    exact = x.detach().double().requires_grad_()
    expected = F.batch_norm(exact, None, None, training=True)
    (expected_dx,) = torch.autograd.grad(expected, exact, dy.double())
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=ulp, atol=1e-5)
    torch.testing.assert_close(
        dx.double(), expected_dx, rtol=ulp, atol=1e-5 if apply == "synchronised" else ulp
    )


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.floats(-1e6, 1e6))
@settings(max_examples=25, deadline=None)
def test_moments_of_parts_combine_to_those_of_the_whole(sizes, offset):
    x = example(sum(sizes), 2) + offset
    mean, variance, count = batchnorm._combine(
        torch.stack([batchnorm._moments(part) for part in x.split(sizes)])
    )
    assert count == sum(sizes)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(variance, x.var(0, correction=0), rtol=1e-9, atol=1e-9)


def test_distant_means_do_not_cancel():
    """In fp32 a difference of squares (E[x²] − E[x]²) would have an error of hundreds of per cent
    here.
    """
    x = example(4000, 1, dtype=torch.float32) + 10_000
    _, variance, _ = batchnorm._combine(
        torch.stack([batchnorm._moments(part) for part in x.chunk(4)])
    )
    torch.testing.assert_close(
        variance.double(), x.double().var(0, correction=0), rtol=1e-4, atol=0
    )
    assert abs(x.square().mean() - x.mean().square() - variance.item()) > 0.5 * variance.item()


def network():
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(4)
    layers = [
        nn.Conv2d(3, 4, 3),
        shared,
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        shared,
        nn.Flatten(),
        nn.Linear(64, 5),
    ]
    return nn.Sequential(*layers, nn.BatchNorm1d(5, momentum=None))


def test_convert_changes_nothing_but_the_computation():
    before, after = network(), network()
    names, norm = list(after.state_dict()), after[1]
    assert convert(convert(after, None), None) is after
    assert after[1] is norm is after[4]
    assert isinstance(norm, BatchNorm)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert list(after.state_dict()) == names
    x = example(6, 3, 6, 6, dtype=torch.float32)
    for mode in (True, True, False):
        assert torch.equal(before.train(mode)(x), after.train(mode)(x))
    assert all(torch.equal(a, b) for a, b in zip(before.buffers(), after.buffers(), strict=True))


def test_running_statistics_need_not_be_tracked():
    norm = convert(nn.BatchNorm1d(3, affine=False, track_running_stats=False), None)
    x = example(5, 3)
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(x), F.batch_norm(x, None, None, training=True))


def test_recomputation_leaves_the_statistics_alone():
    plain, recomputed = convert(network().double(), None), convert(network().double(), None)
    for step in range(3):
        x = example(6, 3, 6, 6, seed=step)
        plain(x).square().sum().backward()
        contexts = lambda: (statistics_spared([]), statistics_spared([recomputed]))  # noqa: E731
        checkpoint(
            recomputed, x, use_reentrant=False, context_fn=contexts
        ).square().sum().backward()
    for (name, a), b in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert plain[7].num_batches_tracked == 3


STEPS, SIZES = 3, [3, 2, 5, 4]  # of the ranks' batches, unequal on purpose


def _train(net, inputs):
    """Outputs, input gradients, parameter gradients and buffers of a few steps of `net` in float64."""
    outputs, gradients = [], []
    for x in inputs:
        x.requires_grad_()
        y = net(x)
        (y * y.detach().cos()).sum().backward()
        outputs.append(y.detach())
        gradients.append(x.grad)
    return outputs, gradients, [p.grad for p in net.parameters()], dict(net.named_buffers())


def _rank_train(group_size):
    group = dist.new_subgroups(group_size)[0]
    inputs = [
        example(sum(SIZES), 3, 6, 6, seed=step).split(SIZES)[rank()].clone()
        for step in range(STEPS)
    ]
    net = convert(network().double(), group)
    assert (net[1].group is None) == (group_size == 1)
    result = _train(net, inputs)
    net.eval()(inputs[0])  # asks no other rank for anything
    return result


def _rank_train_in_groups(group_sizes):
    return [_rank_train(group_size) for group_size in group_sizes]


def test_ranks_together_equal_one_process():
    group_sizes = [4, 2, 1]
    for group_size, *ranks in zip(
        group_sizes, *spawn(_rank_train_in_groups, 4, group_sizes, device="cpu"), strict=True
    ):
        for first in range(0, 4, group_size):
            last = first + group_size
            rows = slice(sum(SIZES[:first]), sum(SIZES[:last]))
            inputs = [
                example(sum(SIZES), 3, 6, 6, seed=step)[rows].clone() for step in range(STEPS)
            ]
            compare(ranks[first:last], _train(network().double(), inputs))


def compare(members, whole):
    for step in range(STEPS):
        for i in (0, 1):
            close(torch.cat([member[i][step] for member in members]), whole[i][step])
    for i, gradient in enumerate(whole[2]):
        close(sum(member[2][i] for member in members), gradient)
    for member in members:
        for name, buffer in whole[3].items():
            close(member[3][name], buffer)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
