"""What a build does with images by their size, and how it asks servers for them."""

from dataclasses import dataclass

from seer.data.decoding.decode import MAX_PIXELS, DamagedImage
from seer.schema import LINE, POSITIVE, SHARE, Integer, Number, option

SECONDS = Number(0.001, 1e6)

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


@dataclass(frozen=True)
class DownloadOptions:
    """How to download. The first three decide what a build contains, the others how it gets there.

    Attributes:
        max_bytes: a response larger than this is left out, at the latest when so much of it has come.
        ignore_robots_tag: also take what its server asks not to be used for search or AI (`X-Robots-Tag`).
        allow_private: also connect to loopback, link-local, private and other addresses that are not public, and read
            what is no `http(s)://`: files and objects of stores.
        connections: in flight per process; per_host: of these, to one host.
        retries: tries after the first, of what may pass (timeouts, broken connections, 429, 5xx).
        connect_timeout, read_timeout, timeout: seconds to connect, between two pieces of a response, of one try in all.
        min_success: the build stops when a smaller share of the last `window` downloads succeeded; 0 never stops it.
        agent: what we say we are.
    """

    max_bytes: int = option(32 << 20, POSITIVE)
    ignore_robots_tag: bool = False
    allow_private: bool = False
    connections: int = option(256, Integer(1, 65_536))
    per_host: int = option(8, POSITIVE)
    retries: int = option(2, Integer(0, 1000))
    connect_timeout: float = option(10.0, SECONDS)
    read_timeout: float = option(10.0, SECONDS)
    timeout: float = option(60.0, SECONDS)
    min_success: float = option(0.05, SHARE)
    window: int = option(1000, POSITIVE)
    agent: str = option("Mozilla/5.0 (compatible; seer)", LINE)
