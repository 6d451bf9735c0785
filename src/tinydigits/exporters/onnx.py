"""ONNX from a graph, node by node: raw uint8 pictures in, logits, probabilities and digits out, any number at a time.

A graph is a plain chain of operations that ONNX has, so nothing has to be traced, and the file holds nothing else.

Int8 networks are written as QDQ: each operation works on real numbers between DequantizeLinear and QuantizeLinear, and
a runtime with integer kernels uses these instead. The unit of each map is its own step, so that its scale is 1; the
scales of the weights are then the multipliers of the int8 graph, without rounding. A runtime may differ from `int8.run`
only where a sum falls between two steps.

Needs the extra `onnx`; without it, importing this module still works.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ExportError, ToolMissingError, one_line
from tinydigits.exporters.thresholds import clipped_threshold
from tinydigits.inference import graph as graphs
from tinydigits.inference.graph import INPUT_SHAPE, Affine, AveragePool, Conv, Floats, Graph, MaxPool, Relu, Shape
from tinydigits.inference.int8 import Int8AveragePool, Int8Conv, Int8Graph
from tinydigits.storage import write_bytes

Reals = NDArray[np.float64]

OPSET = 17
IR_VERSION = 8  # the version that came with this opset: later ones exclude older runtimes
_BATCH = 100  # pictures at a time in `run_onnx`
_DOC = """\
Reads handwritten digits. Input: `images` uint8 [N, 28, 28], as MNIST has them: light ink (up to 255) on dark paper, \
the digit 20 pixels high or wide, its centre of mass in the middle. No other preparation is needed. \
Outputs: `logits` float32 [N, 10]; `probabilities` float32 [N, 10], the softmax of logits / temperature; \
`digit` int64 [N], 0 to 9, or -1 for “no digit”: the largest logit is below the threshold. \
A blank picture gets a digit like any other: whatever prepares the pictures must reject it."""


def write_onnx(graph: Graph | Int8Graph, path: Path, facts: Mapping[str, str]) -> Path:
    """Write the model to `path`, and return that. The same graph and facts give the same bytes.

    `facts` are further metadata from the card: parameters, accuracy and so on.

    Raises:
        ToolMissingError: the extra `onnx` is not installed.
        StorageError: it cannot be written.
    """
    write_bytes(path, onnx_model(graph, facts).SerializeToString(deterministic=True))
    return path


def onnx_model(graph: Graph | Int8Graph, facts: Mapping[str, str]) -> Any:
    """The checked model as `onnx.ModelProto`; arguments and errors as of `write_onnx`."""
    onnx, helper = _package("onnx"), _package("onnx.helper")
    nodes = _Nodes()
    threshold = clipped_threshold(graph)
    if isinstance(graph, Int8Graph):
        logits = _int8(nodes, graph)
        threshold = None if threshold is None else threshold * graph.logit_scale
    else:
        logits = _float(nodes, graph)
    _outputs(nodes, logits, graph.temperature, threshold)
    types, tensor = onnx.TensorProto, helper.make_tensor_value_info
    inputs = [tensor("images", types.UINT8, ["N", *INPUT_SHAPE[1:]])]
    outputs = [tensor(name, types.FLOAT, ["N", 10]) for name in ("logits", "probabilities")]
    outputs.append(tensor("digit", types.INT64, ["N"]))
    body = helper.make_graph(nodes.nodes, graph.model, inputs, outputs, nodes.constants)
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tinydigits",
        producer_version=version("tinydigits"),
        doc_string=_DOC,
    )
    helper.set_model_props(model, {**facts, **_metadata(graph, threshold)})
    _package("onnx.checker").check_model(model, full_check=True)
    return model


def run_onnx(path: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], Floats]:
    """`Exporter.run` of one file, in onnxruntime."""
    session = open_session(path)
    labels, logits = np.empty(len(images), np.int32), np.empty((len(images), 10), np.float32)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        labels[part], logits[part] = session.run(["digit", "logits"], {"images": images[part]})
    return labels, logits


def open_session(path: Path) -> Any:
    """The file in onnxruntime, on one thread, as `onnxruntime.InferenceSession`; errors as of `run_onnx`."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Without this, sums of 8-bit products may overflow 16 bits on processors with AVX2 but no VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class of their own
        raise ExportError(f"{path}: onnxruntime cannot run this file ({one_line(error)}). Export it again.") from error


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolMissingError(
            f"ONNX needs the package {name.partition('.')[0]}, which is not installed. "
            'Install it with `pip install "tinydigits[onnx]"`.'
        ) from error


