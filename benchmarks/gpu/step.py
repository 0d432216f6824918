"""Whole training steps of the engine on noise, 2×224 + 4×96: samples/s and memory of each backbone,
beside supervised training of the same network on 224-pixel images.
"""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from noise import train_on_noise
from run import Options

from seer.backbones import build
from seer.backbones.base import BackboneConfig
from seer.distributed import World
from seer.engine.optim import OptimConfig, build_optimizer
from seer.precision import autocast
from seer.pretrain.recipe import Pretrain, load_config

WARMUP = 3


@dataclass(frozen=True)
class Case:
    """A network, and how many images a step shows it."""

    backbone: str
    batch: int
    recipe: str = "swav_regnety_32gf"


CASES = (
    Case("resnet50", 128, "swav_resnet50_800ep"),
    Case("regnety_032", 128),
    Case("regnety_016", 128),
    Case("regnety_080", 64),
    Case("regnety_160", 64),
    Case("regnety_320", 32),
)
# Of the engine's choices, by name.
LAYOUTS = {
    "channels last": ["parallel.channels_last=true"],
    "contiguous": ["parallel.channels_last=false"],
}
# The first network also otherwise.
ASIDE = {
    "fp16": ["precision=fp16"],
    "fp32": ["precision=fp32"],
    "16,000 prototypes": ["method.prototypes=16000"],
}


def rows(options: Options) -> Iterator[dict[str, Any]]:
    for case in CASES[:1] if options.small else CASES:
        rates = {}
        for name, overrides in LAYOUTS.items():
            row = measured(case, name, overrides, options)
            rates[name] = row.get("samples_per_s", 0.0)
            yield row
        last = rates["channels last"] >= rates["contiguous"]
        yield {"what": f"{case.backbone} supervised", **supervised(case, last, options)}
        if case == CASES[0]:
            for name, overrides in ASIDE.items():
                yield measured(case, name, overrides, options)
            torch.backends.cudnn.benchmark = True
            for name, overrides in LAYOUTS.items():
                yield measured(case, f"{name}, cudnn.benchmark", overrides, options)
            torch.backends.cudnn.benchmark = False


def measured(case: Case, name: str, overrides: list[str], options: Options) -> dict[str, Any]:
    """The row of one configuration; what does not fit says so."""
    what = {"what": f"{case.backbone} {name}", "batch": batch_of(case, options)}
    gc.collect()
    if options.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = median(steps_of(config_of(case, overrides, options), options)[WARMUP:])
    except torch.OutOfMemoryError:
        return what | {"failed": "out of memory"}
    rate = batch_of(case, options) / seconds
    return what | {"samples_per_s": rate, "ms": 1e3 * seconds, "gib": peak_gib(options)}


def steps_of(config: Pretrain, options: Options) -> list[float]:
    torch.manual_seed(0)
    return train_on_noise(config, World(device=options.device))


def peak_gib(options: Options) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if options.device.type == "cuda" else 0.0


def batch_of(case: Case, options: Options) -> int:
    return 4 if options.small else case.batch


def config_of(case: Case, overrides: list[str], options: Options) -> Pretrain:
    """The recipe of the network on one device, in bf16, its hard work at once: no warm-up."""
    config = load_config(
        case.recipe,
        [
            "data=.",
            f"backbone.name={case.backbone}",
            f"batch_size={batch_of(case, options)}",
            "views.small.count=4",
            "precision=bf16",
            "steps=15",
            "schedule.warmup=0",
            "parallel.mode=none",
            "parallel.checkpointing=[]",
            *overrides,
        ],
    )
    if not options.small:
        return config
    views = {"large": 32, "small": 16}
    shrunk = {name: replace(config.views[name], size=size) for name, size in views.items()}
    backbone = replace(config.backbone, name="regnety_002")
    method = replace(config.method, head=[16, 16], prototypes=64)
    return replace(
        config, views=shrunk, backbone=backbone, method=method, steps=5, precision="fp32"
    )


def supervised(case: Case, channels_last: bool, options: Options) -> dict[str, Any]:
    """Training of the same network with labels, in the plainest way: what others' figures are of."""
    batch = batch_of(case, options)
    name = "regnety_002" if options.small else case.backbone
    order = torch.channels_last if channels_last else torch.contiguous_format
    network = build(BackboneConfig(name=name))
    classifier = torch.nn.Sequential(network, torch.nn.Linear(network.out_dim, 1000))
    classifier.to(options.device, memory_format=order)
    side = 32 if options.small else 224
    images = torch.randn(batch, 3, side, side, device=options.device).to(memory_format=order)
    labels = torch.randint(1000, (batch,), device=options.device)
    optimizer = build_optimizer(classifier, OptimConfig(larc=False))

    def step() -> None:
        with autocast("bf16", options.device):
            loss = F.cross_entropy(classifier(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    rate = batch / timed(step, options)
    return {"batch": batch, "images_per_s": rate, "channels_last": channels_last}


def timed(step: Any, options: Options, rounds: int = 10) -> float:
    """Seconds of a step, its queue on the device full."""
    for _ in range(WARMUP):
        step()
    synchronize(options)
    began = time.perf_counter()
    for _ in range(rounds):
        step()
    synchronize(options)
    return (time.perf_counter() - began) / rounds


def synchronize(options: Options) -> None:
    if options.device.type == "cuda":
        torch.cuda.synchronize()
