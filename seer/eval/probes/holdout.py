"""Training images held out, to choose options by."""

import numpy as np
import torch
from torch import Tensor

from seer.errors import InputError


def holdout(labels: np.ndarray, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out: about `share` of every class, one at least, but never a
    class's last image.

    Raises:
        InputError: no class has two images.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    members = [order[labels[order] == label] for label in np.unique(labels)]
    held = [rows[: min(max(1, round(share * len(rows))), len(rows) - 1)] for rows in members]
    kept = [rows[len(part) :] for rows, part in zip(members, held, strict=True)]
    if not any(map(len, held)):
        raise InputError(
            "every class has a single training image, so none can be held out to choose by; use knn"
        )
    return torch.from_numpy(np.sort(np.concatenate(kept))), torch.from_numpy(
        np.sort(np.concatenate(held))
    )


def held_out(images: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The same, whatever the classes: about `share` of the images, one at least and not all.

    Raises:
        InputError: there is a single image.
    """
    if images < 2:
        raise InputError("there is a single training image, so none can be held out to choose by")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(images))
    count = min(max(1, round(share * images)), images - 1)
    return order[count:].sort().values, order[:count].sort().values
