"""A trained PyTorch network → the folded graph: normalisation and batch norm vanish into the weights beside them.

Folding is exact up to float32 rounding. Two things cannot always be folded, and stay as an `Affine` operation: a shift
before zero padding, because the padding would have to be shifted too, and a negative scale before a max pool.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from tinydigits.errors import ExportError, one_line
from tinydigits.models.weights import Card
from tinydigits.shipping.graph import (
    INPUT_SHAPE,
    Affine,
    AveragePool,
    Conv,
    Graph,
    MaxPool,
    Op,
    Pair,
    Relu,
    Shape,
    output_shapes,
)
from tinydigits.training.rundir import file_stem

Tensors = dict[str, Tensor]
Arguments = dict[str, Any]


def fold_network(model: nn.Module, card: Card) -> Graph:
    """The graph of a network with its weights. A `log_softmax` at its end is left out, and so is then the threshold.

    Args:
        model: Takes [N, 1, 28, 28], normalised as the card says, gives [N, 10]; it is a chain of convolutions, batch
            norms, ReLUs, max and average pools and linear layers, however its forward() is written.
        card: Its card.

    Raises:
        ExportError: it holds something else (named, with its place), or its weights are not finite.
    """
    mean, deviation = card.mean, card.deviation
    front = Affine(_floats([1 / (255 * deviation)]), _floats([-mean / deviation]))
    chain, ends_in_log_softmax = _chain(model, card.model)
    ops = _fold([front, *chain])
    for op in ops:
        for value in vars(op).values():
            if isinstance(value, np.ndarray) and not np.isfinite(value).all():
                raise ExportError(f"{card.model} has weights that are not finite numbers. Train it again.")
    calibration = card.calibration or {}
    return Graph(
        model=file_stem(card.model),
        ops=tuple(map(_single, ops)),
        weights_sha256=card.weights_sha256,
        temperature=calibration.get("temperature"),
        threshold=None if ends_in_log_softmax else calibration.get("threshold"),
    )


def _floats(values: Any) -> NDArray[Any]:
    """Everything is folded in float64, and rounded once at the end."""
    return np.asarray(values, dtype=np.float64)


def _single(op: Op) -> Op:
    arrays: dict[str, Any] = {key: value for key, value in vars(op).items() if isinstance(value, np.ndarray)}
    return replace(op, **{key: value.astype(np.float32) for key, value in arrays.items()})


def _chain(model: nn.Module, name: str) -> tuple[list[Op], bool]:
    """The network's operations as PyTorch would run them, one after the other; and whether log_softmax ends them."""
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
    for node in nodes:
        if not node.args or not isinstance(node.args[0], Node) or node.args[0].name != previous:
            raise ExportError(
                f"{name}: {_place(node)} does not take what the layer before it gives. Only plain chains of layers are "
                "exported; connections around layers are not."
            )
        op = _convert(node, tensors, shape, name)
        if op is not None:
            ops.append(op)
            shape = output_shapes((op,), shape)[0]
        if _trimmed(node.meta["val"].shape[1:]) not in (_trimmed(shape), (math.prod(shape),)):
            raise ExportError(f"{name}: {_place(node)} reorders the map, which cannot be exported. Only flatten it.")
        previous = node.name
    if shape != (10, 1, 1):
        raise ExportError(f"{name} ends with a map that is not ten numbers a picture. End it with a pool or a linear.")
    return ops, any(str(node.target).removeprefix("aten.").startswith(_LAST) for node in nodes)


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """Without ones at its end: [10, 1, 1], [10, 1] and [10] are the same map."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _convert(node: Node, tensors: Tensors, shape: Shape, name: str) -> Op | None:
    """A node that takes a map of this shape (flattened, perhaps) as an operation; None: it does nothing here."""
    target = str(node.target).removeprefix("aten.")
    if target in _NOTHING or (target.startswith(_LAST) and _is_last(node)):
        return None
    if target not in _CONVERSIONS:
        raise ExportError(
            f"{name}: {_place(node)} cannot be exported. What can: convolution, linear, batch norm, ReLU, max pool, "
            "average pool, dropout, flatten."
        )
    arguments: Arguments = {"shape": shape}
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        arguments[argument.name] = tensors.get(value.name, value) if isinstance(value, Node) else value
    taken = node.args[0]
    assert isinstance(taken, Node)
    fault = _unsupported(arguments) or _misfit(target, arguments, len(taken.meta["val"].shape))
    if fault:
        raise ExportError(f"{name}: {_place(node)} has {fault}, which cannot be exported.")
    return _CONVERSIONS[target](arguments)


# What changes no number, only the shape; and what at the end makes logits of another kind, with the same softmax.
_NOTHING = (
    "flatten.using_ints",
    "view.default",
    "reshape.default",
    "squeeze.dim",
    "squeeze.dims",
    "squeeze.default",
    "contiguous.default",
    "clone.default",
)
_LAST = "log_softmax"


def _is_last(node: Node) -> bool:
    return all(user.op == "output" for user in node.users)


def _place(node: Node) -> str:
    """The layer by its name in the network: `layer2.3 (Conv2d)`; or the function, where no module does it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = getattr(kind, "__name__", str(kind).rpartition(".")[2])
    function = str(node.target).removeprefix("aten.").partition(".")[0]
    return f"{path} ({kind})" if path and kind != "Sequential" else f"the function {function}"


