"""A step's images of one rank, in a frame for those of all."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from seer.data.delivery import Delivery, StepTask
from seer.data.labelled import ImageSet, LabelledSamples
from seer.data.loader import Loader
from seer.data.order import Order
from seer.distributed import World
from seer.eval.trained.detection.byaspect import ByAspect


@dataclass(frozen=True)
class BoxTask(StepTask):
    """Step number → `Delivery` of this rank's images, in a frame for those of all ranks: what an image
    is beside does not depend on how many processes there are.
    """

    encoded: bool = True  # nothing of it goes through shared memory that is laid out beforehand

    def __call__(self, step: int) -> Delivery:
        delivery = self.cut(step)
        batch = self.share * self.world_size
        positions = step * batch + np.arange(batch)
        ids = self.order.ids(step * batch, batch)
        cutter: Any = self.cutter  # one that frames its batches
        frame = cutter.frame(np.asarray(self.order.epoch(positions)), ids)
        parcel: Any = delivery.batch
        return delivery._replace(batch=replace(parcel, frame=frame))


def loader_of(
    images: ImageSet, config: Any, cutter: Any, world: World, wide: np.ndarray | None = None
) -> Loader[Any]:
    """Batches of images of all sizes, in frames.

    Args:
        config: of the training: its data, seed, batch and loader.
        wide: `(N,)` whether each is wide; those of a batch are alike in it then.
    """
    order: Any = Order(
        np.ones(len(images), np.int64), config.seed, config.batch_size, config.loader.window
    )
    if wide is not None:
        order = ByAspect(order, wide, config.batch_size)
    loader = Loader(
        LabelledSamples(images, config.data),
        order,
        cutter,
        batch_size=config.batch_size,
        rank=world.rank,
        world_size=world.size,
        config=config.loader,
        device=world.device,
    )
    loader.task = task_of(loader)
    return loader


def task_of(loader: Loader[Any]) -> BoxTask:
    """A loader's task, for batches of images of all sizes."""
    task = loader.task
    same = {f.name: getattr(task, f.name) for f in fields(task) if f.name != "encoded"}
    return BoxTask(**same)
