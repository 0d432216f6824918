"""A run's batches: the crops of its images, in its order."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from seer.data.crops.multicrop import MultiCrop
from seer.data.loader import Loader
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.data.views import Views
from seer.distributed import World
from seer.pretrain.picture import picture_of_crops
from seer.pretrain.recipe import Pretrain


def batches_of(
    config: Pretrain, manifest: Manifest, world: World
) -> tuple[Loader[Views], Callable[[], Image.Image]]:
    """This rank's batches, and what draws the crops of the first image."""
    finished = not config.loader.device_augment
    crops = MultiCrop(config.views, config.seed, finished, config.mean, config.std)
    lanes = config.loader.lanes or config.batch_size
    order = Order(manifest.sizes, config.seed, lanes, config.loader.window)
    of_this_host = config.batch_size // world.size * world.local_size
    reader = Reader(manifest, config.loader, min(lanes, of_this_host))
    loader = Loader(
        reader,
        order,
        crops,
        batch_size=config.batch_size,
        rank=world.rank,
        world_size=world.size,
        config=config.loader,
        device=world.device,
        run_dir=Path(config.run_dir),
    )
    return loader, partial(picture_of_crops, reader, order, crops, config)
