"""How other libraries name the tensors of the same networks. Shapes and order of channels agree;
only names differ.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from seer.backbones.base import Backbone
from seer.backbones.regnet import RegNet
from seer.backbones.resnet import ResNet
from seer.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """The names of one library for one family of networks.

    Attributes:
        block: prefix of a block's modules; may use `stage` and `block` (from 0), `stage1`, `block1` (from 1), `stage2`.
        modules: our module → theirs, for the stem (`stem.*`) and inside a block. What is absent has the same name.
    """

    block: str
    modules: Mapping[str, str]

    def rename(self, key: str) -> str:
        """Their name of the tensor that we call `key`, for instance `stages.0.1.conv2.weight`."""
        module, _, tensor = key.rpartition(".")
        match = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", module)
        if match is None:
            return f"{self.modules.get(module, module)}.{tensor}"
        stage = int(match[1])
        block = int(match[2])
        layer = self.modules.get(match[3], match[3])
        prefix = self.block.format(
            stage=stage,
            block=block,
            stage1=stage + 1,
            block1=block + 1,
            stage2=stage + 2,
        )
        return f"{prefix}.{layer}.{tensor}"

    def to_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.rename(key): tensor for key, tensor in state.items()}

    def to_ours(self, state: Mapping[str, T], keys: Iterable[str]) -> dict[str, T]:
        """What goes by their names under ours, of which `keys` are all; a name without counterpart
        stays as it is.
        """
        ours = {self.rename(key): key for key in keys}
        return {ours.get(key, key): tensor for key, tensor in state.items()}


# torchvision and timm name a ResNet alike.
_RESNET = Layout(
    block="layer{stage1}.{block}",
    modules={
        "stem.conv": "conv1", "stem.bn": "bn1",
        "shortcut.conv": "downsample.0", "shortcut.bn": "downsample.1",
    },
)  # fmt: skip
_REGNET_TORCHVISION = Layout(
    block="trunk_output.block{stage1}.block{stage1}-{block}",
    modules={
        "stem.conv": "stem.0", "stem.bn": "stem.1",
        "conv1": "f.a.0", "bn1": "f.a.1",
        "conv2": "f.b.0", "bn2": "f.b.1",
        "se.reduce": "f.se.fc1", "se.expand": "f.se.fc2",
        "conv3": "f.c.0", "bn3": "f.c.1",
        "shortcut.conv": "proj.0", "shortcut.bn": "proj.1",
    },
)  # fmt: skip
_REGNET_TIMM = Layout(
    block="s{stage1}.b{block1}",
    modules={
        "conv1": "conv1.conv", "bn1": "conv1.bn",
        "conv2": "conv2.conv", "bn2": "conv2.bn",
        "se.reduce": "se.fc1", "se.expand": "se.fc2",
        "conv3": "conv3.conv", "bn3": "conv3.bn",
        "shortcut.conv": "downsample.conv", "shortcut.bn": "downsample.bn",
    },
)  # fmt: skip
_REGNET_PYCLS = Layout(
    block="s{stage1}.b{block1}",
    modules={
        "conv1": "f.a", "bn1": "f.a_bn",
        "conv2": "f.b", "bn2": "f.b_bn",
        "se.reduce": "f.se.f_ex.0", "se.expand": "f.se.f_ex.2",
        "conv3": "f.c", "bn3": "f.c_bn",
        "shortcut.conv": "proj", "shortcut.bn": "bn",
    },
)  # fmt: skip
_REGNET_CLASSY = Layout(
    block="trunk_output.block{stage1}.block{stage1}-{block}",
    modules={
        "stem.conv": "stem.stem.0", "stem.bn": "stem.stem.1",
        "conv1": "f.a.0", "bn1": "f.a.1",
        "conv2": "f.b.0", "bn2": "f.b.1",
        "se.reduce": "f.se.excitation.0", "se.expand": "f.se.excitation.2",
        "conv3": "f.c", "bn3": "f.final_bn",
        "shortcut.conv": "proj", "shortcut.bn": "bn",
    },
)  # fmt: skip
_VISSL_STEM = "_feature_blocks.conv1.stem"
_REGNET_VISSL = Layout(
    block="_feature_blocks.res{stage2}.block{stage1}-{block}",
    modules={
        **_REGNET_CLASSY.modules,
        "stem.conv": f"{_VISSL_STEM}.0",
        "stem.bn": f"{_VISSL_STEM}.1",
    },
)
_RESNET_VISSL = Layout(
    block=f"_feature_blocks.{_RESNET.block}",
    modules={
        **_RESNET.modules,
        "stem.conv": "_feature_blocks.conv1",
        "stem.bn": "_feature_blocks.bn1",
    },
)


def _transformers(layers: Iterable[str]) -> Layout:
    """Hugging Face's names, which number a block's layers."""
    modules = {}
    for index, layer in enumerate(layers):
        if layer == "se":
            modules["se.reduce"] = f"layer.{index}.attention.0"
            modules["se.expand"] = f"layer.{index}.attention.2"
        else:
            modules[f"conv{layer}"] = f"layer.{index}.convolution"
            modules[f"bn{layer}"] = f"layer.{index}.normalization"
    for name, theirs in (("stem", "embedder.embedder"), ("shortcut", "shortcut")):
        modules[f"{name}.conv"] = f"{theirs}.convolution"
        modules[f"{name}.bn"] = f"{theirs}.normalization"
    return Layout("encoder.stages.{stage}.layers.{block}", modules)


_TRANSFORMERS = _transformers(["1", "2", "3"])
_REGNETY_TRANSFORMERS = _transformers(["1", "2", "se", "3"])

LAYOUTS: dict[type[Backbone], dict[str, Layout]] = {
    ResNet: {
        "torchvision": _RESNET,
        "timm": _RESNET,
        "transformers": _TRANSFORMERS,
        "vissl": _RESNET_VISSL,
    },
    RegNet: {
        "torchvision": _REGNET_TORCHVISION,
        "timm": _REGNET_TIMM,
        "transformers": _REGNETY_TRANSFORMERS,
        "pycls": _REGNET_PYCLS,
        "vissl": _REGNET_VISSL,
        "classy_vision": _REGNET_CLASSY,
    },
}


def blocks_in(names: Iterable[str]) -> int:
    """How many residual blocks tensors of these names belong to, by whosever names they go."""
    templates = {layout.block for family in LAYOUTS.values() for layout in family.values()}
    counts = []
    for template in {"stages.{stage}.{block}", *templates}:
        pattern = re.compile(re.sub(r"\\{\w+\\}", r"\\d+", re.escape(template)) + r"\.")
        counts.append(len({match[0] for name in names if (match := pattern.match(name))}))
    return max(counts)


def names_of(library: str, backbone: Backbone) -> dict[str, str]:
    """Our name of each of the backbone's tensors by that library's, or by our own if it knows
    none.
    """
    names = list(backbone.state_dict())
    theirs = _layouts(backbone).get(library)
    return {theirs.rename(name) if theirs else name: name for name in names}


def layout(library: str, backbone: Backbone) -> Layout:
    """The names that `library` (one of `NAMINGS`) gives to this backbone's tensors.

    Raises:
        InputError: there are none for this family of networks.
    """
    layouts = _layouts(backbone)
    if library not in layouts:
        raise InputError(
            f"{backbone.config.name}: seer does not know how {library} names its tensors; "
            "export --to safetensors, which seer itself reads"
        )
    return layouts[library]


def _layouts(backbone: Backbone) -> dict[str, Layout]:
    layouts = LAYOUTS.get(type(backbone), {})
    if isinstance(backbone, RegNet) and not backbone.spec.se:
        return {**layouts, "transformers": _TRANSFORMERS}
    return layouts
