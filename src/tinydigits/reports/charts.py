"""Small SVG charts for a page, coloured by its style sheet, so that they follow light and dark mode.

They are as wide as a phone's screen, and grow with the space that they have.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tinydigits.records import Difference
from tinydigits.reports.markup import Html, tag

Point = tuple[float, float]
Span = tuple[float, float]
Tick = tuple[float, str]  # a value and its words

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 42


def look(number: int) -> str:
    """The class of the n-th study on a chart, a table or a legend; the style sheet has six, then they repeat."""
    return f"c{number % 6}"


def letter(number: int) -> str:
    """`A` for the first study, and so on: what it goes by beside its colour."""
    return chr(ord("A") + number)


class Polyline(NamedTuple):
    """A curve through points (x, y); `style`: classes of the style sheet."""

    points: Sequence[Point]
    style: str


class Frame(NamedTuple):
    """The plotted part of a chart, and the values at its edges; those of y are positive if it is logarithmic."""

    x: Span
    y: Span
    height: float = _HEIGHT
    logarithmic: bool = False

    def across(self, value: float) -> float:
        """The position of a value of x, in the chart's own units."""
        low, high = self.x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        """The position of a value of y."""
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
    """1, 2 and 5 times powers of ten from `low` to `high`; only the powers if these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    tens = [10.0**power for power in powers if low <= 10.0**power <= high]
    return tens if len(found) > 8 and len(tens) > 2 else found


def zoom(values: Iterable[float], least: float = 0.001) -> Span:
    """A range of fractions that holds the values with some margin; no fraction lies above 1."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    size = max(high - low, least)
    return max(0.0, low - 0.12 * size), min(1.0 + 0.02 * size, high + 0.12 * size)


def line_chart(lines: Sequence[Polyline], frame: Frame, label: str, target: float | None) -> Html:
    """Curves of fractions in per cent over epochs, the later ones above, cut off at the edge of the frame.

    `label` is the picture in words, and `target` a fraction that is drawn across as a dashed line.
    """
    marks = [_target(frame, target), _curves(lines, frame)]
    return _chart(frame, label, marks, "epoch", _numbers(_whole(frame.x)), _percents(ticks(*frame.y)))


def loss_chart(lines: Sequence[Polyline], frame: Frame, label: str) -> Html:
    """Curves of losses over epochs, on a logarithmic axis that is widened a little at both ends."""
    low, high = frame.y
    margin = max(high / low, 1.2) ** 0.06
    frame = Frame(frame.x, (low / margin, high * margin), logarithmic=True)
    return _chart(frame, label, [_curves(lines, frame)], "epoch", _numbers(_whole(frame.x)), _numbers(_rungs(*frame.y)))


def _curves(lines: Sequence[Polyline], frame: Frame) -> Html:
    """In a frame of their own, which cuts them off at its edge."""
    inner = [
        tag("polyline", points=" ".join(_xy(frame, point) for point in line.points), class_=f"line {line.style}")
        if len(line.points) > 1
        else _dot(frame, line.points[0], line.style)
        for line in lines
        if line.points
    ]
    x, y = _LEFT - 3, _TOP - 3
    width, height = _WIDTH - x - _RIGHT + 4, frame.height - y - _BOTTOM + 3
    return tag("svg", *inner, x=x, y=y, width=width, height=height, viewBox=f"{x} {y} {width:g} {height:g}")


def dots_chart(groups: Sequence[Sequence[float]], y: Span, label: str, *, target: float | None, x_axis: str) -> Html:
    """A dot a seed, in their order, and a bar at the mean of each group; several groups by their letters."""
    frame = Frame((-0.5, len(groups) - 0.5), y)
    marks: list[Html | None] = [_target(frame, target)]
    for x, values in enumerate(groups):
        count = len(values)
        spread = 0.66 / max(count - 1, 1)
        marks.append(_across(frame, (x - 0.42, x + 0.42), sum(values) / count, f"line thick {look(x)}"))
        for i, value in enumerate(values):
            marks.append(_dot(frame, (x + (i - (count - 1) / 2) * spread, value), look(x)))
        if len(groups) > 1:
            marks.append(_words(frame.across(x), frame.height - _BOTTOM + 17, letter(x), "middle"))
    return _chart(frame, label, marks, x_axis, [], _percents(ticks(*y)))


def reliability_chart(series: Sequence[tuple[Sequence[tuple[float, float, int]], str]], label: str, least: int) -> Html:
    """Accuracy over confidence: points (confidence, accuracy, count) a series; hollow if the count is below `least`."""
    frame = Frame((0.0, 1.0), (0.0, 1.0), height=330)
    marks: list[Html | None] = [
        tag("line", x1=frame.across(0), y1=frame.down(0), x2=frame.across(1), y2=frame.down(1), class_="target")
    ]
    for points, style in series:
        way = " ".join(_xy(frame, (x, y)) for x, y, _ in points)
        marks.append(tag("polyline", points=way, class_=f"line {style}"))
        marks += [_dot(frame, (x, y), style + (" few" if count < least else "")) for x, y, count in points]
    steps = _percents(ticks(0, 1))
    return _chart(frame, label, marks, "confidence", steps, steps)


