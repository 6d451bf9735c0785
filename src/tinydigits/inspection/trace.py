"""One forward pass, operation by operation: shapes, windows, multiplications, and what each operation sees.

The pass is watched below the layers, where torch dispatches its operations, so only what a layer does counts: a pool
may be an `nn.AvgPool2d`, a subclass of it, `F.avg_pool2d` or `x.mean((2, 3))`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Pair = tuple[int, int]

BATCH = 2  # two examples, so that a forward() that squeezes its input does not lose the batch

_MATRIX_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}  # index of the left factor
_REDUCTIONS = {"mean", "sum", "amax"}
_SILENT = {
    "view", "_unsafe_view", "t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "slice", "select", "clone",
    "detach", "alias", "empty_like", "_to_copy", "copy_",
}  # fmt: skip
_FUNCTION_NAMES = {"convolution": "conv2d", "addmm": "linear", "mm": "linear"}
_PLACING = {"cat", "embedding", "gather", "index", "index_put", "index_select", "slice_scatter"}  # multiply nothing
_ELEMENTWISE = {"native_batch_norm", "cudnn_batch_norm", "native_dropout", "_prelu_kernel", "hardswish"}  # not tagged


@dataclass(frozen=True)
class Field:
    """What one position of a map sees of the input, in input pixels, as (height, width).

    `size` of the receptive field, `jump` between neighbouring positions, `start`: centre of the first position's field.
    Arithmetic: Dang Ha The Hien, “A guide to receptive field arithmetic for convolutional neural networks”, 2017.
    """

    size: Pair = (1, 1)
    jump: Pair = (1, 1)
    start: tuple[float, float] = (0.5, 0.5)

    def slide(self, kernel: Pair, stride: Pair, padding: Pair) -> "Field":
        """The field after a window has slid over the map."""
        return Field(
            size=_pair(r + (k - 1) * j for r, k, j in zip(self.size, kernel, self.jump, strict=True)),
            jump=_pair(j * s for j, s in zip(self.jump, stride, strict=True)),
            start=_pair(
                first + ((k - 1) / 2 - p) * j
                for first, k, p, j in zip(self.start, kernel, padding, self.jump, strict=True)
            ),
        )


@dataclass(frozen=True)
class Window:
    """What slides over a map, as (height, width); a dilated `kernel` is as large as the pixels it spans."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class Coverage:
    """How many of a map's positions a pool sees that leaves one value of each channel.

    `is_global`: it sees every one, all with the same weight: an average, a sum or a maximum of the whole map.
    """

    seen: int
    total: int
    is_global: bool


@dataclass(frozen=True)
class Buffer:
    """Memory that holds an activation: views and in-place results have the same buffer. `elements` of one example."""

    address: int
    elements: int


