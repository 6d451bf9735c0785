"""Small SVG charts for a page: drawn by hand, coloured by its style sheet, so that they follow light and dark.

They are as wide as a phone's screen, and grow with their place.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tinydigits.reports.markup import Html, tag

Point = tuple[float, float]
Span = tuple[float, float]

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 42
_LOOKS = 6
"""Colours in the style sheet: `.c0` … `.c5`."""


def look(number: int) -> str:
    """The class of the n-th study on a chart, a table or a legend; after six they begin anew."""
    return f"c{number % _LOOKS}"


def letter(number: int) -> str:
    """`A` for the first study, and so on: what it goes by beside its colour."""
    return chr(ord("A") + number)


@dataclass(frozen=True)
class Line:
    """A curve through points (x, y), drawn as `style` says: classes of the style sheet."""

    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class Frame:
    """The plotted part of a chart, and the values at its edges; those of y are positive where it is logarithmic."""

    x: Span
    y: Span
    height: float = _HEIGHT
    logarithmic: bool = False

    def across(self, value: float) -> float:
        """Where a value of x lies, in the chart's own units."""
        low, high = self.x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        """Where a value of y lies."""
        low, high = self.y
        if self.logarithmic:
            low, high, value = (math.log10(v) for v in (low, high, max(value, low)))
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most so many: steps of 1, 2 or 5 times a power of ten."""
    assert high > low
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _rungs(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`; only the powers where that would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    tens = [10.0**power for power in powers if low <= 10.0**power <= high]
    return tens if len(found) > 8 and len(tens) > 2 else found


def zoom(values: Iterable[float], least: float = 0.001) -> Span:
    """A range of shares that holds the values with some room; no share lies above 1."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    room = max(high - low, least)
    return max(0.0, low - 0.12 * room), min(1.0 + 0.02 * room, high + 0.12 * room)


def line_chart(
    lines: Sequence[Line], frame: Frame, label: str, *, x_axis: str, shares: bool, target: float | None = None
) -> Html:
    """Curves; what leaves the frame is cut off at its edge.

    Args:
        lines: the later ones lie above.
        frame: the ranges that are shown.
        label: the picture in words.
        x_axis: what x is.
        shares: whether y is a share, shown in per cent.
        target: a share that is drawn across as a dashed line.
    """
    marks = [_target(frame, target), _curves(lines, frame)]
    return _chart(frame, label, marks, x_axis, shares, x_ticks=_whole(frame.x))


def loss_chart(lines: Sequence[Line], frame: Frame, label: str) -> Html:
    """Curves of losses over epochs, on a logarithmic axis that is widened a little at both ends."""
    low, high = frame.y
    room = max(high / low, 1.2) ** 0.06
    frame = Frame(frame.x, (low / room, high * room), logarithmic=True)
    return _chart(frame, label, [_curves(lines, frame)], "epoch", shares=False, x_ticks=_whole(frame.x))


def _curves(lines: Sequence[Line], frame: Frame) -> Html:
    """In a frame of their own, which cuts off what leaves it."""
    top, left = _TOP - 3, _LEFT - 3
    inner = [
        tag("polyline", points=" ".join(_xy(frame, p, left, top) for p in line.points), class_=f"line {line.style}")
        if len(line.points) > 1
        else _dot(frame, line.points[0], line.style, left, top)
        for line in lines
        if line.points
    ]
    width, height = _WIDTH - left - _RIGHT + 4, frame.height - top - _BOTTOM + 3
    return tag("svg", *inner, x=left, y=top, width=width, height=height)


def dots_chart(
    groups: Sequence[tuple[str, Sequence[float], str]], y: Span, label: str, *, target: float | None, x_axis: str
) -> Html:
    """A dot a seed, in their order, and a bar at the mean: groups of (name, shares, style)."""
    frame = Frame((-0.5, len(groups) - 0.5), y)
    marks: list[Html | None] = [_target(frame, target)]
    for place, (name, values, style) in enumerate(groups):
        spread = 0.66 / max(len(values) - 1, 1)
        mean = sum(values) / len(values)
        marks.append(
            tag(
                "line", x1=frame.across(place - 0.42), x2=frame.across(place + 0.42), y1=frame.down(mean),
                y2=frame.down(mean), class_=f"line thick {style}",
            )
        )  # fmt: skip
        for i, value in enumerate(values):
            marks.append(_dot(frame, (place + (i - (len(values) - 1) / 2) * spread, value), style))
        if len(groups) > 1:
            marks.append(_words(frame.across(place), frame.height - _BOTTOM + 17, name, "middle"))
    return _chart(frame, label, marks, x_axis, shares=True, x_ticks=())


def reliability_chart(series: Sequence[tuple[Sequence[tuple[float, float, int]], str]], label: str, least: int) -> Html:
    """Accuracy over confidence: points (confidence, accuracy, count) a series; hollow where the count is small."""
    frame = Frame((0.0, 1.0), (0.0, 1.0), height=330)
    marks: list[Html | None] = [
        tag("line", x1=frame.across(0), y1=frame.down(0), x2=frame.across(1), y2=frame.down(1), class_="target")
    ]
    for points, style in series:
        way = " ".join(_xy(frame, (x, y)) for x, y, _ in points)
        marks.append(tag("polyline", points=way, class_=f"line {style}"))
        marks += [_dot(frame, (x, y), style + (" few" if count < least else "")) for x, y, count in points]
    return _chart(frame, label, marks, "confidence", shares=True, x_ticks=(0, 0.2, 0.4, 0.6, 0.8, 1), x_shares=True)


