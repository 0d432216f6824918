"""C2 … C5 of any model: the maps of a network at four strides, as detectors and segmenters take them."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seer.backbones.base import Backbone
from seer.errors import InputError, first_line
from seer.interop.foreign import Pooled

LEVELS = 4
TRIED = 256  # side in pixels of the image by which maps are found: a multiple of all strides
STRIDES = (4, 8, 16, 32)

Maps = Callable[[nn.Module, Tensor], Sequence[Tensor]]  # of a network and images


class Levels(nn.Module):
    """Images `(B, 3, H, W)` → C2, C3, C4, C5, each `(B, channels[i], H / s, W / s)`, s = strides[i], where
    H and W are multiples of the last stride; else rounded up.

    Attributes:
        network: the backbone, whose weights these are; its classifier is not there or is not run.
        channels, strides: of the four maps.
        parts: of each level the names (as of `named_parameters`) of the parameters that it has beyond those of the
            level before. Parameters that are in none have no part in C5, and are not trained.
    """

    def __init__(self, network: nn.Module, maps: Maps, about: "Shapes"):
        super().__init__()
        self.network = network
        self._maps = maps
        self.channels = about.channels
        self.strides = about.strides
        self.parts = tuple(tuple(f"network.{name}" for name in names) for names in about.parts)
        used = {name for names in self.parts for name in names}
        for name, parameter in self.named_parameters():
            if name not in used:
                parameter.requires_grad_(False)

    def forward(self, x: Tensor, stages: range | None = None) -> list[Tensor]:
        """The four maps. With `stages`, of a backbone of ours, those of these stages alone (0 gives C2) of
        `x`: images, or where the first is above 0 the map before it.
        """
        if stages is None:
            return list(self._maps(self.network, x))
        assert isinstance(self.network, Backbone)
        if stages.start == 0:
            x = self.network.stem(x)
        maps = []
        for number in stages:
            x = self.network.stages[number](x)
            maps.append(x)
        return maps

    def reset_parameters(self) -> None:
        self.network.reset_parameters()  # type: ignore[operator]


class Shapes(NamedTuple):
    """What is known of four maps: as `Levels` has them, but for the names, which are the network's."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    parts: tuple[tuple[str, ...], ...]


def levels_of(backbone: nn.Module, label: str) -> Levels:
    """The levels of a `Model.backbone`: one of ours, timm's or torchvision's.

    The weights are shared, not copied. timm's are the last maps of four strides that `feature_info` lists;
    torchvision's are those of the last of the outermost modules at each of the strides 4, 8, 16, 32, and what
    stands after C5 is dropped.

    Args:
        label: what errors call the model.

    Raises:
        InputError: the network has no maps of four strides, each twice the one before (vision transformers).
    """
    if isinstance(backbone, Backbone):
        return Levels(backbone, _ours, _shapes(backbone, _ours, label))
    assert isinstance(backbone, Pooled), type(backbone)
    network = backbone.network
    if hasattr(network, "forward_intermediates"):
        maps = partial(_intermediates, _listed(network, label))
        return Levels(network, maps, _shapes(network, maps, label))
    from torchvision.models.feature_extraction import create_feature_extractor

    names = _last_modules(network, label)
    graph = create_feature_extractor(network, {name: str(i) for i, name in enumerate(names)})
    return Levels(graph, _extracted, _shapes(graph, _extracted, label))


def _ours(network: nn.Module, x: Tensor) -> Sequence[Tensor]:
    return network.forward_features(x)  # type: ignore[operator]


def _intermediates(places: list[int], network: nn.Module, x: Tensor) -> Sequence[Tensor]:
    return network.forward_intermediates(  # type: ignore[operator]
        x, indices=places, stop_early=True, intermediates_only=True
    )


def _extracted(network: nn.Module, x: Tensor) -> Sequence[Tensor]:
    return list(network(x).values())


def without_memory(network: nn.Module) -> Any:
    """A copy on `meta`, for which no weight is copied."""
    tensors: dict[int, Any] = {}
    for parameter in network.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach().to("meta"))
    for buffer in network.buffers():
        tensors[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, tensors).eval()


def _shapes(network: nn.Module, maps: Maps, label: str) -> Shapes:
    """Channels and strides as an image without memory shows them, and which parameters lead to each
    level, by its gradient.
    """
    shadow = without_memory(network)
    dtype = next(shadow.parameters()).dtype
    try:
        outputs = list(maps(shadow, torch.empty(1, 3, TRIED, TRIED, device="meta", dtype=dtype)))
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise _none(label, f"takes no image of {TRIED} px: {first_line(error)}") from None
    if len(outputs) != LEVELS or any(output.dim() != 4 for output in outputs):
        raise _none(label, f"gives {len(outputs)}")
    strides = tuple(TRIED // output.shape[-1] for output in outputs)
    if any(above != 2 * below for below, above in pairwise(strides)):
        raise _none(label, f"its maps have strides {', '.join(map(str, strides))}")
    names = [name for name, _ in shadow.named_parameters()]
    parameters = list(shadow.parameters())
    parts: list[tuple[str, ...]] = []
    below: set[str] = set()
    for output in outputs:
        gradients = torch.autograd.grad(
            output.sum(), parameters, retain_graph=True, allow_unused=True
        )
        leading = [name for name, g in zip(names, gradients, strict=True) if g is not None]
        parts.append(tuple(name for name in leading if name not in below))
        below.update(leading)
    return Shapes(tuple(output.shape[1] for output in outputs), strides, tuple(parts))


def _listed(network: nn.Module, label: str) -> list[int]:
    """Which of timm's `feature_info` are the last at each of the four largest strides."""
    info = getattr(network, "feature_info", None) or []
    rows = [row if isinstance(row, dict) else {} for row in info]
    last = {row.get("reduction"): number for number, row in enumerate(rows)}
    strides = sorted(stride for stride in last if stride)[-LEVELS:]
    if len(strides) < LEVELS:
        raise _none(label, f"its maps have strides {', '.join(map(str, strides)) or 'unknown'}")
    return [last[stride] for stride in strides]


def _last_modules(network: nn.Module, label: str) -> list[str]:
    """The names of the modules that give the last map at each of `STRIDES`: of the outermost ones,
    since within a stage of stride 8 the first layers still have stride 4.
    """
    shadow = without_memory(network)
    called: dict[int, list[str]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                height, width = output.shape[2:]
                if height == width:
                    called.setdefault(TRIED // height, []).append(name)

        return hook

    for name, module in shadow.named_modules():
        if name:
            module.register_forward_hook(note(name))
    try:
        shadow(torch.empty(1, 3, TRIED, TRIED, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise _none(label, f"takes no image of {TRIED} px: {first_line(error)}") from None
    chosen = []
    for stride in STRIDES:
        if stride not in called:
            raise _none(label, f"has no map of stride {stride}")
        outermost = min(name.count(".") for name in called[stride])
        chosen.append([name for name in called[stride] if name.count(".") == outermost][-1])
    return chosen


def _none(label: str, reason: str) -> InputError:
    return InputError(
        f"{label}: four maps are needed, each of twice the stride of the one before, and there are none "
        f"({reason}); use a convolutional network such as a RegNet or ResNet"
    )
