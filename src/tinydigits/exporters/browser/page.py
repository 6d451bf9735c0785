"""One HTML file that reads handwritten digits, made from a folded graph: weights, preprocessor, inference and all.

The parts are in `assets/`. The file loads nothing from anywhere: its content security policy forbids it, and admits no
script or style but its own.
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
from tinydigits.exporters.templates import fill_template, template
from tinydigits.exporters.thresholds import clipped_threshold
from tinydigits.inference.graph import Affine, AveragePool, Conv, Graph, MaxPool, Op, Relu
from tinydigits.inference.int8 import Int8AveragePool, Int8Conv, Int8Graph, Int8Op
from tinydigits.storage import write_bytes

SIZE_LIMIT = 150_000  # bytes of the whole file
_WINDOW = ("kernel", "stride", "padding")


def html_page(graph: Graph | Int8Graph, facts: Mapping[str, str]) -> str:
    """The page as text, with the facts at its foot; the same graph and facts give the same text.

    Raises:
        ExportError: the page would have 150,000 bytes or more.
    """
    model = html.escape(graph.model)
    parts = {
        "title": f"Draw a digit · {model}",
        "lead": f"<strong>{model}</strong> reads it while you write.",
        "facts": description_list(facts),
        "foot": "Everything stays on this device: the network is inside this file, which cannot reach the internet.",
    }
    text, _ = drawing_page(graph, parts)
    size = len(text.encode())
    if size >= SIZE_LIMIT:
        hint = "Take a smaller network." if isinstance(graph, Int8Graph) else "Export it as int8, or a smaller network."
        raise ExportError(
            f"{graph.model}: the page would have {size:,} bytes, and it must stay below {SIZE_LIMIT:,}. {hint}"
        )
    return text


def drawing_page(
    graph: Graph | Int8Graph, parts: Mapping[str, str], *, addition: str | None = None, connect: str | None = None
) -> tuple[str, str]:
    """The page to draw on, and its content security policy.

    Args:
        graph: The network that the page starts with.
        parts: HTML for its placeholders `title`, `lead`, `facts`, `foot` and, if wanted, `tools` and `card`.
        addition: The name of a style and a script in `assets/` that come last and can use everything before.
        connect: The sources that its scripts may load from, as in the policy; None: none.
    """
    styles, scripts = ["style.css"], ["page.js"]
    if addition:
        styles.append(f"{addition}.css")
        scripts.append(f"{addition}.js")
    style, page, reader = map(_slim, (styles, scripts, ["preprocess.js", "network.js"]))
    policy = (
        f"default-src 'none'; script-src {_source(reader)} {_source(page)}; style-src {_source(style)}; img-src data:; "
        + (f"connect-src {connect}; " if connect else "")
        + "base-uri 'none'; form-action 'none'"
    )
    values = {"tools": "", "card": "", **parts, "policy": policy, "style": style, "reader": reader, "page": page}
    return fill_template("browser/assets/page.html", **values, network=network_json(graph)), policy


def description_list(facts: Mapping[str, str]) -> str:
    """Names and values as HTML for the foot of the page."""
    return "\n".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items()
    )


def write_html(graph: Graph | Int8Graph, path: Path, facts: Mapping[str, str]) -> Path:
    """Write the page to `path`, and return that; errors as of `html_page` and `storage.write_bytes`."""
    write_bytes(path, html_page(graph, facts).encode())
    return path


def _slim(assets: list[str]) -> str:
    """Assets without indentation and comments: a page with 20,000 parameters in float32 has no space for them."""
    text = "".join(template(f"browser/assets/{name}") for name in assets)
    return re.sub(r"(?m)^ *(/\*(?s:.*?)\*/\n|//.*\n|\n)|^ +", "", text)


def _source(text: str) -> str:
    """A script or style as the policy admits it: by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def network_json(graph: Graph | Int8Graph) -> str:
    """The graph as the page's network.js reads it. `threshold` is in units of the logits that it calculates."""
    document = {
        "model": graph.model,
        "weights_sha256": graph.weights_sha256,
        "temperature": graph.temperature,
        "threshold": clipped_threshold(graph),
        "logit_scale": graph.logit_scale if isinstance(graph, Int8Graph) else 1.0,
        "ops": [_operation(op) for op in graph.ops],
    }
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # safe inside a script element


def _operation(op: Op | Int8Op) -> dict[str, Any]:
    window = {} if isinstance(op, Affine | Relu) else {key: getattr(op, key) for key in _WINDOW}
    match op:
        case Conv() | Int8Conv():
            convolution = {"op": "conv", "weight": _pack(op.weight)} | ({"depthwise": True} if op.depthwise else {})
            if isinstance(op, Conv):
                return convolution | {"bias": _pack(op.bias)} | window
            return convolution | {"zero_point": op.zero_point, "bias": op.bias.tolist()} | window | _requantise(op)
        case Affine():
            return {"op": "affine", "scale": _pack(op.scale), "shift": _pack(op.shift)}
        case Relu():
            return {"op": "relu"}
        case MaxPool():
            return {"op": "max_pool"} | window
        case AveragePool():
            return {"op": "average_pool"} | window
        case Int8AveragePool():
            return {"op": "average_pool", "zero_point": op.zero_point} | window | _requantise(op)


def _requantise(op: Int8Conv | Int8AveragePool) -> dict[str, Any]:
    r = op.requantise
    low, high = (None if clamps is None else clamps.tolist() for clamps in (r.low, r.high))
    channels = {"multiplier": r.multiplier.tolist(), "offset": r.offset.tolist(), "low": low, "high": high}
    return {"requantise": {**channels, "shift": r.shift}}


def _pack(array: NDArray[Any]) -> str:
    """Base64 of float32 or int8, little-endian."""
    kind = np.int8 if array.dtype == np.int8 else "<f4"
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()
