"""The export formats: one class each, behind the interface `Exporter`, and all of them in `EXPORTERS`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinydigits.exporters.browser.page import write_html
from tinydigits.exporters.browser.runner import preprocess_javascript, run_javascript
from tinydigits.exporters.c.generate import write_c
from tinydigits.exporters.c.runner import preprocess_c, run_c
from tinydigits.exporters.hub import run_hub, write_hub
from tinydigits.exporters.onnx import run_onnx, write_onnx
from tinydigits.inference.graph import Graph
from tinydigits.inference.int8 import Int8Graph
from tinydigits.records import SPLIT_NAMES, Card
from tinydigits.storage import file_stem

Images = NDArray[np.uint8]
Outputs = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """What an exporter needs of a network.

    Attributes:
        model: The PyTorch network with its weights.
        card: Its card.
        graph: The folded graph, in float32 or int8; None if the exporter does not need it.
    """

    model: nn.Module
    card: Card
    graph: Graph | Int8Graph | None = None

    @property
    def name(self) -> str:
        """The model's name as part of a file's name."""
        return file_stem(self.card.model)

    @property
    def folded(self) -> Graph | Int8Graph:
        """The graph, for exporters that need it."""
        assert self.graph is not None
        return self.graph

    @property
    def facts(self) -> dict[str, str]:
        """What exported files say of their weights; the accuracy was measured before any rounding to int8."""
        card = self.card
        facts = {"parameters": f"{card.parameters:,}", "trained on": card.data, "recipe": card.recipe_name}
        if card.accuracy is not None:
            key = "accuracy before rounding to int8" if isinstance(self.graph, Int8Graph) else "accuracy"
            facts[key] = f"{100 * card.accuracy:.2f} % of the {SPLIT_NAMES[card.split]} digits"
        return facts | {"weights": card.weights_sha256[:12]}


class Exporter(Protocol):
    """One export format.

    Attributes:
        name: What `--to` calls it.
        needs_graph: It is made from the folded graph, in float32 or int8. Otherwise it keeps PyTorch's weights, in
            float32.
        integers: It computes int8 networks in integers, with the bits of the reference. Otherwise it computes them in
            real numbers, which are rounded now and then.
    """

    name: str
    needs_graph: bool
    integers: bool

    def write(self, network: TrainedNetwork, directory: Path) -> list[Path]:
        """Write the files into a directory, which exists.

        Raises:
            ExportError: the network does not fit the format.
            StorageError: a file cannot be written.
        """
        ...

    def run(self, files: list[Path], images: Images) -> Outputs:
        """Run the network in files that `write` returned on raw digits uint8 [N, 28, 28].

        Returns:
            Labels [N], -1 for “no digit”, and logits [N, 10].

        Raises:
            ToolMissingError: a program or package that runs such files is not installed.
            ExportError: the files cannot be run.
        """
        ...


@runtime_checkable
class PictureExporter(Exporter, Protocol):
    """A format that contains the preprocessor too. `takes_colour`: it also takes RGBA pictures, not only grey ones."""

    takes_colour: bool

    def preprocess(self, files: list[Path], pictures: Sequence[Images]) -> list[bytes | None]:
        """Each picture, grey [H, W] or RGBA [H, W, 4], as 784 bytes; None: no ink was found. Errors as of `run`."""
        ...


@final
class OnnxExporter:
    """One `.onnx` file; an int8 network as QDQ."""

    name = "onnx"
    needs_graph = True
    integers = False

    def write(self, network: TrainedNetwork, directory: Path) -> list[Path]:
        """See `Exporter`."""
        return [write_onnx(network.folded, directory / f"{network.name}.onnx", network.facts)]

    def run(self, files: list[Path], images: Images) -> Outputs:
        """In onnxruntime."""
        return run_onnx(files[0], images)


@final
class CExporter:
    """C99 sources, for microcontrollers."""

    name = "c"
    needs_graph = True
    integers = True
    takes_colour = False

    def write(self, network: TrainedNetwork, directory: Path) -> list[Path]:
        """See `Exporter`."""
        return write_c(network.folded, directory)

    def run(self, files: list[Path], images: Images) -> Outputs:
        """Compiled by the C compiler of this machine."""
        return run_c(files[0].parent, images)

    def preprocess(self, files: list[Path], pictures: Sequence[Images]) -> list[bytes | None]:
        """See `PictureExporter`."""
        return preprocess_c(files[0].parent, pictures)


@final
class HtmlExporter:
    """One HTML file to draw on."""

    name = "html"
    needs_graph = True
    integers = True
    takes_colour = True

    def write(self, network: TrainedNetwork, directory: Path) -> list[Path]:
        """See `Exporter`."""
        return [write_html(network.folded, directory / f"{network.name}.html", network.facts)]

    def run(self, files: list[Path], images: Images) -> Outputs:
        """In Node.js."""
        return run_javascript(files[0], images)

    def preprocess(self, files: list[Path], pictures: Sequence[Images]) -> list[bytes | None]:
        """See `PictureExporter`."""
        return preprocess_javascript(files[0], pictures)


@final
class HubExporter:
    """A folder for the Hugging Face Hub, with PyTorch's own weights."""

    name = "hub"
    needs_graph = False
    integers = False

    def write(self, network: TrainedNetwork, directory: Path) -> list[Path]:
        """See `Exporter`."""
        return write_hub(network.model, network.card, directory)

    def run(self, files: list[Path], images: Images) -> Outputs:
        """In PyTorch, loaded from the folder."""
        return run_hub(files[0].parent, images)


EXPORTERS: dict[str, Exporter] = {
    exporter.name: exporter for exporter in (OnnxExporter(), CExporter(), HtmlExporter(), HubExporter())
}
