"""What loading from any other library needs: a network without its classifier, and weights from a
file or the web.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from seer.backbones.base import Backbone
from seer.backbones.resnet import ResNet
from seer.background import in_background
from seer.errors import InputError, first_line
from seer.interop.native import is_native, read_about
from seer.interop.weights import load_strictly, read_weights

PATIENCE = 2.0  # seconds until a server that says nothing is taken for out of reach


class Pooled(nn.Module):
    """A network that lost its classifier. Maps `(B, 3, H, W)` to `(B, out_dim)`.

    Attributes:
        name: `timm:NAME` or `torchvision:NAME`.
    """

    def __init__(self, network: nn.Module, out_dim: int, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.out_dim = out_dim

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).flatten(1)


def load_trunk(network: nn.Module, path: Path, classifier: Sequence[str]) -> None:
    """Load a file into a network that has no classifier; the file may have one, in the modules
    named.
    """
    if is_native(path) and read_about(path)["backbone"].get("stem_stride", 2) != 2:
        raise InputError(
            f"{path}: its stem has another stride than any of that name; give the file alone"
        )
    prefixes = tuple(f"{name}." for name in classifier)
    tensors = {
        key: tensor for key, tensor in read_weights(path).items() if not key.startswith(prefixes)
    }
    load_strictly(network, tensors, path)


def silence_of(request: Callable[[], object]) -> str:
    """Why a request is not answered within `PATIENCE`, in one line; "" if it is.

    It is made in another thread: looking up the name of a host knows no timeout.
    """
    try:
        in_background(request).result(PATIENCE)
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except Exception as error:  # whatever the library raises that makes the request
        return first_line(error)
    return ""


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
            f"{model}: no pretrained weights could be had ({reason[:160]}); "
            f"give a local file ({model}:PATH), or {model}:random for the untrained network"
        ) from error


def fine_stem(backbone: Backbone, convolution: str) -> list[str]:
    """Python that gives `model`, another library's network, the stem of `stem_stride=1`, which none
    has by its name. `convolution` is where a RegNet's stem is.
    """
    if backbone.config.stem_stride == 2:
        return []
    if isinstance(backbone, ResNet):
        width = backbone.spec.inner_widths[0]
        return [
            f"model.conv1 = torch.nn.Conv2d(3, {width}, 3, padding=1, bias=False)",
            "model.maxpool = torch.nn.Identity()",
        ]
    return [f"{convolution}.stride = (1, 1)"]


def loading(imports: str, network: str, changes: Sequence[str]) -> str:
    """Python that builds a network as `model`, changes it, and loads the exported file PATH."""
    lines = [imports, "from safetensors.torch import load_file", f"model = {network}", *changes]
    return "; ".join([*lines, "model.load_state_dict(load_file(PATH))"])
