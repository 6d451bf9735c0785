"""The networks that each export format is tried on: those of the zoo, and some made by hand for what it lacks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.exporters.fold import fold_network
from tinydigits.inference import int8
from tinydigits.inference.graph import Affine, AveragePool, Conv, Graph, MaxPool, Op, Pair, Relu, output_shapes
from tinydigits.inference.int8 import Int8AveragePool, Int8Conv, Int8Graph, Requantise
from tinydigits.models.factory import create_model, load_model
from tinydigits.models.registry import list_models
from tinydigits.models.weights import packaged_weights

SAMPLE = ("plain-9k", "tiny-10k", "pooled-16k", "era-8k")  # dense, separable, average pools, batch norm and dropout
FRONT = Affine(np.array([1 / 78], np.float32), np.array([-0.42], np.float32))


def zoo_cases(names: Sequence[str] | None = None) -> list[Any]:
    """Parameters for a test: all networks of the zoo, or those named; those outside of the sample are slow."""
    marks = pytest.mark.slow
    return [name if name in SAMPLE else pytest.param(name, marks=marks) for name in names or list_models()]


@cache
def digits() -> NDArray[np.uint8]:
    """Three hundred real ones that are always there."""
    return load_dataset("optdigits").train.images[:300]


@cache
def zoo_graph(name: str) -> Graph:
    """With the shipped weights, or else random ones: batch norms of either sign, running statistics of real digits."""
    if packaged_weights(name):
        return fold_network(*load_model(name))
    card = msgspec.structs.replace(load_model("tiny-10k")[1], model=name)
    torch.manual_seed(0)
    model = create_model(name).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.7)
        model(Normalization(card.mean, card.std).array(digits()))
    return fold_network(model.eval(), card)


def conv(out: int, into: int, kernel: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0)) -> Conv:
    """Random weights that keep the spread of a map."""
    rng = np.random.default_rng(out + into)
    weight = rng.normal(0, (into * kernel[0] * kernel[1]) ** -0.5, (out, into, *kernel))
    return Conv(weight.astype(np.float32), rng.normal(0, 0.1, out).astype(np.float32), stride, padding)


def depthwise(channels: int, kernel: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0)) -> Conv:
    """Random weights that keep the spread of a map, and channels of unequal spread."""
    each = conv(channels, 1, kernel, stride, padding)
    scale = np.geomspace(0.1, 3, channels, dtype=np.float32)
    return replace(each, weight=each.weight * scale[:, None, None, None], depthwise=True)


def affine(channels: int) -> Affine:
    """Scales of either sign."""
    rng = np.random.default_rng(channels)
    return Affine(rng.normal(0, 1, channels).astype(np.float32), rng.normal(0, 1, channels).astype(np.float32))


def pruned(op: Conv, channel: int) -> Conv:
    """Without one of its channels."""
    weight, bias = op.weight.copy(), op.bias.copy()
    weight[channel], bias[channel] = 0, 0
    return replace(op, weight=weight, bias=bias)


_ODD: dict[str, tuple[Op, ...]] = {
    "linear": (FRONT, conv(10, 1, (28, 28))),
    "strides": (FRONT, conv(5, 1, (5, 3), (2, 3)), Relu(), conv(7, 5, (2, 2), (3, 2)), Relu(), conv(10, 7, (4, 4))),
    "stride beyond the kernel": (FRONT, conv(3, 1, (1, 1), (3, 2)), conv(10, 3, (10, 14))),
    "padding": (FRONT, conv(3, 1, (3, 5), (1, 1), (2, 1)), affine(3), conv(9, 3, (3, 3), (2, 2), (1, 2)), Relu(),
                AveragePool((14, 14), (14, 14)), conv(10, 9, (1, 1))),
    "overlapping padded max pool": (FRONT, conv(6, 1, (3, 3)), MaxPool((3, 3), (2, 2), (1, 1)), affine(6), Relu(),
                                    conv(11, 6, (3, 3)), AveragePool((11, 11), (11, 11)), conv(10, 11, (1, 1))),
    "max pool first": (MaxPool((2, 2), (2, 2)), FRONT, conv(4, 1, (3, 3)), Relu(), conv(10, 4, (12, 12))),
    "ReLU first": (Relu(), FRONT, conv(4, 1, (3, 3), (2, 2)), Relu(), conv(10, 4, (13, 13))),
    "average pool first": (AveragePool((2, 2), (2, 2)), FRONT, conv(4, 1, (3, 3)), Relu(), conv(10, 4, (12, 12))),
    "padded average pool": (FRONT, conv(3, 1, (3, 3), (2, 2)), AveragePool((3, 3), (2, 2), (1, 1)), affine(3),
                            conv(10, 3, (7, 7))),
    "dead rows and columns": (FRONT, conv(4, 1, (3, 3), (1, 1), (1, 1)), Relu(), conv(10, 4, (3, 3)),
                              AveragePool((15, 14), (15, 14))),
    "one column": (FRONT, conv(8, 1, (1, 28)), Relu(), conv(8, 8, (3, 1), (2, 1), (1, 0)), Relu(),
                   conv(10, 8, (14, 1))),
    "axes that differ": (FRONT, conv(3, 1, (5, 2), (2, 1), (2, 1)), Relu(), MaxPool((3, 2), (1, 2), (1, 1)), affine(3),
                         conv(7, 3, (1, 3), (1, 2), (0, 2)), AveragePool((2, 3), (2, 1), (1, 1)), Relu(),
                         conv(10, 7, (8, 9))),
    "separable": (FRONT, conv(6, 1, (3, 3)), Relu(), depthwise(6, (3, 3)), conv(20, 6, (1, 1)), MaxPool((2, 2), (2, 2)),
                  Relu(), depthwise(20, (5, 5), (1, 1), (2, 2)), conv(10, 20, (1, 1)), affine(10), Relu(),
                  AveragePool((12, 12), (12, 12))),
    # The first and the last, behind and before what padding must not take for zero
    "depthwise": (FRONT, depthwise(1, (3, 5), (2, 1), (1, 2)), Relu(), conv(9, 1, (1, 1)), Relu(), affine(9),
                  depthwise(9, (5, 3), (2, 2), (2, 0)), Relu(), conv(17, 9, (2, 2), (1, 2)),
                  depthwise(17, (3, 3), (1, 1), (1, 1)), conv(10, 17, (1, 1), (1, 1), (1, 0)), depthwise(10, (8, 6))),
    # Scales of either sign before and behind max pools, a dead channel, averages whose channels are scaled differently
    "every operation": (FRONT, pruned(conv(6, 1, (3, 3), (1, 1), (1, 1)), 2), Relu(), affine(6),
                        MaxPool((3, 2), (2, 2), (1, 0)), affine(6), conv(10, 6, (3, 2), (2, 1), (1, 1)), Relu(),
                        AveragePool((3, 3), (1, 2), (1, 1)), affine(10), Relu(), AveragePool((3, 3), (3, 3)),
                        AveragePool((2, 2), (2, 2)), affine(10)),
}  # fmt: skip


@cache
def odd_graphs() -> dict[str, Graph]:
    """By what is odd in them."""
    for name, ops in _ODD.items():
        assert output_shapes(ops)[-1] == (10, 1, 1), name
    return {name: Graph("odd", ops, "0" * 64) for name, ops in _ODD.items()}


@cache
def odd_int8_graph() -> Int8Graph:
    """Multipliers of either sign with all their bits, zero points in padding, sums on both sides of zero."""
    rng = np.random.default_rng(3)

    def requantise(channels: int, shift: int, *, clamp: bool = True) -> Requantise:
        multiplier = rng.integers(2**22, 2**24, channels) * rng.choice([-1, 1], channels)
        offset = rng.integers(0, 2**shift * 255, channels)
        clamps = np.tile(np.array([[3], [250]], np.int32), channels)
        low, high = clamps if clamp else (None, None)
        return Requantise(multiplier.astype(np.int32), offset, shift, low, high)

    def integers(shape: tuple[int, ...], rescaling: Requantise, **settings: Any) -> Int8Conv:
        weight, bias = rng.integers(-127, 128, shape), rng.integers(-30_000, 30_000, shape[0])
        return Int8Conv(weight.astype(np.int8), bias.astype(np.int32), rescaling, 17, **settings)

    body = (
        integers((5, 1, 3, 2), requantise(5, 31), stride=(2, 1), padding=(1, 0)),
        MaxPool((3, 3), (2, 2), (1, 1)),
        integers((5, 1, 3, 3), requantise(5, 31), padding=(1, 2), depthwise=True),
        Int8AveragePool((2, 2), (1, 2), (1, 0), requantise(5, 26), zero_point=9),
    )
    height, width = output_shapes(body)[-1][1:]
    ops = (*body, integers((10, 5, height, width), requantise(10, 20, clamp=False)))
    int8.check_ranges(ops)
    return Int8Graph("odd", ops, 2.0**-16, "0" * 64)
