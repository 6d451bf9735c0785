"""What a network costs and how it is built: layer table, totals, structure, and what is reported of it, measured.

Parameters are counted as PyTorch counts them. MACs are the multiply-accumulates of convolutions and of products with
learned weights, for one example, biases not counted. Memory is estimated as torchsummary does it, in float32: every
layer's output once forward and once backward, plus input and parameters.
"""

import copy
import math
import os
from collections.abc import Sequence

import torch
from msgspec.structs import asdict, replace
from torch import Tensor, nn

from tinydigits.errors import ModelError, one_line
from tinydigits.inspection.budget import Budget, check_budget, load_budget
from tinydigits.inspection.footprint import activation_bytes, weight_bytes
from tinydigits.inspection.result import (
    UNKNOWN,
    DocumentCheck,
    FigureCheck,
    Inspection,
    Layer,
    Memory,
    Structure,
    by,
    sides,
    times,
)
from tinydigits.inspection.trace import BATCH, Call, Operation, Pair, trace
from tinydigits.models.factory import Model, build_given, open_model
from tinydigits.models.registry import canonical_name, target_of
from tinydigits.models.reported import Figure, Reported

_FLOAT_BYTES = 4
_MEMORY_LINES = ("input_mb", "forward_backward_mb", "parameters_mb", "total_mb")


def inspect(model: str | os.PathLike[str] | Model, budget: Budget | str | os.PathLike[str] | None = None) -> Inspection:
    """Inspect a network: `print` the result to see the table, or let a notebook show it.

    Args:
        model: A model's name, `net.py:Net`, `net.toml`, a run or study directory, a .safetensors file; or a network,
            or a class or function that makes one, for [N, 1, 28, 28].
        budget: A budget, its name or its `.toml` file; the result then says what can be said of it before training.

    Raises:
        UnknownModelError: there is no such model.
        ModelError: the network cannot be built, or does not turn [N, 1, 28, 28] into [N, 10].
        WeightsError: the directory or file holds no intact weights.
        ConfigError: the budget is unknown or not valid.
    """
    if budget is not None and not isinstance(budget, Budget):
        budget = load_budget(budget)
    if isinstance(model, str | os.PathLike):
        network, name = open_model(model)
        inspection = inspect_model(network, name=name)
    else:
        inspection = replace(inspect_model(build_given(model)), model=getattr(model, "__name__", type(model).__name__))
    return replace(inspection, budget=check_budget(budget, inspection)) if budget else inspection


