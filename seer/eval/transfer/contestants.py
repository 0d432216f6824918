"""The models of a transfer benchmark: told apart, and timed beforehand."""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from torch import Tensor

from seer.distributed import pick_device
from seer.engine.metrics import cpu_name
from seer.errors import InputError
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.probes.features import frozen, to_input
from seer.eval.probes.options import FeatureConfig
from seer.eval.tasks import PIXELS, is_pixels
from seer.interop.models import Model, load_model, sized
from seer.interop.spec import library_of, without_size
from seer.jsonl import Row

TIMED = 16  # images of a batch
LEAST_SECONDS = 0.2  # of measuring; a second batch is larger where the first was over before
LONG = 2.0  # seconds of a batch, which is not repeated then
REPEATS = 3
STEP = re.compile(r" step-(\d+)(?=@|$)")


@dataclass(frozen=True)
class Contestant:
    """A model of the benchmark.

    Attributes:
        spec: as `--model` takes it.
        name: what results call it; `pixels`, whatever size the images of a data set have.
        title: what people are shown.
        weights: what they hash to; "" of raw pixels, whose mean image each data set gives.
        size: side of its images in pixels; 0 of raw pixels, which take a data set's own.
        dimensions: of its features; 0 of raw pixels of no size that is given.
        images_per_second: through the network, measured; infinite of raw pixels.
    """

    spec: str
    name: str
    title: str
    weights: str
    size: int
    dimensions: int
    images_per_second: float

    def made(self, row: Row, pixels: int = 0) -> bool:
        """Whether a result is of this very model, and not of another version of it.

        Args:
            pixels: the side that raw pixels take of the data set's images.
        """
        if self.weights:
            return row["model"] == self.name and row.get("weights") == self.weights
        return row["model"] == (f"{PIXELS}:{pixels}" if self.spec == PIXELS else self.name)


@dataclass(frozen=True)
class Timing:
    """When, on what, and beside what else the models were timed.

    Attributes:
        when: in UTC, to the second.
        device: its name. threads: of PyTorch, on a CPU; 0 of others.
        load: how many processes of the machine ran, the mean of the minute before.
        cores: that it has.
    """

    when: str
    device: str
    precision: str
    threads: int
    load: float
    cores: int


def timing(config: FeatureConfig) -> Timing:
    """To be told just before."""
    device = pick_device(config.device)
    on_cpu = device.type == "cpu"
    return Timing(
        datetime.now(UTC).isoformat(timespec="seconds"),
        cpu_name() if on_cpu else torch.cuda.get_device_name(device),
        config.precision,
        torch.get_num_threads() if on_cpu else 0,
        round(os.getloadavg()[0], 2),
        os.cpu_count() or 1,
    )


def contestants(specs: Sequence[str], config: FeatureConfig) -> list[Contestant]:
    """All of them, loaded once, one after the other.

    Args:
        config: size, device and precision at which they are timed.

    Raises:
        InputError: a model cannot be loaded or takes no images of that size, or two have one name.
    """
    models = [contestant(spec, config) for spec in specs]
    names: dict[str, Contestant] = {}
    for model in models:
        first = names.setdefault(model.name, model)
        if first is not model:
            raise InputError(
                f"--model {model.spec}: two models are called {model.name}, the other is {first.spec}; "
                "rename the folder of one"
            )
    titles = [model.title for model in models]
    return [
        replace(model, title=model.name) if titles.count(model.title) > 1 else model
        for model in models
    ]


def contestant(spec: str, config: FeatureConfig) -> Contestant:
    """One model, loaded and timed. Raises `InputError` as `load_model` does."""
    if is_pixels(spec):
        side = spec.partition(":")[2]
        dimensions = 3 * int(side) ** 2 if side.isdecimal() else 0
        return Contestant(spec, spec, spec, "", 0, dimensions, float("inf"))
    model = sized(load_model(spec), config.size)
    weights = weights_hash(model.backbone)
    title = title_of(spec, model.label)
    rate = images_per_second(model, config)
    dimensions = int(model.backbone.out_dim)  # type: ignore[arg-type]
    return Contestant(spec, model.label, title, weights, model.size, dimensions, rate)


def title_of(spec: str, label: str) -> str:
    """A model as a table names it: of a library's weights in a file, without that file; of a run's
    checkpoint its step without zeros before it.
    """
    label = STEP.sub(lambda match: f" step {int(match[1]):,}", label)
    library = library_of(spec)
    if library and "/" in label:
        _, size = without_size(spec)
        return ":".join(label.split(":", 2)[:2]) + (f"@{size}" if size else "")
    return label


def images_per_second(model: Model, config: FeatureConfig) -> float:
    """How many images of its own size go through a network, measured on a batch."""
    run = frozen(model, config)
    count = min(TIMED, config.batch_size)
    _seconds(model, run, 1, config.device)  # whatever is made ready at the first call
    seconds = _fastest(model, run, count, config.device)
    if seconds < LEAST_SECONDS and config.batch_size > count:
        count = min(config.batch_size, 8 * count)
        seconds = _fastest(model, run, count, config.device)
    return count / max(seconds, 1e-6)


def _fastest(model: Model, run: Callable[[Tensor], Tensor], count: int, device: str) -> float:
    """The seconds of a batch that nothing else held up: the least of several, where they are short."""
    seconds = _seconds(model, run, count, device)
    if seconds > LONG:
        return seconds
    return min(seconds, *(_seconds(model, run, count, device) for _ in range(REPEATS)))


def _seconds(model: Model, run: Callable[[Tensor], Tensor], count: int, device: str) -> float:
    """Of one batch of grey images, there and back."""
    pixels = torch.full((count, model.size, model.size, 3), 128, dtype=torch.uint8)
    began = time.perf_counter()
    run(to_input(model, pixels.to(pick_device(device)))).cpu()
    return time.perf_counter() - began
