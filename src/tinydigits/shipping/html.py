"""One HTML file that reads handwritten digits, made from a folded graph: weights, preprocessor, inference and all.

The parts lie in `page/`; here they are put into one file, which loads nothing from anywhere: its content security
policy forbids it, and admits no script or style but its own.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ExportError
from tinydigits.shipping.graph import Affine, AveragePool, Conv, Graph, MaxPool, Op, Relu
from tinydigits.shipping.int8 import Int8AveragePool, Int8Conv, Int8Graph, Int8Op, Requantise
from tinydigits.shipping.templates import filled, template
from tinydigits.shipping.thresholds import float_threshold, integer_threshold
from tinydigits.storage import write_bytes

SIZE_LIMIT = 150_000  # bytes of the whole file
_FOLDER = "page"
_WINDOW = ("kernel", "stride", "padding")


def html_page(graph: Graph | Int8Graph, facts: Mapping[str, str]) -> str:
    """The page as text; the same graph and facts give the same text.

    Args:
        graph: The network, in float32 or int8.
        facts: What the page says of it at its foot, as {name: value}: parameters, accuracy and the like.

    Raises:
        ExportError: the page would have 150,000 bytes or more.
    """
    model = html.escape(graph.model)
    places = {
        "title": f"Draw a digit · {model}",
        "lead": f"<strong>{model}</strong> reads it while you write.",
        "facts": description_list(facts),
        "foot": "Everything stays on this device: the network is inside this file, which cannot reach the internet.",
    }
    text, _ = drawing_page(graph, places)
    size = len(text.encode())
    if size >= SIZE_LIMIT:
        raise ExportError(
            f"{graph.model}: the page would have {size:,} bytes, and it must stay below {SIZE_LIMIT:,}. "
            + (
                "Take a smaller network."
                if isinstance(graph, Int8Graph)
                else "Export it as int8, or a smaller network."
            )
        )
    return text


def drawing_page(
    graph: Graph | Int8Graph, places: Mapping[str, str], *, addition: str | None = None, connect: str | None = None
) -> tuple[str, str]:
    """The page to draw on, for every use of it, and its content security policy.

    Args:
        graph: The network that it begins with.
        places: HTML for its places `title`, `lead`, `facts`, `foot` and, if anything, `tools` and `card`.
        addition: The name of a style and a script in `page/` that come last and see all that stands before.
        connect: What its scripts may load from, as the policy has it; None: nothing.
    """
    styles, scripts = ["style.css"], ["page.js"]
    if addition:
        styles.append(f"{addition}.css")
        scripts.append(f"{addition}.js")
    style, page, reader = (
        "".join(_slim(template(_FOLDER, name)) for name in names)
        for names in (styles, scripts, ["preprocess.js", "network.js"])
    )
    policy = (
        f"default-src 'none'; script-src {_source(reader)} {_source(page)}; style-src {_source(style)}; img-src data:; "
        + (f"connect-src {connect}; " if connect else "")
        + "base-uri 'none'; form-action 'none'"
    )
    parts = {"tools": "", "card": "", **places, "policy": policy, "style": style, "reader": reader, "page": page}
    return filled(_FOLDER, "page.html", **parts, network=network_json(graph)), policy


def description_list(facts: Mapping[str, str]) -> str:
    """Names and values as the page's foot shows them."""
    return "\n".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items()
    )


def write_html(graph: Graph | Int8Graph, path: Path, facts: Mapping[str, str]) -> Path:
    """Write the page to `path`, and return that.

    Raises:
        ExportError: the page would have 150,000 bytes or more.
        StorageError: it cannot be written.
    """
    write_bytes(path, html_page(graph, facts).encode())
    return path


def _slim(text: str) -> str:
    """Without the blanks that lines begin with: a page with 20,000 parameters in float32 has no room for them."""
    return re.sub(r"(?m)^ +", "", text)


def _source(text: str) -> str:
    """What the policy admits: a script or style by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def network_json(graph: Graph | Int8Graph) -> str:
    """The graph as the page's network.js reads it. `threshold` is in units of the logits that it calculates."""
    threshold: float | None
    if isinstance(graph, Int8Graph):
        threshold, scale = integer_threshold(graph), graph.logit_scale
    else:
        threshold, scale = float_threshold(graph), 1.0
    return _json(
        {
            "model": graph.model,
            "weights_sha256": graph.weights_sha256,
            "temperature": graph.temperature,
            "threshold": threshold,
            "logit_scale": scale,
            "ops": [_operation(op) for op in graph.ops],
        }
    )


def _operation(op: Op | Int8Op) -> dict[str, Any]:
    window = {} if isinstance(op, Affine | Relu) else {key: getattr(op, key) for key in _WINDOW}
    match op:
        case Conv():
            return _convolution(op) | {"bias": _pack(op.bias)} | window
        case Int8Conv():
            integers = {"zero_point": op.zero_point, "bias": op.bias.tolist()}
            return _convolution(op) | integers | window | _requantise(op.requantise)
        case Affine():
            return {"op": "affine", "scale": _pack(op.scale), "shift": _pack(op.shift)}
        case Relu():
            return {"op": "relu"}
        case MaxPool():
            return {"op": "max_pool"} | window
        case AveragePool():
            return {"op": "average_pool"} | window
        case Int8AveragePool():
            return {"op": "average_pool", "zero_point": op.zero_point} | window | _requantise(op.requantise)


def _convolution(op: Conv | Int8Conv) -> dict[str, Any]:
    return {"op": "conv", "weight": _pack(op.weight)} | ({"depthwise": True} if op.depthwise else {})


def _requantise(r: Requantise) -> dict[str, Any]:
    low, high = (None if clamps is None else clamps.tolist() for clamps in (r.low, r.high))
    channels = {"multiplier": r.multiplier.tolist(), "offset": r.offset.tolist(), "low": low, "high": high}
    return {"requantise": {**channels, "shift": r.shift}}


def _pack(array: NDArray[Any]) -> str:
    """Base64 of float32 or int8, little-endian."""
    kind = np.int8 if array.dtype == np.int8 else "<f4"
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()
