"""A reliability diagram: accuracy by confidence."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from seer.eval.analyses.by_image import try_to_save

Bins = Sequence[tuple[int, float, float]]  # images, mean confidence, accuracy

SIDE = 300
MARGIN = 24
BLUE = (70, 110, 180)
GREY = (150, 150, 150)


def try_to_draw_reliability(path: Path, before: Bins, after: Bins) -> None:
    """Save two diagrams side by side, before and after a temperature."""
    size = (2 * SIDE + 3 * MARGIN, SIDE + 2 * MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (bins, title) in enumerate(
        ((before, "as it is"), (after, "after the temperature"))
    ):
        left = MARGIN + number * (SIDE + MARGIN)
        _diagram(draw, left, bins)
        draw.text((left, 6), f"accuracy by confidence, {title}", fill="black")
    what = "calibration: accuracy by confidence, before and after the temperature"
    try_to_save(path, sheet, what)


def _diagram(draw: ImageDraw.ImageDraw, left: int, bins: Bins) -> None:
    """A bar for each bin as high as its accuracy, the more solid the more images it has; right on the
    diagonal is well calibrated.
    """
    bottom = MARGIN + SIDE
    most = max((count for count, _, _ in bins), default=1) or 1
    width = SIDE / len(bins)
    for number, (count, _, accuracy) in enumerate(bins):
        if count:
            strength = 0.25 + 0.75 * (count / most) ** 0.5
            colour = tuple(round(255 - strength * (255 - value)) for value in BLUE)
            corner = (left + number * width, bottom - accuracy * SIDE)
            draw.rectangle((*corner, left + (number + 1) * width - 1, bottom), fill=colour)
    draw.line((left, bottom, left + SIDE, MARGIN), fill=GREY, width=2)
    draw.rectangle((left, MARGIN, left + SIDE, bottom), outline=GREY)
