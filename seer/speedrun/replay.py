"""A step's loss and gradients, launched one by one or as one CUDA graph."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seer.data.views import Views
from seer.engine.learner import Step
from seer.engine.step import forward_backward
from seer.errors import first_line
from seer.methods.base import Method
from seer.methods.memory import Aside

logger = logging.getLogger("seer")

WARM_UP = 3  # passes before the recording, in which libraries choose their kernels


class Gradients(NamedTuple):
    """How a step's gradients are made.

    Attributes:
        of: a batch and its step → the loss, a scalar tensor; the gradients are the parameters'.
        recorded: whether a CUDA graph makes them.
    """

    of: Callable[[Views, Step], Tensor]
    recorded: bool


def prepare(
    method: Method, module: nn.Module, views: Views, step: Step, precision: str, graph: bool
) -> Gradients:
    """Have everything compiled that a step needs, and recorded if that is wanted and works; no
    trace is left but in BatchNorm's running statistics.

    Args:
        module: `method` as `parallelize` wrapped it.
        views: a batch as all will be; step: one at which nothing is frozen.
    """
    launch = partial(_launch, method, module, precision)
    for _ in range(WARM_UP):
        launch(views, step)
        method.zero_grad(set_to_none=True)
    alone = module is method  # a graph of DDP's would have to hold its collectives
    if graph and alone and views.index.is_cuda and not leaves_something(method):
        try:
            return Gradients(record(method, launch, views, step), True)
        except RuntimeError as error:
            method.zero_grad(set_to_none=True)
            logger.warning("graph: steps are launched kernel by kernel: %s", first_line(error))
    return Gradients(launch, False)


def leaves_something(method: Method) -> bool:
    """Whether a forward pass of `method`, of which one was just made, puts something aside for
    `after_update` (keys of a queue, scores of a teacher): a replay would not.
    """
    owned = [value for module in method.modules() for value in vars(module).values()]
    return any(isinstance(value, Aside) and value.kept for value in owned)


def record(
    method: Method, launch: Callable[[Views, Step], Tensor], views: Views, step: Step
) -> Callable[[Views, Step], Tensor]:
    """`launch` as a CUDA graph, whose hundreds of kernels start without the host.

    Update, queues and teachers stay outside of it: they depend on the step.
    """
    parameters = [p for p in method.parameters() if p.requires_grad]
    crops = tuple(group.clone() for group in views.crops)
    kept = replace(views, crops=crops, index=views.index.clone())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        launch(kept, step)
        method.zero_grad(set_to_none=True)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = launch(kept, step)
    gradients = [p.grad for p in parameters]

    def replay(views: Views, step: Step) -> Tensor:
        for place, group in zip(kept.crops, views.crops, strict=True):
            place.copy_(group)
        kept.index.copy_(views.index)
        graph.replay()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        method.after_backward(step)
        return loss

    return replay


def _launch(method: Method, module: nn.Module, precision: str, views: Views, step: Step) -> Tensor:
    return forward_backward(method, module, views, step, precision, views.index.device).loss
