"""The Open Inference Protocol: an unmodified Triton client, and whatever hypothesis thinks of."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("fastapi", reason="needs the extra serve")

from tests.support.serving import Served, digits, serving
from tinydigits.evaluation.calibration import softmax
from tinydigits.inference import graph as reference
from tinydigits.inference.graph import Graph
from tinydigits.inference.predict import classify_logits
from tinydigits.inference.store import load_graph, packaged_graph
from tinydigits.server.errors import RejectedError
from tinydigits.server.tensors import INPUT, OUTPUTS, parse_request, write_response

MODEL = "tiny-10k"
NAMES = [output.name for output in OUTPUTS]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture(scope="module")
def graph() -> Graph:
    path = packaged_graph(MODEL)
    assert path is not None
    graph = load_graph(path)
    assert isinstance(graph, Graph)
    return graph


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    with http.InferenceServerClient(f"127.0.0.1:{served.port}") as found:
        yield found


def test_triton_finds_what_it_asks_for(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "tinydigits"
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nine")
    assert not client.is_model_ready(MODEL, "2")
    metadata = client.get_model_metadata(MODEL, "1")
    assert (metadata["inputs"], metadata["outputs"]) == (
        [INPUT.model_dump()],
        [output.model_dump() for output in OUTPUTS],
    )


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["UINT8", "FP32"])
@pytest.mark.parametrize("count", [1, 5, 64, 256])
def test_triton_gets_the_logits_of_python(client: Any, graph: Graph, kind: str, binary: bool, count: int) -> None:
    import tritonclient.http as http

    if not binary and count == 256:
        count = 100  # more do not fit into 1 MiB of text
    images = digits()[:count]
    values = images if kind == "UINT8" else (images / 255).astype(np.float32)
    tensor = http.InferInput("images", list(values.shape), kind)
    tensor.set_data_from_numpy(values, binary_data=binary)
    wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in NAMES]
    answer = client.infer(MODEL, [tensor], outputs=wanted, request_id="seven")
    logits = reference.run(graph, images)
    assert answer.get_response()["id"] == "seven"
    assert np.abs(answer.as_numpy("logits") - logits).max() <= 1e-4
    assert np.abs(answer.as_numpy("probabilities") - softmax(logits, graph.temperature or 1)).max() <= 1e-4
    expected = classify_logits(images, logits, graph.temperature, graph.threshold)
    assert np.array_equal(answer.as_numpy("digit"), np.where(expected.rejected, -1, expected.labels.astype(int)))


def test_triton_may_leave_the_outputs_open_and_add_an_axis(client: Any, graph: Graph) -> None:
    import tritonclient.http as http

    images = digits()[:3, None]
    tensor = http.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    answer = client.infer(MODEL, [tensor])
    assert np.abs(answer.as_numpy("logits") - reference.run(graph, images[:, 0])).max() <= 1e-4


def test_triton_sees_why_it_is_refused(client: Any) -> None:
    import tritonclient.http as http

    values = np.full((1, 28, 28), np.nan, np.float32)
    tensor = http.InferInput("images", [1, 28, 28], "FP32")
    tensor.set_data_from_numpy(values)
    with pytest.raises(http.InferenceServerException, match="not finite"):
        client.infer(MODEL, [tensor])


def test_a_blank_picture_is_no_digit(served: Served) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 28, 28], "data": [0] * 1568}
    answer = served.post(f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]})).json
    assert {output["name"]: output for output in answer["outputs"]}["digit"]["data"] == [-1, -1]


def packed(images: NDArray[Any], kind: str, **parameters: Any) -> tuple[bytes, str]:
    """A binary request: its body, and the header that says where its JSON ends."""
    tail = images.astype("<f4" if kind == "FP32" else np.uint8).tobytes()
    tensor: dict[str, Any] = {"name": "images", "datatype": kind, "shape": list(images.shape)}
    tensor["parameters"] = {"binary_data_size": len(tail)}
    text = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return text + tail, str(len(text))


@given(
    count=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["UINT8", "FP32"]),
    outputs=st.lists(st.sampled_from(NAMES), unique=True),
    binary=st.booleans(),
)
def test_what_is_packed_is_what_is_read(count: int, seed: int, kind: str, outputs: list[str], binary: bool) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)
    body, length = packed(images / 255 if kind == "FP32" else images, kind, binary_data_output=binary)
    request = parse_request(body, length)
    assert np.array_equal(request.images, images)
    assert request.outputs == dict.fromkeys(NAMES, binary)
    tensor: dict[str, Any] = {"name": "images", "datatype": kind, "shape": list(images.shape)}
    tensor["data"] = (images / 255 if kind == "FP32" else images).tolist()
    document = {"inputs": [tensor], "outputs": [{"name": n, "parameters": {"binary_data": binary}} for n in outputs]}
    again = parse_request(json.dumps(document).encode(), None)
    assert np.array_equal(again.images, images)
    assert again.outputs == dict.fromkeys(outputs or NAMES, binary and bool(outputs))


@given(count=st.integers(1, 9), names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1), data=st.data())
def test_answers_can_be_taken_apart_again(count: int, names: list[str], data: st.DataObject) -> None:
    binary = data.draw(st.sets(st.sampled_from(names)))
    outputs = [{"name": name, "parameters": {"binary_data": name in binary}} for name in names]
    tensor = {"name": "images", "datatype": "UINT8", "shape": [count, 28, 28], "data": [1] * (784 * count)}
    request = parse_request(json.dumps({"inputs": [tensor], "outputs": outputs}).encode(), None)
    logits = np.arange(10 * count, dtype=np.float32).reshape(count, 10)
    content, length = write_response(MODEL, request, (logits, classify_logits(request.images, logits, None, None)))
    assert (length is None) == (not binary)
    document, tail = json.loads(content[:length]), content[len(content) if length is None else length :]
    assert [output["name"] for output in document["outputs"]] == names
    for output in document["outputs"]:
        if output["name"] in binary:
            size = output["parameters"]["binary_data_size"]
            values = np.frombuffer(tail[:size], {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]])
            tail = tail[size:]
        else:
            values = np.array(output["data"])
        assert values.size == np.prod(output["shape"])
        if output["name"] == "logits":
            assert np.array_equal(values, logits.ravel())
    assert tail == b""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(["UINT8", "FP32", "INT64", "images", "logits"]) | json_values
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": fields,
        "datatype": fields,
        "shape": st.lists(st.integers(-2, 300), max_size=5) | json_values | st.just([1, 28, 28]),
        "data": json_values | st.just([0] * 784) | st.just([[[0.5] * 28] * 28]) | st.just([10**400] * 784),
        "parameters": json_values | st.fixed_dictionaries({"binary_data_size": st.integers(-5, 4000) | json_values}),
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | json_values},
    optional={
        "id": json_values,
        "outputs": json_values | st.lists(st.fixed_dictionaries({"name": fields, "parameters": json_values})),
        "parameters": json_values | st.fixed_dictionaries({"binary_data_output": json_values}),
    },
)


@settings(max_examples=400, deadline=None)
@given(document=requests, tail=st.binary(max_size=3200), length=st.none() | st.integers(-3, 4000).map(str) | st.text())
def test_whatever_comes_is_read_or_refused(document: Any, tail: bytes, length: str | None) -> None:
    text = json.dumps(document).encode()
    for header in (length, str(len(text))):
        refused, images = None, np.empty((0, 28, 28), np.uint8)
        try:
            images = parse_request(text + tail, header).images
        except RejectedError as error:
            refused = error
        assert images.dtype == np.uint8
        assert images.shape[1:] == (28, 28)
        assert refused is None or (refused.status in (400, 413) and str(refused).endswith("."))


@settings(max_examples=400, deadline=None)
@given(body=st.binary(max_size=200), length=st.none() | st.integers(0, 250).map(str))
def test_bytes_of_any_kind_are_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(RejectedError):
        parse_request(body, length)


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 784))
def test_a_tensor_that_is_cut_off_or_too_long_is_refused(seed: int, cut: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (1, 28, 28), np.uint8)
    body, length = packed(images, "UINT8")
    for wrong in (body[:-cut], body + bytes(cut)):
        with pytest.raises(RejectedError, match="784 bytes"):
            parse_request(wrong, length)


def broken(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
    whole: dict[str, Any] = {"inputs": [tensor | changes.pop("tensor", {})]}
    return whole | changes


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (broken(tensor={"shape": [1, 784]}), "wrong_request"),
        (broken(tensor={"shape": [0, 28, 28], "data": []}), "wrong_request"),
        (broken(tensor={"shape": [True, 28, 28]}), "wrong_request"),
        (broken(tensor={"shape": [257, 28, 28]}), "too_many_pictures"),
        (broken(tensor={"data": [0] * 783}), "wrong_request"),
        (broken(tensor={"data": [256] * 784}), "wrong_request"),
        (broken(tensor={"data": [0.5] * 784}), "wrong_request"),
        (broken(tensor={"data": [True] * 784}), "wrong_request"),
        (broken(tensor={"data": ["0"] * 784}), "wrong_request"),
        (broken(tensor={"name": "x"}), "wrong_request"),
        (broken(tensor={"datatype": "INT8"}), "wrong_request"),
        (broken(tensor={"datatype": "FP32", "data": [1.01] * 784}), "out_of_range"),
        (broken(tensor={"datatype": "FP32", "data": [-0.1] * 784}), "out_of_range"),
        (broken(tensor={"datatype": "FP32", "data": [10**400] * 784}), "out_of_range"),
        (broken(tensor={"datatype": "FP32", "data": [float("inf")] * 784}), "not_finite"),
        (broken(tensor={"datatype": "FP32", "data": [float("nan")] * 784}), "not_finite"),
        (broken(tensor={"parameters": {"shared_memory_region": "x"}}), "wrong_request"),
        (broken(outputs=[{"name": "logits"}] * 2), "wrong_request"),
        (broken(outputs=[{"name": "logits", "parameters": {"classification": 3}}]), "wrong_request"),
        (broken(parameters={"binary_data_output": 1}), "wrong_request"),
        (broken(id=7), "wrong_request"),
        ({"inputs": []}, "wrong_request"),
    ],
)
def test_each_rule_has_its_refusal(document: Any, code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        parse_request(json.dumps(document).encode(), None)
    assert caught.value.code == code


def test_a_float_that_is_not_finite_is_refused_as_bytes_too() -> None:
    images = np.zeros((1, 28, 28))
    for bits in (0x7FC00000, 0x7F800000, 0xFF800000):
        body, length = packed(images, "FP32")
        with pytest.raises(RejectedError, match="not finite"):
            parse_request(body[:-4] + struct.pack("<I", bits), length)


def test_deep_json_is_refused() -> None:
    with pytest.raises(RejectedError):
        parse_request(b"[" * 500_000, None)
