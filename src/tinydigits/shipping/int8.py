"""The int8 graph, and its integer arithmetic, defined here once: C and JavaScript give the same bits.

Activations are uint8 with one zero point a map, weights int8, and sums int32. A sum is brought to the next map's scale
by

    (sum · multiplier + offset) >> shift, clamped to [low, high]

with a multiplier, an offset and clamps of each channel's own, and one shift an operation. `>>` rounds down, and the
offset holds the half that makes it round to nearest. No product leaves 53 bits, so that JavaScript's numbers hold it
(`check_ranges` proves that from the weights alone). Where no multiplier is negative, results never fall as sums rise,
and a max pool that follows may as well be taken before.

The scheme is that of B. Jacob et al., “Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference”, 2018, with per-channel weights and multipliers of 24 bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydigits.shipping.graph import (
    MaxPool,
    Pair,
    add_along_rows,
    convolve_depthwise,
    last_of,
    pad,
    reduce_windows,
    windows,
)

MULTIPLIER_BITS = 24

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Requantise:
    """Integer sums → uint8 of the next map: `multiplier` int32 [C], `offset` int64 [C], `low` and `high` int32 [C].

    Without clamps (None) the results are int32 logits.
    """

    multiplier: NDArray[np.int32]
    offset: NDArray[np.int64]
    shift: int
    low: NDArray[np.int32] | None
    high: NDArray[np.int32] | None


@dataclass(frozen=True, eq=False)
class Int8Conv:
    """Convolution of uint8 by `weight` int8 [out, in, kh, kw]: sum of products + `bias` int32 [out], requantised.

    The input's zero point is accounted for in the bias; `zero_point` itself is what padding consists of. `depthwise`:
    each channel is convolved by itself, with `weight` [channels, 1, kh, kw].
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    requantise: Requantise
    zero_point: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    depthwise: bool = False

    @property
    def kernel(self) -> Pair:
        """Height and width."""
        return self.weight.shape[2], self.weight.shape[3]


@dataclass(frozen=True, eq=False)
class Int8AveragePool:
    """Sum of each window, padded with `zero_point`, requantised."""

    kernel: Pair
    stride: Pair
    padding: Pair
    requantise: Requantise
    zero_point: int


Int8Op = Int8Conv | MaxPool | Int8AveragePool


@dataclass(frozen=True, eq=False)
class Int8Graph:
    """Integer operations in order, from [1, 28, 28] raw bytes to int32 logits [10, 1, 1]; ReLUs are clamps.

    A logit is `logit_scale` times its integer. `integer_threshold`: the picture is no digit if the largest integer is
    below it; None if nothing was fitted. The rest is as in `Graph`.
    """

    model: str
    ops: tuple[Int8Op, ...]
    logit_scale: float
    weights_sha256: str
    temperature: float | None = None
    integer_threshold: int | None = None


def run(graph: Int8Graph, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Integer logits [N, 10] of raw pictures uint8 [N, 28, 28]."""
    return last_of(lambda batch: activations(graph, batch), images, np.int32)


def activations(graph: Int8Graph, images: NDArray[np.uint8]) -> Iterator[Ints]:
    """What each operation gives, in order: int64 [N, C, H, W]."""
    x = images[..., None].astype(np.int64)  # [N, H, W, C] inside
    for op in graph.ops:
        x = apply(op, x)
        yield x.transpose(0, 3, 1, 2)


def apply(op: Int8Op, x: Ints) -> Ints:
    """One operation: integers [N, H, W, C] → [N, H', W', C']."""
    match op:
        case Int8Conv():
            return requantise(op.requantise, convolve(op, x))
        case MaxPool():
            return reduce_windows(np.maximum, pad(x, op.padding, -1), op.kernel, op.stride)
        case Int8AveragePool():
            total = reduce_windows(np.add, pad(x, op.padding, op.zero_point), op.kernel, op.stride)
            return requantise(op.requantise, total)


def convolve(op: Int8Conv, x: Ints) -> Ints:
    """The sums before requantisation. As float64, which holds them exactly, because BLAS multiplies no integers."""
    padded = pad(x, op.padding, op.zero_point)
    if op.depthwise:
        return add_along_rows(convolve_depthwise(padded, op.weight.astype(np.int64), op.stride), op.bias)
    weight = op.weight.transpose(2, 3, 1, 0).reshape(-1, len(op.bias)).astype(np.float64)
    columns = windows(padded.astype(np.float64), op.kernel, op.stride)
    sums = (columns.reshape(*columns.shape[:3], -1) @ weight).astype(np.int64)
    return add_along_rows(sums, op.bias)


def requantise(requantisation: Requantise, sums: Ints) -> Ints:
    """Integer sums [..., C] → the next map's uint8 values, or logits."""
    r = requantisation
    scaled = sums * r.multiplier.astype(np.int64)
    scaled += r.offset
    scaled >>= r.shift
    return scaled if r.low is None else np.clip(scaled, r.low, r.high, out=scaled)


def check_ranges(ops: tuple[Int8Op, ...]) -> None:
    """Prove from the weights that sums fit int32, logits too, and that products fit 53 bits, whatever the picture."""
    for op in ops:
        match op:
            case Int8Conv():
                largest = 255 * np.abs(op.weight.astype(np.int64)).sum(axis=(1, 2, 3)) + np.abs(
                    op.bias.astype(np.int64)
                )
            case Int8AveragePool():
                largest = np.array([255 * op.kernel[0] * op.kernel[1]])
            case _:
                continue
        r = op.requantise
        scaled = largest * np.abs(r.multiplier.astype(np.int64)) + np.abs(r.offset)
        assert int(np.abs(r.multiplier).max()) < 2**MULTIPLIER_BITS
        assert int(largest.max()) < 2**31
        assert int(scaled.max()) < 2**53
        assert r.low is not None or int((scaled >> r.shift).max()) < 2**31
