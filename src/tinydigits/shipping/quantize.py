"""Post-training quantisation: the folded graph → the int8 graph, with ranges taken from calibration digits.

Weights are int8 with a scale a channel, maps uint8 with a scale and a zero point each. A map's range is cut where the
mean squared error is least, and the mean error that the rounding of weights leaves in each channel is taken off
the bias (M. Nagel et al., “Data-Free Quantization Through Weight Equalization and Bias Correction”, 2019, section 4.2).
Between a depthwise convolution and the one that mixes its channels, each channel is brought to the same range.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.shipping.graph import (
    INPUT_SHAPE,
    Affine,
    AveragePool,
    Conv,
    Floats,
    Graph,
    MaxPool,
    Op,
    Relu,
    activations,
    output_shapes,
)
from tinydigits.shipping.int8 import (
    MULTIPLIER_BITS,
    Int8AveragePool,
    Int8Conv,
    Int8Graph,
    Int8Op,
    Requantise,
    apply,
    check_ranges,
    convolve,
)

LOGIT_SCALE = 2.0**-16
_CUTS = np.linspace(0.5, 1, 51)  # shares of a map's range that are tried
_MOST_SHIFT = 39  # leaves room for 255 steps in 53 bits
_SAMPLE = 200_000  # values of a map by which its range is chosen

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Map:
    """Real value = `scale` · (integer − `zero_point`) + `rest`; the rest, below half a step, only the input has."""

    scale: float
    zero_point: int
    rest: float = 0.0


@dataclass(eq=False)
class _Stage:
    """A convolution or average pool, and what follows it up to the next: together one requantisation, then max pools.

    What follows is clip(scale · x + shift, low, high), by channel, because that is what any chain of ReLUs and
    affines comes to.
    """

    source: Conv | AveragePool
    scale: Reals
    shift: Reals
    low: Reals
    high: Reals
    pools: list[MaxPool]
    last: int  # the position, in the graph, of the stage's last operation


def quantize(graph: Graph, images: NDArray[np.uint8]) -> Int8Graph:
    """The int8 form of a graph.

    Args:
        graph: The folded graph.
        images: Calibration digits uint8 [N, 28, 28]; labels are not needed. A thousand are plenty.
    """
    ops = _prepared(graph.ops)
    reals = list(activations(replace(graph, ops=tuple(ops)), images))
    _level(ops, reals)
    stages = _stages(ops)
    integers = images[..., None].astype(np.int64)
    current = _Map(1.0, 0)
    if isinstance(ops[0], Affine):
        current = _input_map(ops[0])
    int8_ops: list[Int8Op] = []
    for stage in stages:
        is_last = stage is stages[-1]
        following = _logit_map(stage, current) if is_last else _choose_map(reals[stage.last], _least(stage, current))
        operation: Int8Op
        if isinstance(stage.source, Conv):
            before = reals[ops.index(stage.source)]
            operation = _conv(stage.source, stage, current, following, clamp=not is_last)
            operation = _corrected(operation, stage.source, current, integers, before)
        else:
            operation = _average_pool(stage.source, stage, current, following, clamp=not is_last)
        for each in (operation, *stage.pools):
            integers = apply(each, integers)
            int8_ops.append(each)
        current = following
    check_ranges(tuple(int8_ops))
    assert output_shapes(int8_ops)[-1] == (10, 1, 1)
    return Int8Graph(
        model=graph.model,
        ops=tuple(int8_ops),
        logit_scale=current.scale,
        weights_sha256=graph.weights_sha256,
        temperature=graph.temperature,
        integer_threshold=None if graph.threshold is None else math.ceil(graph.threshold / current.scale),
    )


def _prepared(ops: Sequence[Op]) -> list[Op]:
    """The same function, such that every affine fuses with a convolution or pool, and a convolution or pool is last.

    An affine that cannot fuse, because its scale is negative and stands behind a max pool, becomes a 1×1 convolution.
    """
    result: list[Op] = []
    for op in ops:
        is_source = isinstance(op, Conv | AveragePool)
        if isinstance(op, Affine) and not _fuses(op, result):
            result.append(Conv(np.diag(op.scale)[:, :, None, None], op.shift))
            continue
        is_input = isinstance(op, Affine) and not result
        if not (is_source or is_input or any(isinstance(other, Conv | AveragePool) for other in result)):
            result.append(_identity(INPUT_SHAPE[0]))  # for a pool or ReLU on the picture itself
        result.append(op)
    if not isinstance(result[-1], Conv | AveragePool):
        result.append(_identity(output_shapes(result)[-1][0]))
    return result


def _level(ops: list[Op], reals: list[Floats]) -> None:
    """Give the channels between a depthwise and the next convolution one range, -½ to ½; `reals` are what `ops` give.

    Nothing else stands between the two, so that the second takes back what the first does to a channel: the network's
    function stays the same. It is the equalisation of Nagel et al. (section 4.1), with shifts.
    """
    for i, (first, second) in enumerate(itertools.pairwise(ops)):
        if not (isinstance(first, Conv) and isinstance(second, Conv)):
            continue
        if not first.depthwise or second.depthwise or second.padding != (0, 0):
            continue
        low, high = (end(reals[i], axis=(0, 2, 3)) for end in (np.min, np.max))
        middle, span = (low + high) / 2, high - low
        unit = np.where(span > 0, span, 1).astype(np.float32)  # a constant channel is all in the second one's bias
        ops[i] = replace(first, weight=first.weight / unit[:, None, None, None], bias=(first.bias - middle) / unit)
        bias = second.bias + (second.weight * middle[:, None, None]).sum(axis=(1, 2, 3))
        ops[i + 1] = replace(second, weight=second.weight * span[:, None, None], bias=bias)
        reals[i] = (reals[i] - middle[:, None, None]) / unit[:, None, None]


def _identity(channels: int) -> Conv:
    return Conv(np.eye(channels, dtype=np.float32)[:, :, None, None], np.zeros(channels, np.float32))


def _fuses(op: Affine, before: list[Op]) -> bool:
    if not before:
        return 0 <= round(float(-op.shift[0] / op.scale[0])) <= 255
    stage = before[max((i for i, other in enumerate(before) if isinstance(other, Conv | AveragePool)), default=0) :]
    if not isinstance(stage[0], Conv | AveragePool):
        return False
    return bool((op.scale > 0).all()) or not any(isinstance(other, MaxPool) for other in stage)


def _stages(ops: Sequence[Op]) -> list[_Stage]:
    shapes = output_shapes(ops)
    stages: list[_Stage] = []
    for i, op in enumerate(ops):
        if isinstance(op, Conv | AveragePool):
            channels = shapes[i][0]
            infinite = np.full(channels, np.inf)
            stages.append(_Stage(op, np.ones(channels), np.zeros(channels), -infinite, infinite, [], i))
        elif stages:  # what stands before the first stage is the input's own affine
            _fuse(stages[-1], op)
            stages[-1].last = i
    return stages


def _fuse(stage: _Stage, op: Affine | Relu | MaxPool) -> None:
    """Max pools trade places with what follows them: that never falls where its argument rises."""
    match op:
        case MaxPool():
            stage.pools.append(op)
        case Relu():
            stage.low, stage.high = np.maximum(stage.low, 0), np.maximum(stage.high, 0)
        case Affine():
            stage.scale, stage.shift = stage.scale * op.scale, stage.shift * op.scale + op.shift
            ends = np.stack([stage.low * op.scale, stage.high * op.scale]) + op.shift
            stage.low, stage.high = ends.min(axis=0), ends.max(axis=0)


def _input_map(front: Affine) -> _Map:
    """Grey levels as they are: real = scale · level + shift."""
    scale, shift = float(front.scale[0]), float(front.shift[0])
    zero_point = round(-shift / scale)
    return _Map(scale, zero_point, shift + scale * zero_point)


def _logit_map(stage: _Stage, current: _Map) -> _Map:
    """Logits are integers of 2^-16, or of more where they might leave 31 bits."""
    source = stage.source
    if isinstance(source, Conv):
        sums = np.abs(source.weight.astype(np.float64)).sum(axis=(1, 2, 3)) * 255 * current.scale
        bound = float((sums + np.abs(source.bias)).max())
    else:
        bound = 255 * current.scale
    return _Map(max(LOGIT_SCALE, 2.0 ** (math.frexp(bound)[1] - 29)), 0)


def _least(stage: _Stage, current: _Map) -> float:
    """The finest scale of the following map: below it a multiplier would leave its bits."""
    steps = _weight_scales(stage.source, current) if isinstance(stage.source, Conv) else np.ones(1)
    return float(np.abs(stage.scale * steps).max()) * current.scale / 2**20


def _choose_map(values: NDArray[np.float32], least_scale: float) -> _Map:
    """Scale and zero point of the least mean squared error on these values; zero itself is always hit."""
    sample = values.ravel()[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    best, least = _Map(1.0, 0), math.inf
    for cut in _CUTS:
        scale = max(cut * (high - low) / 255, least_scale)
        candidate = _Map(scale, min(255, round(-cut * low / scale)))
        integers = np.clip(np.round(sample / scale) + candidate.zero_point, 0, 255)
        error = float(np.square((integers - candidate.zero_point) * scale - sample).mean())
        if error < least:
            best, least = candidate, error
    return best


def _conv(conv: Conv, stage: _Stage, current: _Map, following: _Map, *, clamp: bool) -> Int8Conv:
    weight = conv.weight.astype(np.float64)
    scales = _weight_scales(conv, current)
    integers = np.round(weight / scales[:, None, None, None])
    sums = integers.sum(axis=(1, 2, 3))
    bias = (conv.bias + weight.sum(axis=(1, 2, 3)) * current.rest) / (scales * current.scale)
    return Int8Conv(
        weight=integers.astype(np.int8),
        bias=np.round(bias - current.zero_point * sums).astype(np.int32),
        requantise=_requantise(stage, scales * current.scale, 0, following, clamp=clamp),
        zero_point=current.zero_point,
        stride=conv.stride,
        padding=conv.padding,
        depthwise=conv.depthwise,
    )


def _weight_scales(conv: Conv, current: _Map) -> Reals:
    """A step of each channel's weights: the largest weight is 127 of them, unless the bias would then leave 24 bits."""
    largest = np.abs(conv.weight.astype(np.float64)).max(axis=(1, 2, 3)) / 127
    return np.asarray(np.maximum(np.maximum(largest, np.abs(conv.bias) / current.scale / 2**23), 1e-12))


