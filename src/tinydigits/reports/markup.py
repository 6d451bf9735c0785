"""HTML and SVG in which every text is escaped; only the results of `tag` and `join` are inserted unchanged."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Html(str):
    """Markup made by `tag` and `join`."""

    __slots__ = ()


Content: TypeAlias = str | None

_VOID = ("meta", "link", "img", "br")
_HEAT = (213, 94, 0)  # vermilion, which shows on black ink and on white


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Html:
    """An element. In attributes, `_` stands for `-` and is dropped at the end (`class_`); None and False omit one."""
    written = ""
    for key, value in attributes.items():
        if value not in (None, False):
            shown = f"{value:.5g}" if isinstance(value, float) else str(value)
            written += f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(shown)}"')
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(content)}</{name}>")


def join(parts: Iterable[Content]) -> Html:
    """Elements and texts, one after another; None is nothing."""
    return Html("".join(part if isinstance(part, Html) else text(part) for part in parts if part is not None))


def text(words: str) -> Html:
    """Escaped text; a per cent sign stays with its number."""
    return Html(escape(words).replace(" %", "\N{NO-BREAK SPACE}%"))


def table(
    caption: str,
    headings: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    *,
    numbers: int | None = None,
    foot: Sequence[Sequence[Content]] = (),
    class_: str | None = None,
) -> Html:
    """A table that scrolls on a narrow screen; the first cell of each row is its heading, and `foot` sums up.

    `numbers` is the first of the columns that are aligned to the right; None: none is. `class_` is for the style sheet.
    """
    start = len(headings) if numbers is None else numbers
    kinds = ["number" if column >= start else None for column in range(len(headings))]

    def row(cells: Sequence[Content]) -> Html:
        first = tag("th", cells[0], scope="row", class_=kinds[0])
        return tag(
            "tr", first, *(tag("td", cell, class_=kind) for cell, kind in zip(cells[1:], kinds[1:], strict=True))
        )

    head = tag("tr", *(tag("th", cell, scope="col", class_=kind) for cell, kind in zip(headings, kinds, strict=True)))
    feet = [tag("tfoot", *map(row, foot))] if foot else []
    return scrolling(caption, tag("thead", head), tag("tbody", *map(row, rows)), *feet, class_=class_)


def scrolling(caption: str, *parts: Html, class_: str | None) -> Html:
    """A table of such parts, in a region that scrolls and has the caption's name."""
    whole = tag("table", tag("caption", caption), *parts, class_=class_)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(rows: Iterable[tuple[str, Content]], class_: str = "facts") -> Html:
    """Names and their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows), class_=class_)


def digit_picture(image: NDArray[np.uint8], alt: str) -> Html:
    """A digit [28, 28] as ink on whatever lies behind it, pixel by pixel."""
    grey_and_alpha = np.stack([np.zeros_like(image), image], axis=-1)  # [28, 28, 2]
    return tag("img", src=_data_url(grey_and_alpha, "LA"), alt=alt, width="28", height="28", class_="ink")


def heat_picture(heat: NDArray[np.floating]) -> Html:
    """A heat map [28, 28] from 0 to 1, to be laid over a digit, whose `alt` says what it shows."""
    rgba = np.zeros((*heat.shape, 4), np.uint8)
    rgba[..., :3] = _HEAT
    rgba[..., 3] = np.round(heat * 16) * (190 / 16)  # seventeen steps look the same, and compress better
    return tag("img", src=_data_url(rgba, "RGBA"), alt="", width="28", height="28", class_="heat")


def _data_url(pixels: NDArray[np.uint8], mode: str) -> str:
    content = io.BytesIO()
    Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
