"""ONNX from a graph, node by node: raw uint8 pictures in, logits, probabilities and digits out, any number at a time.

A graph is a plain chain of operations that ONNX knows, so nothing has to be traced, and the file holds nothing else.

The int8 form is QDQ: each operation stands, on real numbers, between DequantizeLinear and QuantizeLinear, and a runtime
that has integer kernels takes them. The unit of each map is its own step, so that its scale is 1; the weights' scales
then are the int8 graph's multipliers, without any rounding. Only where a sum falls between two steps may a runtime
decide otherwise than `int8.run`.

It takes the extra `onnx`; without it, importing this module still works.
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
from tinydigits.shipping.graph import (
    INPUT_SHAPE,
    Affine,
    AveragePool,
    Conv,
    Floats,
    Graph,
    MaxPool,
    Op,
    Relu,
    Shape,
    output_shapes,
)
from tinydigits.shipping.int8 import Int8AveragePool, Int8Conv, Int8Graph, Requantise
from tinydigits.shipping.thresholds import float_threshold, integer_threshold
from tinydigits.storage import write_bytes

OPSET = 17
IR_VERSION = 8  # the one that came with this opset: later ones shut out older runtimes
_BATCH = 100  # pictures at a time in `run_onnx`
_DOC = """\
Reads handwritten digits. Input: `images` uint8 [N, 28, 28], as MNIST has them: light ink (up to 255) on dark paper, \
the digit 20 pixels high or wide, its centre of mass in the middle. Nothing else has to be done to them. \
Outputs: `logits` float32 [N, 10]; `probabilities` float32 [N, 10], the softmax of logits / temperature; \
`digit` int64 [N], 0 to 9, or -1 where the largest logit is below the threshold, because that is no digit. \
A blank picture is answered like any other: to reject it is up to whatever prepares the pictures."""


def write_onnx(graph: Graph | Int8Graph, path: Path, facts: Mapping[str, str]) -> Path:
    """Write the model to `path`, and return that. The same graph and facts give the same bytes.

    Args:
        graph: The network, in float32 or int8.
        path: Where it goes.
        facts: Metadata beside what the graph itself says: parameters, the card and the like.

    Raises:
        ToolMissingError: the extra `onnx` is not installed.
        StorageError: it cannot be written.
    """
    write_bytes(path, onnx_model(graph, facts).SerializeToString(deterministic=True))
    return path


def onnx_model(graph: Graph | Int8Graph, facts: Mapping[str, str]) -> Any:
    """The model as `onnx.ModelProto`, checked; arguments and errors as of `write_onnx`."""
    onnx, helper = _package("onnx"), _package("onnx.helper")
    nodes = _Nodes()
    if isinstance(graph, Int8Graph):
        integer = integer_threshold(graph)
        threshold = None if integer is None else integer * graph.logit_scale
        logits = _int8(nodes, graph)
    else:
        threshold = float_threshold(graph)
        logits = _float(nodes, graph)
    _outputs(nodes, logits, graph.temperature, threshold)
    types, tensor = onnx.TensorProto, helper.make_tensor_value_info
    body = helper.make_graph(
        nodes.nodes,
        graph.model,
        [tensor("images", types.UINT8, ["N", *INPUT_SHAPE[1:]])],
        [
            tensor("logits", types.FLOAT, ["N", 10]),
            tensor("probabilities", types.FLOAT, ["N", 10]),
            tensor("digit", types.INT64, ["N"]),
        ],
        nodes.constants,
    )
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
    """What onnxruntime makes of raw pictures uint8 [N, 28, 28].

    Returns:
        Answers int32 [N], -1 for “no digit”, and logits [N, 10].

    Raises:
        ToolMissingError: the extra `onnx` is not installed.
        ExportError: the file is none of ours.
    """
    session = open_session(path)
    answers, logits = np.empty(len(images), np.int32), np.empty((len(images), 10), np.float32)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        answers[part], logits[part] = session.run(["digit", "logits"], {"images": images[part]})
    return answers, logits


def open_session(path: Path) -> Any:
    """The file in onnxruntime, on one thread, as `onnxruntime.InferenceSession`; errors as of `run_onnx`."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Processors with AVX2 but no VNNI would let sums of 8-bit products overflow their 16 bits, for speed.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors have no base class of their own
        raise ExportError(f"{path}: onnxruntime cannot run this file ({one_line(error)}). Export it anew.") from error


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolMissingError(
            f"ONNX needs the package {name.partition('.')[0]}, which is not installed. "
            'Install it with `pip install "tinydigits[onnx]"`.'
        ) from error