def _unsupported(arguments: Arguments) -> str | None:
    """The setting of a layer that no generator knows; None: there is none."""
    if arguments.get("training") or arguments.get("train"):
        return "a training mode that eval() does not end"
    if arguments.get("groups", 1) != 1 and arguments["weight"].shape[:2] != (arguments["groups"], 1):
        return f"groups = {arguments['groups']}, and only those of one channel in and one out (depthwise) are known"
    if arguments.get("output_size", [1, 1]) != [1, 1]:
        return f"an output of {arguments['output_size']}, and only a global pool adapts to any map"
    if any(step != 1 for step in arguments.get("dilation", ())):
        return f"dilation = {arguments['dilation']}"
    if arguments.get("ceil_mode"):
        return "ceil_mode"
    if arguments.get("divisor_override"):
        return "divisor_override"
    if "dim" in arguments and sorted(axis % 4 for axis in arguments["dim"]) != [2, 3]:
        return f"a mean over the dimensions {arguments['dim']}"
    if any(arguments.get("padding") or ()) and arguments.get("count_include_pad") is False:
        return "padding that the average leaves out"
    return None


def _misfit(target: str, arguments: Arguments, dimensions: int) -> str | None:
    """What PyTorch allows on a map or its flattened form, and a chain of operations on maps does not."""
    if target.startswith("linear") and dimensions != 2:
        return "a map as its input; flatten it before, or it"
    if target.startswith("batch_norm") and len(arguments["running_mean"]) != arguments["shape"][0]:
        return "the flattened map as its input; put it before flatten, or it"
    return None


def _conv(arguments: Arguments) -> Op:
    weight, bias = _weight_and_bias(arguments)
    depthwise = arguments["groups"] > 1
    return Conv(weight, bias, _pair(arguments["stride"]), _pair(arguments["padding"]), depthwise)


def _linear(arguments: Arguments) -> Op:
    """A linear layer is a convolution whose kernel covers the map that was flattened before it."""
    weight, bias = _weight_and_bias(arguments)
    return Conv(weight.reshape(-1, *arguments["shape"]), bias)


def _weight_and_bias(arguments: Arguments) -> tuple[NDArray[Any], NDArray[Any]]:
    weight = _numpy(arguments["weight"])
    return weight, _floats(np.zeros(len(weight))) if arguments["bias"] is None else _numpy(arguments["bias"])


