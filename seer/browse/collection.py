"""A data set through a backbone: which images there are, and the features of those that can be
decoded.
"""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seer.data.decoding.decode import decode
from seer.data.labelled import SPLIT_FOLDERS
from seer.errors import InputError
from seer.eval import pixels
from seer.eval.embed import of_decodable
from seer.eval.pile import Pile
from seer.eval.probes import feature_cache, together
from seer.eval.probes.features import FeatureConfig, frozen, preprocessing, stack, to_input
from seer.interop.models import Model, sized

logger = logging.getLogger("seer.browse")

ROWS = 2**14  # of features that are looked at together


@dataclass(frozen=True)
class Collection:
    """Images of a pile that have features, row by row.

    Attributes:
        numbers: `(N,)` int64, each row's image in the pile.
        features: `(N, D)` float32, finite, no row of them all zero; mapped from a file where the
            cache or the disk has room.
        key: names the features for what is kept of them; None if they are not kept.
    """

    pile: Pile
    model: Model
    config: FeatureConfig
    numbers: np.ndarray
    features: Tensor
    key: str | None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def left_out(self) -> int:
        return len(self.pile) - len(self)

    def name(self, row: int) -> str:
        return self.pile.sources[self.numbers[row]] or self.pile.keys[self.numbers[row]]

    def image(self, row: int, reduction: int = 1) -> np.ndarray:
        """`(H, W, 3)` uint8, a JPEG reduced as `decode` does it. Raises `DamagedImage`."""
        return decode(self.pile.source.bytes(int(self.numbers[row])), reduction=reduction)

    def bytes(self, row: int) -> bytes:
        return self.pile.source.bytes(int(self.numbers[row]))

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, sorted, of which "" is none: that of images without."""
        return sorted(set(self._labels) - {""})

    @cached_property
    def labels(self) -> np.ndarray:
        """`(N,)` int64 into `classes`, -1 where there is none."""
        number = {name: i for i, name in enumerate(self.classes)}
        return np.array([number.get(label, -1) for label in self._labels], np.int64)

    @cached_property
    def _labels(self) -> list[str]:
        labels = self.pile.labels
        if set(labels) <= SPLIT_FOLDERS:  # train/CLASS/…: the class is the folder below
            labels = [_folder_below(key) for key in self.pile.keys]
        return [labels[number] for number in self.numbers]

    def features_of(self, image: np.ndarray) -> Tensor:
        """`(1, D)` float32 of an image that is none of the pile. Raises `InputError` if they are not
        finite.
        """
        inputs = stack([image], self.model.size, self.config.crop)
        device = together.own_device(self.config.device)
        features = frozen(self.model, self.config)(to_input(self.model, inputs.to(device))).cpu()
        if not bool(torch.isfinite(features).all()):
            raise InputError("the features of this image are not finite")
        return features


def collect(spec: str, pile: Pile, config: FeatureConfig) -> Collection:
    """The features of a pile's images, from the cache where it has them.

    Images that cannot be decoded are left out, the first of them named in warnings.

    Raises:
        InputError: the model cannot be loaded, its features are not finite, or there is no image
            that can be decoded.
    """
    model = sized(pixels.load(spec, pile), config.size)
    key = _key(model, pile, config)
    features = feature_cache.load(key, len(pile)) if key else None
    if features is None:
        features = _computed(model, pile, config)
        if key:
            feature_cache.store(key, features)
    numbers = _with_features(features)
    if not len(numbers):
        raise InputError(
            f"{pile.place}: none of its {len(pile):,} images can be decoded, or their features are all 0"
        )
    if len(numbers) < len(pile):
        features = features[torch.from_numpy(numbers)]
    return Collection(pile, model, config, numbers, features, key)


def _key(model: Model, pile: Pile, config: FeatureConfig) -> str | None:
    if not config.cache:
        return None
    try:
        images = pile.source.fingerprint
    except InputError as error:  # a file that cannot be read, which is left out
        logger.warning("features are not kept: %s", error)
        return None
    return feature_cache.key_of(
        model.backbone, images, ["whole pile", *preprocessing(model, config)]
    )


def _computed(model: Model, pile: Pile, config: FeatureConfig) -> Tensor:
    """Features of every image of a pile, `(len(pile), D)`; zeros where it cannot be decoded."""
    batches = _without_gaps(of_decodable(model, pile, config), len(pile))
    return together.gathered(len(pile), batches, _folder())


def _without_gaps(
    batches: Iterator[tuple[list[int], Tensor]], count: int
) -> Iterator[tuple[list[int], Tensor]]:
    """The batches with a row of zeros for each image that is in none of them, up to `count`."""
    begin = 0
    values = torch.empty(0, 1)
    for rows, values in batches:
        whole = values.new_zeros(rows[-1] + 1 - begin, values.shape[1])
        whole[torch.tensor(rows) - begin] = values
        yield list(range(begin, rows[-1] + 1)), whole
        begin = rows[-1] + 1
    for first in range(begin, count, ROWS):
        rows = list(range(first, min(first + ROWS, count)))
        yield rows, values.new_zeros(len(rows), values.shape[1])


def _folder() -> Path:
    try:
        return feature_cache.path_of("x").parent
    except OSError:
        return Path(tempfile.gettempdir())


def _with_features(features: Tensor) -> np.ndarray:
    """The numbers of the rows that are not all zero."""
    parts = [(block != 0).any(1) for block in features.split(ROWS)]
    return torch.cat(parts).nonzero()[:, 0].numpy()


def _folder_below(key: str) -> str:
    folders = key.split("/")[1:-1]
    return folders[0] if folders else ""
