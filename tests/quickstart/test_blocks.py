"""A picture in a terminal, read back from the characters and their colours."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.text import Text

from seer.quickstart import blocks

RED = (255, 0, 0, 255)
GREEN = (0, 128, 0, 255)
CLEAR = (9, 9, 9, 0)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pixels_of(lines: list[Text]) -> np.ndarray:
    """What a terminal would show, `(H, W, 3)`, of lines of which nothing is transparent."""
    rows = []
    for line in lines:
        styles = [str(span.style).split(" on ") for span in line.spans]
        for half in (0, 1):
            rows.append([tuple(Color.parse(style[half]).get_truecolor()) for style in styles])
    return np.array(rows)


def test_a_character_is_two_pixels_each_the_mean_of_its_part():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    shown = pixels_of(blocks.lines(png(picture), 12, (0, 40)))
    means = picture.reshape(8, 5, 12, 5, 3).mean((1, 3))  # parts of five pixels by five
    np.testing.assert_allclose(shown, means, atol=1)  # rounded twice


def test_a_band_is_a_part_of_the_picture():
    picture = np.zeros((40, 20, 3), dtype=np.uint8)
    picture[20:30] = 200
    assert np.all(pixels_of(blocks.lines(png(picture), 4, (20, 30))) == 200)


@pytest.mark.parametrize(
    ("upper", "lower", "expected"),
    [
        (RED, GREEN, ("▀", "#ff0000 on #008000")),
        (RED, CLEAR, ("▀", "#ff0000")),
        (CLEAR, GREEN, ("▄", "#008000")),
        (CLEAR, CLEAR, (" ", "")),
    ],
)
def test_what_is_transparent_is_left_to_the_terminal(upper, lower, expected):
    assert blocks.character(upper, lower) == expected


@pytest.mark.parametrize(
    ("terminal", "width", "encoding", "shows"),
    [
        ("truecolor", 80, "utf-8", True),
        ("256", 80, "utf-8", True),
        (None, 80, "utf-8", False),  # a log
        ("standard", 80, "utf-8", False),
        ("truecolor", 60, "utf-8", False),
        ("truecolor", 80, "ascii", False),
    ],
)
def test_it_is_shown_where_the_terminal_can(
    terminal, width, encoding, shows, tmp_path: Path, monkeypatch
):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(
        file=stream, color_system=terminal, width=width, force_terminal=terminal is not None
    )
    monkeypatch.setattr(blocks, "Console", lambda **_: console)
    monkeypatch.setattr(blocks.sys, "stdout", stream)
    path = tmp_path / "neighbours.png"
    path.write_bytes(png(np.full((40, 60, 3), 99, np.uint8)))
    assert blocks.show(path, [(0, 20), (20, 40)]) == shows
    stream.flush()
    assert ("▀".encode() in stream.buffer.getvalue()) == shows  # type: ignore[attr-defined]


def test_without_a_picture_nothing_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert not blocks.show(tmp_path / "none.png", [(0, 20)])
    assert capsys.readouterr().out == ""
