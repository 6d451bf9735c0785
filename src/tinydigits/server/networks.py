"""The networks that are served, run by onnxruntime if it is installed, else by NumPy; torch is never loaded."""

import importlib.resources
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from tinydigits.errors import ServeError, ToolMissingError, WeightsError
from tinydigits.exporters.onnx import open_session, write_onnx
from tinydigits.inference.graph import Floats, Graph, run
from tinydigits.inference.store import load_graph, save_graph
from tinydigits.records import Card, read_record

_GRAPH = ".graph.safetensors"


class ModelFacts(BaseModel):
    """A network that is served; `accuracy` is that of these weights, `study` that of training with several seeds."""

    model: str
    parameters: int
    accuracy: float | None
    data: str
    study: dict[Literal["n", "mean", "sd", "lower_bound"], int | float | None] | None
    temperature: float | None
    threshold: float | None
    weights_sha256: str
    engine: Literal["onnxruntime", "numpy"]


@dataclass(frozen=True, eq=False)
class ServedNetwork:
    """`run` gives the logits float32 [N, 10] of raw pictures uint8 [N, 28, 28]; `facts` is what `GET /models` says."""

    name: str
    graph: Graph
    facts: ModelFacts
    run: Callable[[NDArray[np.uint8]], Floats]


def load_networks(source: str) -> dict[str, ServedNetwork]:
    """All networks with a shipped graph, first `source`: one of these by name, a run directory or a .safetensors file.

    Raises ServeError if there is none; ModelError, WeightsError or ExportError if it cannot be loaded or folded.
    """
    folder = Path(str(importlib.resources.files("tinydigits") / "weights"))
    shipped = {path.name.removesuffix(_GRAPH): path for path in sorted(folder.glob(f"*{_GRAPH}"))}
    is_trained = Path(source).exists()
    name = Path(source).resolve().stem if is_trained else source.replace("_", "-")
    if not is_trained and name not in shipped:
        raise ServeError(f"{source}: there is no network of that name. Name a run directory or {', '.join(shipped)}.")
    found = {name: _load_trained(source, name) if is_trained else _load(name, shipped[name])}
    return found | {other: _load(other, path) for other, path in shipped.items() if other not in found}


def _load_trained(source: str, name: str) -> ServedNetwork:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.safetensors"
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            card = pool.submit(_fold, source, path).result()
        return _load(name, path, card)


def _fold(source: str, path: Path) -> Card:
    """In a process of its own, because it takes torch."""
    from tinydigits.exporters.fold import fold_network
    from tinydigits.models.factory import load_model

    model, card = load_model(source)
    save_graph(path, fold_network(model, card))
    return card


def _load(name: str, path: Path, card: Card | None = None) -> ServedNetwork:
    card = card or read_record(path.with_name(f"{name}.json"), Card, "Reinstall tinydigits.", WeightsError)
    graph = load_graph(path)
    assert isinstance(graph, Graph)
    try:
        with tempfile.TemporaryDirectory() as directory:
            session = open_session(write_onnx(graph, Path(directory) / "network.onnx", {}))
        engine, read = "onnxruntime", lambda images: session.run(["logits"], {"images": images})[0]
    except ToolMissingError:
        engine, read = "numpy", partial(run, graph)
    study = card.study and {"n": card.study.n, **card.study.final.as_dict()}
    own: dict[str, object] = {"model": name, "study": study, "engine": engine, "weights_sha256": graph.weights_sha256}
    own |= {"temperature": graph.temperature, "threshold": graph.threshold}
    return ServedNetwork(name, graph, ModelFacts.model_validate(card.as_dict() | own), read)
