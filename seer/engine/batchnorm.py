"""Batch normalisation over the batches of several ranks, on CPU and GPU alike, with statistics in
fp32.

`torch.nn.SyncBatchNorm` refuses CPU tensors, waits for the GPU in every forward pass, and counts a
batch twice when activation checkpointing recomputes it. This one does none of that and otherwise
keeps `nn.BatchNorm`'s definition.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from seer.distributed import all_reduce_sum, gather, size


class BatchNorm(_BatchNorm):
    """`nn.BatchNorm1d` and `2d` for inputs `(N, C)`, `(N, C, L)` or `(N, C, H, W)`; made by
    `convert`.

    The output has the input's dtype; statistics are at least fp32. `group` holds the ranks whose
    batches count as one; without a group it costs what `F.batch_norm` costs.
    """

    group: ProcessGroup | None
    fixed = False  # its statistics stay as they are, in training, too

    def train(self, mode: bool = True) -> "BatchNorm":
        super().train(mode and not self.fixed)
        return self

    def forward(self, x: Tensor) -> Tensor:
        tracking = self.training and self.track_running_stats
        if tracking:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        if self.training and self.group is not None:
            y, mean, variance, count = _Synchronised.apply(
                x, self.weight, self.bias, self.eps, self.group
            )
            if tracking:
                assert self.running_mean is not None
                assert self.running_var is not None
                self.running_mean.lerp_(mean, self._rate())
                self.running_var.lerp_(variance * (count / (count - 1)), self._rate())
            return y
        running = (
            (self.running_mean, self.running_var) if tracking or not self.training else (None, None)
        )
        by_batch = self.training or self.running_mean is None
        return F.batch_norm(x, *running, self.weight, self.bias, by_batch, self._rate(), self.eps)

    def _rate(self) -> float:
        """How far a batch moves the running statistics; without a momentum they are the plain mean
        over batches.
        """
        if self.momentum is not None:
            return self.momentum
        return (
            0.0 if self.num_batches_tracked is None else 1 / max(1, int(self.num_batches_tracked))
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ranks={1 if self.group is None else size(self.group)}"

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2, f"batch normalisation of {input.dim()} dimensions"


def convert(module: nn.Module, group: ProcessGroup | None) -> nn.Module:
    """Turn every BatchNorm in `module` into ours over `group`, in place. None: each rank by itself.

    The class changes and the object stays, and with it all names, parameters, buffers, hooks and
    shared references.
    """
    several = group if group is not None and size(group) > 1 else None
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.__class__ = BatchNorm
            child.group = several  # type: ignore[assignment]
    return module


@contextmanager
def statistics_spared(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within this context, batches leave no trace in the running statistics of `modules`: copies
    take the updates.

    For the recomputation of activation checkpointing, which must run the very same operations as
    the forward pass did.
    """
    norms = [
        child for module in modules for child in module.modules() if isinstance(child, _BatchNorm)
    ]
    originals = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, originals, strict=True):
        norm._buffers.update(
            {name: None if b is None else b.clone() for name, b in buffers.items()}
        )
    try:
        yield
    finally:
        for norm, buffers in zip(norms, originals, strict=True):
            norm._buffers.update(buffers)


class Statistics:
    """The running statistics of all BatchNorms in `module`: kept before a step, restored if it is
    not applied.

    They move in the forward pass, when nobody knows yet whether the step is finite, and once NaN
    they stay NaN.
    """

    def __init__(self, module: nn.Module):
        norms = [child for child in module.modules() if isinstance(child, _BatchNorm)]
        buffers = [buffer for norm in norms for buffer in norm.buffers()]
        floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        counts = [buffer for buffer in buffers if not buffer.is_floating_point()]
        self._pairs = [
            (live, [torch.empty_like(b) for b in live]) for live in (floats, counts) if live
        ]

    @torch.no_grad()
    def keep(self) -> None:
        for live, kept in self._pairs:
            torch._foreach_copy_(kept, live)

    @torch.no_grad()
    def restore(self) -> None:
        """Put back, in place, what the last `keep` saw."""
        for live, kept in self._pairs:
            torch._foreach_copy_(live, kept)


