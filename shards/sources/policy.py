"""What a build does with images by their size, and which addresses it takes for private."""

from dataclasses import dataclass, fields
from typing import Self

from seer.data.decoding.decode import MAX_PIXELS, DamagedImage
from shards.options import BuildOptions

# How URLs begin that are read by the user's own rights and credentials, and not by anybody's.
PRIVATE_SCHEMES = "file", "s3", "gs", "gcs"


@dataclass(frozen=True)
class Policy:
    """What becomes of an image by its size; None asks for nothing.

    Attributes:
        max_side, shorter_side: pixels; images whose longer or shorter side exceeds it are made smaller.
        reencode: JPEG quality, 1 to 100, at which every image is encoded anew; None keeps the original bytes.
        min_side: pixels; images whose shorter side is below it are left out.
        max_aspect: images whose longer side is more than so many times the shorter one are left out.
        max_pixels: images of more pixels are left out, before they are decoded.
        check: decode every image; else only the headers of those that stay as they are are looked at.
    """

    max_side: int | None = None
    shorter_side: int | None = None
    reencode: int | None = None
    min_side: int | None = None
    max_aspect: float | None = None
    max_pixels: int | None = None
    check: bool = True

    @classmethod
    def of(cls, options: BuildOptions) -> Self:
        """What a build asks for."""
        return cls(**{each.name: getattr(options, each.name) for each in fields(cls)})

    @property
    def most_pixels(self) -> int:
        """What the decoder may allocate."""
        return min(self.max_pixels or MAX_PIXELS, MAX_PIXELS)

    def refuse(self, width: int, height: int) -> None:
        """Raise DamagedImage for an image that is to be left out."""
        short, long = sorted((width, height))
        if self.min_side and short < self.min_side:
            raise DamagedImage(f"too small ({width}x{height})")
        if self.max_aspect and long > self.max_aspect * short:
            raise DamagedImage(f"too elongated ({width}x{height})")

    def scale(self, width: int, height: int) -> float:
        """What to multiply both sides by, at most 1."""
        short, long = sorted((width, height))
        longer = self.max_side / long if self.max_side else 1.0
        shorter = self.shorter_side / short if self.shorter_side else 1.0
        return min(1.0, longer, shorter)


KEEP = Policy()  # every image as it is
LOOK = Policy(check=False)
