"""timm: its models as backbones to evaluate, and the call that builds ours there."""

from types import ModuleType
from typing import Any

from seer.backbones.base import Backbone
from seer.backbones.regnet import SE_RATIO, RegNet
from seer.errors import InputError, nearest
from seer.interop.foreign import Pooled, fetch, load_trunk, weights_file


def load(name: str, weights: str) -> tuple[Pooled, dict[str, Any]]:
    """timm's model `name` without its classifier, and the `size`, `mean` and `std` of its images.

    `weights` is `pretrained`, `random` or a file.
    """
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"timm:{name}: timm has no such model{nearest(name, timm.list_models())}")
    if weights == "pretrained":
        network = fetch(
            f"timm:{name}", lambda: timm.create_model(name, pretrained=True, num_classes=0)
        )
    else:
        path = weights_file(f"timm:{name}", weights)
        network = timm.create_model(name, num_classes=0)
        if path is not None:
            classifier = network.pretrained_cfg.get("classifier") or ()
            load_trunk(
                network, path, (classifier,) if isinstance(classifier, str) else tuple(classifier)
            )
    data = timm.data.resolve_model_data_config(network)
    width: Any = getattr(network, "head_hidden_size", None) or network.num_features
    images = {"size": data["input_size"][-1], "mean": list(data["mean"]), "std": list(data["std"])}
    return Pooled(network, width), images


def how_to_load(backbone: Backbone) -> str:
    """Python that builds this backbone in timm as `model` from the exported file PATH."""
    name = backbone.config.name
    if _timm().is_model(name):
        return (
            f"import timm; model = timm.create_model({name!r}, num_classes=0, checkpoint_path=PATH)"
        )
    assert isinstance(backbone, RegNet), name
    spec = backbone.spec
    return (
        "from timm.models.regnet import RegNet, RegNetCfg; from safetensors.torch import load_file; "
        f"model = RegNet(RegNetCfg(depth={spec.depth}, w0={spec.w_0}, wa={spec.w_a}, wm={spec.w_m}, "
        f"group_size={spec.group_width}, se_ratio={SE_RATIO if spec.se else 0.0}), num_classes=0); "
        "model.load_state_dict(load_file(PATH))"
    )


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "timm is not installed; run: pip install 'seer-pretrain[interop]'"
        ) from error
    return timm
