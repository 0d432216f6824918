"""How long a run is: its epochs are steps once its images are known."""

import os
from dataclasses import replace

from seer.errors import InputError
from seer.methods.options import DeepClusterConfig
from seer.pretrain.recipe import Pretrain
from seer.pretrain.taken_images import manifest_of

MOST_STEPS = 10**8  # as many as `steps` may be


def with_steps(config: Pretrain, images: int) -> Pretrain:
    """The configuration with the steps that its epochs are over so many images."""
    if not config.epochs:
        return config
    return replace(config, steps=max(1, round(config.epochs * images / config.batch_size)))


def at_any_length(config: Pretrain) -> Pretrain:
    """The same with more steps than any images give, if it has epochs: what is refused of it is
    refused however many they are.
    """
    return config if config.steps else replace(config, steps=MOST_STEPS)


def check_images(config: Pretrain, images: int) -> None:
    """Refuse so few images that they are no batch, or fewer than clusters. Raises `InputError`."""
    if images < config.batch_size:
        share = f" (share={config.share:g} of them)" if config.share < 1 else ""
        raise InputError(
            f"{config.data}: {images} images{share} are fewer than one batch; use batch_size={images} or less"
        )
    if isinstance(config.method, DeepClusterConfig):
        config.method.check_images(images)


def foreseen(config: Pretrain) -> Pretrain:
    """The same where nothing is to be trained yet: by the manifest of data that can be read here.

    Raises:
        InputError: they cannot.
    """
    if not config.epochs:
        return config
    if "://" not in config.data and not os.path.exists(config.data):
        raise InputError(
            f"data={config.data}: does not exist; give a folder of shards, or steps= in place of epochs="
        )
    try:
        return with_steps(config, manifest_of(config).samples)
    except InputError as error:
        raise InputError(
            f"epochs={config.epochs:g}: how many steps they are depends on the images, and {error}; or give steps="
        ) from error
