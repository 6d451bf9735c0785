"""Parity tells an export that does what the network does from one that does not, and where it goes wrong."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydigits.data.dataset import Dataset
from tinydigits.data.normalise import normalise
from tinydigits.data.preprocess import decode, preprocess_gray
from tinydigits.data.sources import load_dataset
from tinydigits.errors import BlankPictureError, ToolMissingError
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.models.weights import load_model
from tinydigits.shipping import graph as floats
from tinydigits.shipping import int8
from tinydigits.shipping.export import FORMS, Facts, Form, Pictures
from tinydigits.shipping.fold import fold_network
from tinydigits.shipping.graph import Graph
from tinydigits.shipping.int8 import Int8Graph
from tinydigits.shipping.parity import Judged, pictures_of_digits, prove_parity
from tinydigits.shipping.store import load_graph, packaged_graph, save_graph

Reals = NDArray[Any]


@cache
def digits() -> Dataset:
    test = load_dataset("optdigits").test
    return test.take(np.arange(120), test.name)


@cache
def judged() -> Judged:
    model, card = load_model("pyramid-9k")
    return Judged(digits(), predict_logits(model, normalise(digits().images, card.mean, card.deviation)).numpy())


@cache
def graph() -> Graph:
    return fold_network(*load_model("pyramid-9k"))


def int8_pyramid() -> Int8Graph:
    path = packaged_graph("pyramid-9k", int8=True)
    assert path is not None
    shipped = load_graph(path)
    assert isinstance(shipped, Int8Graph)
    return shipped


def _write(graph: Graph | Int8Graph, directory: Path, _: Facts) -> list[Path]:
    save_graph(directory / "graph.safetensors", graph)
    return [directory / "graph.safetensors"]


def _damaged(written: Graph | Int8Graph, op: int) -> Graph | Int8Graph:
    """With one weight of one operation wrong, if it is there."""
    whole: Any = graph() if isinstance(written, Graph) else int8_pyramid()
    ops: list[Any] = list(written.ops)
    if op < len(ops) and np.array_equal(ops[op].weight, whole.ops[op].weight):
        weight = ops[op].weight.copy()
        weight[0, 0, 0, 0] += 1
        ops[op] = replace(ops[op], weight=weight)
    changed: Any = {"ops": tuple(ops)}
    return replace(written, **changed)


def _answered(logits: Reals, threshold: float | None) -> tuple[Reals, Reals]:
    below = logits.max(axis=1) < (-np.inf if threshold is None else threshold)
    return np.where(below, -1, logits.argmax(axis=1)), logits


def _form(op: int | None) -> Form:
    """The interpreter as a form of export; with an operation named, that one is wrong in it."""

    def run(files: list[Path], images: NDArray[np.uint8]) -> tuple[Reals, Reals]:
        written = load_graph(files[0])
        if op is not None:
            written = _damaged(written, op)
        if isinstance(written, Graph):
            return _answered(floats.run(written, images), written.threshold)
        return _answered(int8.run(written, images), written.integer_threshold)

    def preprocess(_: list[Path], pictures: Pictures) -> list[bytes | None]:
        answers: list[bytes | None] = []
        for picture in pictures:
            try:
                answers.append(preprocess_gray(decode(picture)).tobytes())
            except BlankPictureError:
                answers.append(None)
        return answers

    return Form("interpreter", _write, run, preprocess, takes_colour=True)


def test_what_is_right_passes(tmp_path: Path) -> None:
    for network in (graph(), int8_pyramid()):
        form = _form(None)
        record = prove_parity(form, network, form.write(network, tmp_path, {}), judged())
        assert record["verdict"] == "passed"
        assert record["faults"] == []
        assert record["digits"]["n"] == 120
        assert record["logits"]["accuracy"] > 0.9
        assert record["preprocessing"]["identical"] == record["preprocessing"]["pictures"] > 100


@pytest.mark.parametrize("op", [0, 2, 5, 13])
def test_the_operation_that_diverges_is_named(op: int, tmp_path: Path) -> None:
    form = _form(op)
    record = prove_parity(form, graph(), form.write(graph(), tmp_path, {}), judged())
    assert record["verdict"] == "failed"
    assert record["logits"]["diverges_at"].startswith(f"operation {op + 1} of 14, conv")
    assert "A logit differs" in record["faults"][0]


@pytest.mark.parametrize("op", [0, 3, 8])
def test_an_integer_that_differs_is_a_fault(op: int, tmp_path: Path) -> None:
    network = int8_pyramid()
    form = _form(op)
    record = prove_parity(form, network, form.write(network, tmp_path, {}), judged())
    assert record["verdict"] == "failed"
    assert record["logits"]["bit_exact"] is False
    assert record["logits"]["diverges_at"].startswith(f"operation {op + 1} of {len(network.ops)}")


def test_an_answer_that_differs_is_a_fault_but_for_ties(tmp_path: Path) -> None:
    wrong = judged().logits.copy()
    wrong[7] = -wrong[7]
    form = _form(None)
    record = prove_parity(form, graph(), form.write(graph(), tmp_path, {}), Judged(digits(), wrong))
    assert record["verdict"] == "failed"
    assert any("1 digits are answered otherwise" in fault for fault in record["faults"])
    tied = judged().logits.copy()
    first, second = np.argsort(tied[7])[-2:][::-1]
    images = digits().images[7:8]
    tied[7, second] = tied[7, first] - 1e-5
    near = tied[7:8] + 5e-5 * (np.arange(10) == second)
    form = replace(form, run=lambda *_: _answered(near, graph().threshold))
    one = Judged(Dataset(images, digits().labels[7:8], "one"), tied[7:8])
    record = prove_parity(form, graph(), form.write(graph(), tmp_path, {}), one)
    assert record["verdict"] == "passed"
    assert record["logits"]["ties"] == [0]


def test_another_preprocessor_is_a_fault(tmp_path: Path) -> None:
    form = replace(_form(None), preprocess=lambda _, pictures: [bytes(784)] * len(pictures))
    record = prove_parity(form, graph(), form.write(graph(), tmp_path, {}), judged())
    assert record["verdict"] == "failed"
    assert any("(in colour) are prepared otherwise" in fault for fault in record["faults"])
    assert record["preprocessing"]["identical"] == 0


def test_answers_that_do_not_follow_from_the_logits_are_a_fault(tmp_path: Path) -> None:
    right = _form(None)
    form = replace(right, run=lambda files, images: (np.full(len(images), 3), right.run(files, images)[1]))
    for network in (graph(), int8_pyramid()):
        record = prove_parity(form, network, form.write(network, tmp_path, {}), judged())
        assert record["verdict"] == "failed"
        assert "answers do not follow from their own logits" in record["faults"][-1]


def test_int8_that_ruins_the_network_is_a_fault(tmp_path: Path) -> None:
    first: Any = int8_pyramid().ops[0]
    ruined = replace(int8_pyramid(), ops=(replace(first, weight=np.zeros_like(first.weight)), *int8_pyramid().ops[1:]))
    form = _form(None)
    record = prove_parity(form, ruined, form.write(ruined, tmp_path, {}), judged())
    assert record["verdict"] == "failed"
    assert "digits fewer are right than with PyTorch" in record["faults"][0]


def test_log_probabilities_are_compared_as_such(tmp_path: Path) -> None:
    network = replace(graph(), threshold=None)
    logits = judged().logits
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    form = _form(None)
    record = prove_parity(form, network, form.write(network, tmp_path, {}), Judged(digits(), log_probabilities))
    assert record["verdict"] == "passed", record["faults"]


def test_without_the_tool_it_is_not_run(tmp_path: Path) -> None:
    def missing(*_: object) -> tuple[Reals, Reals]:
        raise ToolMissingError("No C compiler is on the PATH.")

    form = replace(_form(None), run=missing)
    record = prove_parity(form, graph(), form.write(graph(), tmp_path, {}), judged())
    assert record["verdict"] == "not run"
    assert record["reason"] == "No C compiler is on the PATH."


def test_the_pictures_are_of_all_kinds() -> None:
    pictures = pictures_of_digits(digits().images[:3])
    kinds = {kind for kind, _ in pictures}
    assert len(kinds) == 8
    assert len(pictures) == 7 * 3 + 1
    seen = [preprocess_gray(decode(picture)) for kind, picture in pictures if kind != "blank"]
    assert all(image.max() == 255 for image in seen)


@pytest.mark.parametrize("name", sorted(FORMS))
@pytest.mark.parametrize("is_int8", [False, True], ids=["float", "int8"])
def test_the_real_forms_pass(name: str, is_int8: bool, tmp_path: Path) -> None:
    tool = {"c": "cc", "html": "node"}.get(name)
    if tool and not shutil.which(tool):
        pytest.skip(f"needs {tool} on the PATH")
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    network = int8_pyramid() if is_int8 else graph()
    form = FORMS[name]
    record = prove_parity(form, network, form.write(network, tmp_path, {}), judged())
    assert record["verdict"] == "passed", record["faults"]
    if is_int8 and name != "onnx":
        assert record["logits"]["bit_exact"] is True
