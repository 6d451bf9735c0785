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

/* Where there are vector registers, weights of a window are padded with zeros to fill them. */
#if defined(__SSE2__) && !defined(__OPTIMIZE_SIZE__)
#define LANES 32
#else
#define LANES 1
#endif
#define PADDED(taps) (((taps) + LANES - 1) / LANES * LANES)
#define MOST_CHANNELS {most_channels}

/* Integer sums -> the next map's scale: (sum * multiplier + offset) / 2^shift, rounded down, for each channel. */
struct scale {{
    const int32_t *multiplier;
    const int64_t *offset;
    const uint8_t *low, *high; /* clamps */
    int channels, shift;
}};
"""

_REQUANTISE = """
KERNEL void requantise(const struct scale *s, const int32_t *sums, uint8_t *restrict out)
{
    for (int o = 0; o < s->channels; o++) {
        int64_t value = sums[o] * (int64_t)s->multiplier[o] + s->offset[o];
        value = (value < 0 ? 0 : value) >> s->shift; /* below 0 is below `low` too */
        value = value < s->low[o] ? s->low[o] : value;
        out[o] = (uint8_t)(value > s->high[o] ? s->high[o] : value);
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
    int32_t sums[MOST_CHANNELS + 1];
    for (; width > 0; width--, strip += step, out += pitch) {
        multiply(strip, weight, taps, s->channels, sums);
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
    int32_t sums[MOST_CHANNELS + 1];
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
    convolutions = [stage for stage in stages if isinstance(stage.op, Int8Conv)]
    averages = [stage for stage in stages if isinstance(stage.op, Int8AveragePool)]
    parts = {
        _REQUANTISE: scaled,
        _LOGITS: [last],
        _CONVOLVE: convolutions,
        _CONVOLVE_ROW: set(convolutions) - {last},
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
        rows = op.weight.transpose(0, 3, 2, 1).reshape(channels, -1)
        weights = ",\n".join(braced(map(str, row)) for row in rows)
        texts.append(f"static const int8_t weight_{n}[{channels}][PADDED({stage.window})] = {{\n{weights}}};")
        offset = offset + op.bias * multiplier  # (sum + bias) * multiplier + offset
    texts.append(_integers("int32_t", f"multiplier_{n}", multiplier))
    texts.append(_integers("int64_t", f"offset_{n}", offset))
    if r.low is not None and r.high is not None:
        texts.append(_integers("uint8_t", f"low_{n}", np.broadcast_to(r.low, (channels,))))
        texts.append(_integers("uint8_t", f"high_{n}", np.broadcast_to(r.high, (channels,))))
        clamps = f"low_{n}, high_{n}"
    scale = f"multiplier_{n}, offset_{n}, {clamps}, {channels}, {r.shift}"
    texts.append(f"static const struct scale scale_{n} = {{{scale}}};")
    return "\n".join(texts)


def _row(stage: Stage) -> str:
    """Statements from `strip` to the row at `out`."""
    op, n = stage.op, stage.number
    sizes = f"{stage.width}, {stage.step}"
    taps = op.kernel[0] * op.kernel[1]
    match op:
        case Int8Conv():
            return f"convolve(strip, {sizes}, weight_{n}[0], PADDED({stage.window}), &scale_{n}, out, {stage.pitch});"
        case Int8AveragePool():
            return f"average(strip, {sizes}, {taps}, &scale_{n}, out, {stage.pitch});"
        case _:
            return f"maximum(strip, {sizes}, {taps}, {stage.channels}, out, {stage.pitch});"


def _logits(stage: Stage) -> str:
    """Statements from the last layer's `strip` to `logits`."""
    op, n, channels = stage.op, stage.number, stage.out_channels
    if isinstance(op, Int8Conv):
        sums = f"multiply(strip, weight_{n}[0], PADDED({stage.window}), {channels}, sums);"
    else:
        sums = f"add_up(strip, {op.kernel[0] * op.kernel[1]}, {channels}, sums);"
    return f"int32_t sums[{channels + 1}];\n{sums}\nscale_logits(&scale_{n}, sums, out);"


def _integers(type_: str, name: str, values: NDArray[np.signedinteger]) -> str:
    return constants(type_, name, map(str, values.tolist()))
