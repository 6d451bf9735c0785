"""The ONNX files run by onnxruntime, against the reference interpreters in NumPy."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tinydigits.data.dataset import DigitData
from tinydigits.data.normalise import normalise
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ExportError, ToolMissingError
from tinydigits.models.registry import create_model, list_models
from tinydigits.models.weights import load_model, packaged_weights
from tinydigits.shipping import graph as reference
from tinydigits.shipping import int8
from tinydigits.shipping.fold import fold_network
from tinydigits.shipping.graph import Affine, AveragePool, Conv, Graph, MaxPool, Relu
from tinydigits.shipping.int8 import Int8Graph
from tinydigits.shipping.onnx import onnx_model, open_session, run_onnx, write_onnx
from tinydigits.shipping.quantize import quantize

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SHIPPED = [name for name in list_models() if packaged_weights(name)]
Pictures = NDArray[np.uint8]


@cache
def digits() -> Pictures:
    """Real ones that are always there."""
    return load_dataset("optdigits").train.images[:150]


@cache
def zoo_graph(name: str) -> Graph:
    """With the shipped weights, or else random ones with batch norms of either sign."""
    if packaged_weights(name):
        return fold_network(*load_model(name))
    card = replace(load_model("tiny-10k")[1], model=name)
    torch.manual_seed(0)
    model = create_model(name).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.7)
        model(normalise(digits(), card.mean, card.deviation))  # running statistics
    return fold_network(model.eval(), card)


def odd_graph() -> Graph:
    """What the zoo lacks.

    Negative scales before and behind max pools, padded and strided pools, a dead channel, channels that are scaled
    differently behind an average.
    """
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return draw.normal(0, 1, shape).astype(np.float32)

    weight, bias = normal(6, 1, 3, 3), normal(6)
    weight[2], bias[2] = 0, 0
    ops = (
        Affine(np.array([1 / 255], np.float32), np.array([-0.4], np.float32)),
        Conv(weight, bias, padding=(1, 1)),
        Relu(),
        Affine(normal(6), normal(6)),
        MaxPool((3, 2), (2, 2), (1, 0)),
        Affine(normal(6), normal(6)),
        Conv(normal(10, 6, 3, 2), normal(10), stride=(2, 1), padding=(1, 1)),
        Relu(),
        AveragePool((3, 3), (1, 2), (1, 1)),
        Affine(normal(10), normal(10)),
        Relu(),
        AveragePool((3, 3), (3, 3)),
        AveragePool((2, 2), (2, 2)),
        Affine(normal(10), normal(10)),
    )
    assert reference.output_shapes(ops)[-1] == (10, 1, 1)
    return Graph("odd", ops, "0" * 64)


def int8_difference(graph: Int8Graph, path: Path, pictures: Pictures) -> NDArray[np.float64]:
    """The largest difference of any logit, by picture."""
    logits = int8.run(graph, pictures) * graph.logit_scale
    difference: NDArray[np.float64] = np.abs(run_onnx(write_onnx(graph, path, {}), pictures) - logits).max(axis=1)
    return difference


@pytest.mark.parametrize("name", [*list_models(), "odd"])
def test_float_logits_are_the_reference_s(name: str, tmp_path: Path) -> None:
    graph = odd_graph() if name == "odd" else zoo_graph(name)
    logits = run_onnx(write_onnx(graph, tmp_path / "net.onnx", {}), digits())
    assert logits.dtype == np.float32
    assert np.abs(logits - reference.run(graph, digits())).max() < 1e-4


@pytest.mark.parametrize("name", [*list_models(), "odd"])
def test_int8_logits_are_the_reference_s_but_for_ties_in_rounding(name: str, tmp_path: Path) -> None:
    graph = quantize(odd_graph() if name == "odd" else zoo_graph(name), digits()[:100])
    difference = int8_difference(graph, tmp_path / "net.onnx", digits())
    spread = np.ptp(int8.run(graph, digits()) * graph.logit_scale, axis=1)
    assert (difference < 1e-4 * spread + graph.logit_scale).mean() > 0.97
    assert (difference < 0.02 * spread).all()


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SHIPPED)
def test_int8_reads_the_test_digits_as_the_reference_does(
    name: str, count: int, tmp_path: Path, mnist: DigitData
) -> None:
    graph = quantize(zoo_graph(name), mnist.train.images[mnist.held_out][:300])
    images = mnist.test.images[:count]
    read = run_onnx(write_onnx(graph, tmp_path / "net.onnx", {}), images).argmax(axis=1)
    assert (read == int8.run(graph, images).argmax(axis=1)).mean() >= 0.999


@pytest.mark.parametrize("name", list_models())
def test_int8_files_are_half_as_large(name: str, tmp_path: Path) -> None:
    graph = zoo_graph(name)
    whole = write_onnx(graph, tmp_path / "float.onnx", {}).stat().st_size
    assert write_onnx(quantize(graph, digits()[:50]), tmp_path / "int8.onnx", {}).stat().st_size < whole / 2


def test_int8_channels_that_are_multiplied_by_nothing_or_less(tmp_path: Path) -> None:
    graph = quantize(zoo_graph("tiny-10k"), digits()[:100])
    ops = list(graph.ops)
    for i, op in enumerate(ops):
        if isinstance(op, int8.Int8Conv):
            signs = np.ones(len(op.bias), np.int32)
            signs[:2] = 0, -1
            scaled = replace(op.requantise, multiplier=op.requantise.multiplier * signs)
            ops[i] = replace(op, requantise=scaled)
    assert np.median(int8_difference(replace(graph, ops=tuple(ops)), tmp_path / "net.onnx", digits())) < 1e-4


def test_int8_logits_may_be_sums_as_they_are(tmp_path: Path) -> None:
    graph = quantize(zoo_graph("tiny-10k"), digits()[:50])
    first = graph.ops[0]
    assert isinstance(first, int8.Int8Conv)
    sums = int8.Requantise(np.full(10, 1, np.int32), np.zeros(10, np.int64), 0, None, None)
    weight = np.random.default_rng(0).integers(-9, 10, (10, 8, 26, 26)).astype(np.int8)
    last = int8.Int8Conv(weight, np.zeros(10, np.int32), sums, zero_point=0)
    whole = replace(graph, ops=(first, last), logit_scale=1.0, integer_threshold=None)
    assert np.median(int8_difference(whole, tmp_path / "net.onnx", digits())) < 1


@pytest.mark.parametrize("count", [0, 1, 7, 101])
@pytest.mark.parametrize("quantised", [False, True])
def test_any_number_of_pictures_at_a_time(count: int, quantised: bool, tmp_path: Path) -> None:
    graph = zoo_graph("era-8k")
    path = write_onnx(quantize(graph, digits()[:50]) if quantised else graph, tmp_path / "net.onnx", {})
    assert run_onnx(path, digits()[:count]).shape == (count, 10)
    if count:
        logits, probabilities, digit = open_session(path).run(None, {"images": digits()[:count]})
        assert (logits.shape, probabilities.shape, digit.shape) == ((count, 10), (count, 10), (count,))


@pytest.mark.parametrize("quantised", [False, True])
def test_probabilities_and_digits_follow_from_the_logits(quantised: bool, tmp_path: Path) -> None:
    network = zoo_graph("tiny-10k")
    evidence = reference.run(network, digits()).max(axis=1)
    network = replace(network, temperature=1.7, threshold=float(np.median(evidence)))
    graph = quantize(network, digits()[:50]) if quantised else network
    session = open_session(write_onnx(graph, tmp_path / "net.onnx", {}))
    logits, probabilities, digit = session.run(["logits", "probabilities", "digit"], {"images": digits()})
    powers = np.exp(logits / 1.7)
    assert probabilities == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-5)
    assert digit.dtype == np.int64
    assert (digit == np.where(logits.max(axis=1) >= network.threshold, logits.argmax(axis=1), -1)).mean() > 0.99
    assert 0.3 < (digit == -1).mean() < 0.7


def test_without_a_threshold_everything_is_a_digit(tmp_path: Path) -> None:
    graph = replace(zoo_graph("tiny-10k"), temperature=None, threshold=None)
    session = open_session(write_onnx(graph, tmp_path / "net.onnx", {}))
    blank = np.zeros((1, 28, 28), np.uint8)
    logits, probabilities, digit = session.run(["logits", "probabilities", "digit"], {"images": blank})
    assert digit[0] == logits[0].argmax()
    assert probabilities == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-5)
    assert not {"temperature", "threshold"} & session.get_modelmeta().custom_metadata_map.keys()


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    graph = zoo_graph("tiny-10k")
    facts = {"parameters": "9,550", "card": '{"seed": 0}', "model": "not this"}
    session = open_session(write_onnx(graph, tmp_path / "net.onnx", facts))
    about = session.get_modelmeta()
    metadata = about.custom_metadata_map
    assert (metadata["parameters"], metadata["card"]) == ("9,550", '{"seed": 0}')
    assert metadata["model"] == about.graph_name == "tiny-10k"
    assert metadata["labels"] == "0,1,2,3,4,5,6,7,8,9"
    assert metadata["weights_sha256"] == graph.weights_sha256
    assert float(metadata["temperature"]) == graph.temperature
    assert float(metadata["threshold"]) == graph.threshold
    assert (metadata["format"], about.producer_name) == ("float32", "tinydigits")
    assert "raw bytes" in metadata["preprocessing"]
    assert "uint8 [N, 28, 28]" in about.description
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["N", 28, 28])


def test_int8_metadata_give_the_threshold_in_units_of_the_logits() -> None:
    graph = replace(quantize(zoo_graph("tiny-10k"), digits()[:50]), integer_threshold=2**17)
    metadata = {item.key: item.value for item in onnx_model(graph, {}).metadata_props}
    assert (metadata["format"], metadata["threshold"]) == ("int8 (QDQ)", "2.0")


@pytest.mark.parametrize("quantised", [False, True])
def test_files_pass_the_checker_need_no_late_runtime_and_are_the_same_every_time(
    quantised: bool, tmp_path: Path
) -> None:
    graph = odd_graph()
    exported = quantize(graph, digits()[:50]) if quantised else graph
    first, second = (write_onnx(exported, tmp_path / name, {"b": "1", "a": "2"}) for name in ("1.onnx", "2.onnx"))
    assert first.read_bytes() == second.read_bytes()
    onnx.checker.check_model(str(first), full_check=True)
    model = onnx.load(first)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)


def test_int8_is_qdq_with_int8_weights_by_channel_and_uint8_maps() -> None:
    model = onnx_model(quantize(zoo_graph("tiny-10k"), digits()[:50]), {})
    constants = {item.name: item for item in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 6
    for node in convolutions:
        picture, weight, bias = (makers[name] for name in node.input)
        assert {picture.op_type, weight.op_type, bias.op_type} == {"DequantizeLinear"}
        assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert constants[weight.input[1]].dims == constants[weight.input[0]].dims[:1]
        assert constants[bias.input[0]].data_type == onnx.TensorProto.INT32
        assert constants[picture.input[2]].data_type == onnx.TensorProto.UINT8


def test_runs_on_one_thread_with_exact_products(tmp_path: Path) -> None:
    options = open_session(write_onnx(zoo_graph("era-8k"), tmp_path / "net.onnx", {})).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    with pytest.raises(ToolMissingError, match=rf'package {package}, .*`pip install "tinydigits\[onnx\]"'):
        run_onnx(write_onnx(zoo_graph("era-8k"), tmp_path / "net.onnx", {}), digits())


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"net\.onnx: onnxruntime cannot run this file .* Export it anew"):
        run_onnx(path, digits())


def test_the_module_imports_neither_onnx_nor_torch() -> None:
    code = "import sys, tinydigits.shipping.onnx; sys.exit(bool({'onnx', 'onnxruntime', 'torch'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)
