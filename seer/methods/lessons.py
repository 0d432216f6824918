"""What a student learns from one teacher: a frozen network, and the student's projections to its features."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.distributed import all_reduce_sum, size
from seer.engine.bank import Bank
from seer.methods.heads import MLP
from seer.methods.options import DistillConfig
from seer.precision import at_least_fp32, full_precision

SMALLEST = 1e-6  # deviation of a feature that is divided by


@dataclass(frozen=True)
class TeacherSource:
    """Where a teacher comes from.

    Attributes:
        load: gives, each time, a network on the CPU that maps `(B, 3, S, S)` to `(B, out_dim)`.
        colours: mean and deviation of the run's images, and those of the images that it is for.
        map_of: the name of the module whose output is its last map; "" where no map is wanted.
        map_width: channels of that.
    """

    load: Callable[[], nn.Module]
    colours: Sequence[Sequence[float]]
    map_of: str = ""
    map_width: int = 0


@dataclass(frozen=True)
class Taught:
    """What a teacher says of a batch.

    Attributes:
        weights: `(B,)`, 1 for the images that it teaches, else 0.
        pooled: `(V, B, 1, D)` features. dense: `(V · B, D', H, W)` of its last map, if asked for.
    """

    weights: Tensor
    pooled: Tensor
    dense: Tensor | None = None


class Lesson(nn.Module):
    """A teacher, held as buffers that no checkpoint has, and what is trained to say the same.

    Attributes:
        head: projects the student's pooled features `(B, C)` to the teacher's.
        dense_head: its map's features likewise, by one linear layer (the 1×1 regressor of FitNets, Romero et al. 2015,
            arXiv:1412.6550); None where no map is learned.
        cached: the pooled features of every image.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, source: TeacherSource, width: int, config: DistillConfig, samples: int):
        super().__init__()
        self.source = source
        self.size = config.teacher_size
        self.bf16 = config.teacher_bf16
        device = torch.empty(0).device
        for name, values in zip(("scale", "shift"), to_its_colours(source.colours), strict=True):
            self.register_buffer(name, values.to(device), persistent=False)
        network = self._loaded()
        self.out_dim = int(network.out_dim)  # type: ignore[arg-type]
        self.head = MLP(width, [*config.head, self.out_dim], config.head_bn)
        self.dense_head = nn.Linear(width, source.map_width) if source.map_of else None
        self.cached = Bank(max(samples, 1), self.out_dim) if config.cache else None
        self.network = network.to(device).eval()

    def _loaded(self) -> nn.Module:
        network = self.source.load()
        return as_buffers(halved(network) if self.bf16 else network)

    def train(self, mode: bool = True) -> "Lesson":
        super().train(mode)
        self.network.eval()
        return self

    def reset_parameters(self) -> None:
        self.head.reset_parameters()
        if self.dense_head is not None:
            self.dense_head.reset_parameters()
        if self.cached is not None:
            self.cached.reset_parameters()
        fresh = dict(self._loaded().named_buffers())
        scale, shift = to_its_colours(self.source.colours)
        with torch.no_grad():
            self.scale.copy_(scale)
            self.shift.copy_(shift)
            for name, buffer in self.network.named_buffers():
                buffer.copy_(fresh[name])

    @torch.no_grad()
    def teach(self, large: Tensor, rows: Tensor | None, weights: Tensor) -> Taught:
        """Features of `(V, B, 3, S, S)` crops; of the images in `rows` alone, if given, and 0 else."""
        chosen = large if rows is None else large[:, rows]
        images = (chosen * self.scale + self.shift).flatten(0, 1)
        if self.size:
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        with capturing(self.network, self.source.map_of) as maps:
            pooled = self._run(images).unflatten(0, chosen.shape[:2])[:, :, None]
        dense = None
        if maps:
            places = as_places(maps[-1], self.source.map_width)
            dense = _among(large, rows, places.unflatten(0, chosen.shape[:2])).flatten(0, 1)
        return Taught(weights, _among(large, rows, pooled), dense)

    def _run(self, images: Tensor) -> Tensor:
        if not self.bf16:
            return self.network(images)
        dtype = next(b.dtype for b in self.network.buffers() if b.dim() > 1)
        device = images.device.type
        with torch.autocast(device if device != "meta" else "cpu", enabled=False):
            return self.network(images.to(dtype))


