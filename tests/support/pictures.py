"""Digits to draw, and what all pictures have in common."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def digits(*shape: int) -> NDArray[np.uint8]:
    """Noise, [*shape, 28, 28]."""
    return np.random.default_rng(0).integers(0, 256, (*shape, 28, 28), dtype=np.uint8)


def pixels(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB, [height, width, 3]."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def assert_a_stable_png(draw: Callable[[Path], None], directory: Path) -> None:
    """It is on white, without time or version, and has the same bytes every time; nothing else is written."""
    first, second = directory / "first.png", directory / "second.png"
    draw(first)
    draw(second)
    assert first.read_bytes() == second.read_bytes()
    assert (pixels(first)[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    with Image.open(first) as picture:
        assert picture.format == "PNG"
        assert picture.info.keys() <= {"dpi"}
    assert sorted(path.name for path in directory.iterdir()) == ["first.png", "second.png"]