def interval_chart(differences: Sequence[Difference], label: str) -> Html:
    """Differences from the first study with their intervals, in points of accuracy; the second study is on top."""
    ends = [end for found in differences for end in found.interval] + [0.0]
    margin = max(0.08 * (max(ends) - min(ends)), 1e-5)
    x, y = (min(ends) - margin, max(ends) + margin), (len(differences) + 0.6, 0.4)
    frame = Frame(x, y, height=_TOP + _BOTTOM + 38 * len(differences))
    zero = frame.across(0)
    marks: list[Html | None] = [tag("line", x1=zero, x2=zero, y1=_TOP, y2=frame.height - _BOTTOM, class_="zero")]
    for number, found in enumerate(differences, start=1):
        marks.append(_across(frame, found.interval, number, f"line thick {look(number)}"))
        marks.append(_dot(frame, (found.difference, number), look(number)))
        marks.append(_words(_LEFT - 8, frame.down(number) + 4, letter(number), "end"))
    steps = [(value, ("+" if value > 0 else "") + words) for value, words in _percents(ticks(*x))]
    return _chart(frame, label, marks, "points of accuracy", steps, [])


def legend(entries: Iterable[tuple[str, str]], target: float | None = None) -> Html:
    """Below a chart: (words, style of a line), and the target, if there is one."""
    items = []
    for words, style in [*entries, *([] if target is None else [(f"target: {100 * target:.2f} %", "target")])]:
        sample = tag("line", x1=1, x2=23, y1=5, y2=5, class_=style if style == "target" else f"line {style}")
        items.append(tag("li", tag("svg", sample, viewBox="0 0 24 10", class_="sample", aria_hidden="true"), words))
    return tag("ul", *items, class_="legend")


def fraction_bar(fraction: float, style: str = "c0") -> Html:
    """A bar in a table cell beside the figure; `fraction` of the full width."""
    bar = tag("rect", width=100 * max(0.0, min(1.0, fraction)), height=6, rx=1.5, class_=f"bar {style}")
    ground = tag("rect", width=100, height=6, rx=1.5, class_="bar ground")
    return tag("svg", ground, bar, viewBox="0 0 100 6", preserveAspectRatio="none", class_="cell", aria_hidden="true")


def _chart(
    frame: Frame,
    label: str,
    marks: Iterable[Html | None],
    x_axis: str,
    x_ticks: Iterable[Tick],
    y_ticks: Iterable[Tick],
) -> Html:
    """The marks with axes; `x_axis` is what x is."""
    base = frame.height - _BOTTOM
    parts = []
    for value, words in y_ticks:
        parts.append(_across(frame, frame.x, value, "grid"))
        parts.append(_words(_LEFT - 7, frame.down(value) + 4, words, "end"))
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=base, y2=base, class_="axis"))
    for value, words in x_ticks:
        x = frame.across(value)
        parts.append(tag("line", x1=x, x2=x, y1=base, y2=base + 4, class_="axis"))
        parts.append(_words(x, base + 17, words, "middle"))
    parts.append(_words((_LEFT + _WIDTH - _RIGHT) / 2, frame.height - 6, x_axis, "middle"))
    box = f"0 0 {_WIDTH} {frame.height:g}"
    return tag("svg", *parts, *marks, viewBox=box, class_="chart", role="img", aria_label=label)


def _numbers(steps: Iterable[float]) -> list[Tick]:
    return [(step, f"{step:g}") for step in steps]


def _percents(steps: Sequence[float]) -> list[Tick]:
    """Fractions in per cent, with as many decimals as they take."""
    decimals = max((len(f"{100 * step:.8g}".partition(".")[2]) for step in steps), default=0)
    return [(step, f"{100 * step:.{decimals}f}".replace("-", "−")) for step in steps]


def _whole(span: Span) -> list[float]:
    """Round numbers; whole ones if the range holds two of them."""
    found = ticks(*span)
    whole = [value for value in found if value == round(value)]
    return whole if len(whole) > 1 else found


def _target(frame: Frame, target: float | None) -> Html | None:
    if target is None or not min(frame.y) <= target <= max(frame.y):
        return None
    return _across(frame, frame.x, target, "target")


def _across(frame: Frame, span: Span, y: float, style: str) -> Html:
    """A horizontal line over a range of x."""
    left, right = map(frame.across, span)
    return tag("line", x1=left, x2=right, y1=frame.down(y), y2=frame.down(y), class_=style)


def _dot(frame: Frame, point: Point, style: str) -> Html:
    return tag("circle", cx=frame.across(point[0]), cy=frame.down(point[1]), r=4.2, class_=f"dot {style}")


def _xy(frame: Frame, point: Point) -> str:
    return f"{frame.across(point[0]):.1f},{frame.down(point[1]):.1f}"


def _words(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=x, y=y, text_anchor=anchor)
