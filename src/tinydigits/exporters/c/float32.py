"""The float half of the C generator: what a layer computes once its strip holds the rows it needs.

A convolution takes several pixels at a time, one accumulator each, and runs through the channels outside and the window
inside, so that compilers keep the accumulators of 8 or 16 channels in one vector register each.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinydigits.exporters.c.layout import Elementwise, Layout, LayoutStage
from tinydigits.exporters.c.text import Parts, constants, indented
from tinydigits.inference.graph import Affine, Conv, MaxPool, Relu

_LANES = 8  # channels are padded to a multiple: the vector width of AVX in floats
_MOST_PIXELS = 13  # accumulators at a time: with a weight and a pixel they fit 16 registers
_LOWEST = "-3.402823466e38f"


def float_parts(layout: Layout) -> Parts:
    """The float32 code of a layout."""
    stages = layout.stages
    return Parts(
        type="float",
        logit="float",
        slack=max(map(_overhang, stages)),
        kernels="",  # no functions are shared: each layer is compiled for its own sizes
        tables="\n\n".join(filter(None, [_affine_tables(0, layout.first), *map(_tables, stages)])),
        prepare="",
        first=_finished("row[x]", 0, layout.first, "0", f"out[x * {stages[0].cell}]"),
        rows=tuple(_convolution(stage, op) if isinstance(op := stage.op, Conv) else _pool(stage) for stage in stages),
        paddings=tuple(_LOWEST if isinstance(stage.op, MaxPool) else "0.0f" for stage in stages),
    )


def _tables(stage: LayoutStage) -> str:
    texts = [_affine_tables(stage.number, stage.then)]
    if isinstance(stage.op, Conv):
        fill = _padded(stage) - stage.out_channels
        rows = np.pad(stage.op.weight.transpose(3, 2, 1, 0).reshape(-1, stage.out_channels), ((0, 0), (0, fill)))
        bias = np.pad(stage.op.bias, (0, fill))
        texts[:0] = _floats(f"weight_{stage.number}", rows), _floats(f"bias_{stage.number}", bias)
    return "\n".join(filter(None, texts))


def _affine_tables(number: int, ops: Sequence[Elementwise]) -> str:
    affines = [(i, op) for i, op in enumerate(ops) if isinstance(op, Affine)]
    return "\n".join(
        _floats(f"{name}_{number}_{i}", getattr(op, name)) for i, op in affines for name in ("scale", "shift")
    )


def _finished(value: str, number: int, ops: Sequence[Elementwise], channel: str, target: str) -> str:
    """Statements that take `value` through the elementwise operations after layer `number` to `target`."""
    if not ops:
        return f"{target} = {value};"
    lines = [f"float value = {value};"]
    for i, op in enumerate(ops):
        if isinstance(op, Relu):
            lines.append("value = value > 0.0f ? value : 0.0f;")
        else:
            lines.append(f"value = value * scale_{number}_{i}[{channel}] + shift_{number}_{i}[{channel}];")
    return "\n".join([*lines, f"{target} = value;"])


def _padded(stage: LayoutStage) -> int:
    return -(-stage.out_channels // _LANES) * _LANES


def _overhang(stage: LayoutStage) -> int:
    """How far the channels that only fill up the last vector read beyond the window."""
    return _padded(stage) - stage.channels if isinstance(stage.op, Conv) and stage.op.depthwise else 0


def _convolution(stage: LayoutStage, op: Conv) -> str:
    """Each channel of a depthwise convolution reads its own values of the window, one of any other all of them."""
    pixels, padded, number = _pixels(stage.width), _padded(stage), stage.number
    lanes = 16 if padded % 16 == 0 else 8
    last = stage.width - pixels
    start = "x" if stage.width % pixels == 0 else f"x < {last} ? x : {last}"  # tiles overlap rather than end early
    accumulators = ", ".join([f"s0 = bias_{number}[o]", *(f"s{p} = s0" for p in range(1, pixels))])
    value = f"k * {stage.channels} + o" if op.depthwise else "k"
    products = [f"s{p} += window[{value} + {p * stage.step}] * w;" for p in range(pixels)]
    return f"""\
for (int x = 0; x < {stage.width}; x += {pixels}) {{
    const int start = {start};
    const float *window = strip + start * {stage.step};
    float sums[{pixels}][{padded}];
    for (int first = 0; first < {padded}; first += {lanes})
        for (int o = first; o < first + {lanes}; o++) {{
            float {accumulators};
            for (int k = 0; k < {op.weight[0].size}; k++) {{
                const float w = weight_{number}[k * {padded} + o];
{indented(chr(10).join(products), 4)}
            }}
{indented(chr(10).join(f"sums[{p}][o] = s{p};" for p in range(pixels)), 3)}
        }}
    for (int p = 0; p < {pixels}; p++)
        for (int o = 0; o < {stage.out_channels}; o++) {{
{indented(_finished("sums[p][o]", number, stage.then, "o", f"out[(start + p) * {stage.pitch} + o]"), 3)}
        }}
}}"""


def _pixels(width: int) -> int:
    """How many pixels at a time: the fewest in all, then the most at a time."""
    return min(range(1, min(width, _MOST_PIXELS) + 1), key=lambda p: (-(-width // p) * max(p, 4), -p))


def _pool(stage: LayoutStage) -> str:
    taps, channels = stage.op.kernel[0] * stage.op.kernel[1], stage.channels
    pixel = f"window[k * {channels} + o]"
    if isinstance(stage.op, MaxPool):
        step, result = f"pooled = {pixel} > pooled ? {pixel} : pooled;", "pooled"
    else:
        step, result = f"pooled += {pixel};", f"pooled / {taps}.0f"
    return f"""\
for (int x = 0; x < {stage.width}; x++) {{
    const float *window = strip + x * {stage.step};
    for (int o = 0; o < {channels}; o++) {{
        float pooled = window[o];
        for (int k = 1; k < {taps}; k++)
            {step}
{indented(_finished(result, stage.number, stage.then, "o", f"out[x * {stage.pitch} + o]"), 2)}
    }}
}}"""


def _floats(name: str, values: NDArray[np.float32]) -> str:
    return constants("float", name, [f"{value!s}f" for value in values.astype(np.float32).ravel()])
