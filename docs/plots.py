"""Pictures of the documentation: seeds of studies, what single changes are worth, the frontier, digits."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydigits.reports.plots import tile
from tinydigits.reports.style import BLUE, DPI, GREEN, GREY, VERMILION, page, style, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Study = Mapping[str, Any]

_LOOKS = ((VERMILION, "o"), (BLUE, "s"), (GREEN, "^"), ("#CC79A7", "D"))  # colour and marker of each recipe
_SPREAD = 0.6  # the width over which the seeds of a recipe lie


def study_curves(studies: Sequence[Study], path: Path, target: float | None = None) -> None:
    """Write `study_figure` as a PNG.

    Raises:
        StorageError: the picture cannot be written.
    """
    write(study_figure(studies, target), path)


def study_figure(studies: Sequence[Study], target: float | None = None) -> "Figure":
    """Every seed of some studies of one network: accuracy by epoch, and beside it the final epochs.

    Args:
        studies: Summaries as in `study.json`: `recipe, epochs, n, split, final, runs`, and `accuracy_by_epoch` of
            each run if there is more than one epoch. Each recipe has a colour and a marker.
        target: The reported accuracy, in [0, 1].
    """
    with style():
        return _draw_studies(studies, target)


def _draw_studies(studies: Sequence[Study], target: float | None) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    long = [study for study in studies if study["epochs"] > 1]
    figure = Figure(figsize=(9.6, 4.6 if long else 3.8), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    if long:
        left, right = figure.subplots(1, 2, width_ratios=(1.9, 1), sharey=True)
        _draw_curves(left, studies)
    else:
        right = figure.subplots()
    _draw_finals(right, studies)
    digits = "validation" if studies[0]["split"] == "val" else "test"
    figure.axes[0].set_title(f"Accuracy on the {digits} digits in per cent (zoomed), every seed")
    if long:
        right.set_title("final epoch")
    for axes in figure.axes:
        if target is not None:
            axes.axhline(100 * target, color="black", linestyle="--", linewidth=1.2, zorder=1)
    figure.axes[0].set_ylim(*_zoom(studies, target))
    _study_legend(figure, studies, target)
    return figure


def _draw_curves(axes: "Axes", studies: Sequence[Study]) -> None:
    from matplotlib.ticker import MaxNLocator

    for (colour, _), study in zip(cycle(_LOOKS), studies, strict=False):
        if study["epochs"] == 1:
            continue
        numbers = range(1, study["epochs"] + 1)
        curves = [[100 * accuracy for accuracy in run["accuracy_by_epoch"]] for run in study["runs"]]
        for curve in curves:
            axes.plot(numbers, curve, color=colour, linewidth=0.8, alpha=0.5)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.plot(numbers, mean, color=colour, linewidth=2.4)
    axes.set_xlabel("epoch (thick: mean of the seeds)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_finals(axes: "Axes", studies: Sequence[Study]) -> None:
    """A point a seed, in their order, and their mean as a bar."""
    for position, ((colour, marker), study) in enumerate(zip(cycle(_LOOKS), studies, strict=False)):
        count = len(study["runs"])
        step = _SPREAD / max(count - 1, 1)
        start = position - _SPREAD / 2 if count > 1 else position
        xs = [start + step * number for number in range(count)]
        ys = [100 * run["accuracy"] for run in study["runs"]]
        axes.plot(xs, ys, marker, color=colour, markersize=6)
        mean = 100 * study["final"]["mean"]
        axes.plot([position - 0.4, position + 0.4], [mean, mean], color=colour, linewidth=2.4)
    axes.set_xlim(-0.6, len(studies) - 0.4)
    axes.set_xticks([])
    axes.set_xlabel("points: seeds in order; bar: mean")


def _zoom(studies: Sequence[Study], target: float | None) -> tuple[float, float]:
    """The per cents in which the second half of all curves, the final epochs and the target lie, with some margin."""
    values = [run["accuracy"] for study in studies for run in study["runs"]] + ([] if target is None else [target])
    for study in studies:
        if study["epochs"] > 1:
            values += [a for run in study["runs"] for a in run["accuracy_by_epoch"][study["epochs"] // 2 :]]
    low, high = 100 * min(values), 100 * max(values)
    size = max(high - low, 0.1)
    return low - 0.12 * size, min(100.0, high + 0.12 * size)


def _study_legend(figure: "Figure", studies: Sequence[Study], target: float | None) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for (colour, marker), study in zip(cycle(_LOOKS), studies, strict=False):
        final = study["final"]
        spread = "" if final["sd"] is None else f" ± {100 * final['sd']:.2f}"
        text = f"{study['recipe']}: {100 * final['mean']:.2f}{spread} %, n = {study['n']}"
        handles.append(Line2D([], [], color=colour, marker=marker, label=text))
    if target is not None:
        handles.append(
            Line2D([], [], color="black", linestyle="--", linewidth=1.2, label=f"reported: {100 * target:.2f} %")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))


def ablation_picture(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write `ablation_figure` as a PNG.

    Raises:
        StorageError: the picture cannot be written.
    """
    write(ablation_figure(rows), path)


