"""A network as a row of feature maps, drawn from the layers of an inspection."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.inspection.result import Layer, times, window
from tinydigits.reports.style import BLUE, GREEN, GREY, VERMILION, page, style, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In screen pixels. A map's sides and depth are scaled so that the network's largest fill SIDE and DEPTH.
_MARGIN, _PITCH, _COLUMNS, _LEGEND = 12, 236, 6, 44
_SIDE, _DEPTH, _LEAST = 96.0, 56.0, 5.0
_SHAPE_Y, _MIDDLE_Y, _TEXT_Y, _LINE = 22, 110, 196, 22
_LONGEST, _WIDEST = 19, 24  # characters of an operation, and of a small line, that fit under a map

_KINDS = {
    "Conv2d": "conv", "conv2d": "conv", "Linear": "linear", "MaxPool2d": "max pool", "max_pool2d": "max pool",
    "AvgPool2d": "average pool", "AdaptiveAvgPool2d": "average pool", "avg_pool2d": "average pool",
    "AdaptiveMaxPool2d": "max pool", "BatchNorm2d": "batch norm", "Dropout": "dropout", "Dropout2d": "dropout",
    "Flatten": "flatten", "constant_pad_nd": "pad",
}  # fmt: skip
_COLOURS = {"convolution": BLUE, "fully connected": VERMILION, "pooling": GREEN, "other": GREY}


@dataclass(frozen=True)
class FeatureMap:
    """A map and what makes it: an operation, and those after it that only change its values."""

    operation: str
    followers: tuple[str, ...]
    shape: tuple[int, ...]
    receptive_field: str
    group: str


def feature_maps(layers: Sequence[Layer]) -> list[FeatureMap]:
    """The input, then a map for every layer that makes a new one; the other layers follow the operation of their map."""
    found = [FeatureMap("input", (), layers[0].input_shape, "", "input")]
    for layer in layers:
        shape, last = layer.output_shape, found[-1]
        same_map = layer.input_shape == last.shape and math.prod(shape) == math.prod(last.shape)
        if same_map and layer.kernel is None and not layer.macs and len(found) > 1:
            followers = tuple(dict.fromkeys((*last.followers, _kind(layer))))
            found[-1] = FeatureMap(last.operation, followers, shape, _field(layer), last.group)
        else:
            found.append(FeatureMap(_operation(layer), (), shape, _field(layer), _group(layer)))
    return found


def architecture_picture(layers: Sequence[Layer], path: Path) -> None:
    """Write `architecture_figure` as a PNG.

    Raises:
        StorageError: the picture cannot be written.
    """
    write(architecture_figure(layers), path)


def architecture_figure(layers: Sequence[Layer]) -> "Figure":
    """Maps as boxes, to scale in height, width and channels, with the operation that makes each.

    Args:
        layers: In the order they run; branches are drawn one after another.
    """
    with style():
        return _draw(feature_maps(layers))


def _draw(drawn: Sequence[FeatureMap]) -> "Figure":
    rows = math.ceil(len(drawn) / _COLUMNS)
    columns = math.ceil(len(drawn) / rows)
    wide = 2 * _MARGIN + _COLUMNS * _PITCH
    pitch_y = _TEXT_Y + _LINE * (1 + max(len(_lines(each)) for each in drawn)) + 16
    figure, axes = page(wide, rows * pitch_y + _LEGEND)
    side = _SIDE / max(max(_sides(each.shape)) for each in drawn)
    depth = _DEPTH / max(each.shape[0] for each in drawn)
    pitch = (wide - 2 * _MARGIN) / columns
    edge = float(_MARGIN)  # where the arrow to the next map begins
    for number, each in enumerate(drawn):
        row, column = divmod(number, columns)
        x, y = _MARGIN + (column + 0.5) * pitch, row * pitch_y
        left, right = _box(axes, each, x, y + _MIDDLE_Y, side, depth)
        if column == 0:
            edge = float(_MARGIN)
        if number:
            _arrow(axes, edge, left, y + _MIDDLE_Y)
        edge = right
        if column == columns - 1 and number + 1 < len(drawn):
            _arrow(axes, right, wide - _MARGIN, y + _MIDDLE_Y)
        _label(axes, each, x, y)
    _legend(axes, drawn, rows * pitch_y + _LEGEND / 2)
    return figure


def _box(axes: "Axes", each: FeatureMap, x: float, y: float, side: float, depth: float) -> tuple[float, float]:
    """Draw a map with its centre at (x, y); returns its left and right ends."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Polygon

    height, width = (max(_LEAST, side * length) for length in _sides(each.shape))
    away = max(_LEAST, depth * each.shape[0])
    dx, dy = 0.8 * away, 0.6 * away
    left, top = x - (width + dx) / 2, y - (height - dy) / 2
    colour = to_rgb(_COLOURS.get(each.group, GREY))
    faces = {
        0.45: [(0, 0), (width, 0), (width, height), (0, height)],
        0.25: [(0, 0), (dx, -dy), (width + dx, -dy), (width, 0)],
        0.8: [(width, 0), (width + dx, -dy), (width + dx, height - dy), (width, height)],
    }
    for strength, corners in faces.items():
        shade = [1 - strength * (1 - part) for part in colour]
        outline = [(left + right, top + down) for right, down in corners]
        axes.add_patch(Polygon(outline, facecolor=shade, edgecolor=colour, linewidth=0.8, joinstyle="round"))
    return left, left + width + dx