def interval_chart(rows: Sequence[tuple[str, float, Span, str]], label: str) -> Html:
    """Differences with their intervals, in points of accuracy: rows of (name, difference, interval, style)."""
    ends = [end for _, _, interval, _ in rows for end in interval] + [0.0]
    room = max(0.08 * (max(ends) - min(ends)), 1e-5)
    frame = Frame((min(ends) - room, max(ends) + room), (len(rows) - 0.4, -0.6), height=_TOP + _BOTTOM + 38 * len(rows))
    zero = frame.across(0)
    marks: list[Html | None] = [
        tag("line", x1=zero, x2=zero, y1=_TOP, y2=frame.height - _BOTTOM, class_="zero"),
    ]
    for place, (name, difference, (low, high), style) in enumerate(rows):
        y = frame.down(place)
        marks.append(tag("line", x1=frame.across(low), x2=frame.across(high), y1=y, y2=y, class_=f"line thick {style}"))
        marks.append(_dot(frame, (difference, place), style))
        marks.append(_words(_LEFT - 8, y + 4, name, "end"))
    steps = ticks(*frame.x)
    return _chart(frame, label, marks, "points of accuracy", shares=True, x_ticks=steps, y_axis=False, x_shares=None)


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """Below a chart: (words, style of a line)."""
    items = []
    for words, style in entries:
        sample = tag("line", x1=1, x2=23, y1=5, y2=5, class_=style if style == "target" else f"line {style}")
        items.append(tag("li", tag("svg", sample, viewBox="0 0 24 10", class_="sample", aria_hidden="true"), words))
    return tag("ul", *items, class_="legend")


def share_bar(share: float, style: str = "c0") -> Html:
    """A bar in a table cell that already says the figure in words; `share` of the full width."""
    bar = tag("rect", width=100 * max(0.0, min(1.0, share)), height=6, rx=1.5, class_=f"bar {style}")
    ground = tag("rect", width=100, height=6, rx=1.5, class_="bar ground")
    return tag("svg", ground, bar, viewBox="0 0 100 6", preserveAspectRatio="none", class_="cell", aria_hidden="true")


def _chart(
    frame: Frame,
    label: str,
    marks: Sequence[Html | None],
    x_axis: str,
    shares: bool,
    *,
    x_ticks: Sequence[float],
    y_axis: bool = True,
    x_shares: bool | None = False,
) -> Html:
    """`x_shares`: per cent; None: points of a per cent, with their sign."""
    base = frame.height - _BOTTOM
    parts: list[Html | None] = []
    y_steps = _rungs(*frame.y) if frame.logarithmic else ticks(min(frame.y), max(frame.y)) if y_axis else []
    y_words: Callable[[float], str] = "{:g}".format if frame.logarithmic else _formatter(y_steps, shares)
    for value in y_steps:
        y = frame.down(value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_words(_LEFT - 7, y + 4, y_words(value), "end"))
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=base, y2=base, class_="axis"))
    signed = _formatter(x_ticks, shares=True)
    for value in x_ticks:
        words = f"{value:g}" if x_shares is False else signed(value)
        if x_shares is None and value > 0:
            words = f"+{words}"
        x = frame.across(value)
        parts.append(tag("line", x1=x, x2=x, y1=base, y2=base + 4, class_="axis"))
        parts.append(_words(x, base + 17, words, "middle"))
    parts.append(_words((_LEFT + _WIDTH - _RIGHT) / 2, frame.height - 6, x_axis, "middle"))
    return tag(
        "svg", *parts, *marks, viewBox=f"0 0 {_WIDTH} {frame.height:g}", class_="chart", role="img", aria_label=label
    )


def _formatter(steps: Sequence[float], shares: bool) -> Callable[[float], str]:
    """As many decimals as the steps take; shares in per cent."""
    factor = 100 if shares else 1
    decimals = next((d for d in range(5) if all(_is_whole(factor * step * 10**d) for step in steps)), 5)
    return lambda value: f"{factor * value:.{decimals}f}".replace("-", "−")


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6 * max(1.0, abs(value))


def _whole(span: Span) -> list[float]:
    """Round numbers; whole ones where the range holds two of them."""
    found = ticks(*span)
    whole = [value for value in found if value == round(value)]
    return whole if len(whole) > 1 else found


def _target(frame: Frame, target: float | None) -> Html | None:
    if target is None or not min(frame.y) <= target <= max(frame.y):
        return None
    y = frame.down(target)
    return tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="target")


def _dot(frame: Frame, point: Point, style: str, left: float = 0, top: float = 0) -> Html:
    x, y = frame.across(point[0]) - left, frame.down(point[1]) - top
    return tag("circle", cx=x, cy=y, r=4.2, class_=f"dot {style}")


def _xy(frame: Frame, point: Point, left: float = 0, top: float = 0) -> str:
    return f"{frame.across(point[0]) - left:.1f},{frame.down(point[1]) - top:.1f}"


def _words(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=x, y=y, text_anchor=anchor)
