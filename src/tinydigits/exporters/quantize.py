"""Post-training quantisation: the folded graph → the int8 graph, with ranges taken from calibration digits.

Weights are int8 with a scale per channel, maps uint8 with a scale and a zero point each. A map's range is clipped where
the mean squared error is least, and the mean error that rounding the weights causes in each channel is subtracted from
the bias (M. Nagel et al., “Data-Free Quantization Through Weight Equalization and Bias Correction”, 2019, section 4.2).
Between a depthwise convolution and the one that mixes its channels, each channel is brought to the same range.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from tinydigits.data.dataset import DigitData
from tinydigits.inference import graph as graphs
from tinydigits.inference import int8
from tinydigits.inference.graph import INPUT_SHAPE, Affine, AveragePool, Conv, Floats, Graph, MaxPool, Op, Relu
from tinydigits.inference.int8 import MULTIPLIER_BITS, Int8AveragePool, Int8Conv, Int8Graph, Int8Op, Requantise
from tinydigits.inference.store import load_graph, packaged_graph

LOGIT_SCALE = 2.0**-16
_CUTS = np.linspace(0.5, 1, 51)  # fractions of a map's range that are tried
_MOST_SHIFT = 39  # leaves 53 bits enough for 255 steps
_SAMPLE = 200_000  # values of a map from which its range is chosen

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Quant:
    """Real value = `scale` · (integer − `zero_point`) + `rest`; only the input has a rest, below half a step."""

    scale: float
    zero_point: int
    rest: float = 0.0


@dataclass(eq=False)
class _Group:
    """A convolution or average pool and what follows it up to the next: one requantisation, then max pools.

    Any chain of ReLUs and affines equals clip(scale · x + shift, low, high), by channel.
    """

    source: Conv | AveragePool
    scale: Reals
    shift: Reals
    ends: Reals  # low and high: [2, C]
    pools: list[MaxPool]
    last: int  # the index, in the graph, of the group's last operation


def shipped_or_quantized(graph: Graph, data: DigitData) -> Int8Graph:
    """The shipped int8 graph with the same weights, or a new one with ranges from the validation digits of `data`."""
    if path := packaged_graph(graph.model, int8=True):
        shipped = load_graph(path)
        if isinstance(shipped, Int8Graph) and shipped.weights_sha256 == graph.weights_sha256:
            return shipped
    return quantize(graph, calibration_images(data))


def calibration_images(data: DigitData) -> NDArray[np.uint8]:
    """A thousand validation digits uint8 [N, 28, 28], or all if there are fewer."""
    return data.train.images[data.validation[:: max(1, len(data.validation) // 1000)]]


def quantize(graph: Graph, images: NDArray[np.uint8]) -> Int8Graph:
    """Quantise a folded graph by calibration digits uint8 [N, 28, 28], without labels. A thousand are plenty."""
    ops = _fusable(graph.ops)
    reals = list(graphs.activations(replace(graph, ops=tuple(ops)), images))
    _equalise_channels(ops, reals)
    groups = _groups(ops)
    integers = images[..., None].astype(np.int64)
    incoming = _input_quant(ops[0])
    int8_ops: list[Int8Op] = []
    for group in groups:
        is_last = group is groups[-1]
        smallest = _smallest_scale(group, incoming)
        outgoing = _logit_quant(group, incoming) if is_last else _choose_quant(reals[group.last], smallest)
        operation = _operation(group, incoming, outgoing, clamp=not is_last)
        if isinstance(operation, Int8Conv) and isinstance(group.source, Conv):
            steps = _weight_scales(group.source, incoming) * incoming.scale
            operation = _corrected(operation, steps, integers, reals[ops.index(group.source)])
        for each in (operation, *group.pools):
            integers = int8.apply(each, integers)
            int8_ops.append(each)
        incoming = outgoing
    int8.check_ranges(tuple(int8_ops))
    assert graphs.output_shapes(int8_ops)[-1] == (10, 1, 1)
    threshold = None if graph.threshold is None else math.ceil(graph.threshold / incoming.scale)
    settings = graph.weights_sha256, graph.temperature, threshold
    return Int8Graph(graph.model, tuple(int8_ops), incoming.scale, *settings)


def _identity(channels: int) -> Conv:
    return Conv(np.eye(channels, dtype=np.float32)[:, :, None, None], np.zeros(channels, np.float32))


def _fuses(op: Affine, before: list[Op]) -> bool:
    if not before:
        return 0 <= round(float(-op.shift[0] / op.scale[0])) <= 255
    group = before[max((i for i, other in enumerate(before) if isinstance(other, Conv | AveragePool)), default=0) :]
    if not isinstance(group[0], Conv | AveragePool):
        return False
    return bool((op.scale > 0).all()) or not any(isinstance(other, MaxPool) for other in group)


def _fusable(ops: Sequence[Op]) -> list[Op]:
    """The same function, rewritten so that every affine fuses with a convolution or pool, and one of these is last.

    An affine that cannot fuse, because its scale is negative and it follows a max pool, becomes a 1×1 convolution.
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
        result.append(_identity(graphs.output_shapes(result)[-1][0]))
    return result


