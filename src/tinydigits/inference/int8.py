"""The int8 graph and its integer arithmetic. This is the reference: C and JavaScript give the same bits.

Activations are uint8 with one zero point per map, weights int8, and sums int32. A sum is brought to the scale of the
next map by

    (sum · multiplier + offset) >> shift, clamped to [low, high]

with a multiplier, an offset and clamps for each channel, and one shift per operation. `>>` rounds down; the offset
contains the half that makes it round to nearest. No product exceeds 53 bits, so that JavaScript's numbers hold it
(`check_ranges` proves that from the weights alone). Where no multiplier is negative, requantising is monotonic, so that
a max pool that follows may be computed first.

The scheme is that of B. Jacob et al., “Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference”, 2018, with per-channel weights and multipliers of 24 bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydigits.inference.graph import MaxPool, Pair, add_along_rows, chained, reduce_windows
from tinydigits.inference.graph import convolve as convolve_windows

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

    The bias accounts for the input's zero point; padding consists of `zero_point`. `depthwise`: each channel is
    convolved by itself, with `weight` [channels, 1, kh, kw].
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

    A logit is `logit_scale` times its integer. A picture whose largest integer is below `integer_threshold` is no
    digit; None if nothing was fitted. The rest is as in `Graph`.
    """

    model: str
    ops: tuple[Int8Op, ...]
    logit_scale: float
    weights_sha256: str
    temperature: float | None = None
    integer_threshold: int | None = None


def run(graph: Int8Graph, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Integer logits [N, 10] of raw pictures uint8 [N, 28, 28]."""
    return chained(graph.ops, apply, images, np.int64, np.int32)


def apply(op: Int8Op, x: Ints) -> Ints:
    """One operation: integers [N, H, W, C] → [N, H', W', C']."""
    match op:
        case Int8Conv():
            return requantise(op.requantise, convolve(op, x))
        case MaxPool():
            return reduce_windows(np.maximum, op, x, -1)
        case Int8AveragePool():
            return requantise(op.requantise, reduce_windows(np.add, op, x, op.zero_point))


def convolve(op: Int8Conv, x: Ints) -> Ints:
    """The sums before requantisation. BLAS has no integers, but float64 holds the sums exactly."""
    kind = np.int64 if op.depthwise else np.float64
    sums = convolve_windows(op, x.astype(kind, copy=False), op.weight.astype(kind), op.zero_point)
    return add_along_rows(sums.astype(np.int64, copy=False), op.bias)


def requantise(r: Requantise, sums: Ints) -> Ints:
    """Integer sums [..., C] → the next map's uint8 values, or logits."""
    scaled = sums * r.multiplier.astype(np.int64)
    scaled += r.offset
    scaled >>= r.shift
    return scaled if r.low is None else np.clip(scaled, r.low, r.high, out=scaled)


def check_ranges(ops: tuple[Int8Op, ...]) -> None:
    """Prove from the weights that sums fit int32, logits too, and that products fit 53 bits, whatever the picture."""
    for op in ops:
        if isinstance(op, MaxPool):
            continue
        largest, r = np.array([255 * op.kernel[0] * op.kernel[1]]), op.requantise
        if isinstance(op, Int8Conv):
            weight, bias = np.abs(op.weight.astype(np.int64)), np.abs(op.bias.astype(np.int64))
            largest = 255 * weight.sum(axis=(1, 2, 3)) + bias
        scaled = largest * np.abs(r.multiplier.astype(np.int64)) + np.abs(r.offset)
        assert int(np.abs(r.multiplier).max()) < 2**MULTIPLIER_BITS
        assert int(largest.max()) < 2**31
        assert int(scaled.max()) < 2**53
        assert r.low is not None or int((scaled >> r.shift).max()) < 2**31