def _batch_norm(arguments: Arguments) -> Op:
    """(x − mean) / √(variance + ε) · weight + bias, with the running mean and variance."""
    mean, variance = _numpy(arguments["running_mean"]), _numpy(arguments["running_var"])
    scale = 1 / np.sqrt(variance + arguments["eps"])
    if arguments["weight"] is not None:
        scale = scale * _numpy(arguments["weight"])
    shift = -mean * scale + (0 if arguments["bias"] is None else _numpy(arguments["bias"]))
    return Affine(scale, shift)


def _relu(_: Arguments) -> Op:
    return Relu()


def _max_pool(arguments: Arguments) -> Op:
    kernel = _pair(arguments["kernel_size"])
    return MaxPool(kernel, _pair(arguments["stride"] or kernel), _pair(arguments["padding"]))


def _average_pool(arguments: Arguments) -> Op:
    kernel = _pair(arguments["kernel_size"])
    return AveragePool(kernel, _pair(arguments["stride"] or kernel), _pair(arguments["padding"]))


def _global_pool(arguments: Arguments) -> Op:
    kernel = arguments["shape"][1:]
    return AveragePool(kernel, kernel)


def _pair(values: Any) -> Pair:
    height, width = (values, values) if isinstance(values, int) else (*values, *values)[:2]
    return int(height), int(width)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy().astype(np.float64)


def _nothing(_: Arguments) -> None:
    """Dropout is switched off here."""


_CONVERSIONS: dict[str, Callable[[Arguments], Op | None]] = {
    "dropout.default": _nothing,
    "dropout_.default": _nothing,
    "feature_dropout.default": _nothing,
    "conv2d.default": _conv,
    "linear.default": _linear,
    "batch_norm.default": _batch_norm,
    "relu.default": _relu,
    "relu_.default": _relu,
    "max_pool2d.default": _max_pool,
    "avg_pool2d.default": _average_pool,
    "adaptive_avg_pool2d.default": _global_pool,
    "mean.dim": _global_pool,
}


def _fold(ops: list[Op]) -> list[Op]:
    """Bring every `Affine` to where it vanishes; each step is an identity of real numbers."""
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
    """What the convolution before ReLUs and max pools can take over, it does.

    Both give |s| times as much for |s| times as much, and a max pool c more for c more, as long as s is not negative.
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
        ops[source] = _shifted(_scaled(conv, np.abs(op.scale)), np.where(movable, op.shift, 0))
        ops[i] = Affine(np.where(op.scale < 0, -1.0, 1.0), np.where(movable, 0, op.shift))
    ops[:] = [op for op in ops if not (isinstance(op, Affine) and (op.scale == 1).all() and not op.shift.any())]


def _forward(first: Op, second: Op) -> list[Op] | None:
    """Two neighbours rewritten, such that an `Affine` is nearer to its end; None: they stay as they are."""
    match first, second:
        case Conv(), Affine():
            return [_shifted(_scaled(first, second.scale), second.shift)]
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


def _scaled(conv: Conv, scale: NDArray[Any]) -> Conv:
    return replace(conv, weight=conv.weight * scale[:, None, None, None], bias=conv.bias * scale)


def _shifted(conv: Conv, shift: NDArray[Any]) -> Conv:
    return replace(conv, bias=conv.bias + shift)


def _into_conv(affine: Affine, conv: Conv) -> list[Op] | None:
    """s·x + c before a convolution. Where its padding is in the way, x + c/s remains."""
    shift = affine.shift
    if conv.padding == (0, 0) or not shift.any():
        bias = conv.bias + _by_input(conv, shift).sum(axis=(1, 2, 3))
        return [replace(conv, weight=_by_input(conv, affine.scale), bias=bias)]
    if (affine.scale == 1).all() or (affine.scale == 0).any():
        return None
    scaled = replace(conv, weight=_by_input(conv, affine.scale))
    return [Affine(np.ones_like(shift), shift / affine.scale), scaled]


def _by_input(conv: Conv, values: NDArray[Any]) -> NDArray[Any]:
    """The weights, each times the value of the channel that it reads."""
    shape = (-1, 1, 1, 1) if conv.depthwise else (-1, 1, 1)
    return np.asarray(conv.weight * values.reshape(shape))
