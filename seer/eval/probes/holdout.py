"""Training images to choose options by: the owners' validation images, or some that are held out."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seer.data.labelled import Labelled
from seer.errors import InputError
from seer.eval.data.several import MultiLabelled


class Choosing(NamedTuple):
    """How options are chosen, before all training images are trained on.

    Attributes:
        kept: rows to train on meanwhile.
        held: rows that tell which options are best.
        rule: what `held` is, for a result's details.
    """

    kept: Tensor
    held: Tensor
    rule: str


def choosing(train: Labelled | MultiLabelled, share: float, seed: int) -> Choosing:
    """The validation images of training images that have some, as `train_and_test` says; else about
    `share` of them, of each class where they have one each.

    Raises:
        InputError: there are too few images to hold any out.
    """
    if len(train.validation):
        others = np.setdiff1d(np.arange(len(train)), train.validation)
        labels = train.labels
        # A class that only validation images have could not be learned meanwhile.
        if labels.ndim == 2 or np.isin(labels, labels[others]).all():
            return Choosing(
                torch.from_numpy(others),
                torch.from_numpy(train.validation),
                f"the {len(train.validation):,} validation images",
            )
    if train.labels.ndim == 2:
        kept, held = held_out(len(train), share, seed)
    else:
        kept, held = holdout(train.labels, share, seed)
    return Choosing(kept, held, f"{len(held):,} training images held out")


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
