"""Features of frozen backbones at each place of images, in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from seer.errors import InputError
from seer.eval.dense.options import FrozenMapsConfig
from seer.eval.probes.features import in_threads, to_input, watch
from seer.eval.probes.together import own_device
from seer.interop.levels import levels_of
from seer.interop.models import Model
from seer.precision import autocast

Target = TypeVar("Target")


def maps_of(model: Model, config: FrozenMapsConfig) -> Callable[[Tensor], Tensor]:
    """From normalised images `(B, 3, S, S)` to features `(B, D, h, w)` float32 on the CPU: of the levels
    wanted, the others enlarged to the finest.
    """
    device = own_device(config.device)
    network = levels_of(model.backbone, model.label).to(device).eval()
    wanted = sorted(set(config.levels))

    @torch.inference_mode()
    def compute(inputs: Tensor) -> Tensor:
        with autocast(config.precision, device):
            maps = network(inputs.to(device))
        chosen = [maps[level - 2].float() for level in wanted]
        side = chosen[0].shape[-2:]
        enlarged = [interpolate(each, side, mode="bilinear") for each in chosen]
        return torch.cat(enlarged, 1).cpu()

    return compute


def streamed(
    model: Model,
    count: int,
    load: Callable[[int], tuple[np.ndarray, Target]],
    config: FrozenMapsConfig,
    name: str,
) -> Iterator[tuple[int, Tensor, Target]]:
    """The numbers of images 0 … count − 1, their features `(D, h, w)` and what `load` tells of each,
    which it does in threads. Images are resized to squares of the model's size.

    Raises:
        InputError: features are not finite, or the network has no maps.
    """
    compute = maps_of(model, config)

    def prepared(numbers: list[int]) -> tuple[list[int], Tensor, list[Target]]:
        pixels = np.empty((len(numbers), model.size, model.size, 3), np.uint8)
        targets = []
        for row, number in zip(pixels, numbers, strict=True):
            image, target = load(number)
            side = (model.size, model.size)
            row[:] = np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC))
            targets.append(target)
        return numbers, torch.from_numpy(pixels), targets

    batches: Sequence[list[int]] = [
        rows.tolist() for rows in torch.arange(count).split(config.batch_size)
    ]
    loaded = in_threads(prepared, batches, config.threads)
    for numbers, pixels, targets in watch(loaded, len(batches), name, "batches"):
        maps = compute(to_input(model, pixels))
        if not torch.isfinite(maps).all():
            raise InputError(f"{model.label}: its features are NaN or infinite; use another")
        yield from zip(numbers, maps, targets, strict=True)
