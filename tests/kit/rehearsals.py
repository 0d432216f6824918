"""Rehearsals are a third of a tiny run, and the same for most of them."""

from seer.pretrain import rehearsal
from seer.pretrain.recipe import Pretrain


def rehearse_once() -> None:
    """From now on this process, and what it forks, rehearses no configuration a second time."""
    rehearse, done = rehearsal.rehearse, set[str]()

    def remembering(config: Pretrain, ranks: int = 1) -> None:
        parts = [config.views, config.backbone, config.method, config.optim, config.batch_size]
        seen = repr([*parts, config.parallel.checkpointing, config.accumulate, ranks])
        if seen not in done:
            rehearse(config, ranks)
            done.add(seen)

    rehearsal.rehearse = remembering