def _arrow(axes: "Axes", start: float, end: float, y: float) -> None:
    from matplotlib.patches import FancyArrowPatch

    ends = (start + 8, y), (end - 8, y)
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, color=GREY))


def _label(axes: "Axes", each: FeatureMap, x: float, y: float) -> None:
    axes.text(x, y + _SHAPE_Y, "×".join(map(str, each.shape)), ha="center", va="center", fontsize=8.5)
    name = each.operation if len(each.operation) <= _LONGEST else each.operation[: _LONGEST - 1] + "…"
    axes.text(x, y + _TEXT_Y, name, ha="center", va="center", fontsize=8.5, weight="bold")
    for number, line in enumerate(_lines(each), start=1):
        axes.text(x, y + _TEXT_Y + _LINE * number, line, ha="center", va="center", fontsize=7.5, color="#3A3A3A")


def _lines(each: FeatureMap) -> list[str]:
    """What stands in small letters under the operation."""
    lines = textwrap.wrap(", ".join(each.followers), _WIDEST, max_lines=3, placeholder=" …")
    return lines + ([f"sees {each.receptive_field}"] if each.receptive_field else [])


def _legend(axes: "Axes", drawn: Sequence[FeatureMap], y: float) -> None:
    from matplotlib.patches import Rectangle

    x = float(_MARGIN + 20)
    for group, colour in _COLOURS.items():
        if any(each.group == group for each in drawn):  # the input says what it is
            axes.add_patch(Rectangle((x, y - 8), 16, 16, facecolor=colour, alpha=0.6, edgecolor=colour))
            axes.text(x + 26, y, group, va="center", fontsize=7.5, color="#3A3A3A")
            x += 60 + 10 * len(group)
    text = "channels × height × width; sees: receptive field in input pixels; s stride, p padding"
    axes.text(axes.get_xlim()[1] - _MARGIN - 20, y, text, va="center", ha="right", fontsize=7.5, color="#3A3A3A")


def _kind(layer: Layer) -> str:
    return _KINDS.get(layer.kind, layer.kind)


def _operation(layer: Layer) -> str:
    """`conv 3×3 p1`, `max pool 2`, `global average pool`, `linear`."""
    kind, kernel = _kind(layer), layer.kernel
    if kernel is None or layer.macs:
        return f"{kind} {window(layer)}".strip()
    if kernel == layer.input_shape[-2:]:
        return f"global {kind}"
    stride = f" s{times(layer.stride)}" if layer.stride != kernel else ""
    padding = f" p{times(layer.padding)}" if layer.padding != (0, 0) else ""
    return f"{kind} {times(kernel)}{stride}{padding}"


def _group(layer: Layer) -> str:
    if layer.fully_connected:
        return "fully connected"
    if layer.macs:
        return "convolution"
    return "pooling" if layer.kernel is not None else "other"


def _field(layer: Layer) -> str:
    return "×".join(map(str, layer.receptive_field)) if layer.receptive_field else ""


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width; a vector is a map of a single position."""
    return (shape[-2], shape[-1]) if len(shape) == 3 else (1, 1)