def _equalise_channels(ops: list[Op], reals: list[Floats]) -> None:
    """Scale the channels between a depthwise and the next convolution to one range, -½ to ½, in `ops` and `reals`.

    Nothing is between the two, so that the second undoes what the first does to a channel, and the network computes the
    same. `reals` are the outputs of `ops`. This is the equalisation of Nagel et al. (section 4.1), with shifts.
    """
    for i, (first, second) in enumerate(itertools.pairwise(ops)):
        if not (isinstance(first, Conv) and isinstance(second, Conv)):
            continue
        if not first.depthwise or second.depthwise or second.padding != (0, 0):
            continue
        low, high = (end(reals[i], axis=(0, 2, 3)) for end in (np.min, np.max))
        middle, span = (low + high) / 2, high - low
        unit = np.where(span > 0, span, 1).astype(np.float32)  # a constant channel goes into the second one's bias
        ops[i] = replace(first, weight=first.weight / unit[:, None, None, None], bias=(first.bias - middle) / unit)
        bias = second.bias + (second.weight * middle[:, None, None]).sum(axis=(1, 2, 3))
        ops[i + 1] = replace(second, weight=second.weight * span[:, None, None], bias=bias)
        reals[i] = (reals[i] - middle[:, None, None]) / unit[:, None, None]


def _groups(ops: Sequence[Op]) -> list[_Group]:
    shapes = graphs.output_shapes(ops)
    groups: list[_Group] = []
    for i, op in enumerate(ops):
        if isinstance(op, Conv | AveragePool):
            channels = shapes[i][0]
            ends = np.tile([[-np.inf], [np.inf]], channels)
            groups.append(_Group(op, np.ones(channels), np.zeros(channels), ends, [], i))
        elif groups:  # before the first group there is only the affine of the input
            _fuse(groups[-1], op)
            groups[-1].last = i
    return groups


def _fuse(group: _Group, op: Affine | Relu | MaxPool) -> None:
    """Max pools are moved behind what follows them, which is monotonic."""
    match op:
        case MaxPool():
            group.pools.append(op)
        case Relu():
            group.ends = np.maximum(group.ends, 0)
        case Affine():
            group.scale, group.shift = group.scale * op.scale, group.shift * op.scale + op.shift
            ends = group.ends * op.scale + op.shift
            group.ends = np.stack([ends.min(axis=0), ends.max(axis=0)])


def _input_quant(front: Op) -> _Quant:
    """The input is not rescaled: real = scale · level + shift, if an affine is the first operation."""
    if not isinstance(front, Affine):
        return _Quant(1.0, 0)
    scale, shift = float(front.scale[0]), float(front.shift[0])
    zero_point = round(-shift / scale)
    return _Quant(scale, zero_point, shift + scale * zero_point)


def _logit_quant(group: _Group, incoming: _Quant) -> _Quant:
    """Logits are integers in units of 2^-16, or of more if they might exceed 31 bits."""
    bound = 255 * incoming.scale
    if isinstance(source := group.source, Conv):
        sums = np.abs(source.weight.astype(np.float64)).sum(axis=(1, 2, 3)) * 255 * incoming.scale
        bound = float((sums + np.abs(source.bias)).max())
    return _Quant(max(LOGIT_SCALE, 2.0 ** (math.frexp(bound)[1] - 29)), 0)


