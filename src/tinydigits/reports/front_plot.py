"""The picture of a search: every network that was tried, the Pareto front, and the one that is chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.records import SearchResult, TrialRow
from tinydigits.reports.style import BLUE, GREEN, GREY, VERMILION, chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LIGHT = "#B8B8B8"


def front_picture(result: SearchResult, path: Path) -> None:
    """Draw accuracy on validation digits against parameters, as a PNG.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = _zoom(result)
    digits = f"{result.validation:,} validation digits of {result.data}"
    with chart(path, 9.6, 5.4) as (figure, axes):
        axes.set_xscale("log")
        axes.set_ylim(low, high)
        _draw_networks(axes, result, floor=low + 0.015 * (high - low))
        _draw_front(axes, result)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("parameters")
        axes.set_title(f"Accuracy on {digits} in per cent (zoomed), budget {result.budget}")
        figure.legend(loc="outside lower center", ncols=2)


def _draw_networks(axes: "Axes", result: SearchResult, floor: float) -> None:
    """Those that were stopped early, at their last accuracy or at the lower edge; and those trained to the end."""
    racing = [network for network in result.networks if network.seed == 0]
    if stopped := [network for network in racing if network.epochs < result.epochs and network.accuracy is not None]:
        label = f"stopped before epoch {result.epochs} (at the lower edge: or below it): {len(stopped):,}"
        axes.plot(*_points(stopped, floor), "x", color=_LIGHT, markersize=5, markeredgewidth=1.2, label=label)
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


def _zoom(result: SearchResult) -> tuple[float, float]:
    """The per cents between which networks that were trained to the end, and the goal, lie; others may be cut off."""
    values = [n.accuracy for n in result.networks if n.epochs == result.epochs and n.accuracy is not None]
    values += [row.accuracy for row in result.front]
    values += [result.target] if result.target is not None else []
    low, high = 100 * min(values), 100 * max(values)
    span = max(high - low, 0.1)
    return low - 0.25 * span, min(100.0 + 0.02 * span, high + 0.1 * span)
