"""A saliency network that the user gives, as TorchScript or ONNX.

It takes `(1, 3, S, S)` float32, normalised by ImageNet's mean and deviation, and gives one map of
`S` by `S`, or several outputs of which the first is taken (U²-Net's); probabilities, or else logits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seer.errors import InputError, first_line, nearest

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

Run = Callable[[np.ndarray], Any]  # `(1, 3, S, S)` to an array


class Network:
    """What `maps.classical` is, by a network.

    Args:
        path: of the file. size: S, in pixels.

    Raises `InputError` for a file that is none, and when it is run, for one that gives something else.
    """

    def __init__(self, path: Path, size: int):
        loader = LOADERS.get(path.suffix.lower())
        if loader is None:
            known = " or ".join(LOADERS)
            raise InputError(
                f"--model {path}: no {known}{nearest(path.suffix, LOADERS)}; export it as TorchScript or ONNX"
            )
        if not path.is_file():
            raise InputError(f"--model {path}: no such file")
        self.path = path
        self.size = size
        self.run = loader(path)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """`(S, S)` from 0 to 1 of an `(H, W, 3)` uint8 image."""
        side = self.size
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        pixels = (small.astype(np.float32) / 255 - MEAN) / STD
        try:
            output = self.run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        except Exception as error:  # whatever the library raises
            raise InputError(
                f"--model {self.path}: cannot take an image of {side} px ({first_line(error)[:200]}); give --size"
            ) from error
        return self._map(np.asarray(output, np.float64))

    def _map(self, output: np.ndarray) -> np.ndarray:
        side = self.size
        if output.size != side * side or output.shape[-2:] != (side, side):
            shape = "x".join(map(str, output.shape)) or "a number"
            raise InputError(
                f"--model {self.path}: gave {shape} for an image of {side}x{side}, and not a map of its size; "
                "give a model with one map of its input's size as its first output"
            )
        found = output.reshape(side, side)
        if not np.isfinite(found).all():
            raise InputError(f"--model {self.path}: gave values that are not finite; give another")
        if found.min() < 0 or found.max() > 1:
            found = 1 / (1 + np.exp(-found.clip(-50, 50)))
        return found


def _torchscript(path: Path) -> Run:
    import warnings

    import torch  # seconds, and seldom needed

    try:
        with warnings.catch_warnings(action="ignore"):
            network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--model {path}: no TorchScript ({first_line(error)[:200]}); save it by torch.jit.trace(...).save(PATH)"
        ) from error
    torch.set_num_threads(1)

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = network(torch.from_numpy(pixels))
        while isinstance(output, list | tuple | dict):
            output = next(iter(output.values())) if isinstance(output, dict) else output[0]
        return output.float().numpy()

    return run


def _onnx(path: Path) -> Run:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "--model: onnxruntime is not installed; run: pip install 'seer-pretrain[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own kinds, which it does not name
        raise InputError(f"--model {path}: no ONNX ({first_line(error)[:200]})") from error
    (name,) = [each.name for each in session.get_inputs()][:1]

    def run(pixels: np.ndarray) -> np.ndarray:
        return session.run(None, {name: pixels})[0]

    return run


LOADERS: dict[str, Callable[[Path], Run]] = {
    ".onnx": _onnx,
    ".pt": _torchscript,
    ".pth": _torchscript,
    ".torchscript": _torchscript,
}
