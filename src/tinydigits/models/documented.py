"""The five documented networks, layer by layer as their documents list them.

All return logits [N, 10]. Where a document ends in `log_softmax`, that belongs to the loss (`cross_entropy`) and to
prediction here: log_softmax of these logits is exactly the documented output. What a document reports, even if it
contradicts itself, is in `documents/`, so that `inspect` and `audit` can show it beside what is measured.
"""

from pathlib import Path

import msgspec
from torch import nn

from tinydigits.errors import ConfigError
from tinydigits.models.layers import Dropout, Residual, conv1x1, conv3x3
from tinydigits.models.registry import register
from tinydigits.models.reported import Reported
from tinydigits.settings import check_between

_WIDEST = 1024  # channels that an option allows; more is a typing error, and would not fit in memory


def _document(name: str) -> Reported:
    """What the document of a network reports, from `documents/<name>.toml`."""
    file = Path(__file__).with_name("documents") / f"{name}.toml"
    return msgspec.toml.decode(file.read_bytes(), type=Reported)


@register(reported=_document("pooled-16k"))
def pooled_16k() -> nn.Module:
    """Five convolution blocks that shrink channels by padded 1×1 convolutions. [N, 1, 28, 28] → [N, 10] logits.

    The padded 1×1 convolutions grow the map, and the last pool sees only 7×7 of 11×11 positions, as documented.
    """
    return nn.Sequential(
        conv3x3(1, 8, 1, bias=True), nn.ReLU(), nn.BatchNorm2d(8), Dropout(0.1),                      # [N,  8, 28, 28]
        conv1x1(8, 4, 1, bias=True),                                                                  # [N,  4, 30, 30]
        conv3x3(4, 8, 1, bias=True), nn.ReLU(), nn.BatchNorm2d(8), Dropout(0.1), nn.MaxPool2d(2, 2),  # [N,  8, 15, 15]
        conv3x3(8, 16, 1, bias=True), nn.ReLU(), nn.BatchNorm2d(16), Dropout(0.1),                    # [N, 16, 15, 15]
        conv3x3(16, 32, 1, bias=True), nn.ReLU(), nn.BatchNorm2d(32), Dropout(0.1),                   # [N, 32, 15, 15]
        nn.MaxPool2d(2, 2), conv1x1(32, 16, 1, bias=True),                                            # [N, 16,  9,  9]
        conv3x3(16, 64, 1, bias=True), nn.ReLU(),                                                     # [N, 64,  9,  9]
        conv1x1(64, 10, 1, bias=True),                                                                # [N, 10, 11, 11]
        nn.AvgPool2d(7), nn.Flatten(),                                                                # [N, 10]
    )  # fmt: skip


@register(reported=_document("blocks-19k"))
def blocks_19k(in_channels: int = 1, n_channels: int = 32) -> nn.Module:
    """Seven padded convolution blocks around one max pooling block, with a linear head.

    [N, in_channels, H, W] → [N, 10] logits, for sizes from 2×2. The widest layers have `n_channels`, the others half.

    Raises:
        ConfigError: `n_channels` is not an even number from 2 to 1,024, or `in_channels` not from 1 to 1,024.
    """
    if not 2 <= n_channels <= _WIDEST or n_channels % 2:
        raise ConfigError(
            f"n_channels = {n_channels}: must be even, as half of it is used too, and at most {_WIDEST:,}. "
            "The document has 32."
        )
    if not 1 <= in_channels <= _WIDEST:
        raise ConfigError(f"in_channels = {in_channels}: must be from 1 to {_WIDEST:,}. Use 1 for grey images.")
    half = n_channels // 2
    return nn.Sequential(
        _conv_block(in_channels, half, 0.05),    # [N, 16, 28, 28]
        _conv_block(half, half, 0.05),
        _conv_block(half, half, 0.05),
        _conv_block(half, n_channels, 0.05),     # [N, 32, 28, 28]
        _max_pooling_block(n_channels, half),    # [N, 16, 14, 14]
        _conv_block(half, half, 0.1),
        _conv_block(half, half, 0.1),
        _conv_block(half, n_channels, 0.1),      # [N, 32, 14, 14]
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),   # [N, 32]
        nn.Linear(n_channels, 10),
    )  # fmt: skip


