"""The folded graph: a trained network as a short list of plain operations on raw bytes, with a reference interpreter.

A graph takes uint8 pictures as MNIST has them and gives logits; normalisation and batch norm are folded into the
weights (`fold.py` does that). It is all that a picture needs to be read: this module imports no torch. Every other form
that leaves the house (C, ONNX, JavaScript) is made from a graph and held against `run`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

INPUT_SHAPE = (1, 28, 28)
_BATCH = 32  # pictures at a time in `last_of`: enough to hide Python, few enough for a core's cache

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
    """x · `scale` + `shift`, [C] each: what stands before zero padding and cannot be folded away."""

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
    """What slides a window over a map: convolutions, which have a `weight`, and pools, of float and of int8 graphs."""

    @property
    def kernel(self) -> Pair: ...  # noqa: D102
    @property
    def stride(self) -> Pair: ...  # noqa: D102
    @property
    def padding(self) -> Pair: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Graph:
    """A network's operations in order, from [1, 28, 28] raw bytes to [10, 1, 1] logits, and what its card says.

    `temperature` divides logits before a softmax, and below `threshold` the largest logit is no digit's; both None if
    nothing was fitted. `weights_sha256` is that of the weights which were folded.
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
    window = f"{op.kernel[0]}×{op.kernel[1]}"
    weight = getattr(op, "weight", None)
    if weight is None:
        text, usual = f"{'max' if isinstance(op, MaxPool) else 'average'} pool {window}", op.kernel
    elif getattr(op, "depthwise", False):
        text, usual = f"depthwise conv {window}, {len(weight)} channels", (1, 1)
    else:
        text, usual = f"conv {window}, {weight.shape[1]} → {weight.shape[0]}", (1, 1)
    if op.stride != usual:
        text += f", stride {op.stride[0]}×{op.stride[1]}"
    return text if op.padding == (0, 0) else f"{text}, padding {op.padding[0]}×{op.padding[1]}"


def run(graph: Graph, images: NDArray[np.uint8]) -> Floats:
    """Logits [N, 10] of raw pictures uint8 [N, 28, 28]."""
    return last_of(lambda batch: activations(graph, batch), images, np.float32)


def last_of(
    activate: Callable[[NDArray[np.uint8]], Iterator[NDArray[Any]]], images: NDArray[np.uint8], dtype: type[np.number]
) -> NDArray[Any]:
    """The last of the maps [N, 10, 1, 1] that `activate` gives for pictures, a few of these at a time: [N, 10].

    NumPy lets threads work at the same time, so there is one for each core.
    """
    logits = np.empty((len(images), 10), dtype=dtype)

    def fill(start: int) -> None:
        *_, last = activate(images[start : start + _BATCH])
        logits[start : start + _BATCH] = last[:, :, 0, 0]

    starts = range(0, len(images), _BATCH)
    if len(starts) == 1:
        fill(0)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, starts))
    return logits


def activations(graph: Graph, images: NDArray[np.uint8]) -> Iterator[Floats]:
    """What each operation gives, in order: float32 [N, C, H, W]."""
    x: Floats = images[..., None].astype(np.float32)  # [N, H, W, C] inside: rows of channels multiply fastest
    for op in graph.ops:
        x = _apply(op, x)
        yield x.transpose(0, 3, 1, 2)


def _apply(op: Op, x: Floats) -> Floats:
    match op:
        case Conv(depthwise=True):
            return add_along_rows(convolve_depthwise(pad(x, op.padding, 0), op.weight, op.stride), op.bias)
        case Conv():
            weight = op.weight.transpose(2, 3, 1, 0).reshape(-1, len(op.bias))  # [kh · kw · in, out]
            columns = windows(pad(x, op.padding, 0), op.kernel, op.stride)
            return add_along_rows(columns.reshape(*columns.shape[:3], -1) @ weight, op.bias)
        case Affine():
            return add_along_rows(x * op.scale, op.shift)
        case Relu():
            return np.maximum(x, 0)
        case MaxPool():
            return np.asarray(reduce_windows(np.maximum, pad(x, op.padding, -np.inf), op.kernel, op.stride))
        case AveragePool():
            total = reduce_windows(np.add, pad(x, op.padding, 0), op.kernel, op.stride)
            return np.asarray(total / np.float32(op.kernel[0] * op.kernel[1]))


def add_along_rows(x: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Add `values` [C] to [N, H, W, C] in place: NumPy is quick along whole rows, not along a few channels."""
    rows = x.reshape(*x.shape[:2], -1)
    rows += np.tile(values, x.shape[2])
    return x


def pad(x: NDArray[Any], padding: Pair, value: float) -> NDArray[Any]:
    """[N, H, W, C] with a border of `value`."""
    if padding == (0, 0):
        return x
    (top, left) = padding
    return np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=value)


def windows(x: NDArray[Any], kernel: Pair, stride: Pair) -> NDArray[Any]:
    """Every window of [N, H, W, C]: a view [N, H', W', kh, kw, C]."""
    view = sliding_window_view(x, kernel, axis=(1, 2))  # [N, H', W', C, kh, kw], at every position
    return view[:, :: stride[0], :: stride[1]].transpose(0, 1, 2, 4, 5, 3)


def reduce_windows(function: np.ufunc, x: NDArray[Any], kernel: Pair, stride: Pair) -> NDArray[Any]:
    """The windows of [N, H, W, C], each reduced to one value: [N, H', W', C]."""
    first, *others = _taps(x, kernel, stride)
    result = first.copy()
    for part in others:
        function(result, part, out=result)
    return result


def convolve_depthwise(x: NDArray[Any], weight: NDArray[Any], stride: Pair) -> NDArray[Any]:
    """The windows of [N, H, W, C] times the `weight` [C, 1, kh, kw] of each channel: [N, H', W', C]."""
    taps = _taps(x, weight.shape[2:], stride)
    kernels = weight.reshape(len(weight), -1).T  # [kh · kw, C]
    first = next(taps)
    shape = first.shape  # [N, H', W', C]
    rows = iter(np.tile(kernels, shape[2]))  # as in `add_along_rows`
    result: NDArray[Any] = first.reshape(*shape[:2], -1) * next(rows)
    product = np.empty_like(result)
    for part, row in zip(taps, rows, strict=True):
        result += np.multiply(part.reshape(result.shape), row, out=product)
    return result.reshape(shape)


def _taps(x: NDArray[Any], kernel: Pair, stride: Pair) -> Iterator[NDArray[Any]]:
    """What each place of a window meets on its way over [N, H, W, C]: kh · kw views [N, H', W', C]."""
    height, width = _output_size((x.shape[1], x.shape[2]), kernel, stride, (0, 0))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i, i + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(j, j + stride[1] * (width - 1) + 1, stride[1])
            yield x[:, rows, columns]
