"""A network as data: a sequence of blocks, each a convolution, a pool, batch norm and ReLU, then a head.

A design's cost can be calculated without building it (`inspection.design_cost`). A `.toml` file with a design is
accepted wherever a model is named:

    dropout = 0.02                # before the head
    head = "global"               # average of each map, or "flatten"; then a linear layer

    [[blocks]]
    channels = 8

    [[blocks]]
    channels = 12
    pool = "max"
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from torch import nn

from tinydigits.errors import ConfigError
from tinydigits.models.layers import Dropout
from tinydigits.settings import build, check_between, check_one_of, read_settings

Pool = Literal["none", "max", "average"]

_POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
POOLS = ("none", *_POOLS)
HEADS = ("global", "flatten")
CLASSES = 10
SIDE = 28
_WIDEST = 1024  # channels; more is a typing error
_MOST_TIMES = 8
_POOL = 2  # side and stride of a pool


@dataclass(frozen=True)
class Block:
    """A convolution with stride 1 and without bias, then perhaps a pool (2×2), then batch norm and ReLU.

    `padding`: zeros around the map, so that it keeps its size. `separable`: the convolution acts on each channel alone
    and a 1×1 convolution mixes them (Sifre 2014). `times`: how often the same weights are applied, each time with a
    batch norm of its own, the pool after the last; the block's input then has as many channels as its output.

    Raises:
        ConfigError: a value is out of range.
    """

    channels: int
    kernel: int = 3
    padding: bool = False
    separable: bool = False
    times: int = 1
    pool: Pool = "none"

    def __post_init__(self) -> None:
        check_between("channels", self.channels, 1, _WIDEST)
        check_between("kernel", self.kernel, 1, SIDE)
        check_between("times", self.times, 1, _MOST_TIMES)
        check_one_of("pool", self.pool, POOLS)
        if self.padding and self.kernel % 2 == 0:
            raise ConfigError(f"kernel = {self.kernel}: padding keeps a map's size only if the kernel is odd. Use 3.")


class Use(NamedTuple):
    """One use of a block's weights, the first or a later one, and the sides of its (square) maps."""

    block: Block
    first: bool
    in_channels: int
    side: int
    convolved_side: int
    out_side: int


@dataclass(frozen=True)
class Design:
    """Blocks, dropout before the head, and the head.

    Raises:
        ConfigError: there is no block, a value is out of range, or a map would become too small.
    """

    blocks: tuple[Block, ...]
    head: Literal["global", "flatten"] = "global"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError("a design needs at least one block. Add [[blocks]] with channels = 8.")
        check_one_of("head", self.head, HEADS)
        check_between("dropout", self.dropout, 0, 1, top_open=True)
        _ = self.uses  # checks that every map is large enough

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """Every use of a block's weights, in order."""
        uses = []
        channels, side = 1, SIDE
        for index, block in enumerate(self.blocks):
            here = f"blocks[{index}]: "
            if block.times > 1 and block.channels != channels:
                raise ConfigError(
                    f"{here}channels = {block.channels} after {channels}, used {block.times} times: weights that are "
                    f"reused need as many input as output channels. Use {channels}, or times = 1."
                )
            for use in range(block.times):
                convolved = side if block.padding else side - block.kernel + 1
                pooled = convolved // _POOL if block.pool != "none" and use == block.times - 1 else convolved
                if pooled < 1:
                    raise ConfigError(
                        f"{here}a map of {side}×{side} is too small for it. Remove a pool or a block before it, or "
                        "set padding = true."
                    )
                uses.append(Use(block, use == 0, channels, side, convolved, pooled))
                channels, side = block.channels, pooled
        return tuple(uses)


def build_design(design: Design) -> nn.Sequential:
    """The network: [N, 1, 28, 28] → [N, 10] logits, in training mode. Weights depend on torch's global seed."""
    layers: list[nn.Module] = []
    convolution: list[nn.Module] = []
    channels, side = 1, SIDE
    for use in design.uses:
        if use.first:
            convolution = _convolution(use.block, use.in_channels)
        pooled = [_POOLS[use.block.pool](_POOL)] if use.out_side != use.convolved_side else []
        channels, side = use.block.channels, use.out_side
        layers += [*convolution, *pooled, nn.BatchNorm2d(channels), nn.ReLU()]
    if design.dropout:
        layers.append(Dropout(design.dropout))
    if design.head == "global":
        layers.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, CLASSES))


def _convolution(block: Block, into: int) -> list[nn.Module]:
    padding = block.kernel // 2 if block.padding else 0
    if not block.separable:
        return [nn.Conv2d(into, block.channels, block.kernel, padding=padding, bias=False)]
    return [
        nn.Conv2d(into, into, block.kernel, padding=padding, groups=into, bias=False),
        nn.Conv2d(into, block.channels, 1, bias=False),
    ]


def load_design(path: Path) -> Design:
    """The design in a `.toml` file.

    Raises:
        ConfigError: the file cannot be read, or is no valid design.
    """
    values = read_settings(path)
    try:
        return build(Design, values, str(path))
    except ConfigError as error:
        if str(error).startswith(str(path)):
            raise
        raise ConfigError(f"{path}: {error}") from error


def design_toml(design: Design) -> str:
    """The text of such a file; defaults are left out."""
    usual = asdict(Block(channels=1))
    lines = [f"dropout = {design.dropout}"] if design.dropout else []
    lines.append(f'head = "{design.head}"')
    for block in design.blocks:
        lines += ["", "[[blocks]]"]
        # JSON writes whole numbers, booleans and these strings as TOML does
        lines += [f"{k} = {json.dumps(v)}" for k, v in asdict(block).items() if k == "channels" or v != usual[k]]
    return "\n".join(lines) + "\n"
