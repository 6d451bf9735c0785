"""The picture of a search: every network that was tried, the Pareto front, and the one that is chosen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.reports.style import BLUE, DPI, GREEN, GREY, VERMILION, style, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LIGHT = "#B8B8B8"


def front_picture(document: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy on held-out digits over parameters.

    Args:
        document: `front.json`: `networks` of `{seed, parameters, epochs, accuracy}`, where an accuracy is None if the
            network came to no judgement; `front` and `chosen` of `{trial, parameters, accuracy, seeds}`; `epochs,
            budget, target, held_out, data, trials`.
        path: the PNG to write.

    Raises:
        StorageError: the picture cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with style():
        figure = Figure(figsize=(9.6, 5.4), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        low, high = _zoom(document)
        axes.set_ylim(low, high)
        _draw_networks(axes, document["networks"], document["epochs"], floor=low + 0.015 * (high - low))
        _draw_front(axes, document)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("parameters")
        axes.set_title(
            f"Accuracy on {document['held_out']:,} held-out digits of {document['data']} in per cent (zoomed), "
            f"budget {document['budget']}"
        )
        figure.legend(loc="outside lower center", ncols=2)
        write(figure, path)


def _draw_networks(axes: "Axes", networks: Sequence[Mapping[str, Any]], epochs: int, floor: float) -> None:
    """Those that were stopped on the way, where they stood or at the lower edge; and single runs to the end."""
    racing = [network for network in networks if network["seed"] == 0 and network["accuracy"] is not None]
    stopped = [network for network in racing if network["epochs"] < epochs]
    if stopped:
        label = f"stopped before epoch {epochs} (at the lower edge: or below it): {len(stopped):,}"
        _scatter(axes, stopped, "x", _LIGHT, 5, label, floor)
    ended = [network for network in racing if network["epochs"] == epochs]
    _scatter(axes, ended, "o", BLUE, 5, f"trained to the end, first seed: {len(ended):,}")


def _scatter(
    axes: "Axes",
    rows: Sequence[Mapping[str, Any]],
    marker: str,
    colour: str,
    size: float,
    label: str,
    floor: float = 0.0,
) -> None:
    xs, ys = [row["parameters"] for row in rows], [max(floor, 100 * row["accuracy"]) for row in rows]
    axes.plot(xs, ys, marker, color=colour, markersize=size, markeredgewidth=1.2, label=label)


def _draw_front(axes: "Axes", document: Mapping[str, Any]) -> None:
    front, chosen = document["front"], document["chosen"]
    xs, ys = [row["parameters"] for row in front], [100 * row["accuracy"] for row in front]
    axes.step(xs, ys, where="post", color=VERMILION, label="Pareto front (mean over the seeds)")
    axes.plot(xs, ys, "o", color=VERMILION, markersize=5)
    count = len(chosen["seeds"])
    label = (
        f"chosen: {chosen['parameters']:,} parameters, {100 * chosen['accuracy']:.2f} % (mean of {count} seeds)"
        if count > 1
        else f"chosen: {chosen['parameters']:,} parameters, {100 * chosen['accuracy']:.2f} % (one seed)"
    )
    axes.plot(
        [chosen["parameters"]],
        [100 * chosen["accuracy"]],
        "*",
        color=GREEN,
        markeredgecolor="white",
        markersize=17,
        label=label,
        zorder=4,
    )
    if document["target"] is not None:
        target = 100 * document["target"]
        axes.axhline(target, color=GREY, linestyle="--", linewidth=1.2, label=f"asked for: {target:.2f} %", zorder=1)


def _zoom(document: Mapping[str, Any]) -> tuple[float, float]:
    """The per cents where networks that were trained to the end lie, and what is asked for; others may be cut off."""
    ended = [n["accuracy"] for n in document["networks"] if n["epochs"] == document["epochs"] and n["accuracy"]]
    values = [*ended, *(row["accuracy"] for row in document["front"])]
    if document["target"] is not None:
        values.append(document["target"])
    low, high = 100 * min(values), 100 * max(values)
    room = max(high - low, 0.1)
    return low - 0.25 * room, min(100.0 + 0.02 * room, high + 0.1 * room)
