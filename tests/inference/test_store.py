"""Graphs as files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from tests.support.networks import odd_graphs
from tinydigits.errors import WeightsError
from tinydigits.exporters.quantize import quantize
from tinydigits.inference import graph as float32
from tinydigits.inference import int8
from tinydigits.inference.graph import Graph
from tinydigits.inference.int8 import Int8Graph
from tinydigits.inference.store import load_graph, packaged_graph, save_graph
from tinydigits.models.registry import list_models
from tinydigits.models.weights import load_card, packaged_weights

SHIPPED = [name for name in list_models() if packaged_weights(name)]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("is_int8", [False, True])
def test_shipped_weights_have_their_graphs(name: str, is_int8: bool, tmp_path: Path) -> None:
    path, weights = packaged_graph(name, int8=is_int8), packaged_weights(name)
    assert path is not None
    assert weights is not None
    graph, card = load_graph(path), load_card(weights)
    assert graph.weights_sha256 == card.weights_sha256
    assert graph.model == name
    save_graph(tmp_path / "again", graph)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert _logits(load_graph(tmp_path / "again")).tolist() == _logits(graph).tolist()


def test_depthwise_convolutions_are_kept(tmp_path: Path) -> None:
    graph = odd_graphs()["depthwise"]
    for kept in (graph, quantize(graph, IMAGES)):
        save_graph(tmp_path / "graph", kept)
        assert _logits(load_graph(tmp_path / "graph")).tolist() == _logits(kept).tolist()


def _logits(graph: Graph | Int8Graph) -> NDArray[Any]:
    return float32.run(graph, IMAGES) if isinstance(graph, Graph) else int8.run(graph, IMAGES)


def test_there_is_none_for_an_unknown_model() -> None:
    assert packaged_graph("tiny-11k") is None


def test_no_torch_is_needed() -> None:
    code = (
        "from tinydigits.inference.store import load_graph, packaged_graph; import sys; "
        "load_graph(packaged_graph('tiny-10k')); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _broken(kind: str, path: Path) -> None:
    good = packaged_graph("tiny-10k")
    assert good is not None
    content = good.read_bytes()
    if kind == "cut off":
        path.write_bytes(content[:5000])
    elif kind == "no safetensors":
        path.write_bytes(b"hello")
    elif kind == "weights only":
        path.write_bytes(safetensors.numpy.save({"a": np.zeros(3)}))
    elif kind == "another schema":
        path.write_bytes(safetensors.numpy.save({"a": np.zeros(3)}, {"tinydigits": json.dumps({"schema": 9})}))
    elif kind == "no graph":
        path.write_bytes(
            safetensors.numpy.save({"a": np.zeros(3)}, {"tinydigits": json.dumps({"schema": 1, "graph": 3})})
        )
    elif kind == "NaN":
        header = {"tinydigits": json.dumps({"schema": 1, "graph": {"class": "Relu"}})}
        path.write_bytes(safetensors.numpy.save({"a": np.full(3, np.nan)}, header))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "is not a folded graph that can be read"),
        ("cut off", "is not a folded graph that can be read"),
        ("no safetensors", "is not a folded graph that can be read"),
        ("weights only", "is not a folded graph that can be read"),
        ("another schema", "has schema 9"),
        ("no graph", "holds no folded graph"),
        ("NaN", "not finite"),
    ],
)
def test_what_is_no_graph_is_refused(kind: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    _broken(kind, path)
    with pytest.raises(WeightsError, match=sentence):
        load_graph(path)