def inspect_model(model: nn.Module, input_shape: tuple[int, ...] = (1, 28, 28), name: str | None = None) -> Inspection:
    """Inspect any network; it is copied first, and left as it was.

    Args:
        model: The network, in whatever mode.
        input_shape: [C, H, W] of one example.
        name: The model's name, under which its document is found; by default that of its class.

    Raises:
        ModelError: the network cannot take such an input.
        UnknownModelError: there is no model of that name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: torch.manual_seed would reach a GPU's, unrestored
        try:
            # deepcopy leaves weights, running statistics, hooks and mode of the caller's network alone
            network = copy.deepcopy(model).to("cpu", torch.float32)
            calls = trace(network.eval(), torch.randn(BATCH, *input_shape))
            with torch.no_grad():
                dropout, batch_norm = _behaviour(network, input_shape, training=True)
                noisy, mixing = _behaviour(network, input_shape, training=False)
        except Exception as error:  # a user's forward() may raise anything
            shape = "×".join(map(str, input_shape))
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ModelError(f"{name or type(model).__name__} cannot take an input of {shape}: {reason}.") from error
    lines = _lines(calls)
    layers = tuple(layer for layer, _ in lines)
    operations = [operation for call in calls for operation in call.operations]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    passes = 2 * sum(layer.activation_bytes for layer in layers)
    memory = (math.prod(input_shape) * _FLOAT_BYTES, passes, parameters * _FLOAT_BYTES)
    inspection = Inspection(
        model=canonical_name(name) if name is not None else type(model).__name__,
        input_shape=input_shape,
        parameters=parameters,
        macs=sum(layer.macs for layer in layers),
        macs_complete=not any(operation.uncounted for operation in operations),
        weight_bytes=weight_bytes(operations),
        activation_bytes=activation_bytes(operations),
        memory=Memory(*memory, total_bytes=sum(memory)),
        layers=layers,
        structure=_structure(operations, dropout=dropout, batch_norm=batch_norm),
        findings=(*_findings(lines), *_oddities(parameters, layers, noisy=noisy, mixing=mixing)),
    )
    reported = target_of(name) if name is not None else None
    if reported is None:
        return inspection
    if not reported.documented:
        return replace(inspection, goal=reported.target())
    total = sum_of_rows(reported, inspection)
    figures = (*(check_figure(figure, inspection) for figure in reported.figures), *([total] if total else []))
    document = DocumentCheck(**asdict(reported.target()), figures=figures, notes=reported.notes)
    return replace(inspection, reported=document)


def _lines(calls: Sequence[Call]) -> list[tuple[Layer, Call]]:
    """A line for each leaf module; for each operation of a module that does the work of several layers, or of none."""
    lines = []
    counted: set[int] = set()
    for call in calls:
        windowed = sum(bool(operation.window or operation.kernel) for operation in call.operations)
        whole = call.path and windowed <= 1
        for part in [call] if whole else [Call.of(call.path, op) for op in call.operations if not op.silent]:
            parameters = {id(p): p.numel() for operation in part.operations for p in operation.parameters}
            fresh = sum(count for key, count in parameters.items() if key not in counted)
            counted.update(parameters)  # a layer that is used twice brings its parameters once
            lines.append((_layer(part, fresh), part))
    return lines


def _layer(call: Call, parameters: int) -> Layer:
    window = next((operation.window for operation in call.operations if operation.window), None)
    return Layer(
        name=call.path,
        kind=call.kind,
        kernel=window.kernel if window else None,
        stride=window.stride if window else None,
        padding=window.padding if window else None,
        input_shape=call.input_shape,
        output_shape=call.output_shape,
        parameters=parameters,
        macs=sum(operation.macs for operation in call.operations),
        receptive_field=call.field.size if call.field else None,
        jump=call.field.jump if call.field else None,
        start=call.field.start if call.field else None,
        activation_bytes=math.prod(call.output_shape) * _FLOAT_BYTES,
        fully_connected=any(operation.dense for operation in call.operations),
    )


def _behaviour(network: nn.Module, input_shape: tuple[int, ...], training: bool) -> tuple[bool, bool]:
    """In one mode: whether two passes over the same input differ, and whether others of a batch matter for an example.

    Weights are perturbed first, lest a head of zeros hide all before it.
    """
    network = copy.deepcopy(network).train(training)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(8, *input_shape)
    others = torch.cat([images[:1], torch.randn(7, *input_shape)])
    fresh = copy.deepcopy(network)
    noisy = _differ(fresh(images), fresh(images))
    firsts = []
    for batch in (images, others):
        torch.default_generator.manual_seed(1)  # the same noise for both, in a fresh copy each
        firsts.append(torch.as_tensor(copy.deepcopy(network)(batch))[0])
    return noisy, _differ(*firsts)


def _differ(a: Tensor, b: Tensor) -> bool:
    """Beyond rounding."""
    return not torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=1e-6, equal_nan=True)


def _structure(operations: list[Operation], *, dropout: bool, batch_norm: bool) -> Structure:
    learned = [operation.dense for operation in operations if operation.kernel]
    # a pool before the last map, as in squeeze and excite, only rescales one and is not the network's pool
    last_map = max((i for i, operation in enumerate(operations) if operation.map_shape != (1, 1)), default=0)
    return Structure(
        batch_norm=batch_norm,
        dropout=dropout,
        global_pooling=any(x.coverage is not None and x.coverage.is_global for x in operations[last_map:]),
        single_linear_head=sum(learned) == 1 and learned[-1],
        hidden_linear=any(learned[:-1]),
    )


def _findings(lines: list[tuple[Layer, Call]]) -> list[str]:
    """Sentences on layers that do not do what they seem to, or cost more than is counted."""
    findings = []
    for number, (layer, call) in enumerate(lines, start=1):
        noun = "convolution" if layer.macs else layer.kind
        for operation in call.operations:
            if operation.coverage and not operation.coverage.is_global:
                label = f"{layer.kind}({times(layer.kernel)})" if layer.kernel else layer.kind
                seen, total = operation.coverage.seen, operation.coverage.total
                findings.append(f"Layer {number}: {label} sees {seen} of {total} positions: it is not a global pool.")
            if operation.dense and layer.kernel:
                window, shape = sides(layer.kernel), sides(layer.input_shape)
                findings.append(f"Layer {number}: a {window} {noun} on a map of {shape} is a fully connected layer.")
        if any(operation.uncounted for operation in call.operations):
            findings.append(
                f"Layer {number}: {layer.kind} uses learned weights in an operation whose MACs are not counted."
            )
        if layer.kernel == (1, 1) and layer.padding not in (None, (0, 0)):
            before, after = sides(layer.input_shape), sides(layer.output_shape)
            findings.append(
                f"Layer {number}: a 1×1 {noun} with padding {times(layer.padding)} grows the map "
                f"from {before} to {after}."
            )
    return findings


def _oddities(parameters: int, layers: tuple[Layer, ...], *, noisy: bool, mixing: bool) -> list[str]:
    """Sentences on what a network should not do, such as noise in evaluation mode, or mixing a batch's examples."""
    findings = []
    idle = parameters - sum(layer.parameters for layer in layers)
    if idle:
        findings.append(f"{idle:,} of {parameters:,} parameters take no part in the forward pass.")
    if noisy:
        findings.append("Two passes in evaluation mode differ: dropout, or other noise, is not switched off by eval().")
    if mixing:
        findings.append("In evaluation mode a digit's output depends on the other digits of its batch.")
    return findings


