"""The layers of a network, forwards and backwards, on maps in blocks.

A map is float32 [B, C, H, W, L]: L pictures lie side by side, as many as a vector of this processor holds, so N
pictures are B = ⌈N / L⌉ blocks; in the last one, places may be left over.
"""

import ctypes
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tinydigits.models.layers import Dropout
from tinydigits.training.native.library import ConvolutionShape, load_kernels

Backward = tuple[Tensor | None, list[Tensor]]


class Vectors:
    """The kernels, and how many pictures the present batch has."""

    def __init__(self) -> None:
        self.kernels = load_kernels()
        self.lanes: int = self.kernels.lanes()
        self.pictures = 0

    @property
    def blocks(self) -> int:
        """So many blocks hold the pictures."""
        return -(-self.pictures // self.lanes)

    def empty(self, channels: int, height: int, width: int) -> Tensor:
        """A map to be filled."""
        return torch.empty(self.blocks, channels, height, width, self.lanes)

    def call(self, name: str, *arguments: Any) -> None:
        """A kernel, with tensors for its pointers."""
        getattr(self.kernels, name)(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


def pictures_of(x: Tensor, pictures: int) -> Tensor:
    """[B, C, H, W, L] → [N, C, H, W]."""
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)[:pictures]


def blocked(x: Tensor, vectors: Vectors) -> Tensor:
    """[N, C, H, W] → [B, C, H, W, L]; places left over are filled with zeros."""
    full = x.new_zeros(vectors.blocks * vectors.lanes, *x.shape[1:])
    full[: len(x)] = x
    return full.view(vectors.blocks, vectors.lanes, *x.shape[1:]).permute(0, 2, 3, 4, 1).contiguous()


class Stage(ABC):
    """One layer. `forward` keeps what `backward` needs; that may overwrite the gradient it is given."""

    parameters: list[Tensor]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [B, C', H', W', L]."""

    @abstractmethod
    def backward(self, dy: Tensor, wanted: bool) -> Backward:
        """The gradient of the input (None where it is not wanted), and those of the parameters."""


class Convolution(Stage):
    """A convolution with stride 1, group by group; a linear layer is one whose kernel is the whole map."""

    def __init__(self, module: nn.Conv2d | nn.Linear, vectors: Vectors) -> None:
        self.vectors = vectors
        self.weight, self.bias = module.weight, module.bias
        self.parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        self.padding = _pair(module.padding) if isinstance(module, nn.Conv2d) else (0, 0)
        self.groups = module.groups if isinstance(module, nn.Conv2d) else 1

    def forward(self, x: Tensor) -> Tensor:
        """Valid convolution of the map with zeros at its sides; those above and below are only thought of."""
        _, channels, height, width, _ = self.in_shape = x.shape
        weight = self.weight.detach()
        self.kernel = weight if weight.ndim == 4 else weight.view(len(weight), channels, height, width)
        out, into, *kernel = self.kernel.shape
        top, side = self.padding
        self.x = _pad_columns(x, side, self.vectors)
        size = height + 2 * top - kernel[0] + 1, width + 2 * side - kernel[1] + 1
        y = self.vectors.empty(out, *size)
        self.shape = ConvolutionShape(
            into, height, width + 2 * side, out // self.groups, *size, *kernel, top, channels, out
        )  # fmt: skip
        bias = None if self.bias is None else self.bias.detach()
        self._convolve(self.x, self.kernel.chunk(self.groups), bias, y, self.shape)
        return y

    def backward(self, dy: Tensor, wanted: bool) -> Backward:
        """The input's gradient is a convolution of dy with the kernel turned by half a circle."""
        shape, (_, channels, height, width, _) = self.shape, self.in_shape
        gradient = torch.empty(self.weight.shape)
        room = torch.empty(gradient[0].numel() * shape.out_channels * self.vectors.lanes)
        groups = (self.x.chunk(self.groups, 1), dy.chunk(self.groups, 1), gradient.chunk(self.groups))
        for x, y, own in zip(*groups, strict=True):
            self.vectors.call("convolve_weight_gradient", x, y, own, self.vectors.blocks, shape, room)
        gradients = [gradient]
        if self.bias is not None:
            gradients.append(torch.empty(len(gradient)))
            positions = shape.out_height * shape.out_width
            self.vectors.call("sum_positions", dy, gradients[1], self.vectors.blocks, len(gradient), positions)
        if not wanted:
            return None, gradients
        margin = shape.kernel_width - 1 - self.padding[1]
        turned = ConvolutionShape(
            shape.out_channels, shape.out_height, shape.out_width + 2 * margin, shape.in_channels, height, width,
            shape.kernel_height, shape.kernel_width, shape.kernel_height - 1 - self.padding[0], len(gradient), channels,
        )  # fmt: skip
        dx = self.vectors.empty(channels, height, width)
        kernels = [kernel.flip(2, 3).transpose(0, 1) for kernel in self.kernel.chunk(self.groups)]
        self._convolve(_pad_columns(dy, margin, self.vectors), kernels, None, dx, turned)
        return dx, gradients

    def _convolve(
        self, x: Tensor, kernels: Sequence[Tensor], bias: Tensor | None, y: Tensor, shape: ConvolutionShape
    ) -> None:
        biases = [None] * self.groups if bias is None else bias.chunk(self.groups)
        for part, kernel, own, out in zip(
            x.chunk(self.groups, 1), kernels, biases, y.chunk(self.groups, 1), strict=True
        ):
            packed = torch.empty(kernel.numel())
            strides = (ctypes.c_ssize_t * 4)(*kernel.stride())
            self.vectors.call("convolve", part, kernel, strides, own, out, self.vectors.blocks, shape, packed)


def _pad_columns(x: Tensor, margin: int, vectors: Vectors) -> Tensor:
    """Columns of zeros at both sides; a margin below 0 cuts off."""
    if margin < 0:
        return x[:, :, :, -margin:margin].contiguous()
    if margin == 0:
        return x
    _, channels, height, width, _ = x.shape
    y = vectors.empty(channels, height, width + 2 * margin)
    vectors.call("pad_columns", x, y, vectors.blocks * channels * height, width, margin)
    return y


class Norm(Stage):
    """Batch norm, with the ReLU behind it if `least` is 0."""

    def __init__(self, module: nn.BatchNorm2d, vectors: Vectors) -> None:
        self.module, self.vectors = module, vectors
        self.least = -math.inf
        self.parameters = [module.weight, module.bias]

    def forward(self, x: Tensor) -> Tensor:
        """By the share's own statistics."""
        module, (_, channels, height, width, _) = self.module, x.shape
        self.x, self.y = x, torch.empty_like(x)
        self.moments, self.inverse = torch.empty(2, channels), torch.empty(channels)
        self.vectors.call(
            "batch_norm", x, self.y, module.weight, module.bias, self.moments[0], self.moments[1], self.inverse,
            module.eps, self.least, self.vectors.pictures, channels, height * width,
        )  # fmt: skip
        return self.y

    def move_running(self, moments: Tensor) -> None:
        """Move the running mean and variance to those of a batch, [2, C]."""
        module = self.module
        assert module.running_mean is not None
        assert module.running_var is not None
        assert module.momentum is not None
        assert module.num_batches_tracked is not None
        module.num_batches_tracked.add_(1)
        module.running_mean.lerp_(moments[0], module.momentum)
        module.running_var.lerp_(moments[1], module.momentum)

    def backward(self, dy: Tensor, wanted: bool) -> Backward:  # noqa: ARG002
        """In place."""
        _, channels, height, width, _ = dy.shape
        weight, bias = torch.empty(2, channels)
        y = None if math.isinf(self.least) else self.y
        self.vectors.call(
            "batch_norm_backward", dy, self.x, y, self.moments[0], self.inverse, self.module.weight, dy, weight, bias,
            self.vectors.pictures, channels, height * width,
        )  # fmt: skip
        return dy, [weight, bias]


class Relu(Stage):
    """A ReLU without a batch norm before it."""

    def __init__(self, _module: nn.ReLU, vectors: Vectors) -> None:
        self.vectors = vectors
        self.parameters = []

    def forward(self, x: Tensor) -> Tensor:
        """Into a new map: what comes before may have kept its own."""
        self.y = torch.empty_like(x)
        self.vectors.call("relu", x, self.y, x.numel() // self.vectors.lanes)
        return self.y

    def backward(self, dy: Tensor, wanted: bool) -> Backward:  # noqa: ARG002
        """In place."""
        self.vectors.call("relu_backward", dy, self.y, dy, dy.numel() // self.vectors.lanes)
        return dy, []


class MaxPool(Stage):
    """Windows that touch and do not overlap."""

    def __init__(self, module: nn.MaxPool2d, vectors: Vectors) -> None:
        self.side, self.vectors = _pair(module.kernel_size)[0], vectors
        self.parameters = []

    def forward(self, x: Tensor) -> Tensor:
        """Keeps which of each window was the largest."""
        _, channels, height, width, _ = self.in_shape = x.shape
        y = self.vectors.empty(channels, height // self.side, width // self.side)
        self.which = torch.empty(y.shape, dtype=torch.uint8)
        self.vectors.call("max_pool", x, y, self.which, self.vectors.blocks * channels, height, width, self.side)
        return y

    def backward(self, dy: Tensor, wanted: bool) -> Backward:  # noqa: ARG002
        """To the largest of each window."""
        _, channels, height, width, _ = self.in_shape
        dx = self.vectors.empty(channels, height, width)
        maps = self.vectors.blocks * channels
        self.vectors.call("max_pool_backward", dy, self.which, dx, maps, height, width, self.side)
        return dx, []


class AveragePool(Stage):
    """Windows that touch and do not overlap, or the whole map."""

    def __init__(self, module: nn.AvgPool2d | nn.AdaptiveAvgPool2d, vectors: Vectors) -> None:
        self.window = _pair(module.kernel_size) if isinstance(module, nn.AvgPool2d) else None
        self.vectors = vectors
        self.parameters = []

    def forward(self, x: Tensor) -> Tensor:
        """The mean of each window."""
        _, channels, height, width, _ = self.in_shape = x.shape
        rows, columns = self.window or (height, width)
        y = self.vectors.empty(channels, height // rows, width // columns)
        self.vectors.call("average_pool", x, y, self.vectors.blocks * channels, height, width, rows, columns)
        return y

    def backward(self, dy: Tensor, wanted: bool) -> Backward:  # noqa: ARG002
        """In equal shares to the window."""
        _, channels, height, width, _ = self.in_shape
        dx = self.vectors.empty(channels, height, width)
        maps = self.vectors.blocks * channels
        self.vectors.call("average_pool_backward", dy, dx, maps, height, width, *(self.window or (height, width)))
        return dx, []


class Elementwise(Stage):
    """A layer without weights that treats all numbers alike, such as dropout: PyTorch does it on the blocks."""

    def __init__(self, module: nn.Module, _vectors: Vectors) -> None:
        self.module = module
        self.parameters = []

    def forward(self, x: Tensor) -> Tensor:
        """With its own small graph."""
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            self.y: Tensor = self.module(self.x)
        y: Tensor = self.y.detach()
        return y

    def backward(self, dy: Tensor, wanted: bool) -> Backward:  # noqa: ARG002
        """Through that graph."""
        return torch.autograd.grad(self.y, self.x, dy)[0].contiguous(), []


class Elsewhere(Stage):
    """Any other layer: PyTorch does it on pictures [N, C, H, W], or [N, C] behind a Flatten."""

    def __init__(self, module: nn.Module, vectors: Vectors, flat: bool) -> None:
        self.module, self.vectors, self.flat = module, vectors, flat
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def forward(self, x: Tensor) -> Tensor:
        """With its own small graph."""
        pictures = pictures_of(x, self.vectors.pictures)
        with torch.enable_grad():
            self.x = (pictures.flatten(1) if self.flat else pictures).detach().requires_grad_()
            self.y: Tensor = self.module(self.x)
        y = self.y.detach()
        self.in_shape = pictures.shape
        return blocked(y[:, :, None, None] if y.ndim == 2 else y, self.vectors)

    def backward(self, dy: Tensor, wanted: bool) -> Backward:  # noqa: ARG002
        """Through that graph."""
        gradient = pictures_of(dy, self.vectors.pictures).reshape(self.y.shape)
        dx, *gradients = torch.autograd.grad(self.y, [self.x, *self.parameters], gradient)
        return blocked(dx.reshape(self.in_shape), self.vectors), gradients


def _convolution(module: nn.Conv2d, vectors: Vectors) -> Stage | None:
    usual = module.stride == (1, 1) and module.dilation == (1, 1)
    numbers = isinstance(module.padding, tuple) and module.padding_mode == "zeros"
    return Convolution(module, vectors) if usual and numbers else None


def _norm(module: nn.BatchNorm2d, vectors: Vectors) -> Stage | None:
    usual = module.affine and module.track_running_stats and module.momentum is not None
    return Norm(module, vectors) if usual and module.training else None


def _max_pool(module: nn.MaxPool2d, vectors: Vectors) -> Stage | None:
    rows, columns = _pair(module.kernel_size)
    square = rows == columns <= 15 and _pair(module.stride) == (rows, columns)  # which of 225 fits into a byte
    usual = square and _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1) and not module.ceil_mode
    return MaxPool(module, vectors) if usual else None


def _average_pool(module: nn.AvgPool2d, vectors: Vectors) -> Stage | None:
    touching = _pair(module.stride) == _pair(module.kernel_size) and _pair(module.padding) == (0, 0)
    usual = touching and not module.ceil_mode and module.divisor_override is None
    return AveragePool(module, vectors) if usual else None


def _global_pool(module: nn.AdaptiveAvgPool2d, vectors: Vectors) -> Stage | None:
    return AveragePool(module, vectors) if module.output_size in (1, (1, 1)) else None


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


# What makes the stage of a layer; None where its settings are unusual.
STAGES: dict[type[nn.Module], Callable[[Any, Vectors], Stage | None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: Convolution,
    nn.BatchNorm2d: _norm,
    nn.ReLU: Relu,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    Dropout: Elementwise,
    nn.Dropout: Elementwise,
    nn.SiLU: Elementwise,
    nn.GELU: Elementwise,
    nn.LeakyReLU: Elementwise,
}
