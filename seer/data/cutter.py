"""The seam where batches are made: what is planned of images before they are decoded, and what cuts
them.

`MultiCrop` is one cutter, `LabelledCrop` another. Whoever makes batches (`delivery`, `workers`,
`loader`) knows no more of them than this.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from seer.data.members import Extras, Replacement, Sample

Made = TypeVar("Made", covariant=True)


class Parcel(Protocol):
    """What a worker sends of one step to its consumer; a picklable dataclass.

    Attributes:
        crops: what lies in shared memory on the way; its other tensors are small.
        index: `(B,)` int64 sample ids.
    """

    @property
    def crops(self) -> tuple[Tensor, ...]: ...

    @property
    def index(self) -> Tensor: ...

    def pin_memory(self, device: str | None = None) -> Self:
        """The same in page-locked memory; torch's DataLoader calls this by name."""


class Plan(Protocol):
    """What is to be cut of a batch of images that are still to be decoded.

    Attributes:
        reductions: by how much each image may be reduced when it is decoded: 1, 2, 4 or 8.
        augment_seconds: of the time that cutting took, what went into the looks.
    """

    reductions: list[int]
    augment_seconds: float

    def cut(self, b: int, image: np.ndarray, extras: Extras = ()) -> None:
        """Cut from image b: `(H, W, 3)` uint8, reduced or not, or another that replaces it.

        `extras` are the members of the sample whose image this is, by the cutter's `suffixes`.
        """

    def batch(self) -> Parcel:
        """What has been cut."""


class Cutter(Protocol[Made]):
    """Cuts the same from a sample at the same epoch wherever it runs; picklable.

    Attributes:
        dtype: of the arrays.
        suffixes: of the members that are read of each sample besides its image, in lower case: `mask.png`.
    """

    dtype: type
    suffixes: tuple[str, ...]

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        """Of the arrays that `count` images fill."""

    def plan(self, shapes: Sequence[tuple[int, int]], epochs: np.ndarray, ids: np.ndarray) -> Plan:
        """What to cut of B images of these heights and widths, as sample `ids` `(B,)` in `epochs`
        `(B,)`.
        """

    def finish(self, batch: Any, device: torch.device | str) -> Made:
        """What `Plan.batch` gave, on the device, as a learner takes it."""


class Samples(Protocol):
    """Encoded images by number, as a loader reads them; picklable.

    Attributes:
        name, identity: where they lie, and what they hash to.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...

    def read_step(
        self,
        ids: np.ndarray,
        step: int,
        ids_of: Callable[[int], np.ndarray],
        stride: int = 1,
        suffixes: tuple[str, ...] = (),
    ) -> list[Sample]:
        """The samples `ids`, which are `ids_of(step)`, for a worker whose next steps are `stride`
        apart.
        """

    def replacement(self, damaged: int, reason: str, suffixes: tuple[str, ...] = ()) -> Replacement:
        """What is shown in the place of an image that cannot be decoded.

        Raises `InputError` where nothing may be.
        """
