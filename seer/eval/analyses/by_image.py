"""What the analyses of single images share: which images, their values, and a picture of some."""

import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seer import files, outputs
from seer.data.folders import readable
from seer.data.labelled import ImageSet
from seer.errors import InputError
from seer.eval.probes import together
from seer.eval.ranking import resampled
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.rundir.names import IMAGES
from seer.terminal import progress

logger = logging.getLogger("seer.eval")

SIDE = 160  # pixels of an image in a picture
GAP = 6
ROWS = 8  # of a picture

Advance = Callable[[int], None]


def chosen(images: ImageSet, count: int, seed: int) -> list[int]:
    """Rising numbers of so many images; of all, where there are not more. The same seed takes the
    same ones.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    return sorted(order[:count].tolist())


def in_turns(
    count: int,
    compute: Callable[[int, Advance], Tensor],
    label: str,
    unit: str,
    each: int,
) -> Tensor:
    """The rows `(count, D)` float32 that `compute` gives for 0 … count − 1; processes that measure
    together compute them in turns, and all have the whole.

    Args:
        compute: a number, and what to tell how many of its `unit` are done → `(D,)` on the CPU.
        each: how many of these a row takes.
    """
    own = range(together.number(), count, together.processes())
    with _ticking(label, unit, len(own) * each) as advance:
        if together.processes() == 1:
            return torch.stack([compute(number, advance) for number in own])
        batches = (([number], compute(number, advance)[None]) for number in own)
        return together.gathered(count, batches, Path(tempfile.gettempdir()))


@contextmanager
def _ticking(label: str, unit: str, total: int) -> Iterator[Advance]:
    """`terminal.progress`, of processes that measure together the main one's, told how much more is
    done.
    """
    if together.number():
        yield lambda more: None
        return
    done = 0
    with progress(label, unit) as tick:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            tick(done, total)

        yield advance


def mean_over_images(
    metric: str,
    title: str,
    values: Tensor,
    unit: str = "share",
    better: str = "higher",
    headline: bool = False,
    details: Mapping[str, Any] | None = None,
) -> Score:
    """The mean of `(N,)` values, one an image; its interval is between percentiles of resampled
    images (bootstrap).
    """
    each = values.double().numpy()
    mean = float(each.mean())
    drawn = np.concatenate([counts @ each / len(each) for counts in resampled(len(each))])
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Score(
        metric,
        title,
        mean,
        min(low, mean),
        max(high, mean),
        unit,
        better,
        headline,
        details={"images": len(each), **(details or {})},
        outcomes={"values": values.double()},
    )


def picture_path(task: str, model: Model, picture: str) -> Path:
    """Where the picture goes.

    Raises:
        InputError: it cannot be written there, or the name is no PNG's.
    """
    if picture:
        path = Path(picture)
    elif model.run_dir and not model.label.endswith("untrained"):
        path = model.run_dir / IMAGES / f"{task}.png"
    else:
        parts = [Path(part).name for part in model.label.split(":")]
        name = re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip("-.")
        path = Path(f"{task}-{name[-100:]}.png")
    if path.suffix.lower() != ".png":
        raise InputError(f"picture={path}: expected a name that ends in .png")
    outputs.check_writable(path, "picture")
    return path


def try_to_draw(path: Path, rows: Sequence[Sequence[np.ndarray]], what: str) -> None:
    """Save a grid of images `(H, W, 3)` uint8, as `try_to_save` does."""
    step = SIDE + GAP
    width = max(map(len, rows)) * step - GAP
    sheet = Image.new("RGB", (width, len(rows) * step - GAP), "white")
    for top, row in enumerate(rows):
        for left, pixels in enumerate(row):
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left * step, top * step))
    try_to_save(path, sheet, what)


def try_to_save(path: Path, sheet: Image.Image, what: str) -> None:
    """Save a picture, and say where; a score is not lost where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as beside:
            sheet.save(beside, "PNG")
    except OSError as error:
        logger.warning("no picture: %s cannot be written (%s)", path, error.strerror)
        return
    logger.warning("%s: %s", what, readable(str(path)))