def _average_pool(pool: AveragePool, stage: _Stage, current: _Map, following: _Map, *, clamp: bool) -> Int8AveragePool:
    count = pool.kernel[0] * pool.kernel[1]
    step = np.full(len(stage.scale), current.scale / count)
    return Int8AveragePool(
        kernel=pool.kernel,
        stride=pool.stride,
        padding=pool.padding,
        requantise=_requantise(stage, step, count * current.zero_point, following, clamp=clamp),
        zero_point=current.zero_point,
    )


def _requantise(stage: _Stage, step: Reals, zero: int, following: _Map, *, clamp: bool) -> Requantise:
    """From sums, which mean `step` · (sum − `zero`), through what the stage does to them, to the following map."""
    factor = stage.scale * step / following.scale
    shift = min(_MOST_SHIFT, MULTIPLIER_BITS - 1 - math.frexp(float(np.abs(factor).max()))[1])
    multiplier = np.round(factor * 2.0**shift).astype(np.int64)
    place = np.round((stage.shift / following.scale + following.zero_point) * 2.0**shift).astype(np.int64)
    low = high = None
    if clamp:
        low, high = (
            np.clip(np.round(end / following.scale) + following.zero_point, 0, 255).astype(np.int32)
            for end in (stage.low, stage.high)
        )
    return Requantise(
        multiplier=multiplier.astype(np.int32),
        offset=place - multiplier * zero + (1 << (shift - 1)),
        shift=shift,
        low=low,
        high=high,
    )


def _corrected(
    operation: Int8Conv, conv: Conv, current: _Map, integers: NDArray[np.int64], reals: NDArray[Any]
) -> Int8Conv:
    """With a bias that leaves no mean error in any channel on the calibration digits."""
    scales = _weight_scales(conv, current) * current.scale
    error = convolve(operation, integers).mean(axis=(0, 1, 2)) - reals.astype(np.float64).mean(axis=(0, 2, 3)) / scales
    return replace(operation, bias=(operation.bias - np.round(error)).astype(np.int32))
