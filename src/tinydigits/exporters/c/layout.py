"""How a network is computed row by row in little memory: the layout that the C generators fill in.

Each windowed operation keeps a *strip*: as many rows of its padded input as its kernel is high, column by column,
[width][kernel height][channels]. So each window is contiguous in memory, and a new row shifts the whole strip by the
channels of one row. To compute a row, an operation requests the rows that its strip lacks from the operation before it.
Rows and columns that the logits do not depend on are never computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinydigits.inference.graph import INPUT_SHAPE, Affine, AveragePool, Conv, MaxPool, Relu, Shape
from tinydigits.inference.int8 import Int8AveragePool, Int8Conv

Elementwise = Affine | Relu
WindowedOp = Conv | MaxPool | AveragePool | Int8Conv | Int8AveragePool


@dataclass(frozen=True, eq=False)
class LayoutStage:
    """A windowed operation and the elementwise ones that follow it. Sizes count only what the logits depend on.

    `channels`, `inner_height`, `inner_width`: the input without padding. `height`, `width`, `out_channels`: the output.
    `offset`: where its strip begins in the arena, in elements. `pitch`: from one column of the *output* to the next.
    """

    number: int
    op: WindowedOp
    then: tuple[Elementwise, ...]
    channels: int
    inner_height: int
    inner_width: int
    out_channels: int
    height: int
    width: int
    offset: int
    pitch: int

    @property
    def cell(self) -> int:
        """Elements from one column of the strip to the next."""
        return self.op.kernel[0] * self.channels

    @property
    def padded_width(self) -> int:
        """Columns of the strip."""
        needed = (self.width - 1) * self.op.stride[1] + self.op.kernel[1]
        return max(needed, self.op.padding[1] + self.inner_width)

    @property
    def strip(self) -> int:
        """Elements of the strip."""
        return self.padded_width * self.cell

    @property
    def window(self) -> int:
        """Elements of a window."""
        return self.op.kernel[1] * self.cell

    @property
    def step(self) -> int:
        """Elements from one window to the next."""
        return self.op.stride[1] * self.cell


@dataclass(frozen=True, eq=False)
class Layout:
    """`first`: operations on the picture before the first windowed one. `size`: elements of all strips."""

    first: tuple[Elementwise, ...]
    stages: tuple[LayoutStage, ...]
    size: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates per picture."""
        stages = self.stages
        return sum(s.height * s.width * s.op.weight.size for s in stages if isinstance(s.op, Conv | Int8Conv))


def lay_out(ops: Sequence[WindowedOp | Elementwise], shapes: Sequence[Shape]) -> Layout:
    """The layout of operations with the given output shapes."""
    stages: list[LayoutStage] = []
    then: tuple[Elementwise, ...] = ()
    number = sum(not isinstance(op, Affine | Relu) for op in ops)
    height, width, pitch, size = 1, 1, 1, 0
    for op, before, after in reversed(list(zip(ops, [INPUT_SHAPE, *shapes], shapes, strict=False))):  # from the logits
        if isinstance(op, Affine | Relu):
            then = (op, *then)
            continue
        rows, columns = map(_needed, before[1:], (height, width), op.stride, op.kernel, op.padding)
        stage = LayoutStage(number, op, then, before[0], rows, columns, after[0], height, width, size, pitch)
        stages.append(stage)
        height, width, pitch, then = rows, columns, stage.cell, ()
        size += stage.strip
        number -= 1
    return Layout(then, tuple(reversed(stages)), size)


def _needed(side: int, needed: int, stride: int, kernel: int, padding: int) -> int:
    """How many rows, or columns, of an unpadded input `needed` ones of the output depend on."""
    return max(1, min(side, (needed - 1) * stride + kernel - padding))
