"""A trained PyTorch network → the folded graph: normalization and batch norm become part of neighbouring weights.

Folding is exact up to float32 rounding. Two things cannot always be folded and remain as an `Affine` operation: a shift
before zero padding, because the padding would have to be shifted too, and a negative scale before a max pool.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from tinydigits.errors import ExportError, one_line
from tinydigits.inference import graph as graphs
from tinydigits.inference.graph import INPUT_SHAPE, Affine, AveragePool, Conv, Graph, MaxPool, Op, Pair, Relu, Shape
from tinydigits.records import Card
from tinydigits.storage import file_stem

Tensors = dict[str, Tensor]
Arguments = dict[str, Any]


def fold_network(model: nn.Module, card: Card) -> Graph:
    """Fold a chain of convolutions, batch norms, ReLUs, max and average pools and linear layers.

    It is a network from [N, 1, 28, 28], normalized as the card says, to [N, 10], however its forward() is written. A
    `log_softmax` at its end is dropped, and with it the threshold.

    Raises:
        ExportError: it contains another operation, which the message names, or its weights are not finite.
    """
    mean, std = card.mean, card.std
    front = Affine(_floats([1 / (255 * std)]), _floats([-mean / std]))
    chain, ends_in_log_softmax = _chain(model, card.model)
    ops = _fold([front, *chain])
    if not all(np.isfinite(array).all() for op in ops for array in _arrays(op).values()):
        raise ExportError(f"{card.model} has weights that are not finite numbers. Train it again.")
    calibration = card.calibration
    return Graph(
        model=file_stem(card.model),
        ops=tuple(replace(op, **{key: value.astype(np.float32) for key, value in _arrays(op).items()}) for op in ops),
        weights_sha256=card.weights_sha256,
        temperature=calibration.temperature if calibration else None,
        threshold=calibration.threshold if calibration and not ends_in_log_softmax else None,
    )


def _floats(values: Any) -> NDArray[Any]:
    """Float64, in which everything is folded; it is rounded once, at the end."""
    return np.asarray(values, dtype=np.float64)


def _arrays(op: Op) -> dict[str, Any]:
    return {key: value for key, value in vars(op).items() if isinstance(value, np.ndarray)}


def _chain(model: nn.Module, name: str) -> tuple[list[Op], bool]:
    """The network's operations in the order in which PyTorch runs them; and whether it ends in log_softmax."""
    training = model.training
    try:
        program = torch.export.export(model.cpu().eval(), (torch.zeros(2, *INPUT_SHAPE),))
    except Exception as error:  # the user's forward() may do anything
        reason = one_line(error)[:200]
        raise ExportError(
            f"{name} cannot be traced: {type(error).__name__}: {reason} Write its forward() as a plain chain of layers."
        ) from error
    finally:
        model.train(training)
    inputs = program.graph_signature
    names = {**inputs.inputs_to_parameters, **inputs.inputs_to_buffers, **inputs.inputs_to_lifted_tensor_constants}
    values = {**program.state_dict, **program.constants}
    tensors = {key: values[target] for key, target in names.items()}
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    previous = inputs.user_inputs[0]
    ops: list[Op] = []
    shape = INPUT_SHAPE
    ends_in_log_softmax = bool(nodes) and _function(nodes[-1]).startswith("log_softmax")
    for node in nodes:
        if not node.args or not isinstance(node.args[0], Node) or node.args[0].name != previous:
            raise ExportError(
                f"{name}: {_layer(node)} does not take the output of the layer before it. Only plain chains of layers "
                "can be exported; remove connections around layers."
            )
        dropped = ends_in_log_softmax and node is nodes[-1]
        op = None if dropped else _convert(node, tensors, shape, name)
        if op is not None:
            ops.append(op)
            shape = graphs.output_shapes((op,), shape)[0]
        if _trimmed(node.meta["val"].shape[1:]) not in (_trimmed(shape), (math.prod(shape),)):
            raise ExportError(f"{name}: {_layer(node)} reorders the map, which cannot be exported. Flatten it instead.")
        previous = node.name
    if shape != (10, 1, 1):
        raise ExportError(f"{name} does not end with ten numbers per picture. End it with a pool or a linear layer.")
    return ops, ends_in_log_softmax


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """Without trailing ones: [10, 1, 1], [10, 1] and [10] are the same map."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _convert(node: Node, tensors: Tensors, shape: Shape, name: str) -> Op | None:
    """A node as an operation on a map of this shape, which may be flattened; None: it computes nothing."""
    target = _function(node)
    if target in _NOTHING:
        return None
    if target not in _CONVERSIONS:
        raise ExportError(
            f"{name}: {_layer(node)} cannot be exported. Use convolution, linear, batch norm, ReLU, max pool, average "
            "pool, dropout and flatten."
        )
    arguments: Arguments = {"shape": shape}
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        tensor = tensors.get(value.name) if isinstance(value, Node) else None
        arguments[argument.name] = value if tensor is None else _floats(tensor.detach().cpu().numpy())
    if fault := _unsupported(arguments) or _misfit(target, arguments, node.all_input_nodes[0].meta["val"].ndim):
        raise ExportError(f"{name}: {_layer(node)} has {fault}, which cannot be exported.")
    return _CONVERSIONS[target](arguments)


def _function(node: Node) -> str:
    """What a node calls: `conv2d.default`."""
    return str(node.target).removeprefix("aten.")


def _layer(node: Node) -> str:
    """The layer by its name in the network: `layer2.3 (Conv2d)`; or the function, if it is not a module."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = getattr(kind, "__name__", str(kind).rpartition(".")[2])
    return f"{path} ({kind})" if path and kind != "Sequential" else f"the function {_function(node).partition('.')[0]}"


