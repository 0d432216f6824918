"""What can be said of trainings on labelled images; apart from what they do, which needs torch."""

from dataclasses import dataclass, field

import numpy as np

from seer.data.labelled import Labelled
from seer.data.options import LoaderConfig
from seer.engine.options import OptimConfig, RunConfig
from seer.engine.schedule import ScheduleConfig
from seer.schema import AREAS, PROTOCOL, Integer, Location, Number, Text, option, required


@dataclass
class FinetuneConfig(RunConfig):
    """Options of `seer eval finetune`.

    Attributes:
        model, data: as on the command line.
        protocol: whose values stand below those that are given (`seer.eval.protocols`).
        weights: what the model that training starts from hashes to. So `RUN`, whose newest checkpoint may be another
            one later, is not taken for the model that an earlier finetuning began with.
        run_dir: of the training; "" is `eval/TASK-HASH` below the model's own.
        steps: updates of the weights; 0 takes as many as the `epochs` are.
        epochs: passes over the training images, where no steps are given.
        head_rate: factor on the classifier's rate.
        size: side of the images in pixels; 0 is the model's own.
        crop_scale: range of a crop's share of the image's area.
    """

    name: str = option("finetune", Text(255, 1), incidental=True)
    model: str = required(Text(), incidental=True)
    protocol: str = option("", PROTOCOL, incidental=True)
    weights: str = option("", Text(64))
    data: str = required(Location(shortest=1))
    run_dir: str = option("", Location(), incidental=True)
    epochs: float = option(30.0, Number(above=0, high=1e6))
    head_rate: float = option(1.0, Number(above=0, high=1e6))
    size: int = option(0, Integer(0, 4096))
    crop_scale: list[float] = option([0.08, 1.0], AREAS)
    batch_size: int = option(256, Integer(1, 2**24))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(larc=False, weight_decay=1e-4))
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig("cosine", peak=0.01, final=0.0)
    )
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def rows(self, train: Labelled) -> np.ndarray:
        """Which of the data's training images are used, `(n,)` rising numbers: all of them.

        Tasks that train on fewer take these away here; all else is as for finetuning.
        """
        return np.arange(len(train))
