"""Where the milliseconds of a training step go: its longest kernels, and how long the device is idle."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from run import Options
from step import CASES, Case, config_of, steps_of
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

LONGEST = 14
# Of a kernel's name, the first that is in it.
KINDS = {
    "batch norm": ("batch_norm", "bn_fw", "bn_bw", "batchnorm"),
    "grouped convolution": ("_grouped", "_weight_gradient"),
    "convolution": (
        "conv",
        "xmma",
        "implicit",
        "dgrad",
        "wgrad",
        "fprop",
        "cutlass",
        "cudnn",
        "nhwc",
    ),
    "matrix product": ("gemm", "gemv", "nvjet", "splitk"),
    "optimizer and norms": ("multi_tensor", "foreach", "lpnorm"),
    "reduction": ("reduce", "softmax"),
    "copy or cast": ("copy", "memcpy", "memset", "cat"),
    "elementwise": ("elementwise", "vectorized", "threshold", "clamp"),
}


def rows(options: Options) -> Iterator[dict[str, Any]]:
    for case in CASES[: 1 if options.small else 2]:
        yield from longest(case, options)


def longest(case: Case, options: Options) -> Iterator[dict[str, Any]]:
    """A row of each kind of kernel and of each of the longest, in ms of one step."""
    cuda = options.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    config = replace(config_of(case, [], options), steps=2 if options.small else 5)
    steps_of(config, options)  # libraries load, algorithms are chosen
    began = time.perf_counter()
    with profile(activities=activities) as profiler:
        seconds = steps_of(config, options)
    whole = time.perf_counter() - began
    kind_of_device = DeviceType.CUDA if cuda else DeviceType.CPU
    events = [
        event
        for event in profiler.key_averages()
        # What users have named, such as `Optimizer.step`, spans kernels that count by themselves.
        if event.device_type == kind_of_device and not event.key.startswith("Optimizer.")
    ]
    spent = Counter({event.key: own_ms(event, cuda) / config.steps for event in events})
    by_kind: Counter[str] = Counter()
    for name, ms in spent.items():
        by_kind[kind(name)] += ms
    step = 1e3 * statistics.median(seconds)
    busy = sum(spent.values())
    yield {
        "what": case.backbone,
        "step_ms": step,  # under the profiler, which costs some
        "busy_ms": busy,
        "launches": sum(event.count for event in events) / config.steps,
        "profiled_s": whole,
    }
    for name, ms in by_kind.most_common():
        yield {"what": f"{case.backbone}, kind", "kernel": name, "ms": ms, "share": ms / busy}
    for name, ms in spent.most_common(LONGEST):
        yield {
            "what": f"{case.backbone}, kernel",
            "kernel": name[:100],
            "ms": ms,
            "share": ms / busy,
        }


def own_ms(event: Any, cuda: bool) -> float:
    return (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3


def kind(kernel: str) -> str:
    lower = kernel.lower()
    return next(
        (kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other"
    )
