"""A network as a row of feature maps, drawn from the layers that an inspection lists."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.reports.style import BLUE, GREEN, GREY, VERMILION, page, style, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Layers = Sequence[Mapping[str, Any]]

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
class Stage:
    """A map and what makes it: an operation, and those behind it that only change its values."""

    operation: str
    followers: tuple[str, ...]
    shape: tuple[int, ...]
    receptive_field: str
    group: str


def window(layer: Mapping[str, Any]) -> str:
    """A layer's kernel as `3×3 s2 p1`: stride and padding where they are not 1 and 0; empty without a kernel."""
    if layer["kernel"] is None:
        return ""
    parts = ["×".join(map(str, layer["kernel"]))]
    parts += [f"s{_pair(layer['stride'])}"] if tuple(layer["stride"]) != (1, 1) else []
    parts += [f"p{_pair(layer['padding'])}"] if tuple(layer["padding"]) != (0, 0) else []
    return " ".join(parts)


def stages(layers: Layers) -> list[Stage]:
    """The input, then a stage for every layer that makes a new map; the others are told behind it."""
    first = tuple(layers[0]["input_shape"])
    found = [Stage("input", (), first, "", "input")]
    for layer in layers:
        shape, last = tuple(layer["output_shape"]), found[-1]
        same_map = tuple(layer["input_shape"]) == last.shape and math.prod(shape) == math.prod(last.shape)
        if same_map and layer["kernel"] is None and not layer["macs"] and len(found) > 1:
            followers = tuple(dict.fromkeys((*last.followers, _kind(layer))))
            found[-1] = Stage(last.operation, followers, shape, _field(layer), last.group)
        else:
            found.append(Stage(_operation(layer), (), shape, _field(layer), _group(layer)))
    return found


def architecture_picture(layers: Layers, path: Path) -> None:
    """Draw maps as boxes, to scale in height, width and channels, with the operation that makes each.

    Args:
        layers: `layers` of an inspection as plain data, in the order they run; branches are drawn one after another.
        path: the PNG to write.

    Raises:
        StorageError: the picture cannot be written.
    """
    with style():
        write(_draw(stages(layers)), path)


def _draw(drawn: Sequence[Stage]) -> "Figure":
    rows = math.ceil(len(drawn) / _COLUMNS)
    columns = math.ceil(len(drawn) / rows)
    wide = 2 * _MARGIN + _COLUMNS * _PITCH
    pitch_y = _TEXT_Y + _LINE * (1 + max(len(_lines(stage)) for stage in drawn)) + 16
    figure, axes = page(wide, rows * pitch_y + _LEGEND)
    side = _SIDE / max(max(_sides(stage.shape)) for stage in drawn)
    depth = _DEPTH / max(stage.shape[0] for stage in drawn)
    pitch = (wide - 2 * _MARGIN) / columns
    edge = float(_MARGIN)  # where the arrow to the next map begins
    for number, stage in enumerate(drawn):
        row, column = divmod(number, columns)
        x, y = _MARGIN + (column + 0.5) * pitch, row * pitch_y
        left, right = _box(axes, stage, x, y + _MIDDLE_Y, side, depth)
        if column == 0:
            edge = float(_MARGIN)
        if number:
            _arrow(axes, edge, left, y + _MIDDLE_Y)
        edge = right
        if column == columns - 1 and number + 1 < len(drawn):
            _arrow(axes, right, wide - _MARGIN, y + _MIDDLE_Y)
        _label(axes, stage, x, y)
    _legend(axes, drawn, rows * pitch_y + _LEGEND / 2)
    return figure


def _box(axes: "Axes", stage: Stage, x: float, y: float, side: float, depth: float) -> tuple[float, float]:
    """Draw a map with its centre at (x, y); returns its left and right ends."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Polygon

    height, width = (max(_LEAST, side * length) for length in _sides(stage.shape))
    away = max(_LEAST, depth * stage.shape[0])
    dx, dy = 0.8 * away, 0.6 * away
    left, top = x - (width + dx) / 2, y - (height - dy) / 2
    colour = to_rgb(_COLOURS.get(stage.group, GREY))
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


def _label(axes: "Axes", stage: Stage, x: float, y: float) -> None:
    axes.text(x, y + _SHAPE_Y, "×".join(map(str, stage.shape)), ha="center", va="center", fontsize=8.5)
    name = stage.operation if len(stage.operation) <= _LONGEST else stage.operation[: _LONGEST - 1] + "…"
    axes.text(x, y + _TEXT_Y, name, ha="center", va="center", fontsize=8.5, weight="bold")
    for number, line in enumerate(_lines(stage), start=1):
        axes.text(x, y + _TEXT_Y + _LINE * number, line, ha="center", va="center", fontsize=7.5, color="#3A3A3A")


def _lines(stage: Stage) -> list[str]:
    """What stands in small letters under the operation."""
    lines = textwrap.wrap(", ".join(stage.followers), _WIDEST, max_lines=3, placeholder=" …")
    return lines + ([f"sees {stage.receptive_field}"] if stage.receptive_field else [])


def _legend(axes: "Axes", drawn: Sequence[Stage], y: float) -> None:
    from matplotlib.patches import Rectangle

    x = float(_MARGIN + 20)
    for group, colour in _COLOURS.items():
        if any(stage.group == group for stage in drawn):  # the input says what it is
            axes.add_patch(Rectangle((x, y - 8), 16, 16, facecolor=colour, alpha=0.6, edgecolor=colour))
            axes.text(x + 26, y, group, va="center", fontsize=7.5, color="#3A3A3A")
            x += 60 + 10 * len(group)
    text = "channels × height × width; sees: receptive field in input pixels; s stride, p padding"
    axes.text(axes.get_xlim()[1] - _MARGIN - 20, y, text, va="center", ha="right", fontsize=7.5, color="#3A3A3A")


def _kind(layer: Mapping[str, Any]) -> str:
    return _KINDS.get(layer["kind"], str(layer["kind"]))


def _operation(layer: Mapping[str, Any]) -> str:
    """`conv 3×3 p1`, `max pool 2`, `global average pool`, `linear`."""
    kind, kernel = _kind(layer), layer["kernel"]
    if kernel is None or layer["macs"]:
        return f"{kind} {window(layer)}".strip()
    if tuple(kernel) == tuple(layer["input_shape"][-2:]):
        return f"global {kind}"
    stride = f" s{_pair(layer['stride'])}" if tuple(layer["stride"]) != tuple(kernel) else ""
    padding = f" p{_pair(layer['padding'])}" if tuple(layer["padding"]) != (0, 0) else ""
    return f"{kind} {_pair(kernel)}{stride}{padding}"


def _group(layer: Mapping[str, Any]) -> str:
    if layer["fully_connected"]:
        return "fully connected"
    if layer["macs"]:
        return "convolution"
    return "pooling" if layer["kernel"] is not None else "other"


def _field(layer: Mapping[str, Any]) -> str:
    return "×".join(map(str, layer["receptive_field"])) if layer["receptive_field"] else ""


def _pair(pair: Sequence[int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width; a vector is a map of a single position."""
    return (shape[-2], shape[-1]) if len(shape) == 3 else (1, 1)
