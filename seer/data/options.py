"""What can be said of reading and loading; apart from what does it, which takes long to import."""

from dataclasses import dataclass

from seer.schema import Choice, Integer, Location, Number, option


@dataclass
class FetchConfig:
    """How shards are read that lie in a store. Nothing of it changes what is read.

    Attributes:
        fetch: `ranges`: the bytes of the images that a batch needs, neighbours in one request. `shards`: whole shards,
            into `cache_dir`. `auto`: `ranges`; but if the shards that this host reads at a time fit into the cache, one
            after the other is brought there in the background, and read there from then on.
        cache_dir: a folder on a local disk; all processes of a host share it. Empty: `$SEER_CACHE/shards`
            (`~/.cache/seer/shards`).
        cache_gb: what may lie there, in 10⁹ bytes.
    """

    fetch: str = option("auto", Choice("auto", "ranges", "shards"), incidental=True)
    cache_dir: str = option("", Location(), incidental=True)
    cache_gb: float = option(10.0, Number(0, 1e6), incidental=True)


@dataclass
class LoaderConfig(FetchConfig):
    """How batches are made ready. Only `lanes` and `window` decide what is in them.

    Attributes (and those of `FetchConfig`):
        workers: processes or threads per rank; 0 makes each batch when it is asked for.
        mode: `processes`, or `threads` (they share the trainer's interpreter: only for images that decode slowly).
        prefetch: batches made ahead per worker.
        device_augment: colour, blur and normalisation on the accelerator instead of in the workers.
        device_decode: JPEGs decoded and cropped on the accelerator as well (`device_augment` must be on).
        lanes: places of the data read side by side; 0 is the global batch.
        window: how many successive samples of a lane are mixed.
    """

    workers: int = option(2, Integer(0, 1024), incidental=True)
    mode: str = option("processes", Choice("processes", "threads"), incidental=True)
    prefetch: int = option(2, Integer(1, 1024), incidental=True)
    device_augment: bool = False
    device_decode: bool = False
    lanes: int = option(0, Integer(0, 2**24))
    window: int = option(256, Integer(1, 2**24))

    @property
    def forks(self) -> bool:
        """Whether batches are made by processes of their own."""
        return self.workers > 0 and self.mode == "processes"
