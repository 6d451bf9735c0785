"""The picture of a learning-rate range test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tinydigits.reports.style import BLUE, DPI, GREEN, GREY, VERMILION, style, write


def range_curve(trials: Sequence[Mapping[str, float]], suggestion: float, at_lowest: float, path: Path) -> None:
    """Draw the loss over the learning rate, with the rate of the lowest loss and the one that is suggested.

    Args:
        trials: `{learning_rate, loss, smoothed}` of each step, the rates growing.
        suggestion: the learning rate that is suggested.
        at_lowest: the learning rate at which the smoothed loss is lowest.
        path: the PNG to write.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    rates = [trial["learning_rate"] for trial in trials]
    smoothed = [trial["smoothed"] for trial in trials]
    low, high = min(smoothed), max(smoothed[: smoothed.index(min(smoothed)) + 1])
    with style():
        figure = Figure(figsize=(8, 4.6), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.plot(rates, [trial["loss"] for trial in trials], color=GREY, linewidth=0.8, alpha=0.5, label="each batch")
        axes.plot(rates, smoothed, color=BLUE, label="smoothed")
        axes.plot([at_lowest], [low], "o", color=VERMILION, markersize=8, label=f"lowest, at {at_lowest:.2g}", zorder=3)
        axes.axvline(suggestion, color=GREEN, linestyle="--", label=f"suggested: {suggestion:g}, a tenth of that")
        axes.set_ylim(max(0.0, low - 0.25 * (high - low)), high + 0.35 * (high - low))
        axes.set_xlim(rates[0], rates[-1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.set_xlabel("learning rate, growing from batch to batch")
        axes.set_title("Learning-rate range test: training loss")
        axes.legend(loc="lower left")
        write(figure, path)