def ablation_figure(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """What single changes are worth: differences from the first row with their intervals, and what they cost.

    Args:
        rows: Of one network, as in results/ablations.json: `what, mean, parameters, macs, difference,
            difference_interval` (fractions); the others are compared with the first, whose difference is None.
    """
    with style():
        return _draw_ablations(rows)


def _draw_ablations(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        figsize=(9.6, 1.7 + 0.36 * len(rows)), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    )
    axes, beside = figure.subplots(1, 2, width_ratios=(1.6, 1), sharey=True)
    axes.axvline(0, color="black", linewidth=1.2)
    for position, row in enumerate(rows):
        if row["difference"] is None:
            axes.plot(0, position, "D", color="black", markersize=7)
            continue
        low, high = (100 * end for end in row["difference_interval"])
        colour, marker = _worth(low, high)
        axes.plot([low, high], [position, position], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot(100 * row["difference"], position, marker, color=colour, markersize=8)
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points of accuracy, with 95 % interval")
    axes.set_title(f"Difference from “{rows[0]['what']}”", pad=10)
    _worth_legend(figure)
    _beside(beside, rows)
    return figure


def _worth(low: float, high: float) -> tuple[str, str]:
    if low > 0:
        return BLUE, "^"
    return (VERMILION, "v") if high < 0 else (GREY, "o")


def _worth_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    cases = (("helps", 1.0, 2.0), ("harms", -2.0, -1.0), ("no difference shown", -1.0, 1.0))
    handles = []
    for text, low, high in cases:
        colour, marker = _worth(low, high)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=7, label=text))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _beside(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns of text, at the height of each row's point."""
    axes.set_axis_off()
    columns = {
        "accuracy": [f"{100 * row['mean']:.2f} %" for row in rows],
        "parameters": [f"{row['parameters']:,}" for row in rows],
        "MACs": [f"{row['macs'] / 1e6:.2f} M" for row in rows],
    }
    axes.set_xlim(0, len(columns))
    for right, (heading, cells) in enumerate(columns.items(), start=1):
        axes.text(
            right,
            1.02,
            heading,
            ha="right",
            va="bottom",
            fontsize=9,
            weight="bold",
            transform=axes.get_xaxis_transform(),
        )
        for position, cell in enumerate(cells):
            axes.text(right, position, cell, ha="right", va="center", fontsize=9)


_LAST_BESIDE = 10_000  # parameters: a name beside a point further right would leave the picture


def frontier_plot(rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write `frontier_figure` as a PNG.

    Raises:
        StorageError: the picture cannot be written.
    """
    write(frontier_figure(rows, published), path)


def frontier_figure(rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]]) -> "Figure":
    """Accuracy against parameters: our studies, and what others have published.

    Args:
        rows: As in results/frontier.json: `model, parameters, mean, sd, n`; accuracies in [0, 1].
        published: `name, parameters, accuracy, chosen_on_test`.
    """
    with style():
        return _draw_frontier(rows, published)


def _draw_frontier(rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    figure = Figure(figsize=(9.6, 5.4), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    axes = figure.subplots()
    _draw_published(axes, published, [row["parameters"] for row in rows])
    _draw_ours(axes, rows)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(330, 27_000)
    errors = [1 - row["mean"] for row in rows] + [1 - other["accuracy"] for other in published]
    axes.set_ylim(100 * max(errors) * 1.25, 100 * min(errors) * 0.8)  # errors, falling upwards
    ticks = [t for t in (5, 3, 2, 1.5, 1, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2) if 80 * min(errors) <= t <= 125 * max(errors)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:.1f} %"))
    axes.xaxis.set_major_locator(FixedLocator([500, 1_000, 2_000, 5_000, 10_000, 20_000]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", length=0)
    axes.set_xlabel("parameters")
    axes.set_title("Accuracy on MNIST's test digits, against parameters")
    axes.legend(loc="lower right")
    return figure


def _draw_ours(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    ordered = sorted(rows, key=lambda row: row["parameters"])
    counts, errors = [row["parameters"] for row in ordered], [100 * (1 - row["mean"]) for row in ordered]
    label = "tinydigits: mean of all seeds, final epoch, ± sd"
    spread = [100 * (row["sd"] or 0) for row in ordered]
    axes.errorbar(counts, errors, yerr=spread, fmt="o", color=VERMILION, markersize=7, capsize=4, label=label, zorder=3)
    for row, count, error in zip(ordered, counts, errors, strict=True):
        _name_point(axes, row["model"], (count, error), (-9, -4), "right", VERMILION)


def _draw_published(axes: "Axes", published: Sequence[Mapping[str, Any]], ours: Sequence[int]) -> None:
    """A name stands below its point, or beside it if a point of `ours` may be below."""
    for chosen, label in ((True, "published, chosen by test digits"), (False, "published, one run")):
        points = [other for other in published if other["chosen_on_test"] is chosen]
        axes.plot(
            [other["parameters"] for other in points],
            [100 * (1 - other["accuracy"]) for other in points],
            "s",
            color=BLUE,
            markerfacecolor="white" if chosen else BLUE,
            markersize=6,
            label=label,
        )
        for other in points:
            point = other["parameters"], 100 * (1 - other["accuracy"])
            crowded = any(0.8 < count / point[0] < 1.25 for count in ours)
            if crowded and point[0] < _LAST_BESIDE:
                _name_point(axes, other["name"], point, (8, -3), "left", BLUE)
            else:
                _name_point(axes, other["name"], point, (0, -14), "center", BLUE)


def _name_point(
    axes: "Axes", name: str, point: tuple[float, float], offset: tuple[float, float], side: str, colour: str
) -> None:
    """Beside the point, `offset` in typographic points."""
    axes.annotate(name, point, xytext=offset, textcoords="offset points", ha=side, fontsize=8.5, color=colour)


def digit_gallery(images: NDArray[np.uint8], labels: ArrayLike, path: Path) -> None:
    """Draw images uint8 [N, 28, 28] in a row a class, in their order, with the label in front.

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
                tile(axes, images[index], margin + column * (size + gap), y, size)
        write(figure, path)