def _among(large: Tensor, rows: Tensor | None, features: Tensor) -> Tensor:
    """Features of some rows of a batch in their places, 0 in the others; at least fp32."""
    features = at_least_fp32(features)
    if rows is None:
        return features
    everyone = features.new_zeros(len(large), large.shape[1], *features.shape[2:])
    everyone[:, rows] = features
    return everyone


@contextmanager
def capturing(network: nn.Module, module: str) -> Iterator[list[Tensor]]:
    """While entered, the outputs of a module of the network; none where it has no name."""
    outputs: list[Tensor] = []
    if not module:
        yield outputs
        return
    part = network.get_submodule(module)
    handle = part.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def as_places(output: Tensor, width: int) -> Tensor:
    """A module's output as a map `(B, D, H, W)`: channels may come last, and of tokens `(B, N, D)` the
    last H · W are those of a square of places.
    """
    if output.dim() == 3:
        side = isqrt(output.shape[1])
        return output[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    return output if output.shape[1] == width else output.permute(0, 3, 1, 2)


def missed(taught: Tensor, weights: Tensor, predictions: Tensor) -> Tensor:
    """The sum over images of the mean square by which predictions miss a teacher's features.

    Features are taken with mean 0 and deviation 1 in each dimension, over crops, places and the images
    of all ranks that it teaches.

    Args:
        taught: `(V, B, P, D)`. weights: `(B,)`. predictions: `(V', B, P, D)`, V' ≥ V; the crops beyond V
            are to have the mean of the others' features.
    """
    targets = standardised(taught, weights)
    return _squares(predictions, with_small(targets, len(predictions)), weights)


@full_precision
def _squares(predictions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return ((predictions - targets).square().mean((0, 2, 3)) * weights).sum()


def with_small(targets: Tensor, crops: int) -> Tensor:
    """`(V, …)` and the mean of it for each crop more."""
    small = targets.mean(0, keepdim=True).expand(crops - len(targets), *targets.shape[1:])
    return torch.cat([targets, small])


@full_precision
def standardised(features: Tensor, weights: Tensor) -> Tensor:
    """`(V, B, P, D)` with mean 0 and deviation 1 in each dimension, over crops, places and all ranks'
    images of weight 1; a dimension that is constant becomes 0.
    """
    places = features.shape[0] * features.shape[2]
    own = weights[None, :, None, None]
    count = (places * all_reduce_sum(weights.sum())).clamp(min=1)
    mean = all_reduce_sum((features * own).sum((0, 1, 2))) / count
    squares = (features - mean).square() * own
    deviation = (all_reduce_sum(squares.sum((0, 1, 2))) / count).sqrt()
    return (features - mean) / deviation.clamp(min=SMALLEST)


def over_images(sums: list[Tensor], weights: list[Tensor]) -> Tensor:
    """This rank's part of the mean over all ranks' pairs of image and teacher: what ranks have is to be
    averaged, as gradients are.
    """
    pairs = all_reduce_sum(torch.stack(weights).sum().detach())
    return torch.stack(sums).sum() * size() / pairs.clamp(min=1)


def to_its_colours(colours: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """By what images normalised as the run's become such as the teacher's."""
    mean, std, its_mean, its_std = (
        torch.tensor(values, device="cpu").view(3, 1, 1) for values in colours
    )
    return std / its_std, (mean - its_mean) / its_std


def halved(network: nn.Module) -> nn.Module:
    """The network in bf16, but for BatchNorm: it takes such features with statistics of fp32."""
    for module in network.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.bfloat16()
    return network


def as_buffers(network: nn.Module) -> nn.Module:
    """The network with its parameters as buffers, of which no checkpoint has any: no optimizer, DDP nor
    FSDP takes them for what is trained.
    """
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach(), persistent=False)
        module._non_persistent_buffers_set.update(module._buffers)
    return network
