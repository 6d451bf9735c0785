"""What all pictures have in common: palette, settings, a page in screen pixels, and writing the PNG."""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
# Okabe and Ito's palette, which colour-blind people can tell apart.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B6B6B"


def style() -> AbstractContextManager[None]:
    """The library's defaults and our style, whatever the user's own matplotlibrc says."""
    from matplotlib.style import context

    return context("tinydigits.reports.pictures", after_reset=True)  # pictures.mplstyle


@contextmanager
def chart(path: Path, width: float, height: float) -> "Iterator[tuple[Figure, Axes]]":
    """A figure to draw on within, in our style, and afterwards written as `write` does; the size is in inches."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure, figure.subplots()
        write(figure, path)


def write(figure: "Figure", path: Path) -> None:
    """Write the figure as a PNG without time or version, in our style.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure)
    with style():  # ticks are made while it is drawn
        figure.savefig(content, format="png", metadata={"Software": None})  # would name matplotlib's version
    write_bytes(path, content.getvalue())


def page(width: int, height: int) -> "tuple[Figure, Axes]":
    """A white page of that many screen pixels, with the origin in its upper left corner."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_autoscale_on(False)
    return figure, axes
