"""The int8 half of the C generator: integer sums of whole windows, requantised as `int8.py` defines it.

The functions are shared by all layers. Called with constant tables, they are compiled once for each layer where speed
counts, and once in all where size does (-Os).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinydigits.shipping.c_plan import Plan, Stage
from tinydigits.shipping.c_text import Parts, braced, constants
from tinydigits.shipping.graph import MaxPool
from tinydigits.shipping.int8 import Int8AveragePool, Int8Conv

_SLACK = 31  # elements behind the last strip, which padded windows may read (times 0)

_COMMON = """\
#ifdef __OPTIMIZE_SIZE__
#define KERNEL static /* one for all layers */
#else
#define KERNEL static inline /* one for each layer, compiled for its sizes */
#endif

/* Where there are vector registers, zeros behind a row of weights, and behind the scales of channels, fill them up. */
#if defined(__SSE2__) && !defined(__OPTIMIZE_SIZE__)
#define FILLED(count, lanes) (((count) + (lanes) - 1) / (lanes) * (lanes))
#else
#define FILLED(count, lanes) (count)
#endif
#define PADDED(weights) FILLED(weights, 32)
#define CHANNELS(count) FILLED(count, 8)
#define MOST_CHANNELS PADDED({most_channels})

/* Integer sums -> the next map's scale: (sum * multiplier + offset) / 2^shift, rounded down, for each channel. */
struct scale {{
    const int32_t *multiplier;
    const int64_t *offset;
    const uint8_t *low, *high; /* clamps; 0: those of a byte */
    int channels, shift;
}};
"""

_REQUANTISE = """
KERNEL void requantise(const struct scale *s, const int32_t *sums, uint8_t *restrict out)
{
    uint8_t bytes[MOST_CHANNELS]; /* those that fill up the last vector are dropped */
    for (int o = 0; o < CHANNELS(s->channels); o++) {
        int64_t value = sums[o] * (int64_t)s->multiplier[o] + s->offset[o];
        value = (value < 0 ? 0 : value) >> s->shift;
        bytes[o] = (uint8_t)(value > 255 ? 255 : value);
    }
    for (int o = 0; o < s->channels; o++) {
        uint8_t byte = bytes[o];
        if (s->low) {
            byte = byte < s->low[o] ? s->low[o] : byte;
            byte = byte > s->high[o] ? s->high[o] : byte;
        }
        out[o] = byte;
    }
}
"""

_LOGITS = """
static void scale_logits(const struct scale *s, const int32_t *sums, int32_t *logits)
{
    for (int o = 0; o < s->channels; o++) {
        const int64_t value = sums[o] * (int64_t)s->multiplier[o] + s->offset[o];
        logits[o] = (int32_t)(value < 0 ? -1 - ((-1 - value) >> s->shift) : value >> s->shift);
    }
}
"""

_CONVOLVE = """
/* Sums of products of one window, two channels at a time; `sums` has room for one more if the channels are odd. */
KERNEL void multiply(const uint8_t *window, const int8_t *weight, int taps, int channels, int32_t *sums)
{
    for (int o = 0; o < channels; o += 2, weight += 2 * taps) {
        const int8_t *next = weight + (o + 1 < channels ? taps : 0);
        int32_t first = 0, second = 0;
        for (int k = 0; k < taps; k++) {
            first += window[k] * weight[k];
            second += window[k] * next[k];
        }
        sums[o] = first;
        sums[o + 1] = second;
    }
}
"""

_CONVOLVE_ROW = """
/* `width` windows, `step` apart -> pixels, `pitch` apart. */
KERNEL void convolve(const uint8_t *strip, int width, int step, const int8_t *weight, int taps, const struct scale *s,
                     uint8_t *out, int pitch)
{
    int32_t sums[MOST_CHANNELS + 1] = {0};
    for (; width > 0; width--, strip += step, out += pitch) {
        multiply(strip, weight, taps, s->channels, sums);
        requantise(s, sums, out);
    }
}
"""

_CONVOLVE_DEPTHWISE = """
/* The same of each channel by itself; `sums` has room for the channels that fill up the last vector. */
KERNEL void multiply_depthwise(const uint8_t *window, const int8_t *weight, int pixels, int channels,
                               int32_t *restrict sums)
{
    for (int o = 0; o < PADDED(channels); o++) {
        int32_t sum = 0;
        for (int k = 0; k < pixels; k++)
            sum += window[k * channels + o] * weight[k * PADDED(channels) + o];
        sums[o] = sum;
    }
}
"""

_CONVOLVE_DEPTHWISE_ROW = """
KERNEL void convolve_depthwise(const uint8_t *strip, int width, int step, const int8_t *weight, int pixels,
                               const struct scale *s, uint8_t *out, int pitch)
{
    int32_t sums[MOST_CHANNELS + 1] = {0};
    for (; width > 0; width--, strip += step, out += pitch) {
        multiply_depthwise(strip, weight, pixels, s->channels, sums);
        requantise(s, sums, out);
    }
}
"""

_SUM = """
KERNEL void add_up(const uint8_t *window, int pixels, int channels, int32_t *sums)
{
    for (int o = 0; o < channels; o++) {
        sums[o] = 0;
        for (int k = 0; k < pixels; k++)
            sums[o] += window[k * channels + o];
    }
}
"""

_AVERAGE_ROW = """
KERNEL void average(const uint8_t *strip, int width, int step, int pixels, const struct scale *s, uint8_t *out,
                    int pitch)
{
    int32_t sums[MOST_CHANNELS + 1] = {0};
    for (; width > 0; width--, strip += step, out += pitch) {
        add_up(strip, pixels, s->channels, sums);
        requantise(s, sums, out);
    }
}
"""

_MAXIMUM = """
KERNEL void maximum(const uint8_t *strip, int width, int step, int pixels, int channels, uint8_t *restrict out,
                    int pitch)
{
    for (; width > 0; width--, strip += step, out += pitch)
        for (int o = 0; o < channels; o++) {
            uint8_t value = strip[o];
            for (int k = 1; k < pixels; k++)
                value = strip[k * channels + o] > value ? strip[k * channels + o] : value;
            out[o] = value;
        }
}
"""


def int8_parts(whole: Plan) -> Parts:
    """The int8 text of a plan."""
    *inner, last = whole.stages
    elements = whole.size + _SLACK
    return Parts(
        type="uint8_t",
        logit="int32_t",
        slack=_SLACK,
        kernels=_kernels(whole.stages) + "\n",
        tables="\n\n".join(filter(None, map(_tables, whole.stages))),
        prepare=f"for (i = 0; i < {elements}; i++)\n    arena->strips[i] = 0;\n",
        first=f"out[x * {whole.stages[0].cell}] = row[x];",
        rows=(*map(_row, inner), _logits(last)),
        paddings=tuple(map(_padding, whole.stages)),
    )


def _padding(stage: Stage) -> str:
    """What the border consists of. A max pool takes 0, which is never above anything else in its window."""
    match stage.op:
        case Int8Conv(zero_point=value) | Int8AveragePool(zero_point=value):
            return str(value)
        case _:
            return "0"


def _kernels(stages: Sequence[Stage]) -> str:
    """C functions that the layers share; only those that are used, or compilers would warn."""
    *inner, last = stages
    scaled = [stage for stage in inner if not isinstance(stage.op, MaxPool)]
    convolutions = [stage for stage in stages if isinstance(stage.op, Int8Conv) and not stage.op.depthwise]
    depthwise = [stage for stage in stages if isinstance(stage.op, Int8Conv) and stage.op.depthwise]
    averages = [stage for stage in stages if isinstance(stage.op, Int8AveragePool)]
    parts = {
        _REQUANTISE: scaled,
        _LOGITS: [last],
        _CONVOLVE: convolutions,
        _CONVOLVE_ROW: set(convolutions) - {last},
        _CONVOLVE_DEPTHWISE: depthwise,
        _CONVOLVE_DEPTHWISE_ROW: set(depthwise) - {last},
        _SUM: averages,
        _AVERAGE_ROW: set(averages) - {last},
        _MAXIMUM: [stage for stage in stages if isinstance(stage.op, MaxPool)],
    }
    most = max(stage.out_channels for stage in stages)
    return _COMMON.format(most_channels=most) + "".join(text for text, users in parts.items() if users)


def _tables(stage: Stage) -> str:
    """The constants of a layer."""
    op, n, channels = stage.op, stage.number, stage.out_channels
    if not isinstance(op, Int8Conv | Int8AveragePool):
        return ""
    r = op.requantise
    multiplier = np.broadcast_to(r.multiplier.astype(np.int64), (channels,))
    offset = np.broadcast_to(r.offset, (channels,))
    texts, clamps = [], "0, 0"
    if isinstance(op, Int8Conv):
        texts.append(_weights(stage, op))
        offset = offset + op.bias * multiplier  # (sum + bias) * multiplier + offset
    size = f"CHANNELS({channels})"
    texts.append(_integers("int32_t", f"multiplier_{n}", multiplier, size))
    texts.append(_integers("int64_t", f"offset_{n}", offset, size))
    if r.low is not None and r.high is not None and (r.low.any() or (r.high < 255).any()):
        texts.append(_integers("uint8_t", f"low_{n}", np.broadcast_to(r.low, (channels,)), str(channels)))
        texts.append(_integers("uint8_t", f"high_{n}", np.broadcast_to(r.high, (channels,)), str(channels)))
        clamps = f"low_{n}, high_{n}"
    scale = f"multiplier_{n}, offset_{n}, {clamps}, {channels}, {r.shift}"
    texts.append(f"static const struct scale scale_{n} = {{{scale}}};")
    return "\n".join(texts)


def _weights(stage: Stage, op: Int8Conv) -> str:
    """A row for each channel of the output, as the window lies in memory; or for each place of the window."""
    if op.depthwise:
        rows, row = op.weight.transpose(3, 2, 1, 0).reshape(-1, stage.out_channels), f"PADDED({stage.out_channels})"
    else:
        rows, row = op.weight.transpose(0, 3, 2, 1).reshape(stage.out_channels, -1), f"PADDED({stage.window})"
    table = ",\n".join(braced(map(str, values)) for values in rows)
    return f"static const int8_t weight_{stage.number}[{len(rows)}][{row}] = {{\n{table}}};"


def _row(stage: Stage) -> str:
    """Statements from `strip` to the row at `out`."""
    op, n = stage.op, stage.number
    sizes = f"{stage.width}, {stage.step}"
    taps = op.kernel[0] * op.kernel[1]
    match op:
        case Int8Conv(depthwise=True):
            return f"convolve_depthwise(strip, {sizes}, weight_{n}[0], {taps}, &scale_{n}, out, {stage.pitch});"
        case Int8Conv():
            return f"convolve(strip, {sizes}, weight_{n}[0], PADDED({stage.window}), &scale_{n}, out, {stage.pitch});"
        case Int8AveragePool():
            return f"average(strip, {sizes}, {taps}, &scale_{n}, out, {stage.pitch});"
        case _:
            return f"maximum(strip, {sizes}, {taps}, {stage.channels}, out, {stage.pitch});"


def _logits(stage: Stage) -> str:
    """Statements from the last layer's `strip` to `logits`."""
    op, n, channels = stage.op, stage.number, stage.out_channels
    taps = op.kernel[0] * op.kernel[1]
    if isinstance(op, Int8Conv) and op.depthwise:
        sums = f"multiply_depthwise(strip, weight_{n}[0], {taps}, {channels}, sums);"
    elif isinstance(op, Int8Conv):
        sums = f"multiply(strip, weight_{n}[0], PADDED({stage.window}), {channels}, sums);"
    else:
        sums = f"add_up(strip, {taps}, {channels}, sums);"
    return f"int32_t sums[MOST_CHANNELS + 1];\n{sums}\nscale_logits(&scale_{n}, sums, out);"


def _integers(type_: str, name: str, values: NDArray[np.signedinteger], size: str) -> str:
    return constants(type_, name, map(str, values.tolist()), size)
