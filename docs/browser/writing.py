"""Ten digits as somebody might write them, drawn on the page by real pointer events."""

import math
from pathlib import Path

from docs.browser.chromium import Chromium, Point, chromium

Stroke = list[Point]


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> Stroke:
    """Part of an ellipse around (x, y); angles in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [(x + width / 2 * math.cos(angle), y + height / 2 * math.sin(angle)) for angle in angles]


DIGITS: list[list[Stroke]] = [
    [arc(0.5, 0.5, 0.5, 0.9, -80, 280)],
    [[(0.35, 0.25), (0.5, 0.05), (0.5, 0.95)]],
    [[*arc(0.5, 0.3, 0.5, 0.5, -170, 30), (0.2, 0.95), (0.8, 0.95)]],
    [[*arc(0.48, 0.27, 0.44, 0.44, -160, 90), *arc(0.48, 0.72, 0.52, 0.46, -90, 150)]],
    [[(0.35, 0.05), (0.2, 0.6), (0.8, 0.6)], [(0.65, 0.3), (0.6, 0.98)]],
    [[(0.7, 0.05), (0.3, 0.05), (0.28, 0.45), *arc(0.48, 0.67, 0.5, 0.55, -110, 140)]],
    [[(0.62, 0.03), (0.42, 0.25), (0.3, 0.55), *arc(0.5, 0.7, 0.42, 0.5, 180, -180)]],
    [[(0.2, 0.08), (0.75, 0.08), (0.45, 0.95)]],
    [[*arc(0.5, 0.27, 0.4, 0.44, 90, 450), *arc(0.5, 0.73, 0.48, 0.48, -90, 270)]],
    [[*arc(0.48, 0.3, 0.42, 0.46, 0, -360), (0.69, 0.3), (0.62, 0.97)]],
]


def write(browser: Chromium, digit: int, *, kind: str = "mouse", size: float = 0.8, corner: Point = (0.1, 0.1)) -> None:
    """Draw a digit with mouse, pen or touch; `size` and `corner` are fractions of the paper."""
    left, top, width, height = browser.box("#field")
    for stroke in DIGITS[digit]:
        points = [(left + width * (corner[0] + size * x), top + height * (corner[1] + size * y)) for x, y in stroke]
        if kind == "touch":
            browser.touch(points)
        else:
            browser.stroke(points, kind=kind)


def page_picture(page: Path | str, picture: Path, digit: int | None = None) -> None:
    """A picture for README.md: a page in a window of 1280×800, light; with a written digit if one is named."""
    with chromium() as browser:
        browser.window(1280, 800)
        browser.media({"prefers-color-scheme": "light", "prefers-reduced-motion": "reduce"})
        browser.open(page)
        if digit is not None:
            write(browser, digit)
        browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        browser.screenshot(picture)
