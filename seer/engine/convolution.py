"""Grouped convolutions by kernels of our own where cuDNN has no good ones: RegNets' 3x3, in half
precision, channels last, on a GPU.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seer.kernels import kernels_for

HALVES = (torch.bfloat16, torch.float16)

# Channels of a group. cuDNN has kernels for powers of two, and for wider groups its way is as fast as
# ours; those that are no multiple of 8 cannot be read 16 bytes at a time (docs/gpu.md).
WIDTHS = [width for width in range(24, 257, 8) if width & (width - 1)]


class GroupedConv2d(nn.Conv2d):
    """`nn.Conv2d` in groups, 3x3, padded, without bias; made by `convert`.

    In half precision and channels last on a GPU, the products of a sum are added in fp32 and in one
    order, which makes the gradient of the weights exact to fp32 and the same every time. Everywhere
    else it is `F.conv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernels = kernels_of(x)
        if kernels is None:
            return super().forward(x)
        return _Grouped.apply(x.to(computed_in(x)), self.weight, self.stride[0], kernels)


def convert(module: nn.Module) -> nn.Module:
    """Turn every convolution of `module` that the kernels can do into `GroupedConv2d`, in place.

    The class changes and the object stays, and with it all names, parameters, hooks and shared
    references.
    """
    for child in module.modules():
        if type(child) is nn.Conv2d and _can(child):
            child.__class__ = GroupedConv2d
    return module


def _can(conv: nn.Conv2d) -> bool:
    return (
        conv.groups > 1
        and conv.in_channels // conv.groups in WIDTHS
        and conv.in_channels == conv.out_channels
        and conv.kernel_size == (3, 3)
        and conv.padding == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.stride in ((1, 1), (2, 2))
        and conv.bias is None
    )


def computed_in(x: Tensor) -> torch.dtype:
    """The type that a convolution of `x` works in: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def kernels_of(x: Tensor) -> ModuleType | None:
    """The kernels, if they can take images like these."""
    # Compiled blocks have none, and tensors that only pretend have no memory to read.
    if torch.compiler.is_compiling() or type(x) is not Tensor or not x.numel():
        return None
    if computed_in(x) not in HALVES:
        return None
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    return kernels_for(x.device, "seer.engine.grouped", "grouped convolutions")


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, kernels: ModuleType) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        ctx.kernels = kernels
        return kernels.convolve(x, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = None
        dweight = None
        if ctx.needs_input_grad[0]:
            dx = ctx.kernels.input_gradient(dy, weight, tuple(x.shape[2:]), ctx.stride)
        if ctx.needs_input_grad[1]:
            dweight = ctx.kernels.weight_gradient(x, dy, ctx.stride, weight.shape[1])
            dweight = dweight.to(weight.dtype)
        return dx, dweight, None, None
