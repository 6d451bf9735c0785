"""Folded and int8 graphs as files: one `.safetensors` each, whose metadata lists the operations. Needs no torch."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tinydigits.errors import WeightsError
from tinydigits.inference.graph import Affine, AveragePool, Conv, Graph, MaxPool, Relu
from tinydigits.inference.int8 import Int8AveragePool, Int8Conv, Int8Graph, Requantise
from tinydigits.storage import write_bytes

SCHEMA = 1
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (Graph, Conv, Affine, Relu, MaxPool, AveragePool, Int8Graph, Int8Conv, Int8AveragePool, Requantise)
}


def save_graph(path: Path, graph: Graph | Int8Graph) -> None:
    """Write a graph; errors as of `storage.write_bytes`."""
    tensors: dict[str, NDArray[Any]] = {}
    document = {"schema": SCHEMA, "graph": _plain(graph, "", tensors)}
    write_bytes(path, safetensors.numpy.save(tensors, {"tinydigits": json.dumps(document)}))


def load_graph(path: Path) -> Graph | Int8Graph:
    """Read a graph that `save_graph` wrote.

    Raises:
        WeightsError: the file is missing or damaged, of another version, or holds values that are not finite.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            document = json.loads((file.metadata() or {})["tinydigits"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        if document["schema"] != SCHEMA:
            raise WeightsError(
                f"{path} has schema {document['schema']}, and this version reads {SCHEMA}. Export it again."
            )
        if odd := [key for key, value in tensors.items() if not np.isfinite(value).all()]:
            raise WeightsError(f"{path}: {odd[0]} holds values that are not finite numbers. Export it again.")
        graph = _built(document["graph"], tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is not a folded graph that can be read: {error}. Export it again.") from error
    if not isinstance(graph, Graph | Int8Graph):
        raise WeightsError(f"{path} holds no folded graph. Export it again.")
    return graph


def packaged_graph(model: str, *, int8: bool = False) -> Path | None:
    """The shipped graph of a zoo model, by its name with dashes; None if there is none.

    The registry is not consulted, so that no torch is needed.
    """
    file = f"{model}.{'int8' if int8 else 'graph'}.safetensors"
    path = Path(str(importlib.resources.files("tinydigits") / "weights" / file))
    return path if path.is_file() else None


def _plain(value: Any, key: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """A dataclass as plain data; its arrays go into `tensors`, under `key` and the path from there."""
    if isinstance(value, np.ndarray):
        tensors[key] = np.ascontiguousarray(value)
        return {"array": key}
    if type(value).__name__ in _CLASSES:
        parts = {name: _plain(part, f"{key}.{name}".lstrip("."), tensors) for name, part in vars(value).items()}
        if parts.get("depthwise") is False:  # written only if true, so that the bytes of older files stay the same
            del parts["depthwise"]
        return {"class": type(value).__name__, **parts}
    if isinstance(value, tuple):
        return [_plain(part, f"{key}.{i}", tensors) for i, part in enumerate(value)]
    return value


def _built(value: Any, tensors: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_built(part, tensors) for part in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return tensors[value["array"]]
    kind = _CLASSES[value["class"]]
    return kind(**{key: _built(part, tensors) for key, part in value.items() if key != "class"})