def _metadata(graph: Graph | Int8Graph, threshold: float | None) -> dict[str, str]:
    """Metadata of the graph itself. Temperature and threshold are left out if nothing was fitted."""
    fitted = {"temperature": graph.temperature, "threshold": threshold}
    return {
        "model": graph.model,
        "labels": ",".join(map(str, range(10))),
        "preprocessing": "none: raw bytes; the normalization is folded into the weights",
        "format": "int8 (QDQ)" if isinstance(graph, Int8Graph) else "float32",
        "weights_sha256": graph.weights_sha256,
        "tinydigits": version("tinydigits"),
        **{key: repr(float(value)) for key, value in fitted.items() if value is not None},
    }


@dataclass
class _Nodes:
    """The nodes and constants so far; each is named after its kind, with a number."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        name = f"{name}_{len(self.constants)}"
        self.constants.append(_package("onnx.numpy_helper").from_array(value, name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        output = output or name
        self.nodes.append(_package("onnx.helper").make_node(kind, inputs, [output], name, **attributes))
        return output

    def with_channels(self, kind: str, x: str, name: str, values: NDArray[Any]) -> str:
        """An elementwise operation of a map [N, C, H, W] with one number per channel."""
        return self.add(kind, x, self.constant(name, values.astype(np.float32)[:, None, None]))


def _pictures(nodes: _Nodes) -> str:
    """[N, 28, 28] → [N, 1, 28, 28]."""
    return nodes.add("Unsqueeze", "images", nodes.constant("axes", np.array([1])))


def _window(op: MaxPool | AveragePool | Conv | Int8Conv | Int8AveragePool) -> dict[str, Any]:
    group = {"group": len(op.bias)} if isinstance(op, Conv | Int8Conv) and op.depthwise else {}
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding * 2, **group}


def _average(nodes: _Nodes, x: str, op: AveragePool | Int8AveragePool, shape: Shape) -> str:
    """`shape`: of the input map."""
    if op.kernel == shape[1:] and op.padding == (0, 0):
        return nodes.add("GlobalAveragePool", x)
    return nodes.add("AveragePool", x, count_include_pad=1, **_window(op))


def _float(nodes: _Nodes, graph: Graph) -> str:
    """The network on real numbers; returns the name of the logits [N, 10, 1, 1]."""
    x = nodes.add("Cast", _pictures(nodes), to=_package("onnx").TensorProto.FLOAT)
    for op, shape in zip(graph.ops, [INPUT_SHAPE, *graphs.output_shapes(graph.ops)], strict=False):
        match op:
            case Conv():
                arrays = nodes.constant("weight", op.weight), nodes.constant("bias", op.bias)
                x = nodes.add("Conv", x, *arrays, **_window(op))
            case Affine():
                scaled = x if (op.scale == 1).all() else nodes.with_channels("Mul", x, "scale", op.scale)
                x = nodes.with_channels("Add", scaled, "shift", op.shift)
            case Relu():
                x = nodes.add("Relu", x)
            case MaxPool():
                x = nodes.add("MaxPool", x, **_window(op))
            case AveragePool():
                x = _average(nodes, x, op, shape)
    return x


def _int8(nodes: _Nodes, graph: Int8Graph) -> str:
    """The network as QDQ; returns the name of the logits [N, 10, 1, 1]."""
    x = _pictures(nodes)  # the first quantised map
    shapes = [INPUT_SHAPE, *graphs.output_shapes(graph.ops)]
    for i, op in enumerate(graph.ops):
        if isinstance(op, MaxPool):
            x = nodes.add("MaxPool", x, **_window(op))
            continue
        unit = graph.logit_scale if op.requantise.low is None else 1.0
        # Of each channel's sums [C]. Multipliers have 24 bits, so that float32 holds them exactly.
        factor = op.requantise.multiplier * (unit / 2**op.requantise.shift)
        if isinstance(op, Int8Conv):
            x = _int8_conv(nodes, x, op, factor)
        else:
            x = _int8_average(nodes, x, op, factor, shapes[i])
        following = next((other.zero_point for other in graph.ops[i + 1 :] if not isinstance(other, MaxPool)), 0)
        x = _requantise(nodes, x, op, following, unit)
    return x


def _int8_conv(nodes: _Nodes, x: str, op: Int8Conv, factor: Reals) -> str:
    """Real numbers, in units of the next map's step. Scales must be positive: the weights take their sign."""
    sign = np.sign(factor).astype(np.int64)
    scale = np.where(sign == 0, 1, np.abs(factor)).astype(np.float32)
    bias = op.bias + op.zero_point * op.weight.sum(axis=(1, 2, 3), dtype=np.int64)
    arrays = {"weight": op.weight * sign[:, None, None, None].astype(np.int8), "bias": (bias * sign).astype(np.int32)}
    inputs = [_rescaled(nodes, "DequantizeLinear", x, 1, op.zero_point)]
    for name, array in arrays.items():
        parts = (name, array), (f"{name}_scale", scale), (f"{name}_zero_point", np.zeros_like(array, shape=len(scale)))
        inputs.append(nodes.add("DequantizeLinear", *(nodes.constant(*part) for part in parts), axis=0))
    return nodes.add("Conv", *inputs, **_window(op))


