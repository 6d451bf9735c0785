"""The folded graph: a trained network as a short list of plain operations on raw bytes, with a reference interpreter.

A graph takes uint8 pictures as MNIST has them and gives logits; normalization and batch norm are folded into the
weights (by `exporters/fold.py`). Inference needs nothing else, and no torch. The C, ONNX and JavaScript exports are
made from a graph and compared with `run`.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

INPUT_SHAPE = (1, 28, 28)
_BATCH = 32  # pictures at a time in `chained`: enough to hide Python, few enough for a core's cache

Floats = NDArray[np.float32]
Pair = tuple[int, int]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution: `weight` [out, in, kh, kw], `bias` [out]. A linear layer is one whose kernel is the whole map.

    `depthwise`: each channel is convolved by itself, with `weight` [channels, 1, kh, kw].
    """

    weight: Floats
    bias: Floats
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    depthwise: bool = False

    @property
    def kernel(self) -> Pair:
        """Height and width."""
        return self.weight.shape[2], self.weight.shape[3]


@dataclass(frozen=True, eq=False)
class Affine:
    """x · `scale` + `shift`, [C] each: left where zero padding keeps it from being folded."""

    scale: Floats
    shift: Floats


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True)
class MaxPool:
    """Largest value of each window; padding is never the largest."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True)
class AveragePool:
    """Mean of each window, in which padding counts as zeros. A global pool is one whose kernel is the whole map."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


Op = Conv | Affine | Relu | MaxPool | AveragePool


class Windowed(Protocol):
    """An operation that slides a window over a map: convolutions, which have a `weight`, and pools, float or int8."""

    @property
    def kernel(self) -> Pair: ...  # noqa: D102
    @property
    def stride(self) -> Pair: ...  # noqa: D102
    @property
    def padding(self) -> Pair: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Graph:
    """A network's operations in order, from [1, 28, 28] raw bytes to [10, 1, 1] logits, and what its card says.

    `temperature` divides logits before the softmax, and a picture whose largest logit is below `threshold` is no digit;
    both are None if nothing was fitted. `weights_sha256` is the hash of the weights that were folded.
    """

    model: str
    ops: tuple[Op, ...]
    weights_sha256: str
    temperature: float | None = None
    threshold: float | None = None


def output_shapes(ops: Sequence[Windowed | Affine | Relu], shape: Shape = INPUT_SHAPE) -> list[Shape]:
    """The shape [C, H, W] after each operation of a float or an int8 graph."""
    shapes = []
    for op in ops:
        if not isinstance(op, Affine | Relu):
            weight = getattr(op, "weight", None)
            channels = shape[0] if weight is None else weight.shape[0]
            shape = (channels, *_output_size(shape[1:], op.kernel, op.stride, op.padding))
        shapes.append(shape)
    return shapes


def _output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    height, width = ((s + 2 * p - k) // d + 1 for s, k, d, p in zip(size, kernel, stride, padding, strict=True))
    return height, width


def describe(op: Windowed | Affine | Relu) -> str:
    """An operation of a float or an int8 graph in a few words: `conv 3×3, 8 → 12, padding 1×1`."""
    match op:
        case Affine():
            return "scale and shift"
        case Relu():
            return "ReLU"
    window, stride, padding = (f"{height}×{width}" for height, width in (op.kernel, op.stride, op.padding))
    weight = getattr(op, "weight", None)
    if weight is None:
        text = f"{'max' if isinstance(op, MaxPool) else 'average'} pool {window}"
    elif getattr(op, "depthwise", False):
        text = f"depthwise conv {window}, {len(weight)} channels"
    else:
        text = f"conv {window}, {weight.shape[1]} → {weight.shape[0]}"
    if op.stride != (op.kernel if weight is None else (1, 1)):
        text += f", stride {stride}"
    return text if op.padding == (0, 0) else f"{text}, padding {padding}"


def run(graph: Graph, images: NDArray[np.uint8]) -> Floats:
    """Logits [N, 10] of raw pictures uint8 [N, 28, 28]."""
    return chained(graph.ops, _apply, images, np.float32, np.float32)


def chained(
    ops: Sequence[Any], apply: Callable[[Any, Any], NDArray[Any]], images: NDArray[np.uint8], inner: type, dtype: type
) -> NDArray[Any]:
    """Pictures as `inner` numbers [N, 28, 28, 1] through all operations, a few at a time: logits `dtype` [N, 10].

    NumPy releases the interpreter lock, so there is one thread for each core.
    """
    logits: NDArray[Any] = np.empty((len(images), 10), dtype)

    def fill(start: int) -> None:
        x: NDArray[Any] = images[start : start + _BATCH, :, :, None].astype(inner)
        for op in ops:
            x = apply(op, x)
        logits[start : start + _BATCH] = x[:, 0, 0]

    starts = range(0, len(images), _BATCH)
    if len(starts) == 1:
        fill(0)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, starts))
    return logits


