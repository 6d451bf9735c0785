"""The networks that are served: their graph, what their card says, and what runs them. Torch stays out of this process.

That is onnxruntime where it is installed, otherwise the NumPy reference.
"""

import importlib.resources
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ServeError, ToolMissingError
from tinydigits.shipping.graph import Floats, Graph, run
from tinydigits.shipping.onnx import open_session, write_onnx
from tinydigits.shipping.store import load_graph, save_graph

_GRAPH = ".graph.safetensors"


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is served.

    `run` gives the logits float32 [N, 10] of raw pictures uint8 [N, 28, 28]; `engine` is what runs it.
    """

    name: str
    graph: Graph
    card: dict[str, Any]
    engine: str
    run: Callable[[NDArray[np.uint8]], Floats]

    def facts(self) -> dict[str, Any]:
        """What `GET /models` says of it; `study` is what a study of several seeds proved, None without one."""
        study = self.card.get("study")
        return {
            "model": self.name,
            "parameters": self.card["parameters"],
            "accuracy": self.card["accuracy"],
            "data": self.card["data"],
            "study": study and {"n": study["n"], **study["final"]},
            "temperature": self.graph.temperature,
            "threshold": self.graph.threshold,
            "weights_sha256": self.graph.weights_sha256,
            "engine": self.engine,
        }


def load_networks(source: str) -> dict[str, Network]:
    """All networks with a shipped graph, and `source` first.

    Args:
        source: One of these, by name; or a run directory or a .safetensors file with its card beside it, which is
            folded in a process of its own and served under the name of the directory or file.

    Raises:
        ServeError: there is nothing of that name.
        ModelError, WeightsError, ExportError: a trained network cannot be loaded or folded.
    """
    folder = Path(str(importlib.resources.files("tinydigits") / "weights"))
    shipped = {path.name.removesuffix(_GRAPH): path for path in sorted(folder.glob(f"*{_GRAPH}"))}
    name = source.replace("_", "-")
    if name in shipped and not Path(source).exists():
        first = _shipped(name, shipped.pop(name))
    elif Path(source).exists():
        first = _trained(Path(source))
        shipped.pop(first.name, None)
    else:
        raise ServeError(
            f"{source}: there is no network of that name with weights, nor such a file. There are "
            f"{', '.join(shipped)}; or name a run directory."
        )
    return {first.name: first} | {name: _shipped(name, path) for name, path in shipped.items()}


def _shipped(name: str, path: Path) -> Network:
    card = path.with_name(f"{name}.json")
    return _network(name, path, json.loads(card.read_text(encoding="utf-8")))


def _network(name: str, path: Path, card: dict[str, Any]) -> Network:
    graph = load_graph(path)
    assert isinstance(graph, Graph)
    try:
        with tempfile.TemporaryDirectory() as directory:
            session = open_session(write_onnx(graph, Path(directory) / "network.onnx", {}))
    except ToolMissingError:
        return Network(name, graph, card, "numpy", partial(run, graph))
    return Network(name, graph, card, "onnxruntime", lambda images: session.run(["logits"], {"images": images})[0])


def _trained(source: Path) -> Network:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.safetensors"
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            card = pool.submit(_fold, str(source), path).result()
        return _network(source.resolve().stem, path, card)


def _fold(source: str, path: Path) -> dict[str, Any]:
    """In a process of its own, because it takes torch. Returns the card."""
    from dataclasses import asdict

    from tinydigits.models.weights import load_model
    from tinydigits.shipping.fold import fold_network

    model, card = load_model(source)
    save_graph(path, fold_network(model, card))
    return asdict(card)
