"""What can be said of dense probes; apart from what they do, which needs torch."""

from dataclasses import dataclass

from seer.schema import DEVICE, PROTOCOL, Choice, Integer, ListOf, option


@dataclass
class FrozenMapsConfig:
    """How features of a frozen backbone are computed at each place.

    Attributes:
        protocol: whose values stand below those that are given.
        batch_size: images per pass through the backbone.
        threads: decoding threads.
        precision: `fp32` or `bf16` (autocast).
        device: `auto`, `cpu` or `cuda`.
        size: side of the images in pixels, to which all are resized; 0 is what the model was trained at.
        levels: whose features are taken, 2 to 5 for strides 4 to 32, all at the finest of them.
    """

    protocol: str = option("", PROTOCOL, incidental=True)
    batch_size: int = option(16, Integer(1, 2**20), incidental=True)
    threads: int = option(2, Integer(1, 1024), incidental=True)
    precision: str = option("fp32", Choice("fp32", "bf16"))
    device: str = option("auto", DEVICE, incidental=True)
    size: int = option(0, Integer(0, 4096))
    levels: list[int] = option([4, 5], ListOf(Integer(2, 5), 4, 1))


@dataclass
class DepthConfig(FrozenMapsConfig):
    """Options of `seer eval depth`."""


@dataclass
class DenseLinearConfig(FrozenMapsConfig):
    """Options of `seer eval denselinear`.

    Attributes:
        void: numbers in masks that are no class.
        classes: how many there are; 0 is one more than the highest number in the training masks.
    """

    void: list[int] = option([255], ListOf(Integer(0, 65535), 1000))
    classes: int = option(0, Integer(0, 4096))
