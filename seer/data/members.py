"""What is read of a sample: its image, and of its other members those that somebody asks for."""

from typing import NamedTuple

import numpy as np

# Members by the suffixes that were asked for, in their order; None for one that the sample has not.
Extras = tuple[bytes | None, ...]


class Sample(NamedTuple):
    """The bytes of an encoded image, and of other members, as they are in the tar."""

    image: bytes
    extras: Extras = ()


class Replacement(NamedTuple):
    """What is shown in the place of a damaged image: `(H, W, 3)` uint8, the other members of its
    sample, and its id.
    """

    image: np.ndarray
    extras: Extras
    id: int