def check_figure(figure: Figure, inspection: Inspection) -> FigureCheck:
    """A reported figure beside the network's own."""
    layer = inspection.layers[figure.layer - 1] if figure.layer else None
    where = f"layer {figure.layer} {layer.kind}, " if layer else ""
    if isinstance(figure.stated, tuple):
        assert layer is not None
        shape = _as_precise(layer.output_shape, len(figure.stated))
        return _check(f"{where}output", by(figure.stated), by(shape))
    if figure.quantity in _MEMORY_LINES:
        label, megabytes = inspection.memory.lines()[_MEMORY_LINES.index(figure.quantity)]
        return _check(label, f"{figure.stated:.2f}", f"{megabytes:.2f}")
    stated = f"{figure.stated:,.0f}"
    if figure.quantity == "macs":
        return _check("MACs", stated, f"{inspection.macs:,}" if inspection.macs_complete else UNKNOWN)
    if figure.quantity == "parameters":
        return _check(f"{where}parameters", stated, f"{(layer or inspection).parameters:,}")
    assert figure.quantity in ("receptive_field", "jump")
    pair: Pair | None = getattr(layer or inspection.layers[-1], figure.quantity)
    return _check(where + figure.quantity.replace("_", " "), stated, times(pair))


def _check(what: str, reported: str, measured: str) -> FigureCheck:
    return FigureCheck(what, reported, measured, agrees=reported == measured)


def _as_precise(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape in as many numbers as the stated one has; a vector is a map of 1×1."""
    if count == 1:
        return shape
    return (*shape, 1, 1)[-count:] if len(shape) == 1 else shape[-count:]


def sum_of_rows(reported: Reported, inspection: Inspection) -> FigureCheck | None:
    """The reported parameters of all layers added up; None: those of some layer are not reported."""
    rows = {x.layer: x.stated for x in reported.figures if x.quantity == "parameters" and isinstance(x.stated, int)}
    rows.pop(None, None)
    if not rows or any(layer.parameters and number not in rows for number, layer in enumerate(inspection.layers, 1)):
        return None
    return _check("parameters, sum of all rows", f"{sum(rows.values()):,}", f"{inspection.parameters:,}")