class _Synchronised(torch.autograd.Function):
    """Normalises by the statistics of all ranks' batches together; returns them and their count
    beside the output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        group: ProcessGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = _dense(x)
        mean, variance, count = _combine(gather(_moments(x)[None], group))
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance, count)
        return (
            F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps),
            mean,
            variance,
            count,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        dy = dy.contiguous(memory_format=_format(x))
        scale = torch.rsqrt(variance + ctx.eps)
        by_kernel = x.is_cuda and not torch.compiler.is_compiling()
        sums = (_sums_cuda if by_kernel else _sums)(dy, x, mean, variance, ctx.eps)
        dx = None
        if ctx.needs_input_grad[0]:
            both = all_reduce_sum(sums, ctx.group)
            gamma = torch.ones_like(mean) if weight is None else weight
            dx = (_dx_cuda if by_kernel else _dx)(
                dy, x, gamma, mean, variance, count, both, ctx.eps
            )
        # Of parameters each rank returns its own part: DDP and FSDP reduce them with all others.
        return (
            dx,
            None if weight is None else sums[1] * scale,
            None if weight is None else sums[0],
            None,
            None,
        )


def _moments(x: Tensor) -> Tensor:
    """`(2C + 1,)`: mean and biased variance per channel and the number of values of each; at least
    fp32.
    """
    # The scratch tensors choose the precision of the result; with zero momentum they stay as they
    # are.
    dtype = torch.promote_types(x.dtype, torch.float32)
    scratch = [torch.zeros(x.shape[1], dtype=dtype, device=x.device) for _ in range(2)]
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, *scratch, 0.0)
    return torch.cat([mean, variance, mean.new_full((1,), x.numel() / x.shape[1])])


def _combine(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and count of the union of R parts from `(R, 2C + 1)` (Chan, Golub &
    LeVeque 1979).
    """
    channels = moments.shape[1] // 2
    means, variances, counts = moments.split([channels, channels, 1], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    # Deviations are squared about the common mean: no difference of large squares cancels.
    squares = variances + (means - mean).square()
    variance = (counts * squares).sum(0) / count
    return mean, variance, count


def _sums(dy: Tensor, x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """`(2, C)`: Σ dy and Σ dy·(x − mean) over this rank's values."""
    # With training=False the kernel's parameter gradients are these sums about the statistics it is
    # given.
    _, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
        dy, x, torch.ones_like(mean), mean, variance, None, None, False, eps, [False, True, True]
    )
    return torch.stack([dbeta, dgamma * torch.sqrt(variance + eps)])


def _dx(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    sums: Tensor,
    eps: float,
) -> Tensor:
    """γ/σ · (dy − Σdy/n − (x − mean)/σ² · Σdy(x − mean)/n), the sums being over all ranks."""
    dtype = mean.dtype
    slope = gamma * (variance + eps) ** -1.5 * sums[1] / count
    # Normalising dy gives γ/σ · (dy − Σdy/n); its bias is what slope · (x − mean) has of mean.
    dx = F.batch_norm(
        dy.to(dtype),
        sums[0] / count,
        variance,
        weight=gamma,
        bias=slope * mean,
        training=False,
        eps=eps,
    )
    beside_channels = [1] * (x.dim() - 2)
    slope = slope.view(-1, *beside_channels)
    dx.addcmul_(x.to(dtype), slope, value=-1)
    return dx.to(x.dtype)


def _sums_cuda(dy: Tensor, x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    invstd = torch.rsqrt(variance + eps)
    # For half precision that is not channels last the kernel takes the statistics' type from the
    # weight, and refuses without one. It has no other use for it.
    weight = torch.ones_like(mean)
    dy_sum, dy_xmu_sum, _, _ = torch.batch_norm_backward_reduce(
        dy, x, mean, invstd, weight, True, False, False
    )
    return torch.stack([dy_sum, dy_xmu_sum])


def _dx_cuda(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    sums: Tensor,
    eps: float,
) -> Tensor:
    """`_dx` in one pass, without temporaries in fp32."""
    invstd = torch.rsqrt(variance + eps)
    counts = count.to(torch.int32).view(1)
    return torch.batch_norm_backward_elemt(dy, x, mean, invstd, gamma, sums[0], sums[1], counts)


def _format(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_format(x))