def _smallest_scale(group: _Group, incoming: _Quant) -> float:
    """The smallest scale of the outgoing map: below it a multiplier would exceed its bits."""
    steps = _weight_scales(group.source, incoming) if isinstance(group.source, Conv) else np.ones(1)
    return float(np.abs(group.scale * steps).max()) * incoming.scale / 2**20


def _choose_quant(values: NDArray[np.float32], least_scale: float) -> _Quant:
    """Scale and zero point with the least mean squared error on these values; zero is always exact."""
    sample = values.ravel()[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    maps = []
    for cut in _CUTS:
        scale = max(cut * (high - low) / 255, least_scale)
        zero_point = min(255, round(-cut * low / scale))
        integers = np.clip(np.round(sample / scale) + zero_point, 0, 255)
        maps.append((float(np.square((integers - zero_point) * scale - sample).mean()), _Quant(scale, zero_point)))
    return min(maps, key=itemgetter(0))[1]


def _operation(group: _Group, incoming: _Quant, outgoing: _Quant, *, clamp: bool) -> Int8Conv | Int8AveragePool:
    source = group.source
    if isinstance(source, AveragePool):
        count = source.kernel[0] * source.kernel[1]
        step = np.full(len(group.scale), incoming.scale / count)
        requantise = _requantise(group, step, count * incoming.zero_point, outgoing, clamp=clamp)
        return Int8AveragePool(source.kernel, source.stride, source.padding, requantise, incoming.zero_point)
    weight, scales = source.weight.astype(np.float64), _weight_scales(source, incoming)
    integers = np.round(weight / scales[:, None, None, None])
    bias = (source.bias + weight.sum(axis=(1, 2, 3)) * incoming.rest) / (scales * incoming.scale)
    bias = np.round(bias - incoming.zero_point * integers.sum(axis=(1, 2, 3))).astype(np.int32)
    requantise = _requantise(group, scales * incoming.scale, 0, outgoing, clamp=clamp)
    window = source.stride, source.padding, source.depthwise
    return Int8Conv(integers.astype(np.int8), bias, requantise, incoming.zero_point, *window)


def _weight_scales(conv: Conv, incoming: _Quant) -> Reals:
    """The step of each channel's weights: the largest weight is 127, unless the bias would then exceed 24 bits."""
    largest = np.abs(conv.weight.astype(np.float64)).max(axis=(1, 2, 3)) / 127
    return np.asarray(np.maximum(np.maximum(largest, np.abs(conv.bias) / incoming.scale / 2**23), 1e-12))


def _requantise(group: _Group, step: Reals, zero: int, outgoing: _Quant, *, clamp: bool) -> Requantise:
    """From sums, which stand for `step` · (sum − `zero`), through the rest of the group to the outgoing map."""
    factor = group.scale * step / outgoing.scale
    shift = min(_MOST_SHIFT, MULTIPLIER_BITS - 1 - math.frexp(float(np.abs(factor).max()))[1])
    multiplier = np.round(factor * 2.0**shift).astype(np.int64)
    origin = np.round((group.shift / outgoing.scale + outgoing.zero_point) * 2.0**shift).astype(np.int64)
    offset = origin - multiplier * zero + (1 << (shift - 1))
    ends = np.clip(np.round(group.ends / outgoing.scale) + outgoing.zero_point, 0, 255)
    low, high = ends.astype(np.int32) if clamp else (None, None)
    return Requantise(multiplier.astype(np.int32), offset, shift, low, high)


def _corrected(operation: Int8Conv, steps: Reals, integers: NDArray[np.int64], reals: Floats) -> Int8Conv:
    """The convolution with a bias for which no channel has a mean error on the calibration digits."""
    means = reals.astype(np.float64).mean(axis=(0, 2, 3)) / steps
    error = int8.convolve(operation, integers).mean(axis=(0, 1, 2)) - means
    return replace(operation, bias=(operation.bias - np.round(error)).astype(np.int32))
