"""The int8 half of the C generator: integer sums of whole windows, requantised as `inference/int8.py` defines it.

All layers share the functions of `sources/int8.c`. Compilers specialise them for each layer's constant tables if they
optimise for speed, and keep one copy if they optimise for size (-Os).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.exporters.c.layout import Layout, LayoutStage
from tinydigits.exporters.c.text import Parts, braced, constants
from tinydigits.exporters.templates import fill_template_without_unused
from tinydigits.inference.int8 import Int8AveragePool, Int8Conv

_SLACK = 31  # elements behind the last strip, which padded windows may read (times 0)


def int8_parts(layout: Layout) -> Parts:
    """The int8 code of a layout."""
    *inner, last = layout.stages
    rows = (*map(_row, inner), _logits(last))
    most = max(stage.out_channels for stage in layout.stages)
    return Parts(
        type="uint8_t",
        logit="int32_t",
        slack=_SLACK,
        kernels=fill_template_without_unused("c/sources/int8.c", "\n".join(rows), most_channels=str(most)),
        tables="\n\n".join(filter(None, map(_tables, layout.stages))),
        prepare=f"for (i = 0; i < {layout.size + _SLACK}; i++)\n    arena->strips[i] = 0;\n",
        first=f"out[x * {layout.stages[0].cell}] = row[x];",
        rows=rows,
        # The border of a max pool is 0, which is never above anything else in its window.
        paddings=tuple(str(getattr(stage.op, "zero_point", 0)) for stage in layout.stages),
    )


def _tables(stage: LayoutStage) -> str:
    """The constants of a layer."""
    op, n, channels = stage.op, stage.number, stage.out_channels
    if not isinstance(op, Int8Conv | Int8AveragePool):
        return ""
    r = op.requantise
    multiplier = r.multiplier.astype(np.int64)
    texts, offset, clamps = [], r.offset, "0, 0"
    if isinstance(op, Int8Conv):
        texts.append(_weights(stage, op))
        offset = offset + op.bias * multiplier  # (sum + bias) * multiplier + offset
    size = f"CHANNELS({channels})"
    tables: list[tuple[str, str, NDArray[Any], str]] = [
        ("int32_t", "multiplier", multiplier, size),
        ("int64_t", "offset", offset, size),
    ]
    if r.low is not None and r.high is not None and (r.low.any() or (r.high < 255).any()):
        tables += [("uint8_t", "low", r.low, str(channels)), ("uint8_t", "high", r.high, str(channels))]
        clamps = f"low_{n}, high_{n}"
    for type_, name, values, size in tables:
        texts.append(constants(type_, f"{name}_{n}", map(str, np.broadcast_to(values, channels).tolist()), size))
    scale = f"multiplier_{n}, offset_{n}, {clamps}, {channels}, {r.shift}"
    return "\n".join([*texts, f"static const struct scale scale_{n} = {{{scale}}};"])


def _weights(stage: LayoutStage, op: Int8Conv) -> str:
    """A row for each output channel, in the memory order of the window; depthwise, for each tap of the window."""
    if op.depthwise:
        rows, row = op.weight.transpose(3, 2, 1, 0).reshape(-1, stage.out_channels), f"PADDED({stage.out_channels})"
    else:
        rows, row = op.weight.transpose(0, 3, 2, 1).reshape(stage.out_channels, -1), f"PADDED({stage.window})"
    table = ",\n".join(braced(map(str, values)) for values in rows)
    return f"static const int8_t weight_{stage.number}[{len(rows)}][{row}] = {{\n{table}}};"


def _row(stage: LayoutStage) -> str:
    """Statements from `strip` to the row at `out`."""
    n, sizes, taps = stage.number, f"{stage.width}, {stage.step}", stage.op.kernel[0] * stage.op.kernel[1]
    match stage.op:
        case Int8Conv(depthwise=True):
            return f"convolve_depthwise(strip, {sizes}, weight_{n}[0], {taps}, &scale_{n}, out, {stage.pitch});"
        case Int8Conv():
            return f"convolve(strip, {sizes}, weight_{n}[0], PADDED({stage.window}), &scale_{n}, out, {stage.pitch});"
        case Int8AveragePool():
            return f"average(strip, {sizes}, {taps}, &scale_{n}, out, {stage.pitch});"
        case _:
            return f"maximum(strip, {sizes}, {taps}, {stage.channels}, out, {stage.pitch});"


def _logits(stage: LayoutStage) -> str:
    """Statements from the last layer's `strip` to `logits`."""
    n, channels, taps = stage.number, stage.out_channels, stage.op.kernel[0] * stage.op.kernel[1]
    match stage.op:
        case Int8Conv(depthwise=True):
            sums = f"multiply_depthwise(strip, weight_{n}[0], {taps}, {channels}, sums);"
        case Int8Conv():
            sums = f"multiply(strip, weight_{n}[0], PADDED({stage.window}), {channels}, sums);"
        case _:
            sums = f"add_up(strip, {taps}, {channels}, sums);"
    return f"int32_t sums[MOST_CHANNELS + 1];\n{sums}\nscale_logits(&scale_{n}, sums, out);"