def activations(graph: Graph, images: NDArray[np.uint8]) -> Iterator[Floats]:
    """The output of each operation, in order: float32 [N, C, H, W]."""
    x: Floats = images[..., None].astype(np.float32)  # [N, H, W, C] inside: rows of channels multiply fastest
    for op in graph.ops:
        x = _apply(op, x)
        yield x.transpose(0, 3, 1, 2)


def _apply(op: Op, x: Floats) -> Floats:
    match op:
        case Conv():
            return add_along_rows(convolve(op, x, op.weight, 0), op.bias)
        case Affine():
            return add_along_rows(x * op.scale, op.shift)
        case Relu():
            return np.maximum(x, 0)
        case MaxPool():
            return reduce_windows(np.maximum, op, x, -np.inf)
        case AveragePool():
            return np.asarray(reduce_windows(np.add, op, x, 0) / np.float32(op.kernel[0] * op.kernel[1]))


def add_along_rows(x: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Add `values` [C] to [N, H, W, C] in place. NumPy is fast along whole rows, not along a few channels."""
    rows = x.reshape(*x.shape[:2], -1)
    rows += np.tile(values, x.shape[2])
    return x


def convolve(op: Windowed, x: NDArray[Any], weight: NDArray[Any], border: float) -> NDArray[Any]:
    """The sums of a convolution's windows of [N, H, W, C], times `weight`, without the bias: [N, H', W', C']."""
    if getattr(op, "depthwise", False):
        return _convolve_depthwise(op, x, weight, border)
    view = sliding_window_view(_pad(op, x, border), op.kernel, axis=(1, 2))  # [N, H', W', C, kh, kw], at every position
    windows = view[:, :: op.stride[0], :: op.stride[1]].transpose(0, 1, 2, 4, 5, 3)
    columns = windows.reshape(*windows.shape[:3], -1)
    return np.asarray(columns @ weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)))  # [kh · kw · in, out]


def _convolve_depthwise(op: Windowed, x: NDArray[Any], weight: NDArray[Any], border: float) -> NDArray[Any]:
    taps = _taps(op, x, border)
    first = next(taps)
    shape = first.shape  # [N, H', W', C]
    rows = iter(np.tile(weight.reshape(len(weight), -1).T, shape[2]))  # [kh · kw, W' · C], as in `add_along_rows`
    result: NDArray[Any] = first.reshape(*shape[:2], -1) * next(rows)
    product = np.empty_like(result)
    for part, row in zip(taps, rows, strict=True):
        result += np.multiply(part.reshape(result.shape), row, out=product)
    return result.reshape(shape)


def reduce_windows(function: np.ufunc, op: Windowed, x: NDArray[Any], border: float) -> NDArray[Any]:
    """A pool's windows of [N, H, W, C], with a border of that value, each reduced to one value: [N, H', W', C]."""
    first, *others = _taps(op, x, border)
    result = first.copy()
    for part in others:
        function(result, part, out=result)
    return result


def _taps(op: Windowed, x: NDArray[Any], border: float) -> Iterator[NDArray[Any]]:
    """The values under each tap of a window as it slides over [N, H, W, C]: kh · kw views [N, H', W', C]."""
    x = _pad(op, x, border)
    height, width = _output_size((x.shape[1], x.shape[2]), op.kernel, op.stride, (0, 0))
    for i, j in itertools.product(*map(range, op.kernel)):
        rows = slice(i, i + op.stride[0] * (height - 1) + 1, op.stride[0])
        yield x[:, rows, slice(j, j + op.stride[1] * (width - 1) + 1, op.stride[1])]


def _pad(op: Windowed, x: NDArray[Any], border: float) -> NDArray[Any]:
    (top, left) = op.padding
    return np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=border) if top or left else x


def max_logit(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The max logit of each row, float64 [N]: high for digits like those of the training, low for other pictures.

    It detects non-digits better than the probability of the best digit, because softmax discards how large the logits
    are. A network that ends in log_softmax discards it too; its largest output is the logarithm of that probability.
    Source: D. Hendrycks, S. Basart, M. Mazeika and others (2022), "Scaling Out-of-Distribution Detection for Real-World
    Settings", ICML.
    """
    return np.asarray(logits.max(axis=1), dtype=np.float64)