def _conv_block(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """The document's ConvBlock."""
    return nn.Sequential(
        conv3x3(in_channels, out_channels, padding=1, bias=True),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        Dropout(dropout),
    )


def _max_pooling_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """The document's MaxPoolingBlock."""
    return nn.Sequential(nn.MaxPool2d(2, 2), conv1x1(in_channels, out_channels, bias=True))


@register(reported=_document("layered-19k"))
def layered_19k() -> nn.Module:
    """Six 3×3 convolutions with three max pools down to a single position. [N, 1, 28, 28] → [N, 10] logits."""
    return nn.Sequential(
        conv3x3(1, 8, 1, bias=True), nn.ReLU(), nn.BatchNorm2d(8),                         # [N,  8, 28, 28]
        conv3x3(8, 16, 1, bias=True), nn.ReLU(), nn.BatchNorm2d(16), nn.MaxPool2d(2, 2),   # [N, 16, 14, 14]
        conv1x1(16, 8, bias=True), Dropout(0.05),                                          # [N,  8, 14, 14]
        conv3x3(8, 16, bias=True), nn.ReLU(), nn.BatchNorm2d(16),                          # [N, 16, 12, 12]
        conv3x3(16, 32, bias=True), nn.ReLU(), nn.BatchNorm2d(32),                         # [N, 32, 10, 10]
        conv3x3(32, 32, bias=True), nn.ReLU(), nn.BatchNorm2d(32),                         # [N, 32,  8,  8]
        nn.MaxPool2d(2, 2), Dropout(0.05),                                                 # [N, 32,  4,  4]
        conv3x3(32, 10, bias=True), nn.ReLU(), nn.BatchNorm2d(10),                         # [N, 10,  2,  2]
        nn.MaxPool2d(2, 2), Dropout(0.05),                                                 # [N, 10,  1,  1]
        conv1x1(10, 10, bias=True), nn.Flatten(),                                          # [N, 10]
    )  # fmt: skip


@register(reported=_document("bottleneck-9k"))
def bottleneck_9k(hidden: int = 0, residual: bool = False) -> nn.Module:
    """Bias-free CNN: a 1×1 bottleneck, average pool, two 1×1 convolutions as head. [N, 1, 28, 28] → [N, 10] logits.

    The options are what the document proposes. `hidden`: one more fully connected layer, of that width, before the
    last. `residual`: connections around the four convolutions behind the bottleneck.

    Raises:
        ConfigError: `hidden` is negative, or above 1,024.
    """
    if not 0 <= hidden <= _WIDEST:
        raise ConfigError(f"hidden = {hidden}: must be a layer's width, at most {_WIDEST:,}, or 0 for none. Try 32.")

    def skip(*layers: nn.Module) -> tuple[nn.Module, ...]:
        return (Residual(*layers),) if residual else layers

    return nn.Sequential(
        conv3x3(1, 14), nn.ReLU(), nn.BatchNorm2d(14), Dropout(0.1),           # [N, 14, 26, 26]
        conv3x3(14, 30), nn.ReLU(), nn.BatchNorm2d(30), Dropout(0.1),          # [N, 30, 24, 24]
        conv1x1(30, 10), nn.MaxPool2d(2),                                      # [N, 10, 12, 12]
        *skip(conv3x3(10, 14), nn.ReLU(), nn.BatchNorm2d(14), Dropout(0.1)),   # [N, 14, 10, 10]
        *skip(conv3x3(14, 15), nn.ReLU(), nn.BatchNorm2d(15), Dropout(0.1)),   # [N, 15,  8,  8]
        *skip(conv3x3(15, 15), nn.ReLU(), nn.BatchNorm2d(15), Dropout(0.1)),   # [N, 15,  6,  6]
        nn.AvgPool2d(6),                                                       # [N, 15,  1,  1]
        *skip(conv1x1(15, 15), nn.BatchNorm2d(15), nn.ReLU(), Dropout(0.1)),   # [N, 15,  1,  1]
        *((conv1x1(15, hidden, bias=True), nn.ReLU()) if hidden else ()),      # [N, hidden, 1, 1]
        conv1x1(hidden or 15, 10), nn.Flatten(),                               # [N, 10]
    )  # fmt: skip


@register(reported=_document("plain-9k"))
def plain_9k(batch_norm: bool = False, dropout: float = 0.0, padding: int = 0) -> nn.Module:
    """Bias-free plain CNN: six convolutions, global average pool. [N, 1, H, W] → [N, 10] logits, from 24×24 on.

    The options are what the document proposes: `batch_norm` between convolution and ReLU, `dropout` of that rate after
    it, `padding` of the 3×3 convolutions.

    Raises:
        ConfigError: `dropout` is no rate, or `padding` not 0 or 1.
    """
    check_between("dropout", dropout, 0, 1, top_open=True)
    check_between("padding", padding, 0, 1)

    def block(in_channels: int, out_channels: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
        drop = [Dropout(dropout)] if dropout else []
        return [conv3x3(in_channels, out_channels, padding), *norm, nn.ReLU(), *drop]

    return nn.Sequential(
        *block(1, 8),                            # [N,  8, 26, 26]
        *block(8, 8), nn.MaxPool2d(2),           # [N,  8, 12, 12]
        *block(8, 16),                           # [N, 16, 10, 10]
        *block(16, 16), nn.MaxPool2d(2),         # [N, 16,  4,  4]
        *block(16, 32),                          # [N, 32,  2,  2]
        conv1x1(32, 10),                         # [N, 10,  2,  2]
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),   # [N, 10]
    )  # fmt: skip
