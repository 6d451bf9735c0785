"""Pictures as PNG files, drawn from records and arrays.

matplotlib is loaded by the first picture, never by an import; pyplot and its global state are not used.
The same data and the same matplotlib give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydigits.records import Epoch, Mistake
from tinydigits.reports.style import BLUE, DPI, GREEN, GREY, VERMILION, chart, page, style, write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Digits = Literal["test", "validation"]


def training_curve(epochs: Sequence[Epoch], path: Path, evaluated_on: Digits = "test") -> None:
    """Write `training_figure` as a PNG.

    Raises:
        StorageError: the picture cannot be written.
    """
    write(training_figure(epochs, evaluated_on), path)


def training_figure(epochs: Sequence[Epoch], evaluated_on: Digits = "test") -> "Figure":
    """Loss and learning rate, and beside them the accuracy on the digits `evaluated_on`, zoomed in on its end."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with style():
        figure = Figure(figsize=(9.6, 4.6), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
        _draw_loss(left, epochs)
        _draw_accuracy(right, epochs, evaluated_on)
        return figure


def _draw_loss(axes: "Axes", epochs: Sequence[Epoch]) -> None:
    numbers = [row.epoch for row in epochs]
    marker = "o" if len(epochs) == 1 else None  # a single point makes no line
    (loss,) = axes.plot(numbers, [row.train_loss for row in epochs], color=BLUE, marker=marker)
    axes.set_ylim(bottom=0)
    axes.set_title("Training loss")
    _epoch_axis(axes, numbers)
    second = axes.twinx()
    rates = [row.learning_rate for row in epochs]
    (rate,) = second.plot(numbers, rates, color=GREY, linestyle=":", marker=marker)
    second.set_ylim(0, 1.25 * max(rates) or 1.0)  # its peak stays apart from the start of the loss
    second.locator_params(axis="y", nbins=4)
    second.set_ylabel("learning rate", color=GREY)
    second.tick_params(axis="y", colors=GREY, length=0)
    second.grid(False)
    _legend_below(axes, [loss, rate], ["training loss", "learning rate"])


def _draw_accuracy(axes: "Axes", epochs: Sequence[Epoch], evaluated_on: Digits) -> None:
    numbers = [row.epoch for row in epochs]
    train = [100 * row.train_accuracy for row in epochs]
    test = [100 * row.accuracy for row in epochs]
    best = max(range(len(test)), key=test.__getitem__)
    marker = "s" if len(epochs) == 1 else None
    (train_line,) = axes.plot(numbers, train, color=BLUE, linestyle="--", marker=marker)
    (test_line,) = axes.plot(numbers, test, color=VERMILION)
    (final,) = axes.plot(numbers[-1:], test[-1:], "o", color=VERMILION, markersize=8)
    (ring,) = axes.plot(numbers[best], test[best], "o", color=GREY, markersize=13, fillstyle="none")
    shown = {"training digits": train_line, f"{evaluated_on} digits": test_line}
    shown[f"final epoch: {test[-1]:.2f} %"] = final
    if len(epochs) >= 3:
        mean = sum(test[-3:]) / 3
        (bar,) = axes.plot(numbers[-3:], [mean] * 3, color=GREEN, linewidth=4, alpha=0.6, zorder=1.5)
        bar.set_solid_capstyle("butt")
        shown[f"mean of the last three: {mean:.2f} %"] = bar
    shown[f"best on {evaluated_on} (optimistic): {test[best]:.2f} %"] = ring
    axes.set_ylim(*_zoom(train, test))
    axes.set_title("Accuracy in per cent (zoomed)")
    _epoch_axis(axes, numbers)
    _legend_below(axes, list(shown.values()), list(shown))


def _zoom(*curves: Sequence[float]) -> tuple[float, float]:
    """The per cents in which the second half of the curves lies, with some margin."""
    late = [value for curve in curves for value in curve[len(curve) // 2 :]]
    low, high = min(late), max(late)
    size = max(high - low, 0.2)
    return max(0.0, low - 0.25 * size), min(100.0 + 0.05 * size, high + 0.15 * size)


def _epoch_axis(axes: "Axes", numbers: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend_below(axes: "Axes", handles: "Sequence[Artist]", labels: Sequence[str]) -> None:
    """A legend under the axis label, where no curve can run through it."""
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def confusion_picture(confusion: ArrayLike, path: Path) -> None:
    """Draw counts [10, 10] (rows: true digit), coloured by the mistakes, so that these stand out.

    Raises:
        StorageError: the picture cannot be written.
    """
    counts = np.asarray(confusion)
    correct, total = int(np.trace(counts)), int(counts.sum())
    wrong = total - correct
    with chart(path, 7.2, 7.2) as (_, axes):
        _draw_counts(axes, counts)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(10))
            axis.set_ticks(np.arange(9) + 0.5, minor=True)
        axes.tick_params(which="both", length=0)
        axes.grid(False)
        axes.grid(True, which="minor", color="white", linewidth=2)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted digit")
        axes.set_ylabel("true digit")
        axes.set_title(f"{correct:,} of {total:,} correct, {wrong:,} mistake{'' if wrong == 1 else 's'}")


def _draw_counts(axes: "Axes", counts: NDArray[np.integer[Any]]) -> None:
    import matplotlib
    from matplotlib.colors import to_rgba

    mistakes = counts * (1 - np.eye(10, dtype=counts.dtype))
    weight = np.sqrt(mistakes / max(mistakes.max(), 1))  # by the root, so that a single mistake can be seen beside many
    colours = matplotlib.colormaps["Oranges"](0.15 + 0.7 * weight)
    colours[mistakes == 0] = to_rgba("#F6F6F6")
    colours[np.arange(10), np.arange(10)] = to_rgba("#DCE9F3")
    axes.imshow(colours)
    for (row, column), count in np.ndenumerate(counts):
        ink = "#4A4A4A" if row == column else "white" if weight[row, column] > 0.8 else "black"
        text = axes.text(column, row, f"{count:,}" if count else "·", ha="center", va="center")
        text.set(color=ink if count else GREY, weight="normal" if row == column else "bold")


# The galleries are laid out in screen pixels: every pixel of a digit is the same whole number of them.


def tile(axes: "Axes", image: NDArray[np.uint8], x: int, y: int, size: int) -> None:
    """Draw an image [28, 28] with its upper left corner at (x, y), `size` screen pixels wide."""
    rgb, extent = image.repeat(3).reshape(28, 28, 3), (x, x + size, y + size, y)
    axes.imshow(rgb, interpolation="nearest", aspect="auto", extent=extent)


def augmentation_preview(originals: NDArray[np.uint8], augmented: NDArray[np.uint8], path: Path) -> None:
    """Draw a row a digit: `originals` uint8 [N, 28, 28], then its variants `augmented` uint8 [N, K, 28, 28].

    Raises:
        StorageError: the picture cannot be written.
    """
    size, gap, aside, header = 84, 9, 21, 45
    count, variants = augmented.shape[:2]
    start = gap + size + aside  # where the variants begin
    with style():
        figure, axes = page(start + variants * (size + gap), header + count * (size + gap))
        axes.text(gap, header / 2, "original", va="center", fontsize=9)
        axes.text(start, header / 2, "as the network sees it in training", va="center", fontsize=9)
        for row in range(count):
            y = header + row * (size + gap)
            tile(axes, originals[row], gap, y, size)
            for column in range(variants):
                tile(axes, augmented[row, column], start + column * (size + gap), y, size)
        write(figure, path)


def mistakes_picture(images: NDArray[np.uint8], mistakes: Sequence[Mistake], path: Path) -> None:
    """Draw misclassified digits, `images` uint8 [M, 28, 28], with true digit, predicted digit and confidence.

    A digit whose label is in doubt gets a frame, and what reviewers say.

    Raises:
        StorageError: the picture cannot be written.
    """
    columns, size, pitch_x, pitch_y, header = 6, 140, 204, 246, 60
    rows = -(-len(mistakes) // columns)
    with style():
        figure, axes = page(columns * pitch_x, header + rows * pitch_y)
        title = "Worst mistakes: true → predicted, confidence" if rows else "No mistakes"
        axes.text((pitch_x - size) / 2, header / 2, title, va="center", fontsize=11, weight="bold")
        if any(mistake.label_error for mistake in mistakes):
            edge, words = columns * pitch_x - (pitch_x - size) / 2, "framed: label in doubt"
            axes.text(edge, header / 2, words, va="center", ha="right", fontsize=9, color=VERMILION)
        for i, mistake in enumerate(mistakes):
            x = i % columns * pitch_x + (pitch_x - size) // 2
            y = header + i // columns * pitch_y
            tile(axes, images[i], x, y, size)
            _caption(axes, mistake, x, y, size)
        write(figure, path)


def _caption(axes: "Axes", mistake: Mistake, x: int, y: int, size: int) -> None:
    from matplotlib.patches import Rectangle

    def line(number: int, words: str, color: str, weight: str = "normal") -> None:
        height = y + size + 22 + 23 * number
        axes.text(x + size / 2, height, words, ha="center", va="center", fontsize=9, color=color, weight=weight)

    line(0, f"{mistake.label} → {mistake.predicted}   {100 * mistake.confidence:.1f} %", "black", "bold")
    line(1, f"#{mistake.index}", GREY)
    if mistake.label_error is not None:
        axes.add_patch(Rectangle((x - 3, y - 3), size + 6, size + 6, fill=False, edgecolor=VERMILION, linewidth=3))
        line(2, mistake.label_error, VERMILION)
