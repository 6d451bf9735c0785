"""The layers of a network, forwards and backwards, on maps in blocks.

A map is float32 [B, C, H, W, L]: L pictures lie side by side, as many as a vector of this processor holds, so N
pictures are B = ⌈N / L⌉ blocks; the last one may not be full.

For a number of pictures, the stages plan once what is to be called, with which memory. A training step then makes these
calls and nothing else: in a small network, Python would take longer to prepare them than they take.
"""

import copy
import ctypes
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tinydigits.models.layers import Dropout
from tinydigits.training.backends.native.library import ConvolutionShape, load_kernels

Call = Callable[[], object]
Planned = tuple[Callable[..., object], Sequence[Any]]


class Plan:
    """What a step with so many pictures calls, and the memory that it takes.

    A map that nobody reads again later is only passed on: it lies in one of two buffers, where the one after the next
    overwrites it. So little memory goes round, and it stays in the nearer caches.
    """

    def __init__(self, count: int) -> None:
        self.kernels = load_kernels()
        self.lanes: int = self.kernels.lanes()
        self.count = count
        self.blocks = -(-count // self.lanes)
        self.keeping = True  # whether the map that a stage makes now is read again later
        self._buffers = [torch.empty(0).untyped_storage() for _ in range(3)]
        self._current = 0
        self._planned: list[Planned] = []

    def map(self, channels: int, height: int, width: int) -> Tensor:
        """Memory for a map; see `keeping`."""
        if self.keeping:
            return torch.empty(self.blocks, channels, height, width, self.lanes)
        self._current = 1 - self._current
        return self._in_buffer(self._current, self.blocks, channels, height, width, self.lanes)

    def scratch(self, *shape: int) -> Tensor:
        """Memory until scratch memory is needed again."""
        return self._in_buffer(2, *shape)

    def _in_buffer(self, buffer: int, *shape: int) -> Tensor:
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        # which makes the buffer as large as it has to be
        return torch.empty(0).set_(self._buffers[buffer], 0, shape, strides)

    def call(self, kernel: str, *arguments: Any) -> None:
        """Plan the call of a kernel, with tensors for its pointers."""
        self._planned.append((getattr(self.kernels, kernel), arguments))

    def do(self, work: Callable[[], object]) -> None:
        """Plan to do something in Python."""
        self._planned.append((work, ()))

    def planned(self) -> list[Planned]:
        """What was planned since the last call."""
        planned, self._planned = self._planned, []
        return planned


def calls_of(planned: Sequence[Planned]) -> list[Call]:
    """What was planned as calls, when all is planned and every buffer has its size. The plan has to outlive them."""
    return [
        partial(work, *(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)) for work, arguments in planned
    ]


def pictures_of(x: Tensor, count: int) -> Tensor:
    """[B, C, H, W, L] → [N, C, H, W]."""
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)[:count]


