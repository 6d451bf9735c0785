"""What a network costs and how it is built: layer table, totals, structure, and its document recounted.

Parameters are counted as PyTorch counts them. MACs are the multiply-accumulates of convolutions and of products with
learned weights, for one example, biases not counted. Memory is estimated as torchsummary does it, in float32: every
layer's output once forward and once backward, plus input and parameters.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinydigits.errors import ModelError, one_line
from tinydigits.models.footprint import FormatBytes, activation_bytes, weight_bytes
from tinydigits.models.registry import Claim, Figure, canonical_name, model_claim
from tinydigits.models.trace import BATCH, Call, Field, Operation, Pair, trace

_FLOAT_BYTES = 4
_MEBIBYTE = 1024**2
_MEMORY_LINES = ("input_mb", "forward_backward_mb", "parameters_mb", "total_mb")
_UNKNOWN = "–"
_FUNCTION_NAMES = {"convolution": "conv2d", "addmm": "linear", "mm": "linear"}


@dataclass(frozen=True)
class Layer:
    """One line of the table. Shapes without the batch; pairs are (height, width); None: it has none, or it is unknown.

    `receptive_field`, `jump` and `start` (centre of the first position's field) are in input pixels. `fully_connected`:
    every output sees every position of the input, whatever the layer is called.
    """

    name: str
    kind: str
    kernel: Pair | None
    stride: Pair | None
    padding: Pair | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    receptive_field: Pair | None
    jump: Pair | None
    start: tuple[float, float] | None
    activation_bytes: int
    fully_connected: bool


@dataclass(frozen=True)
class Memory:
    """The memory lines of a layer summary, in bytes of float32 for one example."""

    input_bytes: int
    forward_backward_bytes: int
    parameters_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum of the three."""
        return self.input_bytes + self.forward_backward_bytes + self.parameters_bytes

    def lines(self) -> tuple[tuple[str, float], ...]:
        """The lines as students know them, in MB of 1024² bytes."""
        return (
            ("Input size (MB)", self.input_bytes / _MEBIBYTE),
            ("Forward/backward pass size (MB)", self.forward_backward_bytes / _MEBIBYTE),
            ("Params size (MB)", self.parameters_bytes / _MEBIBYTE),
            ("Estimated total size (MB)", self.total_bytes / _MEBIBYTE),
        )


@dataclass(frozen=True)
class Structure:
    """Structural facts, each judged by what the network does; names and classes of layers play no part.

    `batch_norm`: in training mode the output for one example depends on the others in the batch.
    `dropout`: in training mode two passes over the same input differ.
    `global_pooling`: the last map is reduced to one position by an average, a sum or a maximum that sees all of it.
    `single_linear_head`: exactly one fully connected layer, and nothing learned after it but scales. A convolution
    whose window covers its whole map, such as a 1×1 convolution on a 1×1 map, is a fully connected layer.
    `hidden_linear`: a fully connected layer with another learned layer after it.
    """

    batch_norm: bool
    dropout: bool
    global_pooling: bool
    single_linear_head: bool
    hidden_linear: bool


@dataclass(frozen=True)
class Comparison:
    """A figure of the document beside the recounted one, as both are written on screens; “–”: it is not known."""

    what: str
    documented: str
    recounted: str

    @property
    def agrees(self) -> bool:
        """Whether the two are the same."""
        return self.documented == self.recounted

    @property
    def known(self) -> bool:
        """Whether it could be recounted."""
        return self.recounted != _UNKNOWN


@dataclass(frozen=True)
class Inspection:
    """Everything `tinydigits inspect` shows. `weight_bytes` and `activation_bytes`: see footprint.py.

    `macs_complete`: no learned weights are used in an operation whose MACs are not counted.
    """

    model: str
    input_shape: tuple[int, ...]
    parameters: int
    macs: int
    macs_complete: bool
    weight_bytes: FormatBytes
    activation_bytes: FormatBytes
    memory: Memory
    layers: tuple[Layer, ...]
    structure: Structure
    findings: tuple[str, ...]
    claim: Claim | None

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every figure that the claim states, recounted; and its rows added up."""
        if self.claim is None:
            return ()
        total = sum_of_rows(self.claim, self)
        return (*(compare(figure, self) for figure in self.claim.figures), *([total] if total else []))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON. `documented` is None for networks without a document."""
        documented = None
        if self.claim is not None and self.claim.source is not None:
            lines = [{**asdict(line), "agrees": line.agrees} for line in self.comparisons]
            documented = {**self.claim.as_dict(), "lines": lines, "notes": self.claim.notes}
        return {
            "model": self.model,
            "input_shape": self.input_shape,
            "parameters": self.parameters,
            "macs": self.macs,
            "weight_bytes": asdict(self.weight_bytes),
            "activation_bytes": asdict(self.activation_bytes),
            "memory": {**asdict(self.memory), "total_bytes": self.memory.total_bytes},
            "layers": [asdict(layer) for layer in self.layers],
            "structure": asdict(self.structure),
            "findings": self.findings,
            "documented": documented,
            "budget": None,
        }


def inspect_model(model: nn.Module, input_shape: tuple[int, ...] = (1, 28, 28), name: str | None = None) -> Inspection:
    """Inspect any network; it is copied first, and left as it was.

    Args:
        model: The network, in whatever mode.
        input_shape: [C, H, W] of one example.
        name: The model's name, under which its document is found; without one it goes by its class.

    Raises:
        ModelError: the network cannot take such an input.
        UnknownModelError: there is no model of that name.
    """
    claim = model_claim(name) if name is not None else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: torch.manual_seed would reach a GPU's, unrestored
        try:
            # deepcopy leaves weights, running statistics, hooks and mode of the caller's network alone
            network = copy.deepcopy(model).to("cpu", torch.float32)
            events = trace(network.eval(), torch.randn(BATCH, *input_shape))
            behaviour = _behaviour(network, input_shape)
        except Exception as error:  # a user's forward() may raise anything
            shape = "×".join(map(str, input_shape))
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ModelError(f"{name or type(model).__name__} cannot take an input of {shape}: {reason}.") from error
    lines = _lines(events)
    layers = tuple(layer for layer, _ in lines)
    operations = [operation for event in events for operation in _operations(event)]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    memory = Memory(
        input_bytes=math.prod(input_shape) * _FLOAT_BYTES,
        forward_backward_bytes=2 * sum(layer.activation_bytes for layer in layers),
        parameters_bytes=parameters * _FLOAT_BYTES,
    )
    return Inspection(
        model=canonical_name(name) if name is not None else type(model).__name__,
        input_shape=input_shape,
        parameters=parameters,
        macs=sum(layer.macs for layer in layers),
        macs_complete=not any(operation.uncounted for operation in operations),
        weight_bytes=weight_bytes(operations),
        activation_bytes=activation_bytes(operations),
        memory=memory,
        layers=layers,
        structure=_structure(operations, behaviour),
        findings=(*_findings(lines), *_oddities(parameters, layers, behaviour)),
        claim=claim,
    )


def _lines(events: tuple[Call | Operation, ...]) -> list[tuple[Layer, tuple[Operation, ...]]]:
    """A line a leaf module, or a line an operation where a module does the work of several layers, or none is there."""
    lines = []
    counted: set[int] = set()

    def add(source: Call | Operation, name: str, kind: str, operations: tuple[Operation, ...]) -> None:
        fresh = {id(p): p.numel() for operation in operations for p in operation.parameters if id(p) not in counted}
        counted.update(fresh)  # a layer that is used twice brings its parameters once
        lines.append((_layer(source, name, kind, operations, sum(fresh.values())), operations))

    for event in events:
        if isinstance(event, Call) and sum(map(_is_windowed, event.operations)) <= 1:
            add(event, event.path, event.kind, event.operations)
            continue
        path = event.path if isinstance(event, Call) else ""
        for operation in _operations(event):
            if not operation.silent:
                add(operation, path, _FUNCTION_NAMES.get(operation.name, operation.name), (operation,))
    return lines


def _layer(source: Call | Operation, name: str, kind: str, operations: tuple[Operation, ...], parameters: int) -> Layer:
    field: Field | None = source.field
    window = next((operation.window for operation in operations if operation.window), None)
    return Layer(
        name=name,
        kind=kind,
        kernel=window.kernel if window else None,
        stride=window.stride if window else None,
        padding=window.padding if window else None,
        input_shape=source.input_shape,
        output_shape=source.output_shape,
        parameters=parameters,
        macs=sum(operation.macs for operation in operations),
        receptive_field=field.size if field else None,
        jump=field.jump if field else None,
        start=field.start if field else None,
        activation_bytes=math.prod(source.output_shape) * _FLOAT_BYTES,
        fully_connected=any(operation.dense for operation in operations),
    )


def _operations(event: Call | Operation) -> tuple[Operation, ...]:
    return event.operations if isinstance(event, Call) else (event,)


def _is_windowed(operation: Operation) -> bool:
    return operation.window is not None or operation.learned_map


@dataclass(frozen=True)
class _Behaviour:
    """What passes over the same or related inputs show."""

    noisy_in_training: bool
    noisy_in_evaluation: bool
    batch_matters_in_training: bool
    batch_matters_in_evaluation: bool


def _behaviour(network: nn.Module, input_shape: tuple[int, ...]) -> _Behaviour:
    """Compare passes in both modes. Weights are shaken a little first, lest a head of zeros hide all before it."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(8, *input_shape)
    others = torch.cat([images[:1], torch.randn(7, *input_shape)])

    def output(training: bool) -> Callable[[Tensor], Tensor]:
        fresh = copy.deepcopy(network).train(training)

        def run(batch: Tensor) -> Tensor:
            with torch.no_grad():
                return torch.as_tensor(fresh(batch))

        return run

    def noisy(training: bool) -> bool:
        run = output(training)
        return _differ(run(images), run(images))

    def batch_matters(training: bool) -> bool:
        results = []
        for batch in (images, others):
            torch.default_generator.manual_seed(1)  # the same noise for both, in a fresh copy each
            results.append(output(training)(batch)[0])
        return _differ(*results)

    return _Behaviour(
        noisy_in_training=noisy(training=True),
        noisy_in_evaluation=noisy(training=False),
        batch_matters_in_training=batch_matters(training=True),
        batch_matters_in_evaluation=batch_matters(training=False),
    )


def _differ(a: Tensor, b: Tensor) -> bool:
    """Beyond rounding."""
    return not torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def _structure(operations: list[Operation], behaviour: _Behaviour) -> Structure:
    learned = [operation.dense for operation in operations if operation.learned_map]
    return Structure(
        batch_norm=behaviour.batch_matters_in_training,
        dropout=behaviour.noisy_in_training,
        global_pooling=any(
            operation.coverage is not None and operation.coverage.is_global and _ends_the_maps(operations[i + 1 :])
            for i, operation in enumerate(operations)
        ),
        single_linear_head=sum(learned) == 1 and learned[-1],
        hidden_linear=any(learned[:-1]),
    )


def _ends_the_maps(later: list[Operation]) -> bool:
    """Whether no map is used any more: a pool that only rescales one (squeeze and excite) is not the network's pool."""
    return all(operation.map_shape == (1, 1) for operation in later)


def _findings(lines: list[tuple[Layer, tuple[Operation, ...]]]) -> list[str]:
    """Sentences on layers that do not do what they seem to, or cost more than is counted."""
    findings = []
    for number, (layer, operations) in enumerate(lines, start=1):
        noun = "convolution" if layer.macs else layer.kind
        for operation in operations:
            if operation.coverage and not operation.coverage.is_global:
                label = f"{layer.kind}({times(layer.kernel)})" if layer.kernel else layer.kind
                seen, total = operation.coverage.seen, operation.coverage.total
                findings.append(f"Layer {number}: {label} sees {seen} of {total} positions: it is not a global pool.")
            if operation.dense and layer.kernel:
                window, shape = sides(layer.kernel), sides(layer.input_shape)
                findings.append(f"Layer {number}: a {window} {noun} on a map of {shape} is a fully connected layer.")
        if any(operation.uncounted for operation in operations):
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


def _oddities(parameters: int, layers: tuple[Layer, ...], behaviour: _Behaviour) -> list[str]:
    """Sentences on what a network should not do."""
    findings = []
    idle = parameters - sum(layer.parameters for layer in layers)
    if idle:
        findings.append(f"{idle:,} of {parameters:,} parameters take no part in the forward pass.")
    if behaviour.noisy_in_evaluation:
        findings.append("Two passes in evaluation mode differ: dropout, or other noise, is not switched off by eval().")
    if behaviour.batch_matters_in_evaluation:
        findings.append("In evaluation mode the output for one digit depends on the other digits of its batch.")
    return findings


def compare(figure: Figure, inspection: Inspection) -> Comparison:
    """A stated figure beside the network's own."""
    layer = inspection.layers[figure.layer - 1] if figure.layer else None
    place = f"layer {figure.layer} {layer.kind}, " if layer else ""
    if isinstance(figure.stated, tuple):
        assert layer is not None
        shape = _as_precise(layer.output_shape, len(figure.stated))
        return Comparison(f"{place}output", by(figure.stated), by(shape))
    if figure.quantity in _MEMORY_LINES:
        label, megabytes = inspection.memory.lines()[_MEMORY_LINES.index(figure.quantity)]
        return Comparison(label, f"{figure.stated:.2f}", f"{megabytes:.2f}")
    stated = f"{figure.stated:,.0f}"
    if figure.quantity == "macs":
        return Comparison("MACs", stated, f"{inspection.macs:,}" if inspection.macs_complete else _UNKNOWN)
    if figure.quantity == "parameters":
        return Comparison(f"{place}parameters", stated, f"{(layer or inspection).parameters:,}")
    assert figure.quantity in ("receptive_field", "jump")
    pair: Pair | None = getattr(layer or inspection.layers[-1], figure.quantity)
    return Comparison(place + figure.quantity.replace("_", " "), stated, times(pair))


def _as_precise(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape in as many numbers as the stated one has; a vector is a map of 1×1."""
    if count == 1:
        return shape
    return (*shape, 1, 1)[-count:] if len(shape) == 1 else shape[-count:]


def sum_of_rows(claim: Claim, inspection: Inspection) -> Comparison | None:
    """The stated parameters of all layers added up; None: the claim does not state those of every layer."""
    rows = {x.layer: x.stated for x in claim.figures if x.quantity == "parameters" and isinstance(x.stated, int)}
    rows.pop(None, None)
    if not rows or any(layer.parameters and number not in rows for number, layer in enumerate(inspection.layers, 1)):
        return None
    return Comparison("parameters, sum of all rows", f"{sum(rows.values()):,}", f"{inspection.parameters:,}")


def times(pair: Pair | None) -> str:
    """A pair as on screens: (2, 2) → "2", (3, 1) → "3×1"."""
    if pair is None:
        return _UNKNOWN
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


def sides(shape: tuple[int, ...]) -> str:
    """Height and width of a shape [C, H, W]: "28×28"."""
    return by(shape[-2:])


def by(numbers: tuple[int, ...]) -> str:
    """A shape as on screens: "16×28×28"."""
    return "×".join(map(str, numbers))
