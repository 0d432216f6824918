"""Names and shapes of the tensors of SEER's published networks, as VISSL 0.1.6 and ClassyVision 0.7
define them; written to `seer_layouts.txt` by `python -m tests.interop.record_layouts`.

A line is a group of tensors: the module that they are below, with the numbers of blocks that are
alike in brackets, then layer and shape of each; `norm N` is a BatchNorm of N channels.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
from torch import nn

from tests.interop.peers import SwAVHead, Trunk

FILE = Path(__file__).with_name("seer_layouts.txt")
Shapes = dict[str, tuple[int, ...]]

# depth, w_0, w_a, w_m, group width: `TRUNK.REGNET` in vissl/configs (the registered models of
# ClassyVision, but for `regnet256Gf_1`); head: `swav/heads` there, of those networks whose head is
# known; the last has its blocks in groups, for activation checkpoints under FSDP.
NETWORKS = {
    "regnety_320": ((20, 232, 115.89, 2.53, 232), None),
    "regnety_640": ((20, 352, 147.48, 2.4, 328), None),
    "regnety_1280": ((27, 456, 160.83, 2.52, 264), 7392),
    "regnety_2560": ((27, 640, 230.83, 2.53, 373), 10444),
    "regnety_10b": ((27, 1744, 620.83, 2.52, 1010), None),
}
GROUPS = {"block1": [2], "block2": [7], "block3": [9], "block4": [1]}
GROUPED = "regnety_10b"


def define(name: str) -> Shapes:
    """The state dict of `name`, as VISSL nests it: `trunk.*` and, where known, `heads.*`."""
    from classy_vision.models.regnet import RegNet, RegNetParams

    design, width = NETWORKS[name]
    with torch.device("meta"):
        network = RegNet(RegNetParams(*design))
        modules = nn.ModuleDict({"trunk": Trunk(network, GROUPS if name == GROUPED else None)})
        if width:
            modules["heads"] = nn.ModuleList([SwAVHead([width, 8192, 8192, 256], False, 16000)])
    return {key: tuple(tensor.shape) for key, tensor in modules.state_dict().items()}


def write() -> None:
    lines = []
    for name in NETWORKS:
        lines += [f"# {name}", *_lines(define(name)), ""]
    FILE.write_text("\n".join(lines))


def read() -> dict[str, Shapes]:
    """The recorded networks."""
    networks: dict[str, Shapes] = {}
    for line in FILE.read_text().splitlines():
        if line.startswith("# "):
            shapes = networks[line[2:]] = {}
        elif line:
            shapes |= dict(_tensors(line))
    return networks


def _lines(shapes: Shapes) -> Iterator[str]:
    modules: dict[str, list[str]] = {}
    for key, shape in shapes.items():
        block, layer = _split(key)
        words = modules.setdefault(block, [])
        norm, _, tensor = layer.rpartition(".")
        if tensor == "running_mean":
            words[-2:] = [f"{norm} norm {shape[0]}"]  # in place of weight and bias
        elif tensor not in ("running_var", "num_batches_tracked"):
            words.append(f"{layer} {'x'.join(map(str, shape))}")
    pairs = [(_parts(block), words) for block, words in modules.items()]
    for (prefix, words), alike in groupby(pairs, lambda pair: (pair[0][0], pair[1])):
        numbers = [number for (_, number), _ in alike]
        span = f"[{numbers[0]}-{numbers[-1]}]" if numbers[0] else ""
        yield f"{prefix}{span}: {', '.join(words)}"


def _split(key: str) -> tuple[str, str]:
    """The block that a tensor is in, or the module of its own, and the rest of its name."""
    match = re.match(r"(.*block\d-\d+)\.(.*)", key) or re.match(r"(.*?)\.(\w+\.\w+)$", key)
    assert match, key
    return match[1], match[2]


def _parts(block: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*block\d-)(\d+)", block)
    return (match[1], match[2]) if match else (block, "")


def _tensors(line: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    prefix, _, words = line.partition(": ")
    match = re.fullmatch(r"(.*)\[(\d+)-(\d+)\]", prefix)
    modules = [prefix]
    if match:
        modules = [f"{match[1]}{i}" for i in range(int(match[2]), int(match[3]) + 1)]
    for module in modules:
        for word in words.split(", "):
            layer, *shape = word.split(" ")
            if shape[0] == "norm":
                width = (int(shape[1]),)
                for tensor in ("weight", "bias", "running_mean", "running_var"):
                    yield f"{module}.{layer}.{tensor}", width
                yield f"{module}.{layer}.num_batches_tracked", ()
            else:
                yield f"{module}.{layer}", tuple(map(int, shape[0].split("x")))


if __name__ == "__main__":
    write()
