"""How a network is computed row by row in little memory: the plan that the C generators fill in.

Each windowed operation keeps a *strip*: as many rows of its padded input as its kernel is high, column by column,
[width][kernel height][channels]. So each window is one unbroken piece of memory, and a new row is a shift of the whole
strip by one row's channels. An operation that is asked for its next row asks the one before it for the rows it lacks.
What the logits do not depend on is never computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinydigits.shipping.graph import INPUT_SHAPE, Affine, AveragePool, Conv, MaxPool, Relu, Shape
from tinydigits.shipping.int8 import Int8AveragePool, Int8Conv

Elementwise = Affine | Relu
WindowedOp = Conv | MaxPool | AveragePool | Int8Conv | Int8AveragePool


@dataclass(frozen=True, eq=False)
class Stage:
    """A windowed operation and the elementwise ones that follow it. Sizes are of what is needed, not of all there is.

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
class Plan:
    """`first`: what happens to the picture before the first windowed operation. `size`: elements of all strips."""

    first: tuple[Elementwise, ...]
    stages: tuple[Stage, ...]
    size: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates a picture."""
        stages = self.stages
        return sum(s.height * s.width * s.op.weight.size for s in stages if isinstance(s.op, Conv | Int8Conv))


def plan(ops: Sequence[WindowedOp | Elementwise], shapes: Sequence[Shape]) -> Plan:
    """The plan of operations with the given output shapes."""
    groups: list[list[int]] = [[]]
    for i, op in enumerate(ops):
        if isinstance(op, Affine | Relu):
            groups[-1].append(i)
        else:
            groups.append([i])
    stages: list[Stage] = []
    height, width, pitch, size = 1, 1, 1, 0
    for number in range(len(groups) - 1, 0, -1):  # backwards, from what is needed
        at = groups[number][0]
        before = shapes[at - 1] if at else INPUT_SHAPE
        op = ops[at]
        assert not isinstance(op, Affine | Relu)
        inner = [
            max(1, min(side, (needed - 1) * stride + kernel - padding))
            for side, needed, stride, kernel, padding in zip(
                before[1:], (height, width), op.stride, op.kernel, op.padding, strict=True
            )
        ]
        stage = Stage(
            number=number,
            op=op,
            then=_elementwise(ops, groups[number][1:]),
            channels=before[0],
            inner_height=inner[0],
            inner_width=inner[1],
            out_channels=shapes[at][0],
            height=height,
            width=width,
            offset=size,
            pitch=pitch,
        )
        stages.insert(0, stage)
        height, width, pitch = stage.inner_height, stage.inner_width, stage.cell
        size += stage.strip
    return Plan(_elementwise(ops, groups[0]), tuple(stages), size)


def _elementwise(ops: Sequence[WindowedOp | Elementwise], places: Sequence[int]) -> tuple[Elementwise, ...]:
    return tuple(op for i in places if isinstance(op := ops[i], Affine | Relu))
