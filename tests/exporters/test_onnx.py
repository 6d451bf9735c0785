"""The ONNX files run by onnxruntime, against the reference interpreters in NumPy."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import networks
from tests.support.networks import odd_graphs, odd_int8_graph, zoo_cases, zoo_graph
from tinydigits.data.dataset import DigitData
from tinydigits.errors import ExportError, ToolMissingError
from tinydigits.exporters.onnx import onnx_model, open_session, run_onnx, write_onnx
from tinydigits.exporters.quantize import quantize
from tinydigits.inference import graph as reference
from tinydigits.inference import int8
from tinydigits.inference.graph import Conv, Graph
from tinydigits.inference.int8 import Int8Graph
from tinydigits.models.registry import list_models
from tinydigits.models.weights import packaged_weights

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SHIPPED = [name for name in list_models() if packaged_weights(name)]
Pictures = NDArray[np.uint8]


def digits() -> Pictures:
    return networks.digits()[:150]


def graph_of(name: str) -> Graph:
    return odd_graphs()[name] if name in odd_graphs() else zoo_graph(name)


def int8_difference(graph: Int8Graph, path: Path, pictures: Pictures) -> NDArray[np.float64]:
    """The largest difference of any logit, by picture."""
    logits = int8.run(graph, pictures) * graph.logit_scale
    difference: NDArray[np.float64] = np.abs(run_onnx(write_onnx(graph, path, {}), pictures)[1] - logits).max(axis=1)
    return difference


@pytest.mark.parametrize("name", [*list_models(), *odd_graphs()])
def test_float_logits_are_the_reference_s(name: str, tmp_path: Path) -> None:
    graph = graph_of(name)
    labels, logits = run_onnx(write_onnx(graph, tmp_path / "net.onnx", {}), digits())
    assert logits.dtype == np.float32
    assert labels.dtype == np.int32
    rejected = logits.max(axis=1) < (-np.inf if graph.threshold is None else np.float32(graph.threshold))
    assert np.array_equal(labels, np.where(rejected, -1, logits.argmax(axis=1)))
    assert np.abs(logits - reference.run(graph, digits())).max() < 1e-4


@pytest.mark.parametrize("name", [*zoo_cases(), *odd_graphs(), "odd integers"])
def test_int8_logits_are_the_reference_s_but_for_ties_in_rounding(name: str, tmp_path: Path) -> None:
    graph = odd_int8_graph() if name == "odd integers" else quantize(graph_of(name), digits()[:100])
    difference = int8_difference(graph, tmp_path / "net.onnx", digits())
    spread = np.ptp(int8.run(graph, digits()) * graph.logit_scale, axis=1)
    assert (difference < 1e-4 * spread + graph.logit_scale).mean() > 0.9  # a separable stack rounds eleven times
    assert (difference < 0.02 * spread).all()


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", zoo_cases(SHIPPED))
def test_int8_reads_the_test_digits_as_the_reference_does(
    name: str, count: int, tmp_path: Path, mnist: DigitData
) -> None:
    graph = quantize(zoo_graph(name), mnist.train.images[mnist.validation][:300])
    images = mnist.test.images[:count]
    read = run_onnx(write_onnx(graph, tmp_path / "net.onnx", {}), images)[1].argmax(axis=1)
    assert (read == int8.run(graph, images).argmax(axis=1)).mean() >= 0.999


@pytest.mark.parametrize("name", zoo_cases())
def test_int8_files_hold_a_byte_a_weight(name: str, tmp_path: Path) -> None:
    """Beside that, every operation with weights tells how its numbers are to be read."""
    graph = zoo_graph(name)
    whole = write_onnx(graph, tmp_path / "float.onnx", {}).stat().st_size
    small = write_onnx(quantize(graph, digits()[:50]), tmp_path / "int8.onnx", {}).stat().st_size
    weights = [op.weight.size for op in graph.ops if isinstance(op, Conv)]
    assert small < whole - 3 * sum(weights) + 1400 * len(weights)


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
    graph = quantize(zoo_graph("pyramid-9k"), digits()[:50])
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
    labels, logits = run_onnx(path, digits()[:count])
    assert (labels.shape, logits.shape) == ((count,), (count, 10))
    if count:
        logits, probabilities, digit = open_session(path).run(None, {"images": digits()[:count]})
        assert (logits.shape, probabilities.shape, digit.shape) == ((count, 10), (count, 10), (count,))


@pytest.mark.parametrize("quantised", [False, True])
def test_probabilities_and_digits_follow_from_the_logits(quantised: bool, tmp_path: Path) -> None:
    network = zoo_graph("tiny-10k")
    largest = reference.run(network, digits()).max(axis=1)
    network = replace(network, temperature=1.7, threshold=float(np.median(largest)))
    graph = quantize(network, digits()[:50]) if quantised else network
    session = open_session(write_onnx(graph, tmp_path / "net.onnx", {}))
    logits, probabilities, digit = session.run(["logits", "probabilities", "digit"], {"images": digits()})
    powers = np.exp(logits / 1.7)
    assert probabilities == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-5)
    assert digit.dtype == np.int64
    assert (digit == np.where(logits.max(axis=1) >= network.threshold, logits.argmax(axis=1), -1)).mean() > 0.99
    assert 0.3 < (digit == -1).mean() < 0.7


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize(("beyond", "rejected"), [(1e39, True), (-1e39, False)])
def test_a_threshold_beyond_float32_is_clipped(beyond: float, rejected: bool, quantised: bool, tmp_path: Path) -> None:
    network = zoo_graph("tiny-10k")
    if quantised:
        graph: Graph | Int8Graph = replace(quantize(network, digits()[:50]), integer_threshold=int(beyond))
    else:
        graph = replace(network, threshold=beyond)
    labels, logits = run_onnx(write_onnx(graph, tmp_path / "net.onnx", {}), digits()[:5])
    assert np.array_equal(labels, np.full(5, -1) if rejected else logits.argmax(axis=1))


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
    facts = {"parameters": "9,426", "card": '{"seed": 0}', "model": "not this"}
    session = open_session(write_onnx(graph, tmp_path / "net.onnx", facts))
    about = session.get_modelmeta()
    metadata = about.custom_metadata_map
    assert (metadata["parameters"], metadata["card"]) == ("9,426", '{"seed": 0}')
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
    graph = odd_graphs()["every operation"]
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
    assert len(convolutions) == 12  # the first, two for each separable one, and the linear layer
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
    with pytest.raises(ExportError, match=r"net\.onnx: onnxruntime cannot run this file .* Export it again"):
        run_onnx(path, digits())


def test_the_module_imports_neither_onnx_nor_torch() -> None:
    code = (
        "import sys, tinydigits.exporters.onnx; sys.exit(bool({'onnx', 'onnxruntime', 'torch'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_benchmark_accepts_other_predictions_in_ties_alone() -> None:
    from benchmarks.inference import check_predictions  # it needs the extra

    wanted = np.eye(10, dtype=np.float32).repeat(20, axis=0)
    wanted[0, 1] = 1 - 5e-5  # a tie
    tied, wrong = wanted.copy(), wanted.copy()
    tied[0, 1] = 1.1
    wrong[50, 9] = 1.1
    for title in ("C float", "PyTorch eager", "onnxruntime float"):
        assert check_predictions(title, tied, wanted) == pytest.approx(0.995)
        with pytest.raises(AssertionError, match=r"digits \[50\] as the reference"):
            check_predictions(title, wrong, wanted)
    with pytest.raises(AssertionError, match=r"digits \[0\] as the reference"):
        check_predictions("C int8", tied, wanted)
    assert check_predictions("emx-onnx-cgen int8, QDQ", wrong, wanted) == pytest.approx(0.995)