def _unsupported(arguments: Arguments) -> str | None:
    """The setting of a layer that no exporter supports; None: there is none."""
    if arguments.get("training") or arguments.get("train"):
        return "a training mode that eval() does not end"
    if arguments.get("groups", 1) != 1 and arguments["weight"].shape[:2] != (arguments["groups"], 1):
        return f"groups = {arguments['groups']}, but groups must have one channel in and one out (depthwise)"
    if arguments.get("output_size", [1, 1]) != [1, 1]:
        return f"an output of {arguments['output_size']}, but only a global pool may adapt to its input"
    if any(step != 1 for step in arguments.get("dilation", ())):
        return f"dilation = {arguments['dilation']}"
    if arguments.get("ceil_mode"):
        return "ceil_mode"
    if arguments.get("divisor_override"):
        return "divisor_override"
    if "dim" in arguments and sorted(axis % 4 for axis in arguments["dim"]) != [2, 3]:
        return f"a mean over the dimensions {arguments['dim']}"
    if any(arguments.get("padding") or ()) and arguments.get("count_include_pad") is False:
        return "padding that the average does not count"
    return None


def _misfit(target: str, arguments: Arguments, dimensions: int) -> str | None:
    """A fault of shape that PyTorch allows and a chain of operations on maps does not; None: there is none."""
    if target.startswith("linear") and dimensions != 2:
        return "a map as its input; flatten the map first, or it"
    if target.startswith("batch_norm") and len(arguments["running_mean"]) != arguments["shape"][0]:
        return "the flattened map as its input; put it before flatten, or it"
    return None


def _conv(arguments: Arguments) -> Op:
    settings = _pair(arguments["stride"]), _pair(arguments["padding"]), arguments["groups"] > 1
    return Conv(arguments["weight"], _bias(arguments), *settings)


def _linear(arguments: Arguments) -> Op:
    """A linear layer is a convolution whose kernel covers the map that was flattened."""
    return Conv(arguments["weight"].reshape(-1, *arguments["shape"]), _bias(arguments))


def _bias(arguments: Arguments) -> NDArray[Any]:
    return np.zeros(len(arguments["weight"])) if arguments["bias"] is None else arguments["bias"]


def _batch_norm(arguments: Arguments) -> Op:
    """(x − mean) / √(variance + ε) · weight + bias, with the running mean and variance."""
    scale = 1 / np.sqrt(arguments["running_var"] + arguments["eps"])
    if arguments["weight"] is not None:
        scale = scale * arguments["weight"]
    return Affine(scale, -arguments["running_mean"] * scale + (0 if arguments["bias"] is None else arguments["bias"]))


def _pool(kind: type[MaxPool | AveragePool], arguments: Arguments) -> Op:
    kernel = _pair(arguments["kernel_size"])
    return kind(kernel, _pair(arguments["stride"] or kernel), _pair(arguments["padding"]))


def _global_pool(arguments: Arguments) -> Op:
    return AveragePool(kernel=arguments["shape"][1:], stride=arguments["shape"][1:])


def _pair(values: Any) -> Pair:
    height, width = (values, values) if isinstance(values, int) else (*values, *values)[:2]
    return int(height), int(width)


