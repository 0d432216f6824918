"""Which images a run takes: all of its data, or those that a list names. Without torch."""

import hashlib

import numpy as np

from seer.data.storage.index import Manifest
from seer.data.storage.subset import members, subset_of
from seer.errors import InputError
from seer.pretrain.recipe import Pretrain


def manifest_of(config: Pretrain) -> Manifest:
    """The manifest of a run's images.

    Raises:
        InputError: there are no such data, the list names none of them, or others, or the share is none.
    """
    manifest = Manifest.load(config.data)
    if config.subset and config.share < 1:
        raise InputError(f"share={config.share:g}: subset names the images; give one of them")
    if config.subset:
        return subset_of(manifest, config.subset)
    if config.share == 1:
        return manifest
    count = round(config.share * manifest.samples)
    if count == 0:
        raise InputError(
            f"share={config.share:g}: of the {manifest.samples:,} images in {config.data} that is none; "
            "give a larger one"
        )
    return manifest.first(count)


def experts_of(config: Pretrain, manifest: Manifest) -> np.ndarray | None:
    """`(N,)` int16: which of the method's experts each image has, -1 for none; None without experts.

    Raises:
        InputError: as `members`.
    """
    lists = getattr(config.method, "lists", [])
    return members(manifest, lists, "method.lists") if lists else None


def identity_of(manifest: Manifest, experts: np.ndarray | None) -> str:
    """What a run's images hash to, and which expert each of them has: a run goes on with the same."""
    if experts is None:
        return manifest.hash
    digest = hashlib.sha256(manifest.hash.encode() + experts.astype("<i2").tobytes())
    return digest.hexdigest()[:16]