def _metadata(graph: Graph | Int8Graph, threshold: float | None) -> dict[str, str]:
    """What the graph says of itself. A key is left out where nothing was fitted."""
    fitted = {"temperature": graph.temperature, "threshold": threshold}
    return {
        "model": graph.model,
        "labels": ",".join(map(str, range(10))),
        "preprocessing": "none: raw bytes; the normalisation is folded into the weights",
        "format": "int8 (QDQ)" if isinstance(graph, Int8Graph) else "float32",
        "weights_sha256": graph.weights_sha256,
        "tinydigits": version("tinydigits"),
        **{key: repr(float(value)) for key, value in fitted.items() if value is not None},
    }


@dataclass
class _Nodes:
    """Nodes and constants as they gather; each is called after its kind, with a number."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        name = f"{name}_{len(self.constants)}"
        self.constants.append(_package("onnx.numpy_helper").from_array(value, name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node; returns the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        output = output or name
        self.nodes.append(_package("onnx.helper").make_node(kind, inputs, [output], name, **attributes))
        return output

    def with_channels(self, kind: str, x: str, name: str, values: NDArray[Any]) -> str:
        """An elementwise operation of a map [N, C, H, W] with a number for each channel."""
        return self.add(kind, x, self.constant(name, values.astype(np.float32)[:, None, None]))


def _pictures(nodes: _Nodes) -> str:
    """[N, 28, 28] → [N, 1, 28, 28]."""
    return nodes.add("Unsqueeze", "images", nodes.constant("axes", np.array([1])))


def _window(op: Conv | MaxPool | AveragePool | Int8Conv | Int8AveragePool) -> dict[str, Any]:
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding * 2}


def _convolution(op: Conv | Int8Conv) -> dict[str, Any]:
    return {**_window(op), **({"group": len(op.bias)} if op.depthwise else {})}


def _average(nodes: _Nodes, x: str, op: AveragePool | Int8AveragePool, shape: Shape) -> str:
    """`shape`: that of the map before."""
    if op.kernel == shape[1:] and op.padding == (0, 0):
        return nodes.add("GlobalAveragePool", x)
    return nodes.add("AveragePool", x, count_include_pad=1, **_window(op))


def _float(nodes: _Nodes, graph: Graph) -> str:
    """The network on real numbers; returns the name of the logits [N, 10, 1, 1]."""
    x = nodes.add("Cast", _pictures(nodes), to=_package("onnx").TensorProto.FLOAT)
    for op, shape in zip(graph.ops, [INPUT_SHAPE, *output_shapes(graph.ops)], strict=False):
        x = _float_node(nodes, x, op, shape)
    return x


def _float_node(nodes: _Nodes, x: str, op: Op, shape: Shape) -> str:
    match op:
        case Conv():
            arrays = nodes.constant("weight", op.weight), nodes.constant("bias", op.bias)
            return nodes.add("Conv", x, *arrays, **_convolution(op))
        case Affine():
            scaled = x if (op.scale == 1).all() else nodes.with_channels("Mul", x, "scale", op.scale)
            return nodes.with_channels("Add", scaled, "shift", op.shift)
        case Relu():
            return nodes.add("Relu", x)
        case MaxPool():
            return nodes.add("MaxPool", x, **_window(op))
        case AveragePool():
            return _average(nodes, x, op, shape)


def _int8(nodes: _Nodes, graph: Int8Graph) -> str:
    """The network as QDQ; returns the name of the logits [N, 10, 1, 1]."""
    x = _pictures(nodes)  # the first quantised map, as it is
    shapes = [INPUT_SHAPE, *output_shapes(graph.ops)]
    for i, op in enumerate(graph.ops):
        if isinstance(op, MaxPool):
            x = nodes.add("MaxPool", x, **_window(op))
            continue
        unit = graph.logit_scale if op.requantise.low is None else 1.0
        if isinstance(op, Int8Conv):
            x = _int8_conv(nodes, x, op, unit)
        else:
            x = _int8_average(nodes, x, op, unit, shapes[i])
        following = next((other.zero_point for other in graph.ops[i + 1 :] if not isinstance(other, MaxPool)), 0)
        x = _requantise(nodes, x, op, following, unit)
    return x


def _int8_conv(nodes: _Nodes, x: str, op: Int8Conv, unit: float) -> str:
    """Real numbers, in units of the next map's step. Scales must be positive: the weights take their sign."""
    factor = _factor(op.requantise, unit)
    sign = np.sign(factor).astype(np.int64)
    scale = np.where(sign == 0, 1, np.abs(factor)).astype(np.float32)
    bias = op.bias + op.zero_point * op.weight.sum(axis=(1, 2, 3), dtype=np.int64)
    arrays = {"weight": op.weight * sign[:, None, None, None].astype(np.int8), "bias": (bias * sign).astype(np.int32)}
    inputs = [_real(nodes, x, np.float32(1), op.zero_point)]
    for name, array in arrays.items():
        parts = (name, array), (f"{name}_scale", scale), (f"{name}_zero_point", np.zeros_like(array, shape=len(scale)))
        inputs.append(nodes.add("DequantizeLinear", *(nodes.constant(*part) for part in parts), axis=0))
    return nodes.add("Conv", *inputs, **_convolution(op))


