"""timm: its models as backbones to evaluate, and the call that builds ours there."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from seer.backbones.base import Backbone
from seer.backbones.libraries import check_timm, timm_library, timm_network, width_of
from seer.backbones.regnet import SE_RATIO, RegNet
from seer.interop.foreign import (
    PATIENCE,
    Pooled,
    fetch,
    fine_stem,
    load_trunk,
    loading,
    silence_of,
)
from seer.interop.spec import weights_file


def load(name: str, weights: str) -> tuple[Pooled, dict[str, Any]]:
    """timm's model `name` without its classifier, and the `size`, `mean` and `std` of its images.

    `weights` is `pretrained`, `random` or a file.
    """
    timm = timm_library()
    check_timm(name)
    if weights == "pretrained":
        network = fetch(f"timm:{name}", lambda: _published(timm, name))
    else:
        path = weights_file(f"timm:{name}", weights)
        network = timm_network(name)
        if path is not None:
            classifier = network.pretrained_cfg.get("classifier") or ()
            load_trunk(
                network, path, (classifier,) if isinstance(classifier, str) else tuple(classifier)
            )
    data = timm.data.resolve_model_data_config(network)
    images = {"size": data["input_size"][-1], "mean": list(data["mean"]), "std": list(data["std"])}
    return Pooled(network, width_of(network), f"timm:{name}"), images


def how_to_load(backbone: Backbone) -> str:
    """Python that builds this backbone in timm as `model` from the exported file PATH."""
    name = backbone.config.name
    if not timm_library().is_model(name):
        assert isinstance(backbone, RegNet), name
        spec = backbone.spec
        network = (
            f"RegNet(RegNetCfg(depth={spec.depth}, w0={spec.w_0}, wa={spec.w_a}, wm={spec.w_m}, "
            f"group_size={spec.group_width}, se_ratio={SE_RATIO if spec.se else 0.0}), num_classes=0)"
        )
        module = "from timm.models.regnet import RegNet, RegNetCfg"
        return loading(module, network, fine_stem(backbone, "model.stem.conv"))
    if backbone.config.stem_stride == 2:
        return (
            f"import timm; model = timm.create_model({name!r}, num_classes=0, checkpoint_path=PATH)"
        )
    network = f"timm.create_model({name!r}, num_classes=0)"
    return loading("import timm, torch", network, fine_stem(backbone, "model.stem.conv"))


def how_to_finetune(_: Backbone) -> str:
    """Python that gives such a `model` a classifier of CLASSES."""
    return "model.reset_classifier(CLASSES)"


def _published(timm: ModuleType, name: str) -> Any:
    """The model with its published weights, which come from the hub or from the hub's cache."""
    with _patient_hub():
        return timm.create_model(name, pretrained=True, num_classes=0)


@contextmanager
def _patient_hub() -> Iterator[None]:
    """While entered, the hub's client looks into its cache alone if the hub is out of reach: it would
    ask twelve times, for 45 s.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    offline = constants.HF_HUB_OFFLINE
    silence = ""
    if not offline:
        # By the client's own session, which knows of proxies, mirrors and certificates.
        silence = silence_of(lambda: get_session().head(constants.ENDPOINT, timeout=PATIENCE))
    constants.HF_HUB_OFFLINE = offline or bool(silence)
    try:
        yield
    except OSError as error:
        if silence:
            raise OSError(f"{constants.ENDPOINT}: {silence}; its cache has none") from error
        raise
    finally:
        constants.HF_HUB_OFFLINE = offline
