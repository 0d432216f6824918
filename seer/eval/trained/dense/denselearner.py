"""What is trained: a dense head, and perhaps an auxiliary one, on the levels of any backbone."""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from seer.data.hashing import uniform
from seer.distributed import all_reduce_sum, size
from seer.engine.learner import Learner, Output, Step
from seer.errors import InputError
from seer.eval.trained.dense.denseheads import HEADS, Auxiliary, Head, enlarged
from seer.eval.trained.dense.densetask import DenseTask, Total
from seer.eval.trained.dense.options import DenseConfig
from seer.eval.trained.dense.pairbatches import PairBatch
from seer.eval.trained.detection.freezing import freeze, frozen_norms
from seer.interop.levels import TRIED, Levels, without_memory
from seer.precision import at_least_fp32

OUTPUTS = "outputs"
DROPPED = 0x64726F70  # the domain of the hash of what dropout drops


class DenseLearner(Learner[PairBatch]):
    """Loss of a batch in training; otherwise the outputs `(B, channels, H, W)` in the metrics.

    The mean of the loss is over the pixels of all ranks, and what dropout drops is drawn by the seed, the step and the
    image: the ranks' mean loss is that of the whole batch.

    Raises:
        InputError: the backbone cannot have the output stride.
    """

    backbone: Levels

    def __init__(self, levels: Levels, task: DenseTask, config: DenseConfig):
        super().__init__()
        if config.output_stride < levels.strides[-1]:
            dilate(levels, config.output_stride)
        self.backbone = levels
        self.task = task
        self.seed = config.seed
        self.dropout = config.dropout
        self.weight = config.auxiliary
        self.head_rate = config.head_rate
        self.frozen_norms = config.batchnorm == "frozen"
        self.frozen_up_to = config.freeze
        freeze(levels, config.freeze, self.frozen_norms)
        widths = levels.channels
        self.head = HEADS[config.head](widths, config.width, task.channels)
        self.auxiliary: nn.Module = nn.Identity()
        if self.weight:
            self.auxiliary = Auxiliary(widths, max(1, config.width // 2), task.channels)

    def train(self, mode: bool = True) -> "DenseLearner":
        """As of every module, but that frozen BatchNorms stay as they are."""
        super().train(mode)
        if mode:
            for norm in frozen_norms(self.backbone, self.frozen_up_to, self.frozen_norms):
                norm.eval()
        return self

    def rates(self) -> dict[str, float]:
        """The heads' factor."""
        return {"head.": self.head_rate, "auxiliary.": self.head_rate}

    def forward(self, batch: PairBatch, step: Step) -> Output:
        maps = self.backbone(batch.pixels)
        sides = batch.pixels.shape[2:]
        if not self.training:
            outputs = enlarged(at_least_fp32(self.head(maps)), sides)
            return Output(outputs.new_zeros(()), {OUTPUTS: outputs})
        losses: dict[str, Tensor] = {}
        for number, name in enumerate(["head", "auxiliary"] if self.weight else ["head"]):
            head = cast(Head, getattr(self, name))
            kept = self.kept(step.number, batch.index, head.width, number)
            outputs = enlarged(at_least_fp32(head(maps, kept)), sides)
            losses[f"loss_{name}"] = mean_over_ranks(self.task.losses(outputs, batch.targets))
        total = losses["loss_head"]
        if self.weight:
            total = total + self.weight * losses["loss_auxiliary"]
        return Output(total, {name: loss.detach() for name, loss in losses.items()})

    def kept(self, step: int, index: Tensor, width: int, head: int) -> Tensor | None:
        """`(B, width)`: 0 for channels that are dropped, and what makes up for them elsewhere."""
        if not self.dropout:
            return None
        ids = index.cpu().numpy()[:, None]
        drawn = uniform(self.seed, DROPPED, step, head, ids, np.arange(width)[None])
        factors = (drawn >= self.dropout) / (1 - self.dropout)
        return torch.from_numpy(factors).to(index.device)

    def reset_parameters(self) -> None:
        raise InputError(
            "parallel.deferred_init: a dense head begins with a model's weights; leave it out"
        )


def mean_over_ranks(total: Total) -> Tensor:
    """A rank's share of the mean over all ranks' pixels: the mean of the ranks' is that."""
    pixels = total.pixels.detach().to(torch.float64)
    if size() > 1:
        pixels = all_reduce_sum(pixels) / size()
    return total.loss / pixels.clamp(min=1 / size()).to(total.loss.dtype)


def dilate(levels: Levels, stride: int) -> None:
    """Take the strides of the last levels away until the last one is `stride`, and dilate their
    convolutions by as much. The weights stay.

    Raises:
        InputError: there are strides elsewhere than in convolutions (pooling).
    """
    factor = 1
    strides = list(levels.strides)
    for place in range(len(strides)):
        if strides[place] <= stride:
            continue
        before = factor
        factor = strides[place] // stride
        strides[place] = stride
        for name, module in levels.named_modules():
            if isinstance(module, nn.Conv2d) and f"{name}.weight" in levels.parts[place]:
                _dilate(module, before, factor)
    levels.strides = tuple(strides)
    shadow = without_memory(levels)
    dtype = next(shadow.parameters()).dtype
    maps = shadow(torch.empty(1, 3, TRIED, TRIED, device="meta", dtype=dtype))
    found = tuple(TRIED // own.shape[-1] for own in maps)
    if found != levels.strides:
        raise InputError(
            f"output_stride={stride}: this model's strides are not all in convolutions; its maps would have "
            f"{', '.join(map(str, found))}; leave it out"
        )


def _dilate(module: nn.Conv2d, before: int, factor: int) -> None:
    """One convolution: the first of a level, which has the stride, sees as far as those before it."""
    dilation = before if max(module.stride) > 1 else factor
    module.stride = (1, 1)
    if max(module.kernel_size) > 1:
        module.dilation = (dilation, dilation)
        module.padding = tuple(dilation * (side - 1) // 2 for side in module.kernel_size)