def _int8_average(nodes: _Nodes, x: str, op: Int8AveragePool, unit: float, shape: Shape) -> str:
    """Real numbers, in units of the next map's step, which the scale of the map before brings about."""
    scale = (_factor(op.requantise, unit) * op.kernel[0] * op.kernel[1]).astype(np.float32)
    if (scale == scale[0]).all() and scale[0] > 0:
        return _average(nodes, _real(nodes, x, scale[0], op.zero_point), op, shape)
    average = _average(nodes, _real(nodes, x, np.float32(1), op.zero_point), op, shape)
    return nodes.with_channels("Mul", average, "scale", scale)


def _requantise(nodes: _Nodes, x: str, op: Int8Conv | Int8AveragePool, zero_point: int, unit: float) -> str:
    """What follows the products: shift and clamps by channel, where there are any, and the next map's integers."""
    r = op.requantise
    # The sum that stands for zero; a convolution has moved it into its bias.
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
    return nodes.add("QuantizeLinear", x, *_map_constants(nodes, np.float32(1), zero_point))


def _factor(r: Requantise, unit: float) -> NDArray[np.float64]:
    """What a sum is multiplied by [C]. Multipliers have 24 bits, as has a float32: it holds them exactly."""
    factor: NDArray[np.float64] = r.multiplier * (unit / 2**r.shift)
    return factor


def _real(nodes: _Nodes, x: str, scale: np.float32, zero_point: int) -> str:
    return nodes.add("DequantizeLinear", x, *_map_constants(nodes, scale, zero_point))


def _map_constants(nodes: _Nodes, scale: np.float32, zero_point: int) -> tuple[str, str]:
    return nodes.constant("scale", np.array(scale)), nodes.constant("zero_point", np.array(zero_point, np.uint8))


def _outputs(nodes: _Nodes, logits: str, temperature: float | None, threshold: float | None) -> None:
    """From [N, 10, 1, 1] to what the model answers."""
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