def _int8_average(nodes: _Nodes, x: str, op: Int8AveragePool, factor: Reals, shape: Shape) -> str:
    """Real numbers, in units of the next map's step; the scale of the input map produces them if it can."""
    scale = (factor * op.kernel[0] * op.kernel[1]).astype(np.float32)
    same = bool((scale == scale[0]).all() and scale[0] > 0)
    x = _rescaled(nodes, "DequantizeLinear", x, scale[0] if same else 1, op.zero_point)
    average = _average(nodes, x, op, shape)
    return average if same else nodes.with_channels("Mul", average, "scale", scale)


def _requantise(nodes: _Nodes, x: str, op: Int8Conv | Int8AveragePool, zero_point: int, unit: float) -> str:
    """After the products: shift and clamps by channel, if there are any, and rounding to the next map's integers."""
    r = op.requantise
    # The sum that stands for zero; a convolution includes it in its bias.
    zero = 0 if isinstance(op, Int8Conv) else op.kernel[0] * op.kernel[1] * op.zero_point
    shift = r.offset + r.multiplier.astype(np.int64) * zero - ((1 << r.shift) >> 1) - (zero_point << r.shift)
    if shift.any():
        x = nodes.with_channels("Add", x, "shift", shift * (unit / 2**r.shift))
    if r.low is None or r.high is None:
        return x
    if (r.low > 0).any():
        x = nodes.with_channels("Max", x, "low", r.low - zero_point)
    if (r.high < 255).any():
        x = nodes.with_channels("Min", x, "high", r.high - zero_point)
    return _rescaled(nodes, "QuantizeLinear", x, 1, zero_point)


def _rescaled(nodes: _Nodes, kind: str, x: str, scale: float, zero_point: int) -> str:
    """A map between its integers and real numbers; `kind`: `QuantizeLinear` or `DequantizeLinear`."""
    arrays = ("scale", np.array(scale, np.float32)), ("zero_point", np.array(zero_point, np.uint8))
    return nodes.add(kind, x, *(nodes.constant(*array) for array in arrays))


def _outputs(nodes: _Nodes, logits: str, temperature: float | None, threshold: float | None) -> None:
    """From logits [N, 10, 1, 1] to the outputs of the model."""
    logits = nodes.add("Flatten", logits, output="logits")
    soft = logits
    if temperature is not None:
        soft = nodes.add("Div", logits, nodes.constant("temperature", np.array(temperature, np.float32)))
    nodes.add("Softmax", soft, output="probabilities")
    if threshold is None:
        nodes.add("ArgMax", logits, axis=1, keepdims=0, output="digit")
        return
    best = nodes.add("ArgMax", logits, axis=1, keepdims=0)
    largest = nodes.add("ReduceMax", logits, axes=[1], keepdims=0)
    enough = nodes.add("GreaterOrEqual", largest, nodes.constant("threshold", np.array(threshold, np.float32)))
    nodes.add("Where", enough, best, nodes.constant("no_digit", np.array(-1)), output="digit")
