"""The int8 graph: as good as the float one, its ranges proved, its arithmetic that of the definition."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.networks import FRONT, conv, depthwise, digits, odd_graphs, pruned, zoo_cases, zoo_graph
from tinydigits.data.dataset import DigitData
from tinydigits.exporters.fold import fold_network
from tinydigits.exporters.quantize import quantize
from tinydigits.inference import graph as float32
from tinydigits.inference import int8
from tinydigits.inference.graph import Affine, AveragePool, Conv, Graph, MaxPool, Relu
from tinydigits.inference.int8 import Int8AveragePool, Int8Conv, Requantise, check_ranges
from tinydigits.inference.store import load_graph, packaged_graph
from tinydigits.models.factory import load_model
from tinydigits.models.registry import list_models
from tinydigits.models.weights import packaged_weights

SHIPPED = [name for name in list_models() if packaged_weights(name)]


@pytest.mark.parametrize("name", zoo_cases())
def test_logits_stay_near_whatever_the_network(name: str) -> None:
    graph = zoo_graph(name)
    wanted = float32.run(graph, digits())
    quantized = quantize(graph, digits())
    found = int8.run(quantized, digits()) * quantized.logit_scale
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99
    assert np.abs(found - wanted).mean() < 0.15 * wanted.std()


@pytest.mark.parametrize("name", list(odd_graphs()))
def test_logits_stay_near_for_what_the_zoo_lacks(name: str) -> None:
    graph = odd_graphs()[name]
    quantized = quantize(graph, digits())
    found, wanted = int8.run(quantized, digits()) * quantized.logit_scale, float32.run(graph, digits())
    assert np.abs(found - wanted).mean() < 0.2 * wanted.std()


@pytest.mark.parametrize("name", zoo_cases(SHIPPED))
def test_shipped_networks_lose_at_most_a_tenth_of_a_point(name: str, mnist: DigitData) -> None:
    path = packaged_graph(name, int8=True)
    assert path is not None
    shipped = load_graph(path)
    assert isinstance(shipped, int8.Int8Graph)
    graph = fold_network(*load_model(name))
    images, labels = mnist.test.images[:4000], mnist.test.labels[:4000]
    float_accuracy = (float32.run(graph, images).argmax(axis=1) == labels).mean()
    assert float_accuracy > (0.96 if name == "tiny-500" else 0.98)
    assert (int8.run(shipped, images).argmax(axis=1) == labels).mean() >= float_accuracy - 0.001


@pytest.mark.parametrize(("channels", "reads"), [(2, [[0, 1], [0, 1], [0, 1]]), (3, [[0], [1], [2]])])
def test_a_convolution_is_what_its_definition_says(channels: int, reads: list[list[int]]) -> None:
    """A dense and a depthwise one; `reads`: the input's channels that each of the output's is made of."""
    draw = np.random.default_rng(0)
    op = Int8Conv(
        weight=draw.integers(-127, 128, (3, len(reads[0]), 3, 3)).astype(np.int8),
        bias=draw.integers(-5000, 5000, 3).astype(np.int32),
        requantise=Requantise(
            np.array([70_000, -90_000, 1], np.int32),
            np.array([-(10**9), 10**9, 2**23], np.int64),
            24,
            np.array([3, 0, 0], np.int32),
            np.array([255, 200, 255], np.int32),
        ),
        zero_point=7,
        stride=(2, 1),
        padding=(1, 0),
        depthwise=len(reads[0]) == 1,
    )
    x = draw.integers(0, 256, (1, 6, 5, channels))
    found = int8.apply(op, x)
    for out in range(3):
        for i in range(found.shape[1]):
            for j in range(found.shape[2]):
                total = int(op.bias[out])
                for y in range(3):
                    for k in range(3):
                        row = 2 * i + y - 1
                        for i_weight, channel in enumerate(reads[out]):
                            value = int(x[0, row, j + k, channel]) if 0 <= row < 6 else op.zero_point
                            total += value * int(op.weight[out, i_weight, y, k])
                r = op.requantise
                assert r.low is not None
                assert r.high is not None
                scaled = (total * int(r.multiplier[out]) + int(r.offset[out])) // 2**r.shift
                assert found[0, i, j, out] == min(max(scaled, int(r.low[out])), int(r.high[out]))


def test_an_average_pads_with_its_zero_point_and_rounds_to_nearest() -> None:
    half = 1 << 19
    requantise = Requantise(
        np.full(1, round(2**20 / 4), np.int32), np.full(1, half, np.int64), 20, np.zeros(1, np.int32),
        np.full(1, 255, np.int32),
    )  # fmt: skip
    op = Int8AveragePool((2, 2), (2, 2), (1, 1), requantise, zero_point=10)
    x = np.array([[[[8], [5]], [[6], [7]]]])
    # (10 + 10 + 10 + 8) / 4 = 9.5, (35) / 4 = 8.75, 36 / 4 = 9, 37 / 4 = 9.25
    assert int8.apply(op, x)[0, :, :, 0].tolist() == [[10, 9], [9, 9]]


def test_a_negative_scale_behind_a_max_pool_is_kept_right() -> None:
    draw = np.random.default_rng(1)
    conv = Conv((draw.normal(0, 1, (4, 1, 5, 5)) / 255).astype(np.float32), np.zeros(4, np.float32), (2, 2))
    flip = Affine(np.array([1, -1, 2, -0.5], np.float32), np.array([0.5, 1, -1, 0], np.float32))
    head = Conv(draw.normal(0, 1, (10, 4, 6, 6)).astype(np.float32), np.zeros(10, np.float32))
    for ops in (
        (conv, MaxPool((2, 2), (2, 2)), flip, Relu(), head),
        (conv, Relu(), flip, MaxPool((2, 2), (2, 2)), head),
    ):
        graph = Graph("flips", ops, "")
        quantized = quantize(graph, digits())
        wanted = float32.run(graph, digits())
        found = int8.run(quantized, digits()) * quantized.logit_scale
        assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.995


def test_what_ends_in_a_relu_or_a_pool_still_gives_logits() -> None:
    draw = np.random.default_rng(1)
    conv = Conv((draw.normal(0, 1, (10, 1, 28, 28)) / 255).astype(np.float32), np.zeros(10, np.float32))
    graph = Graph("ends", (conv, Relu()), "")
    quantized = quantize(graph, digits())
    found = int8.run(quantized, digits()) * quantized.logit_scale
    wanted = float32.run(graph, digits())
    assert np.abs(found - wanted).max() < 0.02 * wanted.max()


def test_channels_of_very_unequal_ranges_between_two_convolutions_are_all_kept() -> None:
    """One scale for their map would leave next to nothing of the small ones; one is shifted, one constant."""
    before, after = depthwise(6, (3, 3)), conv(10, 6, (24, 24))
    scale = np.array([1000, 1, 1e-3, 1, 1000, 1e-3], np.float32)[:, None, None]
    before = pruned(replace(before, weight=before.weight * scale[..., None]), 5)
    before = replace(before, bias=np.array([0, 30, 0, 0, 0, 1e-3], np.float32))
    after = replace(after, weight=after.weight / scale)
    graph = Graph("unequal", (FRONT, conv(6, 1, (3, 3)), Relu(), before, after), "")
    quantized = quantize(graph, digits())
    found, wanted = int8.run(quantized, digits()) * quantized.logit_scale, float32.run(graph, digits())
    assert np.abs(found - wanted).mean() < 0.05 * (wanted - wanted.mean(axis=0)).std()


def test_average_pools_and_thresholds_carry_over() -> None:
    graph = Graph("pool", (AveragePool((28, 28), (28, 28)), Conv(np.ones((10, 1, 1, 1), np.float32), np.zeros(10, np.float32))), "", 1.5, 2.5)  # fmt: skip  # noqa: E501
    quantized = quantize(graph, digits())
    assert quantized.temperature == 1.5
    assert quantized.integer_threshold == round(2.5 / quantized.logit_scale)


def test_ranges_are_proved_not_tried() -> None:
    plain = Requantise(np.ones(1, np.int32), np.zeros(1, np.int64), 0, None, None)
    wide = Int8Conv(np.full((1, 70_000, 1, 1), 127, np.int8), np.zeros(1, np.int32), plain, 0)
    with pytest.raises(AssertionError):
        check_ranges((wide,))
    strong = replace(plain, multiplier=np.full(1, 2**24, np.int32))
    with pytest.raises(AssertionError):
        check_ranges((Int8Conv(np.ones((1, 1, 1, 1), np.int8), np.zeros(1, np.int32), strong, 0),))


def test_a_channel_without_weights_keeps_its_bias() -> None:
    draw = np.random.default_rng(1)
    weight = (draw.normal(0, 1, (4, 1, 5, 5)) / 255).astype(np.float32)
    weight[1] = 0
    conv = Conv(weight, np.array([0, 0.5, 0, 0], np.float32), (2, 2))
    head = Conv(draw.normal(0, 1, (10, 4, 12, 12)).astype(np.float32), np.zeros(10, np.float32))
    graph = Graph("pruned", (conv, Relu(), head), "")
    quantized = quantize(graph, digits())
    found = int8.run(quantized, digits()) * quantized.logit_scale
    assert np.corrcoef(found.ravel(), float32.run(graph, digits()).ravel())[0, 1] > 0.995


def test_what_stands_before_the_first_convolution_is_kept() -> None:
    draw = np.random.default_rng(1)

    def head(*shape: int) -> Conv:
        return Conv((draw.normal(0, 1, (10, *shape)) / 50).astype(np.float32), np.zeros(10, np.float32))

    front = Affine(np.ones(1, np.float32), np.full(1, -33.3, np.float32))
    halves = MaxPool((2, 2), (2, 2))
    for ops in ((halves, head(1, 14, 14)), (Relu(), head(1, 28, 28)), (front, halves, Relu(), head(1, 14, 14))):
        graph = Graph("early", ops, "")
        quantized = quantize(graph, digits())
        found = int8.run(quantized, digits()) * quantized.logit_scale
        assert np.corrcoef(found.ravel(), float32.run(graph, digits()).ravel())[0, 1] > 0.999


@pytest.mark.parametrize("factor", [0, 1e-9, 1e5, 1e12])
def test_dead_and_loud_layers_are_quantised_too(factor: float) -> None:
    draw = np.random.default_rng(1)
    first = Conv((draw.normal(0, 1, (4, 1, 5, 5)) / 255).astype(np.float32), np.zeros(4, np.float32), (2, 2))
    dead = Conv(np.zeros((4, 4, 1, 1), np.float32), np.full(4, -1, np.float32))
    head = Conv((factor * draw.normal(0, 1, (10, 4, 12, 12))).astype(np.float32), np.zeros(10, np.float32))
    for ops in ((first, Relu(), head), (first, Relu(), dead, Relu(), head)):
        graph = Graph("loud", ops, "")
        quantized = quantize(graph, digits())
        found, wanted = int8.run(quantized, digits()) * quantized.logit_scale, float32.run(graph, digits())
        assert np.abs(found - wanted).max() <= max(0.05 * np.abs(wanted).max(), 2**-16)
