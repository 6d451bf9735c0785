"""Pieces of C text, and what the float32 and int8 generators return."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

_WIDTH = 116


@dataclass(frozen=True)
class Parts:
    """The code that depends on the number format.

    `type`, `logit`: C types of a map's elements and of a logit. `slack`: elements behind the last strip. `first`:
    statements that bring the bytes of the picture's row `image` to `out`; `rows`: for each layer, those from `strip` to
    the row at `out`. `paddings`: the value of the border of each layer's input.
    """

    type: str
    logit: str
    slack: int
    kernels: str
    tables: str
    prepare: str
    first: str
    rows: tuple[str, ...]
    paddings: tuple[str, ...]


def indented(text: str, depth: int) -> str:
    """Lines with four spaces per level before each."""
    return textwrap.indent(text, "    " * depth)


def constants(type_: str, name: str, values: Iterable[str], size: str | None = None) -> str:
    """A table of constants, in lines of bounded length; `size`, if it is longer than `values` and zeros fill it up."""
    listed = list(values)
    return f"static const {type_} {name}[{size or len(listed)}] = {braced(listed)};"


def braced(values: Iterable[str]) -> str:
    """An initialiser, in lines of bounded length."""
    return "{\n" + textwrap.fill(", ".join(values), _WIDTH, initial_indent="    ", subsequent_indent="    ") + "}"