@dataclass(frozen=True)
class Kernel:
    """The learned factor of a convolution or a product: `weights` numbers that make `outputs` channels or features."""

    address: int
    weights: int
    outputs: int


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation on data that depends on the network's input. Shapes are without the batch."""

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    window: Window | None
    field: Field | None
    macs: int
    uncounted: bool  # it uses learned weights, and how often they are multiplied is unknown
    parameters: tuple[nn.Parameter, ...]
    dense: bool  # a learned product in which every output sees every position of the map: a fully connected layer
    coverage: Coverage | None
    map_shape: Pair  # positions that its input holds, as (height, width)
    silent: bool  # moves data, computes nothing
    elementwise: bool  # could overwrite its input
    inputs: tuple[Buffer, ...]
    output: Buffer
    kernel: Kernel | None  # None: this is no convolution or product with learned weights


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module that has no submodules, and the operations in it; shapes are without the batch.

    An operation outside of all such modules counts as a call of its own, with an empty `path`.
    """

    path: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    field: Field | None
    operations: tuple[Operation, ...]

    @classmethod
    def of(cls, path: str, operation: Operation) -> "Call":
        """One operation as a call."""
        kind = _FUNCTION_NAMES.get(operation.name, operation.name)
        return cls(path, kind, operation.input_shape, operation.output_shape, operation.field, (operation,))


@dataclass(frozen=True, eq=False)
class _State:
    """What is known of a tensor that depends on the input."""

    field: Field | None
    extent: Pair  # positions it holds, as (height, width), flattened or not
    source: Tensor | None  # the last map of more than one position, and
    chain: tuple["_Step", ...] | None  # how this came from it; None: not by reshaping and pooling


_Step = tuple[Any, Any, Any, Tensor]  # a function, its arguments, and the one of them that is data


def trace(model: nn.Module, example: Tensor) -> list[Call]:
    """Run `example` [BATCH, …] through the model; calls of leaf modules, and operations outside of them, in order."""
    tracer = _Tracer(model, example)
    handles = [handle for path, module in model.named_modules() if path for handle in tracer.watch(path, module)]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would hide the products of attention in one operation
    try:
        with torch.no_grad(), tracer:
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()
    return tracer.calls


class _Tracer(TorchDispatchMode):
    """Follows the tensors that depend on the input through all operations."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else PyTorch's compiler would be loaded, which takes a second."""
        return False

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._running: list[list[Operation]] = []  # the operations of leaf modules that are being called
        extent = _pair(example.shape[-2:])
        self._states = {id(example): _State(Field(), extent, example if example.ndim == 4 else None, ())}
        self._origins: dict[int, tuple[nn.Parameter, ...]] = {id(p): (p,) for p in model.parameters()}
        self._alive: list[Any] = [example]  # the tables above use identities as keys, so nothing may be freed

    def watch(self, path: str, module: nn.Module) -> list[Any]:
        """Hooks that gather the operations of one leaf module."""
        if any(module.children()):
            return []

        def enter(_module: nn.Module, _arguments: Any) -> None:
            self._running.append([])

        def leave(_module: nn.Module, arguments: Any, output: Any) -> None:
            operations = tuple(self._running.pop())
            first, last = _first_tensor(arguments), _first_tensor(output)
            if first is not None and last is not None and id(last) in self._states:
                field = self._states[id(last)].field
                self.calls.append(Call(path, type(module).__name__, _shape(first), _shape(last), field, operations))

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then note what it did."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        self._alive.append(output)
        result = _first_tensor(output)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        data = [tensor for tensor in tensors if id(tensor) in self._states]
        learned = tuple(p for t in tensors if id(t) not in self._states for p in self._origins.get(id(t), ()))
        if result is not None and data:
            self._note(func, args, kwargs, data, learned, result)
            self._note_parts(output, result)
        elif result is not None and learned:
            self._origins[id(result)] = learned  # a weight seen through t(), or computed from parameters
        return output

    def _note_parts(self, output: Any, first: Tensor) -> None:
        """An operation's other results, such as the other parts of a split; they have the first one's field."""
        state = self._states[id(first)]
        for part in tree_leaves(output):
            if isinstance(part, Tensor) and part.is_floating_point() and part.ndim == first.ndim and part is not first:
                extent = _pair(part.shape[-2:]) if part.ndim == 4 else state.extent
                source = part if state.source is first else None
                chain: tuple[Any, ...] | None = () if source is part else None
                self._states[id(part)] = replace(state, extent=extent, source=source, chain=chain)

    def _note(
        self, func: Any, args: Any, kwargs: Any, data: list[Tensor], learned: tuple[nn.Parameter, ...], result: Tensor
    ) -> None:
        name = func.overloadpacket.__name__
        main = max(data, key=torch.numel)
        before = self._states[id(main)]
        window = _window(name, args, main, result)
        macs = _macs(name, args, learned, result)
        dense = macs > 0 and _is_dense(name, args, window, before.extent, result)
        state = _follow(name, args, main, before, window, dense, result)
        field = state.field
        if field is not None:
            sizes = [other.field.size for t in data if (other := self._states[id(t)]).field is not None]
            field = replace(field, size=_pair(max(axis) for axis in zip(field.size, *sizes, strict=True)))
        if len(data) == 1 and not learned and before.chain is not None and state.chain is None:
            state = replace(state, source=before.source, chain=(*before.chain, (func, args, kwargs, main)))
        coverage = _coverage(state, result)
        if coverage is not None:
            state = replace(state, chain=None)
        self._states[id(result)] = replace(state, field=field)
        elementwise = torch.Tag.pointwise in func.tags or name in _ELEMENTWISE
        plain = elementwise or "norm" in name or name.removesuffix("_") in _SILENT | _PLACING
        operation = Operation(
            name=name.removesuffix("_").removeprefix("_").removeprefix("native_").removesuffix("_with_indices"),
            input_shape=_shape(main),
            output_shape=_shape(result),
            window=window,
            field=field,
            macs=macs,
            uncounted=macs == 0 and not plain and any(parameter.ndim > 1 for parameter in learned),
            parameters=learned,
            dense=dense,
            coverage=coverage,
            map_shape=before.extent,
            silent=name in _SILENT,
            elementwise=elementwise,
            inputs=tuple(dict.fromkeys(map(_buffer, data))),
            output=_buffer(result),
            kernel=self._kernel(name, args, result) if macs else None,
        )
        if self._running:
            self._running[-1].append(operation)
        else:
            self.calls.append(Call.of("", operation))

    def _kernel(self, name: str, args: Any, result: Tensor) -> Kernel:
        if name == "convolution":
            return Kernel(args[1].data_ptr(), args[1].numel(), result.shape[1])
        left, right = args[_MATRIX_PRODUCTS[name] :][:2]
        factor = left if id(left) in self._origins else right
        return Kernel(factor.data_ptr(), factor.numel(), factor.numel() // left.shape[-1])


def _follow(
    name: str, args: Any, main: Tensor, before: _State, window: Window | None, dense: bool, result: Tensor
) -> _State:
    """The input region of each of the result's positions, from what is known of the operation's main argument."""
    extent = _pair(result.shape[-2:]) if result.ndim == 4 else before.extent
    field = before.field
    if (dense or window is not None) and result.ndim != 4:
        extent = (1, 1)
    if dense:
        field = field and field.slide(before.extent, (1, 1), (0, 0))
    elif window is not None:
        field = field and field.slide(window.kernel, window.stride, window.padding)
    elif name == "convolution":
        field = None  # transposed
    elif name == "constant_pad_nd":
        pads = [*args[1], 0, 0, 0, 0]  # left, right, top, bottom
        field = field and field.slide((1, 1), (1, 1), (pads[2], pads[0]))
    elif result.numel() < main.numel() and (axes := _reduced(before.extent, main.numel() // result.numel(), extent)):
        extent = _pair(1 if axis else side for axis, side in zip(axes, before.extent, strict=True))
        whole = _pair(side if axis else 1 for axis, side in zip(axes, before.extent, strict=True))
        field = field and field.slide(whole, whole, (0, 0))
    elif extent != before.extent:
        field = None  # enlarged, cut or rearranged: no longer a window of the input
    is_map = result.ndim == 4 and math.prod(extent) > 1
    return _State(field, extent, result if is_map else None, () if is_map else None)


def _reduced(extent: Pair, ratio: int, after: Pair) -> tuple[bool, bool] | None:
    """Which axes of a map a reduction by `ratio` values to one has removed; None: it was none of them."""
    height, width = extent
    if after not in (extent, (1, 1), (1, width), (height, 1)):
        return None
    if ratio == height * width:
        return True, True
    if ratio == height and after != (height, 1):
        return True, False
    return (False, True) if ratio == width else None


def _window(name: str, args: Any, main: Tensor, result: Tensor) -> Window | None:
    """The window of a convolution (not a transposed one) or a pool on [N, C, H, W]; None for everything else."""
    if main.ndim != 4:
        return None
    if name == "convolution" and not args[6]:
        return _spanning(args[1].shape[-2:], *args[3:6])
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel, *others = args[1:5] if name != "avg_pool2d" else args[1:4]
        stride, padding, dilation = (*others, [], [], [])[:3]
        return _spanning(kernel, stride or kernel, padding or (0, 0), dilation or (1, 1))
    if name in ("_adaptive_avg_pool2d", "adaptive_max_pool2d"):
        # evenly: in = out · stride; unevenly, torch's windows differ in size, and this is the usual description
        stride = _pair(i // o for i, o in zip(main.shape[-2:], result.shape[-2:], strict=True))
        sides = zip(main.shape[-2:], result.shape[-2:], stride, strict=True)
        return Window(_pair(i - (o - 1) * s for i, o, s in sides), stride, (0, 0))
    if name in _REDUCTIONS and result.numel() == main.shape[0] * main.shape[1]:
        return Window(_pair(main.shape[-2:]), _pair(main.shape[-2:]), (0, 0))
    return None


def _spanning(kernel: Any, stride: Any, padding: Any, dilation: Any) -> Window:
    spans = [(k - 1) * d + 1 for k, d in zip(_pair(kernel), _pair(dilation), strict=True)]
    return Window(_pair(spans), _pair(stride), _pair(padding))


def _macs(name: str, args: Any, learned: tuple[nn.Parameter, ...], result: Tensor) -> int:
    """Multiply-accumulates of a convolution or a product with learned weights, for one example; biases not counted."""
    if not learned:
        return 0
    if name == "convolution":
        # weights are [out, in / groups, …], or [in, out / groups, …] when transposed and each input is spread
        spread = args[0] if args[6] else result
        return int(spread.numel() * math.prod(args[1].shape[1:]) // BATCH)
    if name in _MATRIX_PRODUCTS:
        return int(result.numel() * args[_MATRIX_PRODUCTS[name]].shape[-1] // BATCH)
    return 0


def _is_dense(name: str, args: Any, window: Window | None, extent: Pair, result: Tensor) -> bool:
    """Whether a learned product is a fully connected layer: one vector an example in, all of the map in each output."""
    if name != "convolution":
        return result.ndim == 2 and result.shape[0] == BATCH
    if window is None or args[8] != 1 or result.shape[-2:] != (1, 1):
        return False
    return all(k - p >= side for k, p, side in zip(window.kernel, window.padding, extent, strict=True))


def _replay(step: _Step, tensor: Tensor) -> Tensor:
    """The step with other data."""
    func, args, kwargs, data = step
    new_args, new_kwargs = tree_map(lambda leaf: tensor if leaf is data else leaf, (args, kwargs))
    result = _first_tensor(func(*new_args, **new_kwargs))
    assert result is not None
    return result


def _coverage(state: _State, result: Tensor) -> Coverage | None:
    """If reshaping and pooling alone turned a map into one value a channel, find which positions that value sees.

    Each position in turn is lit alone: it is seen if the value changes, and an average, a sum or a maximum
    of the whole map gives the same value for each of them.
    """
    if state.source is None or not state.chain or result.numel() != state.source.shape[0] * state.source.shape[1]:
        return None
    slots = result.numel()
    positions = state.source[0, 0].numel()
    values = []
    for first in range(0, positions, slots):
        lit = torch.zeros(slots, positions)
        count = min(slots, positions - first)
        lit[torch.arange(count), first + torch.arange(count)] = 1
        value = lit.reshape(state.source.shape)
        for step in state.chain:
            value = _replay(step, value)
        values.append(value.reshape(-1)[:count])
    lit_values = torch.cat(values)
    alike = bool(lit_values[0] > 0 and torch.allclose(lit_values, lit_values[0], rtol=1e-3, atol=0))
    return Coverage(int((lit_values != 0).sum()), positions, is_global=alike)


def _buffer(tensor: Tensor) -> Buffer:
    storage = tensor.untyped_storage()
    return Buffer(storage.data_ptr(), storage.nbytes() // tensor.element_size() // BATCH)


def _first_tensor(tree: Any) -> Tensor | None:
    return next((leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)), None)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape[1:])


def _pair(values: Any) -> Any:
    """Two numbers as a tuple; torch sometimes writes [2] for [2, 2]."""
    first, *rest = values
    return (first, rest[0] if rest else first)
