"""Parity tells an export that does what the network does from one that does not, and where it goes wrong."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydigits.data.dataset import Dataset
from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.errors import BlankPictureError, ConfigError, ToolMissingError
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.exporters import FORMATS
from tinydigits.exporters.export import export
from tinydigits.exporters.fold import fold_network
from tinydigits.exporters.formats import EXPORTERS, Exporter, Images, Outputs, PictureExporter, TrainedNetwork
from tinydigits.exporters.parity import PyTorchLogits, check_parity, pictures_of_digits
from tinydigits.inference import graph as float32
from tinydigits.inference import int8
from tinydigits.inference.graph import Graph
from tinydigits.inference.int8 import Int8Graph
from tinydigits.inference.store import load_graph, packaged_graph, save_graph
from tinydigits.models.factory import load_model
from tinydigits.pictures.decode import decode
from tinydigits.pictures.preprocess import preprocess_gray
from tinydigits.records import LogitParity, Parity

Reals = NDArray[Any]


@cache
def digits() -> Dataset:
    test = load_dataset("optdigits").test
    return test.take(np.arange(120), test.name)


@cache
def reference() -> PyTorchLogits:
    model, card = load_model("pyramid-9k")
    inputs = Normalization(card.mean, card.std).array(digits().images)
    return PyTorchLogits(digits(), predict_logits(model, inputs).numpy())


@cache
def graph() -> Graph:
    return fold_network(*load_model("pyramid-9k"))


def int8_pyramid() -> Int8Graph:
    path = packaged_graph("pyramid-9k", int8=True)
    assert path is not None
    shipped = load_graph(path)
    assert isinstance(shipped, Int8Graph)
    return shipped


def trained(folded: Graph | Int8Graph | None) -> TrainedNetwork:
    return TrainedNetwork(*load_model("pyramid-9k"), folded)


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


def _labelled(logits: Reals, threshold: float | None) -> Outputs:
    below = logits.max(axis=1) < (-np.inf if threshold is None else threshold)
    return np.where(below, -1, logits.argmax(axis=1)), logits


@dataclass
class Interpreter:
    """The interpreter as an export format; with an operation named, that one is wrong in it."""

    op: int | None = None
    name = "interpreter"
    needs_graph = True
    integers = True

    def write(self, network: TrainedNetwork, directory: Path) -> list[Path]:
        save_graph(directory / "graph.safetensors", network.folded)
        return [directory / "graph.safetensors"]

    def run(self, files: list[Path], images: Images) -> Outputs:
        written = load_graph(files[0])
        if self.op is not None:
            written = _damaged(written, self.op)
        if isinstance(written, Graph):
            return _labelled(float32.run(written, images), written.threshold)
        return _labelled(int8.run(written, images), written.integer_threshold)


class PictureInterpreter(Interpreter):
    """It takes pictures of any kind too, which are many: used where they matter."""

    takes_colour = True

    def preprocess(self, files: list[Path], pictures: Sequence[Images]) -> list[bytes | None]:  # noqa: ARG002
        found: list[bytes | None] = []
        for picture in pictures:
            try:
                found.append(preprocess_gray(decode(picture)).tobytes())
            except BlankPictureError:
                found.append(None)
        return found


def parity_of(
    exporter: Exporter,
    folded: Graph | Int8Graph,
    directory: Path,
    expected: PyTorchLogits | None = None,
) -> tuple[Parity, LogitParity]:
    network = trained(folded)
    parity = check_parity(exporter, network, exporter.write(network, directory), expected or reference())
    assert parity.logits is not None
    return parity, parity.logits


def test_what_is_right_passes(tmp_path: Path) -> None:
    for network in (graph(), int8_pyramid()):
        parity, logits = parity_of(PictureInterpreter(), network, tmp_path)
        assert parity.verdict == "passed"
        assert parity.faults == ()
        assert parity.digits.n == 120
        assert logits.accuracy > 0.9
        assert parity.preprocessing is not None
        assert parity.preprocessing.identical == parity.preprocessing.pictures > 100


def test_what_has_no_meaning_is_none(tmp_path: Path) -> None:
    _, logits = parity_of(Interpreter(), graph(), tmp_path)
    assert (logits.bit_exact, logits.same_predictions, logits.diverges_at) == (None, None, None)
    parity, logits = parity_of(Interpreter(), int8_pyramid(), tmp_path)
    assert (logits.largest_difference, logits.ties, logits.diverges_at) == (None, None, None)
    assert parity.format == "interpreter-int8"


@pytest.mark.parametrize("op", [0, 2, 5, 13])
def test_the_operation_that_diverges_is_named(op: int, tmp_path: Path) -> None:
    parity, logits = parity_of(Interpreter(op), graph(), tmp_path)
    assert parity.verdict == "failed"
    assert (logits.diverges_at or "").startswith(f"operation {op + 1} of 14, conv")
    assert "A logit differs" in parity.faults[0]


@pytest.mark.parametrize("op", [0, 3, 8])
def test_an_integer_that_differs_is_a_fault(op: int, tmp_path: Path) -> None:
    network = int8_pyramid()
    parity, logits = parity_of(Interpreter(op), network, tmp_path)
    assert parity.verdict == "failed"
    assert logits.bit_exact is False
    assert (logits.diverges_at or "").startswith(f"operation {op + 1} of {len(network.ops)}")


def test_a_prediction_that_differs_is_a_fault_but_for_ties(tmp_path: Path) -> None:
    wrong = reference().logits.copy()
    wrong[7] = -wrong[7]
    parity, _ = parity_of(Interpreter(), graph(), tmp_path, PyTorchLogits(digits(), wrong))
    assert parity.verdict == "failed"
    assert any("1 predictions differ from PyTorch's, and are not ties" in fault for fault in parity.faults)
    tied = reference().logits.copy()
    first, second = np.argsort(tied[7])[-2:][::-1]
    images = digits().images[7:8]
    tied[7, second] = tied[7, first] - 1e-5
    near = tied[7:8] + 5e-5 * (np.arange(10) == second)

    class Near(Interpreter):
        def run(self, files: list[Path], images: Images) -> Outputs:  # noqa: ARG002
            return _labelled(near, graph().threshold)

    one = PyTorchLogits(Dataset(images, digits().labels[7:8], "one"), tied[7:8])
    parity, logits = parity_of(Near(), graph(), tmp_path, one)
    assert parity.verdict == "passed"
    assert logits.ties == (0,)


def test_another_preprocessor_is_a_fault(tmp_path: Path) -> None:
    class Black(PictureInterpreter):
        def preprocess(self, files: list[Path], pictures: Sequence[Images]) -> list[bytes | None]:  # noqa: ARG002
            return [bytes(784)] * len(pictures)

    parity, _ = parity_of(Black(), graph(), tmp_path)
    assert parity.verdict == "failed"
    assert any("(in colour) are prepared differently" in fault for fault in parity.faults)
    assert parity.preprocessing is not None
    assert parity.preprocessing.identical == 0


def test_labels_that_do_not_follow_from_the_logits_are_a_fault(tmp_path: Path) -> None:
    class Three(Interpreter):
        def run(self, files: list[Path], images: Images) -> Outputs:
            return np.full(len(images), 3), super().run(files, images)[1]

    for network in (graph(), int8_pyramid()):
        parity, _ = parity_of(Three(), network, tmp_path)
        assert parity.verdict == "failed"
        assert "labels do not follow from their own logits" in parity.faults[-1]


def test_int8_that_ruins_the_network_is_a_fault(tmp_path: Path) -> None:
    first: Any = int8_pyramid().ops[0]
    ruined = replace(int8_pyramid(), ops=(replace(first, weight=np.zeros_like(first.weight)), *int8_pyramid().ops[1:]))
    parity, _ = parity_of(Interpreter(), ruined, tmp_path)
    assert parity.verdict == "failed"
    assert "fewer digits are correct than with PyTorch" in parity.faults[0]


def test_log_probabilities_are_compared_as_such(tmp_path: Path) -> None:
    network = replace(graph(), threshold=None)
    logits = reference().logits
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    parity, _ = parity_of(Interpreter(), network, tmp_path, PyTorchLogits(digits(), log_probabilities))
    assert parity.verdict == "passed", parity.faults


def test_without_the_tool_it_is_not_run(tmp_path: Path) -> None:
    class Missing(Interpreter):
        def run(self, files: list[Path], images: Images) -> Outputs:  # noqa: ARG002
            raise ToolMissingError("No C compiler is on the PATH.")

    network = trained(graph())
    parity = check_parity(Missing(), network, Missing().write(network, tmp_path), reference())
    assert parity.verdict == "not run"
    assert parity.reason == "No C compiler is on the PATH."
    assert parity.logits is None


def test_the_pictures_are_of_all_kinds() -> None:
    pictures = pictures_of_digits(digits().images[:3])
    kinds = {kind for kind, _ in pictures}
    assert len(kinds) == 8
    assert len(pictures) == 7 * 3 + 1
    seen = [preprocess_gray(decode(picture)) for kind, picture in pictures if kind != "blank"]
    assert all(image.max() == 255 for image in seen)


@pytest.mark.parametrize("name", sorted(EXPORTERS))
@pytest.mark.parametrize("is_int8", [False, True], ids=["float", "int8"])
def test_the_real_formats_pass(name: str, is_int8: bool, tmp_path: Path) -> None:
    tool = {"c": "cc", "html": "node"}.get(name)
    if tool and not shutil.which(tool):
        pytest.skip(f"needs {tool} on the PATH")
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    exporter = EXPORTERS[name]
    if is_int8 and not exporter.needs_graph:
        with pytest.raises(ConfigError, match="in float32"):
            export("pyramid-9k", name, int8=True, out=tmp_path)
        return
    network = trained((int8_pyramid() if is_int8 else graph()) if exporter.needs_graph else None)
    parity = check_parity(exporter, network, exporter.write(network, tmp_path), reference())
    assert parity.verdict == "passed", parity.faults
    assert parity.logits is not None
    assert parity.logits.bit_exact is (True if is_int8 and exporter.integers else None)
    assert (parity.preprocessing is not None) == isinstance(exporter, PictureExporter) == (name in ("c", "html"))


def test_help_knows_all_formats_without_loading_them() -> None:
    assert tuple(EXPORTERS) == FORMATS
    assert all(exporter.name == name for name, exporter in EXPORTERS.items())


def test_an_unknown_format_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="coreml: there is no such export format. Choose onnx, c, html, hub"):
        export("tiny-10k", "coreml")