_SQUEEZES = "squeeze.dim", "squeeze.dims", "squeeze.default"
_NOTHING = {*_SQUEEZES, "flatten.using_ints", "view.default", "reshape.default", "contiguous.default", "clone.default"}
_CONVERSIONS: dict[str, Callable[[Arguments], Op | None]] = {
    **dict.fromkeys(("dropout.default", "dropout_.default", "feature_dropout.default"), lambda _: None),
    **dict.fromkeys(("relu.default", "relu_.default"), lambda _: Relu()),
    **dict.fromkeys(("adaptive_avg_pool2d.default", "mean.dim"), _global_pool),
    "conv2d.default": _conv,
    "linear.default": _linear,
    "batch_norm.default": _batch_norm,
    "max_pool2d.default": partial(_pool, MaxPool),
    "avg_pool2d.default": partial(_pool, AveragePool),
}


def _fold(ops: list[Op]) -> list[Op]:
    """Move every `Affine` to where it can be folded; each step is an identity of real numbers."""
    _fold_backward(ops)
    i = 0
    while i < len(ops):
        moved = _forward(ops[i], ops[i + 1]) if i + 1 < len(ops) else None
        if moved is None:
            i += 1
        else:
            ops[i : i + 2] = moved
            i = max(0, i - 1)
    return ops


def _fold_backward(ops: list[Op]) -> None:
    """Fold what can be folded into the convolution before ReLUs and max pools.

    Both commute with scaling by |s|, and a max pool commutes with a shift unless s is negative.
    """
    for i, op in enumerate(ops):
        source = i - 1
        while source >= 0 and isinstance(ops[source], Relu | MaxPool):
            source -= 1
        conv = ops[source] if source >= 0 else None
        if not isinstance(op, Affine) or not isinstance(conv, Conv):
            continue
        between = ops[source + 1 : i]
        movable = (op.scale >= 0) & all(isinstance(other, MaxPool) for other in between)
        ops[source] = _rescaled(conv, np.abs(op.scale), np.where(movable, op.shift, 0))
        ops[i] = Affine(np.where(op.scale < 0, -1.0, 1.0), np.where(movable, 0, op.shift))
    ops[:] = [op for op in ops if not (isinstance(op, Affine) and (op.scale == 1).all() and not op.shift.any())]


def _forward(first: Op, second: Op) -> list[Op] | None:
    """Two neighbours rewritten to bring an `Affine` closer to where it can be folded; None: nothing to rewrite."""
    match first, second:
        case Conv(), Affine():
            return [_rescaled(first, second.scale, second.shift)]
        case Affine(), Affine():
            return [Affine(first.scale * second.scale, first.shift * second.scale + second.shift)]
        case Affine(), Relu() if not first.shift.any() and (first.scale > 0).all():
            return [second, first]
        case Affine(), MaxPool() if (first.scale > 0).all():
            return [second, first]
        case Affine(), AveragePool() if second.padding == (0, 0) or not first.shift.any():
            return [second, first]
        case Affine(), Conv():
            return _into_conv(first, second)
        case Conv(kernel=(1, 1), stride=(1, 1), padding=(0, 0)), AveragePool(padding=(0, 0)):
            return [second, first]  # both are linear, and the pool leaves fewer positions to convolve
    return None


def _rescaled(conv: Conv, scale: NDArray[Any], shift: NDArray[Any]) -> Conv:
    return replace(conv, weight=conv.weight * scale[:, None, None, None], bias=conv.bias * scale + shift)


def _into_conv(affine: Affine, conv: Conv) -> list[Op] | None:
    """Fold s·x + c into the convolution after it. If its padding prevents that, x + c/s remains."""
    shift = affine.shift
    if conv.padding == (0, 0) or not shift.any():
        bias = conv.bias + _by_input(conv, shift).sum(axis=(1, 2, 3))
        return [replace(conv, weight=_by_input(conv, affine.scale), bias=bias)]
    if (affine.scale == 1).all() or (affine.scale == 0).any():
        return None
    scaled = replace(conv, weight=_by_input(conv, affine.scale))
    return [Affine(np.ones_like(shift), shift / affine.scale), scaled]


def _by_input(conv: Conv, values: NDArray[Any]) -> NDArray[Any]:
    """The weights, each times the value of its input channel."""
    shape = (-1, 1, 1, 1) if conv.depthwise else (-1, 1, 1)
    return np.asarray(conv.weight * values.reshape(shape))
