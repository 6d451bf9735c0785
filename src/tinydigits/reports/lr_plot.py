"""The picture of the learning-rate finder."""

from pathlib import Path

from tinydigits.records import LearningRateResult
from tinydigits.reports.style import BLUE, GREEN, GREY, VERMILION, chart


def learning_rate_curve(result: LearningRateResult, path: Path) -> None:
    """Draw the loss over the learning rate, with the rate of the lowest loss and the one that is suggested, as a PNG.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.ticker import FuncFormatter

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
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.set_xlabel("learning rate, growing from batch to batch")
        axes.set_title("Learning-rate finder: training loss")
        axes.legend(loc="lower left")
