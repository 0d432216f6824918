"""The contract of a dense task: what is learnt of a map, and how outputs are scored."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from seer.eval.data.imagepairs import DenseImages
from seer.eval.scores import Score


class Total(NamedTuple):
    """A loss summed over pixels, and over how many: scalars. The training divides the one by the other, both
    summed over all processes.
    """

    loss: Tensor
    pixels: Tensor


class DenseTask(Protocol):
    """A dense task. It is sent to loader workers: small, picklable, of numbers and arrays.

    A target is an array `(H, W)` or `(H, W, C)`, `void` where there is no truth; a decision has the same form.

    Attributes:
        channels: of a head's outputs.
        void: what targets are filled up with, outside the image.
        words: what is learnt, for the line that a run begins with.
    """

    channels: int
    void: float
    words: str

    def target(self, images: Any, i: int) -> np.ndarray:
        """The target of an image, upright, at the size of the image. Raises `InputError`."""

    def mirrored(self, target: np.ndarray) -> np.ndarray:
        """A target whose places have been exchanged, left and right, with the values of a mirror image."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Total:
        """The loss of outputs `(B, channels, H, W)`, fp32 at least, against targets `(B, H, W, …)`."""

    def activated(self, outputs: Tensor) -> Tensor:
        """Outputs `(1, channels, H, W)` in a form `(1, C, H, W)` whose mean over scales and mirror images is one."""

    def unmirrored(self, activated: Tensor) -> Tensor:
        """What is activated of a mirror image, its places exchanged back, as of the image."""

    def decided(self, activated: Tensor) -> np.ndarray:
        """What `(C, H, W)` says of each pixel: `(H, W, …)`, as a target."""

    def measured(self, decision: np.ndarray, target: np.ndarray) -> Any:
        """What is kept of a test image: small, picklable."""

    def agreement(self, measured: Any) -> float:
        """How well an image did, for showing the worst first."""

    def painted(self, target: np.ndarray) -> np.ndarray:
        """`(H, W, 3)` uint8: a target or a decision as a picture."""

    def legend(self) -> Sequence[tuple[str, Sequence[int]]]:
        """Words and colours below the pictures; none."""

    def scores(
        self, measured: Sequence[Any], test: DenseImages, details: dict[str, Any]
    ) -> list[Score]:
        """The scores of all test images, in their order; one of them is the headline."""
