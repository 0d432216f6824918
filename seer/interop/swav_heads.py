"""SwAV's head and prototypes in other people's files: what they are, and the same in ours."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from seer.interop.published import Published
from seer.interop.weights import Form, form, load_strictly

HEAD = "head"
PROTOTYPES = "prototypes"


def fill(modules: Mapping[str, nn.Module], kept: Published, source: str) -> list[str]:
    """Fill `head` and `prototypes` of a method where the kept ones are the same; which were filled.

    Prototypes are directions in the space into which their head projects, so they come with it or
    not at all.
    """
    taken: list[str] = []
    for word in (HEAD, PROTOTYPES):
        prefix = f"{word}."
        names = [name for name in kept.forms if name.startswith(prefix)]
        forms = {name.removeprefix(prefix): kept.forms[name] for name in names}
        module = modules.get(word)
        if module is None or forms != {n: form(t) for n, t in module.state_dict().items()}:
            break
        tensors = {name.removeprefix(prefix): kept.read(name) for name in names}
        load_strictly(module, tensors, source)
        taken.append(word)
    return taken


def about(forms: Mapping[str, Form]) -> dict[str, Any]:
    """SwAV's options that give the head and prototypes whose tensors these are."""
    layers = {}
    for name, (shape, _) in forms.items():
        if match := re.fullmatch(r"head\.(\d+)\.weight", name):
            layers[int(match[1])] = shape
    widths = [shape[0] for _, shape in sorted(layers.items()) if len(shape) == 2]
    norms = [number for number, shape in layers.items() if len(shape) == 1]
    described = {
        "head": widths,
        "head_bn": any(number < max(layers) for number in norms),
        "head_bn_out": bool(layers) and max(layers) in norms,
    }
    prototypes = forms.get("prototypes.weight")
    return described | ({"prototypes": prototypes.shape[0]} if prototypes else {})


def options(forms: Mapping[str, Form]) -> str:
    """The same as words of a command."""
    words = []
    for key, value in about(forms).items():
        shown = str(value).lower().replace(" ", "")
        words.append(f"method.{key}={shown}")
    return " ".join(words)
