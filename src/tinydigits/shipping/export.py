"""From trained weights to a form that leaves the house: C, ONNX or one HTML file, each as float32 or int8."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.data.dataset import DigitData
from tinydigits.errors import ExportError
from tinydigits.models.weights import Card
from tinydigits.shipping.c import write_c
from tinydigits.shipping.c_runner import preprocess_c, run_c
from tinydigits.shipping.graph import Graph
from tinydigits.shipping.html import write_html
from tinydigits.shipping.int8 import Int8Graph
from tinydigits.shipping.javascript import preprocess_javascript, run_javascript
from tinydigits.shipping.onnx import run_onnx, write_onnx
from tinydigits.shipping.quantize import quantize
from tinydigits.shipping.store import load_graph, packaged_graph

Facts = dict[str, str]
Pictures = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Form:
    """One form of export.

    `write` puts its files into a directory; `run` gives the answers [N], -1 for “no digit”, and the logits [N, 10]
    that they calculate for raw digits; `preprocess` what they make of grey or, if `takes_colour`, RGBA pictures. None:
    the form brings no preprocessor. `integers`: an int8 network is calculated in integers, and its logits are the
    reference's to the bit.
    """

    name: str
    write: Callable[[Graph | Int8Graph, Path, Facts], list[Path]]
    run: Callable[[list[Path], NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any]]]
    preprocess: Callable[[list[Path], Pictures], list[bytes | None]] | None
    takes_colour: bool = False
    integers: bool = True


def _write_c(graph: Graph | Int8Graph, directory: Path, _: Facts) -> list[Path]:
    return write_c(graph, directory)


def _write_onnx(graph: Graph | Int8Graph, directory: Path, facts: Facts) -> list[Path]:
    return [write_onnx(graph, directory / f"{graph.model}.onnx", facts)]


def _write_html(graph: Graph | Int8Graph, directory: Path, facts: Facts) -> list[Path]:
    return [write_html(graph, directory / f"{graph.model}.html", facts)]


FORMS = {
    form.name: form
    for form in (
        Form("onnx", _write_onnx, lambda files, images: run_onnx(files[0], images), None, integers=False),
        Form(
            "c",
            _write_c,
            lambda files, images: run_c(files[0].parent, images),
            lambda files, pictures: preprocess_c(files[0].parent, pictures),
        ),
        Form(
            "html",
            _write_html,
            lambda files, images: run_javascript(files[0], images),
            lambda files, pictures: preprocess_javascript(files[0], pictures),
            takes_colour=True,
        ),
    )
}


def int8_graph(graph: Graph, data: DigitData) -> Int8Graph:
    """The int8 form of a graph: the shipped one, or a new one whose ranges are told by the held-out digits."""
    path = packaged_graph(graph.model, int8=True)
    if path is not None:
        shipped = load_graph(path)
        if isinstance(shipped, Int8Graph) and shipped.weights_sha256 == graph.weights_sha256:
            return shipped
    return quantize(graph, calibration_images(data))


def calibration_images(data: DigitData) -> NDArray[np.uint8]:
    """A thousand of the held-out digits, or all where there are fewer."""
    return data.train.images[data.held_out[:: max(1, len(data.held_out) // 1000)]]


def card_facts(card: Card, *, int8: bool = False) -> Facts:
    """What a form says of its weights; their accuracy was measured before any rounding to int8."""
    facts = {"parameters": f"{card.parameters:,}", "trained on": card.data, "recipe": card.recipe_name}
    if card.accuracy is not None:
        digits = "test digits" if card.protocol == "final" else "held-out training digits"
        key = "accuracy before rounding to int8" if int8 else "accuracy"
        facts[key] = f"{100 * card.accuracy:.2f} % of the {digits}"
    return facts | {"weights": card.weights_sha256[:12]}


def write_form(form: Form, graph: Graph | Int8Graph, directory: Path, facts: Facts) -> list[Path]:
    """Write the files of one form. An older `parity.json` beside them goes with the first that is replaced.

    Raises:
        ExportError: the directory cannot be written to, or the network does not fit the form.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".") as staging:
            written = form.write(graph, Path(staging), facts)
            (directory / "parity.json").unlink(missing_ok=True)
            return [path.replace(directory / path.name) for path in written]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ExportError(f"{directory} cannot be written to: {reason}. Name another directory with --out.") from error