def blocked(x: Tensor, lanes: int) -> Tensor:
    """[N, C, H, W] → [B, C, H, W, L]; what is left over is filled with zeros."""
    blocks = -(-len(x) // lanes)
    full = x.new_zeros(blocks * lanes, *x.shape[1:])
    full[: len(x)] = x
    return full.view(blocks, lanes, *x.shape[1:]).permute(0, 2, 3, 4, 1).contiguous()


class Stage(ABC):
    """One layer. `forward` is planned first, then `backward`, which may overwrite the gradient that it is given."""

    parameters: Sequence[Tensor] = ()
    reads_input = False  # on the way back
    reads_output = False

    @abstractmethod
    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Plan the way from x to the layer's output [B, C', H', W', L], which is returned."""

    @abstractmethod
    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:
        """Plan the way back from the gradient of the output to that of the input, and to those of the parameters."""


class Convolution(Stage):
    """A convolution with stride 1, group by group; a linear layer is one whose kernel is the whole map."""

    def __init__(self, module: nn.Conv2d | nn.Linear) -> None:
        self.weight, self.bias = module.weight, module.bias
        self.parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        self.padding = _pair(module.padding) if isinstance(module, nn.Conv2d) else (0, 0)
        self.groups = module.groups if isinstance(module, nn.Conv2d) else 1
        self.reads_input = self.padding[1] == 0  # else a padded copy
        self.first = False  # in the network, where the gradient of the pictures is of no use

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Valid convolution of the map with zeros at its sides; those above and below are only thought of."""
        _, channels, height, width, _ = self.in_shape = x.shape
        weight = self.weight.detach()
        self.kernel = weight if weight.ndim == 4 else weight.view(len(weight), channels, height, width)
        out, into, *kernel = self.kernel.shape
        top, side = self.padding
        self.x = x
        if side:
            self.x = torch.empty(plan.blocks, channels, height, width + 2 * side, plan.lanes)
            plan.call("pad_columns", x, self.x, plan.blocks * channels * height, width, side)
        size = height + 2 * top - kernel[0] + 1, width + 2 * side - kernel[1] + 1
        y = plan.map(out, *size)
        self.shape = ConvolutionShape(
            into, height, width + 2 * side, out // self.groups, *size, *kernel, top, channels, out
        )  # fmt: skip
        biases = [None] * self.groups if self.bias is None else self.bias.detach().chunk(self.groups)
        groups = zip(self.x.chunk(self.groups, 1), self.kernel.chunk(self.groups), biases, strict=True)
        for (part, own, bias), result in zip(groups, y.chunk(self.groups, 1), strict=True):
            self._convolve(part, own.data_ptr(), own.stride(), bias, result, self.shape, plan)
        return y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:
        """The input's gradient is a convolution of dy with the kernel turned by half a circle."""
        shape, (_, channels, height, width, _) = self.shape, self.in_shape
        buffer = plan.scratch(self.kernel[0].numel() * shape.out_channels, plan.lanes)
        gradient = gradients[0] if gradients[0].ndim == 4 else gradients[0].unflatten(1, self.kernel.shape[1:])
        groups = (self.x.chunk(self.groups, 1), dy.chunk(self.groups, 1), gradient.chunk(self.groups))
        for x, y, own in zip(*groups, strict=True):
            plan.call("convolve_weight_gradient", x, y, own, _strides(own.stride()), plan.blocks, shape, buffer)
        if self.bias is not None:
            positions = shape.out_height * shape.out_width
            plan.call("sum_positions", dy, gradients[1], plan.blocks, len(gradients[1]), positions)
        if self.first:
            return dy
        out, margin = len(self.kernel), shape.kernel_width - 1 - self.padding[1]
        dy = self._widened(dy, margin, plan)
        turned = ConvolutionShape(
            shape.out_channels, shape.out_height, shape.out_width + 2 * margin, shape.in_channels, height, width,
            shape.kernel_height, shape.kernel_width, shape.kernel_height - 1 - self.padding[0], out, channels,
        )  # fmt: skip
        dx = plan.map(channels, height, width)
        groups = (dy.chunk(self.groups, 1), self.kernel.chunk(self.groups), dx.chunk(self.groups, 1))
        for y, own, x in zip(*groups, strict=True):
            outs, ins, rows, columns = own.stride()
            last = own[0, 0, -1, -1].data_ptr()  # from there, rows and columns are read backwards
            self._convolve(y, last, (ins, outs, -rows, -columns), None, x, turned, plan)
        return dx

    def _widened(self, dy: Tensor, margin: int, plan: Plan) -> Tensor:
        """Columns of zeros at both sides; a margin below 0 cuts off."""
        if margin == 0:
            return dy
        _, channels, height, width, _ = dy.shape
        wide = plan.scratch(plan.blocks, channels, height, width + 2 * margin, plan.lanes)
        if margin < 0:
            plan.do(partial(wide.copy_, dy[:, :, :, -margin:margin]))
        else:
            plan.call("pad_columns", dy, wide, plan.blocks * channels * height, width, margin)
        return wide

    def _convolve(
        self, x: Tensor, kernel: int, strides: Sequence[int], bias: Tensor | None, y: Tensor, shape: ConvolutionShape,
        plan: Plan,
    ) -> None:  # fmt: skip
        packed = torch.empty(self.kernel.numel() // self.groups)
        plan.call("convolve", x, kernel, _strides(strides), bias, y, plan.blocks, shape, packed)


def _strides(strides: Sequence[int]) -> ctypes.Array[ctypes.c_ssize_t]:
    return (ctypes.c_ssize_t * 4)(*strides)


class Norm(Stage):
    """Batch norm, with the ReLU behind it if `least` is 0."""

    reads_input = True

    def __init__(self, module: nn.BatchNorm2d) -> None:
        self.module = module
        self.least = -math.inf
        self.parameters = [module.weight, module.bias]
        self.moments = torch.empty(2, module.num_features)  # mean and variance of the batch, for the running ones

    def take_relu(self) -> None:
        """Do the ReLU behind it too."""
        self.least, self.reads_output = 0.0, True

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """By the statistics of the slice."""
        module, (_, channels, height, width, _) = self.module, x.shape
        self.x, self.y = x, plan.map(channels, height, width)
        self.inverse = torch.empty(channels)
        plan.call(
            "batch_norm", x, self.y, module.weight, module.bias, *self.moments, self.inverse,
            module.eps, self.least, plan.count, channels, height * width,
        )  # fmt: skip
        return self.y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:
        """Works in place."""
        _, channels, height, width, _ = dy.shape
        y = self.y if self.reads_output else None  # for the ReLU
        of_weight, of_bias = gradients
        plan.call(
            "batch_norm_backward", dy, self.x, y, self.moments[0], self.inverse, self.module.weight, dy, of_weight,
            of_bias, plan.count, channels, height * width,
        )  # fmt: skip
        return dy


class ReluStage(Stage):
    """A ReLU without a batch norm before it."""

    reads_output = True

    def __init__(self, _module: nn.ReLU) -> None:
        pass

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Into a new map: what comes before may read its own again."""
        self.y = plan.map(*x.shape[1:4])
        plan.call("relu", x, self.y, x.numel() // plan.lanes)
        return self.y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:  # noqa: ARG002
        """Works in place."""
        plan.call("relu_backward", dy, self.y, dy, dy.numel() // plan.lanes)
        return dy


class MaxPoolStage(Stage):
    """Windows that touch and do not overlap."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        self.side = _pair(module.kernel_size)[0]

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Keeps which of each window was the largest."""
        _, channels, height, width, _ = self.in_shape = x.shape
        y = plan.map(channels, height // self.side, width // self.side)
        self.which = torch.empty(y.shape, dtype=torch.uint8)
        plan.call("max_pool", x, y, self.which, plan.blocks * channels, height, width, self.side)
        return y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:  # noqa: ARG002
        """To the largest of each window."""
        _, channels, height, width, _ = self.in_shape
        dx = plan.map(channels, height, width)
        plan.call("max_pool_backward", dy, self.which, dx, plan.blocks * channels, height, width, self.side)
        return dx


class AveragePoolStage(Stage):
    """Windows that touch and do not overlap, or the whole map."""

    def __init__(self, module: nn.AvgPool2d | nn.AdaptiveAvgPool2d) -> None:
        self.window = _pair(module.kernel_size) if isinstance(module, nn.AvgPool2d) else None

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """The mean of each window."""
        _, channels, height, width, _ = self.in_shape = x.shape
        rows, columns = self.window or (height, width)
        y = plan.map(channels, height // rows, width // columns)
        plan.call("average_pool", x, y, plan.blocks * channels, height, width, rows, columns)
        return y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:  # noqa: ARG002
        """Equally to all positions of the window."""
        _, channels, height, width, _ = self.in_shape
        dx = plan.map(channels, height, width)
        window = self.window or (height, width)
        plan.call("average_pool_backward", dy, dx, plan.blocks * channels, height, width, *window)
        return dx


class Drop(Stage):
    """Our dropout, with the numbers that its module would have drawn."""

    def __init__(self, module: Dropout) -> None:
        self.threshold = round(module.p * 65536)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Draws again in each step."""
        y = plan.map(*x.shape[1:4])
        self.draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
        plan.do(partial(self.draws.random_, -(2**63), None))
        self._drop(x, y, plan)
        return y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:  # noqa: ARG002
        """Works in place."""
        self._drop(dy, dy, plan)
        return dy

    def _drop(self, x: Tensor, y: Tensor, plan: Plan) -> None:
        scale = 1 / (1 - self.threshold / 65536)
        plan.call("drop", x, self.draws, y, self.threshold - 32768, scale, x.numel() // plan.lanes)


class Elementwise(Stage):
    """A layer without weights that treats all numbers alike: PyTorch does it on the blocks."""

    reads_input = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """With its own small graph."""
        y = plan.map(*x.shape[1:4])

        def work() -> None:
            with torch.enable_grad():
                self.x = x.detach().requires_grad_()
                self.y: Tensor = self.module(self.x)
            y.copy_(self.y.detach())

        plan.do(work)
        return y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:  # noqa: ARG002
        """Through that graph, in place."""
        plan.do(lambda: dy.copy_(torch.autograd.grad(self.y, self.x, dy)[0]))
        return dy


class Elsewhere(Stage):
    """Any other layer: PyTorch does it on pictures [N, C, H, W], or [N, C] behind a Flatten."""

    reads_input = True

    def __init__(self, module: nn.Module, flat: bool) -> None:
        self.module, self.flat = module, flat
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """With its own small graph."""
        self.in_shape = pictures_of(x, plan.count).shape
        y = plan.map(*self._out_shape())

        def work() -> None:
            with torch.enable_grad():
                self.x = self._flat(pictures_of(x, plan.count)).detach().requires_grad_()
                self.y: Tensor = self.module(self.x)
            answer = self.y.detach()
            y.copy_(blocked(answer[:, :, None, None] if answer.ndim == 2 else answer, plan.lanes))

        plan.do(work)
        return y

    def backward(self, dy: Tensor, gradients: Sequence[Tensor], plan: Plan) -> Tensor:
        """Through that graph."""
        dx = plan.map(*self.in_shape[1:])

        def work() -> None:
            gradient = pictures_of(dy, plan.count).reshape(self.y.shape)
            found, *own = torch.autograd.grad(self.y, [self.x, *self.parameters], gradient)
            dx.copy_(blocked(found.reshape(self.in_shape), plan.lanes))
            for target, value in zip(gradients, own, strict=True):
                target.copy_(value)

        plan.do(work)
        return dx

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.flat else x

    def _out_shape(self) -> tuple[int, int, int]:
        """Channels, height and width, as a copy tells: asking the layer itself would move what it remembers."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            answer = copy.deepcopy(self.module).eval()(self._flat(torch.zeros(self.in_shape)))
        channels, height, width = (*answer.shape[1:], 1, 1)[:3]
        return channels, height, width


def _convolution(module: nn.Conv2d) -> Stage | None:
    usual = module.stride == (1, 1) and module.dilation == (1, 1)
    numbers = isinstance(module.padding, tuple) and module.padding_mode == "zeros"
    return Convolution(module) if usual and numbers else None


def _norm(module: nn.BatchNorm2d) -> Stage | None:
    usual = module.affine and module.track_running_stats and module.momentum is not None
    return Norm(module) if usual and module.training else None


def _max_pool(module: nn.MaxPool2d) -> Stage | None:
    rows, columns = _pair(module.kernel_size)
    square = rows == columns <= 15 and _pair(module.stride) == (rows, columns)  # which of 225 fits into a byte
    usual = square and _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1) and not module.ceil_mode
    return MaxPoolStage(module) if usual else None


def _average_pool(module: nn.AvgPool2d) -> Stage | None:
    touching = _pair(module.stride) == _pair(module.kernel_size) and _pair(module.padding) == (0, 0)
    usual = touching and not module.ceil_mode and module.divisor_override is None
    return AveragePoolStage(module) if usual else None


def _global_pool(module: nn.AdaptiveAvgPool2d) -> Stage | None:
    return AveragePoolStage(module) if module.output_size in (1, (1, 1)) else None


def _dropout(module: Dropout) -> Stage:
    return Drop(module) if module.training else Elementwise(module)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


# What makes the stage of a layer; None where its settings are unusual.
STAGES: dict[type[nn.Module], Callable[[Any], Stage | None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: Convolution,
    nn.BatchNorm2d: _norm,
    nn.ReLU: ReluStage,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    Dropout: _dropout,
    nn.Dropout: Elementwise,
    nn.SiLU: Elementwise,
    nn.GELU: Elementwise,
    nn.LeakyReLU: Elementwise,
}
