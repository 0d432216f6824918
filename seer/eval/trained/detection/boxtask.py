"""A step's images of one rank, in a frame for those of all."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from seer.data.delivery import Delivery, StepTask
from seer.data.loader import Loader


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


def task_of(loader: Loader[Any]) -> BoxTask:
    """A loader's task, for batches of images of all sizes."""
    task = loader.task
    same = {f.name: getattr(task, f.name) for f in fields(task) if f.name != "encoded"}
    return BoxTask(**same)
