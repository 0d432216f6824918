"""The images of a training: what it learns from, and what it is scored by."""

from typing import NamedTuple

from seer.data.labelled import Labelled, part
from seer.eval.data.splitting import train_and_test
from seer.eval.trained.options import FinetuneConfig


class Images(NamedTuple):
    """Images to train on and images to score.

    Attributes:
        train: the owners' validation images are among them, and known as such (`validation`).
    """

    train: Labelled
    test: Labelled


def images_of(config: FinetuneConfig) -> Images:
    """The training images that the task takes (`FinetuneConfig.rows`), and all test images.

    Raises:
        InputError: as `train_and_test`.
    """
    train, test = train_and_test(config.data)
    rows = config.rows(train)
    return Images(train if len(rows) == len(train) else part(train, rows), test)
