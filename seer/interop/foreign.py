"""What loading from any other library needs: a network without its classifier, and weights from a
file or the web.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from seer.errors import InputError
from seer.interop.weights import load_strictly, read_weights


class Pooled(nn.Module):
    """A network that lost its classifier. Maps `(B, 3, H, W)` to `(B, out_dim)`."""

    def __init__(self, network: nn.Module, out_dim: int) -> None:
        super().__init__()
        self.network = network
        self.out_dim = out_dim

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).flatten(1)


def weights_file(model: str, weights: str) -> Path | None:
    """The file that `weights` names, or None for `random`."""
    if weights == "random":
        return None
    path = Path(weights)
    if not os.path.isfile(path):
        raise InputError(
            f"{model}:{weights}: the weights are neither 'pretrained', 'random', nor a file that exists"
        )
    return path


def load_trunk(network: nn.Module, path: Path, classifier: Sequence[str]) -> None:
    """Load a file into a network that has no classifier; the file may have one, in the modules
    named.
    """
    prefixes = tuple(f"{name}." for name in classifier)
    tensors = {
        key: tensor for key, tensor in read_weights(path).items() if not key.startswith(prefixes)
    }
    load_strictly(network, tensors, path)


def fetch(model: str, create: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose weights are downloaded; a failure is the user's to mend."""
    try:
        return create()
    except (
        RuntimeError,
        OSError,
    ) as error:  # what the libraries raise for: no such weights; no network, disk full
        reason = " ".join(str(error).split())
        raise InputError(
            f"{model}: no pretrained weights could be had ({reason[:120]}); "
            f"give a local file ({model}:PATH), or {model}:random for the untrained network"
        ) from error
