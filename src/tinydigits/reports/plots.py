"""Pictures as PNG files, drawn from records and arrays.

matplotlib is loaded by the first picture, never by an import; pyplot and its global state are not used.
The same data and the same matplotlib give the same bytes.
A picture that cannot be written is a StorageError.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydigits.records import Epoch, LearningRateResult, Mistake, SearchResult, TrialRow
from tinydigits.reports.charts import zoom
from tinydigits.reports.style import BLUE, DPI, GREEN, GREY, VERMILION, chart, page, style, write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Digits = Literal["test", "validation"]


def training_curve(epochs: Sequence[Epoch], path: Path, evaluated_on: Digits = "test") -> None:
    """Write `training_figure` as a PNG."""
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
    late = [accuracy for row in epochs[len(epochs) // 2 :] for accuracy in (row.train_accuracy, row.accuracy)]
    axes.set_ylim(*(100 * end for end in zoom(late, least=0.002)))
    axes.set_title("Accuracy in per cent (zoomed)")
    _epoch_axis(axes, numbers)
    _legend_below(axes, list(shown.values()), list(shown))


def _epoch_axis(axes: "Axes", numbers: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend_below(axes: "Axes", handles: "Sequence[Artist]", labels: Sequence[str]) -> None:
    """A legend under the axis label, where no curve can run through it."""
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def learning_rate_curve(result: LearningRateResult, path: Path) -> None:
    """Draw the loss over the learning rate, with the rate of the lowest loss and the one that is suggested."""
    rates = [trial.learning_rate for trial in result.trials]
    losses = [trial.loss for trial in result.trials]
    smoothed = [trial.smoothed for trial in result.trials]
    low, high = min(smoothed), max(smoothed[: smoothed.index(min(smoothed)) + 1])
    lowest, suggested = result.at_lowest, result.learning_rate
    with chart(path, 8, 4.6) as (_, axes):
        axes.set_xscale("log")
        axes.plot(rates, losses, color=GREY, linewidth=0.8, alpha=0.5, label="each batch")
        axes.plot(rates, smoothed, color=BLUE, label="smoothed")
        axes.plot(lowest, low, "o", color=VERMILION, markersize=8, label=f"lowest, at {lowest:.2g}", zorder=3)
        axes.axvline(suggested, color=GREEN, linestyle="--", label=f"suggested: {suggested:g}, a tenth of that")
        axes.set_ylim(max(0.0, low - 0.25 * (high - low)), high + 0.35 * (high - low))
        axes.set_xlim(rates[0], rates[-1])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("learning rate, growing from batch to batch")
        axes.set_title("Learning-rate finder: training loss")
        axes.legend(loc="lower left")


def front_picture(result: SearchResult, path: Path) -> None:
    """Draw what a search has tried: accuracy on validation digits against parameters, the front and the choice."""
    from matplotlib.ticker import LogLocator, NullFormatter

    # what was trained to the end, and the goal; others may be cut off
    shown = [n.accuracy for n in result.networks if n.epochs == result.epochs and n.accuracy is not None]
    shown += [row.accuracy for row in result.front] + ([] if result.target is None else [result.target])
    low, high = (100 * end for end in zoom(shown))
    digits = f"{result.validation:,} validation digits of {result.data}"
    with chart(path, 9.6, 5.4) as (figure, axes):
        axes.set_xscale("log")
        axes.set_ylim(low, high)
        _draw_networks(axes, result, floor=low + 0.015 * (high - low))
        _draw_front(axes, result)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("parameters")
        axes.set_title(f"Accuracy on {digits} in per cent (zoomed), budget {result.budget}")
        figure.legend(loc="outside lower center", ncols=2)


def _draw_networks(axes: "Axes", result: SearchResult, floor: float) -> None:
    """Those that were stopped early, at their last accuracy or at the lower edge; and those trained to the end."""
    racing = [network for network in result.networks if network.seed == 0]
    if stopped := [network for network in racing if network.epochs < result.epochs and network.accuracy is not None]:
        label = f"stopped before epoch {result.epochs} (at the lower edge: or below it): {len(stopped):,}"
        axes.plot(*_points(stopped, floor), "x", color="#B8B8B8", markersize=5, markeredgewidth=1.2, label=label)
    ended = [network for network in racing if network.epochs == result.epochs]
    label = f"trained to the end, first seed: {len(ended):,}"
    axes.plot(*_points(ended), "o", color=BLUE, markersize=5, markeredgewidth=1.2, label=label)


def _points(networks: Sequence[TrialRow], floor: float = 0.0) -> tuple[list[int], list[float]]:
    """Parameters, and accuracies in per cent, at least `floor`."""
    return [n.parameters for n in networks], [max(floor, 100 * (n.accuracy or 0.0)) for n in networks]


def _draw_front(axes: "Axes", result: SearchResult) -> None:
    xs, ys = [row.parameters for row in result.front], [100 * row.accuracy for row in result.front]
    axes.step(xs, ys, where="post", color=VERMILION, label="Pareto front (mean over the seeds)")
    axes.plot(xs, ys, "o", color=VERMILION, markersize=5)
    chosen, x, y = result.chosen, result.chosen.parameters, 100 * result.chosen.accuracy
    seeds = f"mean of {len(chosen.seeds)} seeds" if len(chosen.seeds) > 1 else "one seed"
    label = f"chosen: {x:,} parameters, {y:.2f} % ({seeds})"
    axes.plot(x, y, "*", color=GREEN, markeredgecolor="white", markersize=17, label=label, zorder=4)
    if result.target is not None:
        target = 100 * result.target
        axes.axhline(target, color=GREY, linestyle="--", linewidth=1.2, label=f"goal: {target:.2f} %", zorder=1)


def confusion_picture(confusion: ArrayLike, path: Path) -> None:
    """Draw counts [10, 10] (rows: true digit), coloured by the mistakes, so that these stand out."""
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
    """Draw a row a digit: `originals` uint8 [N, 28, 28], then its variants `augmented` uint8 [N, K, 28, 28]."""
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
