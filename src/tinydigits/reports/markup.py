"""HTML and SVG put together so that every text is escaped: only what `tag` made goes in as it is."""

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


Content: TypeAlias = "str | Html | None"

_VOID = ("meta", "link", "img", "br")
_HEAT = (213, 94, 0)  # vermilion, which shows on black ink and on white


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Html:
    """An element. Attributes: `_` for `-`, one at the end is dropped (`class_`); None and False leave one out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(parts: Iterable[Content]) -> Html:
    """Elements and texts, one after another; None is nothing."""
    return Html("".join(part if isinstance(part, Html) else text(part) for part in parts if part is not None))


def text(words: str) -> Html:
    """Escaped; a per cent sign stays with its number."""
    return Html(escape(words).replace(" %", "\N{NO-BREAK SPACE}%"))


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.5g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(shown)}"'


def table(
    caption: str,
    headings: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    *,
    numbers: int | None = None,
    foot: Iterable[Sequence[Content]] = (),
    class_: str | None = None,
) -> Html:
    """A table that scrolls by itself where the screen is narrow. The first cell of each row is its heading.

    Args:
        caption: what it shows; also the name of the scrolling region.
        headings: of the columns.
        rows: cells, as many as headings.
        numbers: the column from which on cells are numbers, set to the right; None: none are.
        foot: rows that sum up.
        class_: for the style sheet.
    """
    start = len(headings) if numbers is None else numbers

    def kind(column: int) -> str | None:
        return "number" if column >= start else None

    def row(cells: Sequence[Content]) -> Html:
        first, *rest = cells
        others = [tag("td", cell, class_=kind(i)) for i, cell in enumerate(rest, start=1)]
        return tag("tr", tag("th", first, scope="row", class_=kind(0)), *others)

    head = tag("tr", *(tag("th", heading, scope="col", class_=kind(i)) for i, heading in enumerate(headings)))
    feet = [row(cells) for cells in foot]
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", *map(row, rows)),
        tag("tfoot", *feet) if feet else None,
        class_=class_,
    )
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(rows: Iterable[tuple[str, Content]], class_: str = "facts") -> Html:
    """Names and their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows), class_=class_)


def digit_picture(image: NDArray[np.uint8], alt: str) -> Html:
    """A digit [28, 28] as ink on whatever lies behind it, pixel by pixel."""
    grey_and_alpha = np.stack([np.zeros_like(image), image], axis=-1)  # [28, 28, 2]
    return tag("img", src=_data_url(grey_and_alpha, "LA"), alt=alt, width="28", height="28", class_="ink")


def heat_picture(heat: NDArray[np.floating]) -> Html:
    """A heat map [28, 28] from 0 to 1, to be laid over a digit; whoever lays it there says in words what it shows."""
    rgba = np.zeros((*heat.shape, 4), np.uint8)
    rgba[..., :3] = _HEAT
    rgba[..., 3] = np.round(heat * 16) * (190 / 16)  # seventeen steps look the same as all, and pack better
    return tag("img", src=_data_url(rgba, "RGBA"), alt="", width="28", height="28", class_="heat")


def _data_url(pixels: NDArray[np.uint8], mode: str) -> str:
    height, width = pixels.shape[:2]
    content = io.BytesIO()
    Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes()).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
