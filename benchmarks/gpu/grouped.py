"""Grouped convolutions of RegNets: ms of the result, of the gradient of the images and of that of
the weights, by our kernels and by PyTorch's, channels last and in planes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from run import Options
from torch import Tensor

from seer.engine import grouped

PARTS = ("result", "images", "weights")


@dataclass(frozen=True)
class Shape:
    """`batch` images of `side` pixels, in groups of `depth` channels."""

    name: str
    batch: int
    groups: int
    depth: int
    side: int
    stride: int = 1

    @property
    def channels(self) -> int:
        return self.groups * self.depth


SHAPES = (
    Shape("3.2GF stage 3", 256, 24, 24, 14),
    Shape("16GF stage 3", 128, 11, 112, 14),
    Shape("32GF stage 3", 64, 6, 232, 14),
    Shape("3.2GF stage 2", 256, 9, 24, 28),
    Shape("3.2GF stage 2, first", 256, 9, 24, 56, 2),
    Shape("3.2GF stage 1", 256, 3, 24, 56),
    Shape("3.2GF stage 4", 256, 63, 24, 7),
    Shape("8GF stage 3", 128, 16, 56, 14),
    Shape("16GF stage 2", 128, 4, 112, 28),
    Shape("32GF stage 2", 64, 3, 232, 28),
    Shape("128GF stage 3", 32, 11, 264, 14),
    Shape("256GF stage 3", 16, 8, 373, 14),
    Shape("64GF stage 3", 32, 6, 328, 14),
    Shape("X-3.2GF", 128, 9, 48, 14),
    Shape("4GF stage 3", 128, 8, 64, 14),
    Shape("6.4GF stage 3", 128, 8, 72, 14),
    Shape("X-16GF stage 3", 128, 7, 128, 14),
    Shape("X-32GF stage 3", 64, 8, 168, 14),
    Shape("0.2GF stage 3", 256, 19, 8, 14),
    Shape("0.8GF stage 3", 256, 20, 16, 14),
)
TINY = (Shape("tiny", 2, 2, 16, 6), Shape("tiny, first", 2, 2, 16, 6, 2))


def rows(options: Options) -> Iterator[dict[str, Any]]:
    shapes = TINY if options.small else SHAPES
    for shape in shapes:
        yield {"what": shape.name, **compared(shape, options)}


def work(shape: Shape, part: str, device: torch.device) -> Callable[[], Any]:
    x, weight, dy = tensors(shape, torch.bfloat16, device)
    size = (shape.side, shape.side)
    return {
        "result": lambda: grouped.convolve(x, weight, shape.stride),
        "images": lambda: grouped.input_gradient(dy, weight, size, shape.stride),
        "weights": lambda: grouped.weight_gradient(x, dy, shape.stride, shape.depth),
    }[part]


def tensors(
    shape: Shape, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    out = (shape.side - 1) // shape.stride + 1
    like = {"dtype": dtype, "device": device}
    x = torch.randn(shape.batch, shape.channels, shape.side, shape.side, **like)
    dy = torch.randn(shape.batch, shape.channels, out, out, **like)
    weight = torch.randn(shape.channels, shape.depth, 3, 3, device=device)
    last = torch.channels_last
    return x.to(memory_format=last), weight, dy.to(memory_format=last)


def compared(shape: Shape, options: Options) -> dict[str, Any]:
    device = options.device
    x, weight, dy = tensors(shape, torch.bfloat16, device)
    ours = device.type == "cuda"
    row: dict[str, Any] = {}
    for name, order in (("last", torch.channels_last), ("planes", torch.contiguous_format)):
        arranged = [tensor.to(memory_format=order) for tensor in (x, weight.to(x.dtype), dy)]
        for part, function in by_torch(shape, *arranged).items():
            row[f"{part}_{name}_ms"] = 1e3 * timed(function, device)
    for part in PARTS if ours else ():
        row[f"{part}_ms"] = 1e3 * timed(work(shape, part, device), device)
        row[f"{part}_error"] = error(shape, part, device)
    return row


def by_torch(shape: Shape, x: Tensor, weight: Tensor, dy: Tensor) -> dict[str, Callable[[], Any]]:
    stride = [shape.stride] * 2
    more = (stride, [1, 1], [1, 1], False, [0, 0], shape.groups)
    backward = torch.ops.aten.convolution_backward
    return {
        "result": lambda: torch.ops.aten.convolution(x, weight, None, *more),
        "images": lambda: backward(dy, x, weight, None, *more, [True, False, False]),
        "weights": lambda: backward(dy, x, weight, None, *more, [False, True, False]),
    }


def error(shape: Shape, part: str, device: torch.device) -> float:
    """Relative to PyTorch's in fp32."""
    x, weight, dy = tensors(shape, torch.bfloat16, device)
    rounded = weight if part == "weights" else weight.to(x.dtype)
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    expected = by_torch(shape, x.float(), rounded.float(), dy.float())[part]()
    torch.backends.cudnn.allow_tf32 = allowed
    if isinstance(expected, tuple):
        expected = expected[0] if part == "images" else expected[1]
    found = work(shape, part, device)().float()
    return float((found - expected).norm() / expected.norm())


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds, the median; NaN for what does not run."""
    try:
        function()
    except Exception as error:
        print(f"  {type(error).__name__}: {error}"[:200])
        return float("nan")
    if device.type != "cuda":
        began = time.perf_counter()
        function()
        return time.perf_counter() - began
    for _ in range(3):
        function()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(13)]
    for mark in marks:
        mark.record()
        function()
    torch.cuda.synchronize()
    return 1e-3 * median(a.elapsed_time(b) for a, b in pairwise(marks))
