"""Pictures for people: PNG files drawn from plain data.

matplotlib is loaded by the first picture, never by an import; pyplot and its global state are not used.
The same data and the same matplotlib give the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydigits.reports.style import BLUE, DPI, GREEN, GREY, VERMILION, page, style, write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


def training_curve(
    epochs: Sequence[Mapping[str, float]],
    path: Path,
    judged_by: Literal["test", "held-out"] = "test",
) -> None:
    """Draw loss and learning rate, and beside them accuracy zoomed to where the run ends.

    Args:
        epochs: the lines of `metrics.jsonl`: `epoch, train_loss, train_accuracy, accuracy, learning_rate`.
        path: the PNG to write.
        judged_by: which digits `accuracy` counts.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with style():
        figure = Figure(figsize=(9.6, 4.6), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
        _draw_loss(left, epochs)
        _draw_accuracy(right, epochs, judged_by)
        write(figure, path)


def _draw_loss(axes: "Axes", epochs: Sequence[Mapping[str, float]]) -> None:
    numbers = [row["epoch"] for row in epochs]
    marker = "o" if len(epochs) == 1 else None  # one point makes no line
    losses = [row["train_loss"] for row in epochs]
    (loss,) = axes.plot(numbers, losses, color=BLUE, marker=marker)
    axes.set_ylim(bottom=0)
    axes.set_title("Training loss")
    _epoch_axis(axes, numbers)
    second = axes.twinx()
    rates = [row["learning_rate"] for row in epochs]
    (rate,) = second.plot(numbers, rates, color=GREY, linestyle=":", marker=marker)
    second.set_ylim(0, 1.25 * max(rates) or 1.0)  # its peak stays apart from the start of the loss
    second.locator_params(axis="y", nbins=4)
    second.set_ylabel("learning rate", color=GREY)
    second.tick_params(axis="y", colors=GREY, length=0)
    second.grid(False)
    _legend_below(axes, [loss, rate], ["training loss", "learning rate"])


def _draw_accuracy(axes: "Axes", epochs: Sequence[Mapping[str, float]], judged_by: str) -> None:
    numbers = [row["epoch"] for row in epochs]
    train = [100 * row["train_accuracy"] for row in epochs]
    test = [100 * row["accuracy"] for row in epochs]
    best = max(range(len(test)), key=test.__getitem__)
    marker = "s" if len(epochs) == 1 else None
    (train_line,) = axes.plot(numbers, train, color=BLUE, linestyle="--", marker=marker)
    (test_line,) = axes.plot(numbers, test, color=VERMILION)
    (final,) = axes.plot(numbers[-1:], test[-1:], "o", color=VERMILION, markersize=8)
    (ring,) = axes.plot(numbers[best], test[best], "o", color=GREY, markersize=13, fillstyle="none")
    shown = {
        "training digits": train_line,
        f"{judged_by} digits": test_line,
        f"final epoch: {test[-1]:.2f} %": final,
    }
    if len(epochs) >= 3:
        mean = sum(test[-3:]) / 3
        (bar,) = axes.plot(
            numbers[-3:], [mean] * 3, color=GREEN, linewidth=4, alpha=0.6, solid_capstyle="butt", zorder=1.5
        )
        shown[f"mean of the last three: {mean:.2f} %"] = bar
    shown[f"best on {judged_by} (optimistic): {test[best]:.2f} %"] = ring
    axes.set_ylim(*_zoom(train, test))
    axes.set_title("Accuracy in per cent (zoomed)")
    _epoch_axis(axes, numbers)
    _legend_below(axes, list(shown.values()), list(shown))


def _zoom(*curves: Sequence[float]) -> tuple[float, float]:
    """The range of per cents in which the second half of the curves lies, with some room."""
    late = [value for curve in curves for value in curve[len(curve) // 2 :]]
    low, high = min(late), max(late)
    room = max(high - low, 0.2)
    return max(0.0, low - 0.25 * room), min(100.0 + 0.05 * room, high + 0.15 * room)


def _epoch_axis(axes: "Axes", numbers: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend_below(axes: "Axes", handles: "Sequence[Artist]", labels: Sequence[str]) -> None:
    """A legend under the axis label, where no curve can run through it."""
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def confusion_picture(confusion: ArrayLike, path: Path) -> None:
    """Draw counts [10, 10] (rows: true digit), coloured by the mistakes, which the right ones do not drown.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    right, total = int(np.trace(counts)), int(counts.sum())
    wrong = total - right
    with style():
        figure = Figure(figsize=(7.2, 7.2), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        _draw_counts(axes, counts)
        axes.set_xticks(range(10))
        axes.set_yticks(range(10))
        axes.set_xticks(np.arange(9) + 0.5, minor=True)
        axes.set_yticks(np.arange(9) + 0.5, minor=True)
        axes.tick_params(which="both", length=0)
        axes.grid(False)
        axes.grid(True, which="minor", color="white", linewidth=2)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted digit")
        axes.set_ylabel("true digit")
        axes.set_title(f"{right:,} of {total:,} right, {wrong:,} mistake{'' if wrong == 1 else 's'}")
        write(figure, path)


def _draw_counts(axes: "Axes", counts: NDArray[np.integer[Any]]) -> None:
    import matplotlib
    from matplotlib.colors import to_rgba

    mistakes = counts * (1 - np.eye(10, dtype=counts.dtype))
    weight = np.sqrt(mistakes / max(mistakes.max(), 1))  # the root lets a single mistake be seen beside many
    colours = matplotlib.colormaps["Oranges"](0.15 + 0.7 * weight)
    colours[mistakes == 0] = to_rgba("#F6F6F6")
    colours[np.arange(10), np.arange(10)] = to_rgba("#DCE9F3")
    axes.imshow(colours)
    for row, column in np.ndindex(10, 10):
        count = int(counts[row, column])
        ink, bold = ("white" if weight[row, column] > 0.8 else "black"), "bold"
        if row == column:
            ink, bold = "#4A4A4A", "normal"
        text = axes.text(column, row, f"{count:,}" if count else "·", ha="center", va="center")
        text.set(color=ink if count else GREY, weight=bold)


# The galleries are laid out in screen pixels: every pixel of a digit is the same whole number of them.


def _tile(axes: "Axes", image: NDArray[np.uint8], x: int, y: int, size: int) -> None:
    """Draw an image [28, 28] with its upper left corner at (x, y), `size` screen pixels wide."""
    axes.imshow(
        image.repeat(3).reshape(28, 28, 3), interpolation="nearest", aspect="auto",
        extent=(x, x + size, y + size, y),
    )  # fmt: skip


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
            _tile(axes, originals[row], gap, y, size)
            for column in range(variants):
                _tile(axes, augmented[row, column], start + column * (size + gap), y, size)
        write(figure, path)


def digit_gallery(images: NDArray[np.uint8], labels: ArrayLike, path: Path) -> None:
    """Draw images uint8 [N, 28, 28] in a row a class, in the order given, the label before each row.

    Raises:
        StorageError: the picture cannot be written.
    """
    size, gap, margin = 84, 9, 42
    classes = np.asarray(labels)
    digits = np.unique(classes)
    columns = max(int(np.count_nonzero(classes == digit)) for digit in digits)
    with style():
        figure, axes = page(margin + columns * (size + gap), gap + len(digits) * (size + gap))
        for row, digit in enumerate(digits):
            y = gap + row * (size + gap)
            axes.text(margin / 2, y + size / 2, str(digit), ha="center", va="center", fontsize=12, weight="bold")
            for column, index in enumerate(np.flatnonzero(classes == digit)):
                _tile(axes, images[index], margin + column * (size + gap), y, size)
        write(figure, path)


def mistakes_picture(images: NDArray[np.uint8], mistakes: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a gallery of wrong answers, in the order given, with what was taken for what and how confidently.

    Args:
        images: the mistaken digits, uint8 [M, 28, 28].
        mistakes: of each `{index, label, predicted, confidence, disputed}`, as of `Evaluation.mistake_rows`: a digit of
            which reviewers say something gets a frame and these words.
        path: the PNG to write.

    Raises:
        StorageError: the picture cannot be written.
    """
    columns, size, pitch_x, pitch_y, header = 6, 140, 204, 246, 60
    rows = -(-len(mistakes) // columns)
    with style():
        figure, axes = page(columns * pitch_x, header + rows * pitch_y)
        title = "Worst mistakes: true → predicted, confidence" if rows else "No mistakes"
        axes.text((pitch_x - size) / 2, header / 2, title, va="center", fontsize=11, weight="bold")
        if any(mistake["disputed"] for mistake in mistakes):
            edge = columns * pitch_x - (pitch_x - size) / 2
            axes.text(
                edge,
                header / 2,
                "framed: label disputed",
                va="center",
                ha="right",
                fontsize=9,
                color=VERMILION,
            )
        for i, mistake in enumerate(mistakes):
            x = i % columns * pitch_x + (pitch_x - size) // 2
            y = header + i // columns * pitch_y
            _tile(axes, images[i], x, y, size)
            answer = f"{mistake['label']} → {mistake['predicted']}   {100 * mistake['confidence']:.1f} %"
            _caption(axes, [answer, f"#{mistake['index']}"], mistake["disputed"], x, y, size)
        write(figure, path)


def _caption(axes: "Axes", lines: Sequence[str], dispute: str | None, x: int, y: int, size: int) -> None:
    from matplotlib.patches import Rectangle

    centre, below, line_height = x + size / 2, y + size + 22, 23
    axes.text(centre, below, lines[0], ha="center", va="center", fontsize=9, weight="bold")
    axes.text(centre, below + line_height, lines[1], ha="center", va="center", fontsize=9, color=GREY)
    if dispute is not None:
        axes.add_patch(Rectangle((x - 3, y - 3), size + 6, size + 6, fill=False, edgecolor=VERMILION, linewidth=3))
        axes.text(centre, below + 2 * line_height, dispute, ha="center", va="center", fontsize=9, color=VERMILION)
