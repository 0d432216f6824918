"""The perceptual distance of two images: LPIPS, version 0.1 (Zhang et al. 2018, arXiv:1801.03924).

Both go through AlexNet, VGG-16 or SqueezeNet; at five or seven layers the features of each place are
scaled to length 1, and the squares of their differences weighted channel by channel, summed, and
averaged over the image. Nothing is downloaded: the weights of network and channels are one file, the
`state_dict` of `lpips.LPIPS(net="vgg")`, as torch or safetensors saves it.
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from seer.errors import InputError
from seer.interop.weights import check_finite, listed, load_strictly, read_weights

# For each network, after which of its `features` the taps are, and their channels.
TAPS = {
    "alexnet": {1: 64, 4: 192, 7: 384, 9: 256, 11: 256},
    "vgg16": {3: 64, 8: 128, 15: 256, 22: 512, 29: 512},
    "squeezenet1_1": {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512},
}
TITLES = {"alexnet": "AlexNet", "vgg16": "VGG", "squeezenet1_1": "SqueezeNet"}
# Its scaling of images from -1 to 1.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
TINY = 1e-10
TRUNK = re.compile(r"net\.slice\d+\.(\d+)\.(.+)")
CHANNELS = re.compile(r"lin(\d+)\.model\.1\.weight")


class Perceptual(nn.Module):
    """Distances `(B,)` of images `(B, 3, H, W)` with values from 0 to 1."""

    shift: Tensor
    scale: Tensor

    def __init__(self, network: str) -> None:
        super().__init__()
        self.network = network
        self.features = models.get_model(network, weights=None).features
        self.weights = nn.ParameterList(
            nn.Parameter(torch.ones(1, channels, 1, 1)) for channels in TAPS[network].values()
        )
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        taps = zip(self._tapped(first), self._tapped(second), self.weights, strict=True)
        parts = [((a - b).square() * weight).sum(1).mean((1, 2)) for a, b, weight in taps]
        return torch.stack(parts).sum(0)

    def _tapped(self, images: Tensor) -> list[Tensor]:
        x = (2 * images - 1 - self.shift) / self.scale
        tapped = []
        for number, module in enumerate(self.features):
            x = module(x.clone())  # some work in place
            if number in TAPS[self.network]:
                length = x.square().sum(1, keepdim=True).sqrt()
                tapped.append(x / (length + TINY))
            if number == max(TAPS[self.network]):
                break
        return tapped


def read_perceptual(path: Path | str) -> Perceptual:
    """The distance whose weights are in a file.

    Raises:
        InputError: it cannot be read, or holds those of none of the three networks.
    """
    tensors = read_weights(Path(path))
    check_finite(tensors, path)
    names = {match[1]: key for key in tensors if (match := CHANNELS.fullmatch(key))}
    weights = [tensors[names[number]] for number in sorted(names, key=int)]
    channels = [weight.numel() for weight in weights]
    network = next((name for name in TAPS if list(TAPS[name].values()) == channels), None)
    if network is None:
        raise InputError(
            f"lpips={path}: holds no weights of LPIPS, which are lin0.model.1.weight and so on beside net.slice1.*; "
            f"its tensors: {listed(sorted(tensors))}; save lpips.LPIPS(net='vgg').state_dict()"
        )
    own = {
        f"features.{match[1]}.{match[2]}": tensor
        for key, tensor in tensors.items()
        if (match := TRUNK.fullmatch(key))
    }
    own |= {f"weights.{i}": weight.view(1, -1, 1, 1) for i, weight in enumerate(weights)}
    module = Perceptual(network)
    fixed = {"shift": module.shift, "scale": module.scale}
    load_strictly(module, own | fixed, path)
    return module.eval().requires_grad_(False)
