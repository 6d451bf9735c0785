"""The five documented networks, layer by layer as their documents list them.

All return logits [N, 10]. Where a document ends in `log_softmax`, that belongs to the loss (`cross_entropy`) and to
prediction here: log_softmax of these logits is exactly the documented output. Where a document contradicts itself,
`figures` and `statements` hold what it states, so that `inspect` and `audit` can show it beside the recount, and
`notes` say how it was read.
"""

from torch import nn

from tinydigits.errors import ConfigError
from tinydigits.models.layers import Dropout, Residual, conv1x1, conv3x3
from tinydigits.models.registry import Claim, Figure, Statement, register
from tinydigits.settings import between

_ONE_RUN = (
    "The accuracy is that of the best epoch of one run, looked up on the test digits; no digits were held out for that "
    "choice."
)


def _outputs(*shapes: tuple[int, ...] | None) -> tuple[Figure, ...]:
    """The output column of a document's table, from layer 1 on; None where it states nothing."""
    return tuple(Figure("output", shape, layer) for layer, shape in enumerate(shapes, start=1) if shape)


_WIDEST = 1024  # channels that an option may ask for; more is a slip of the keyboard, and would not fit in memory


@register(
    documented=Claim(
        source="000_ad90230f0b206ec8.txt",
        statements=(
            Statement("batch_norm", words="Batch normalization with 8 features"),
            Statement("dropout", words="Dropout layer with a dropout rate of 0.1"),
            Statement("global_pooling", words="Global Average Pooling (gap)"),
        ),
        notes=(
            "The document states no parameter count, accuracy or epochs; the count here follows from its layer list.",
            'It moves tensors to "mps:0"; here the device is chosen when training starts.',
        ),
    )
)
def pooled_16k() -> nn.Module:
    """Five convolution blocks that shrink channels by padded 1×1 convolutions. [N, 1, 28, 28] → [N, 10] logits.

    The padded 1×1 convolutions grow the map, and the last pool sees only 7×7 of 11×11 positions: so it is documented.
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


# The convolutions in its ConvBlocks: all but the one in the MaxPoolingBlock.
_CONV_BLOCKS = (1, 5, 9, 13, 19, 23, 27)


@register(
    documented=Claim(
        parameters=19_999,
        accuracy=0.994,
        epochs=19,
        source="001_2c562f600b88cfff.txt",
        wording="less than 20k parameters, less than 20 epochs, at least 99.4 %",
        statements=(
            Statement("batch_norm_after", layers=_CONV_BLOCKS, words="followed by batch normalization and dropout"),
            Statement("dropout_after", layers=_CONV_BLOCKS, words="followed by batch normalization and dropout"),
            Statement("size_kept", layers=(1, 5, 9, 13), words="preserving spatial dimensions, thanks to padding"),
            Statement("global_pooling", words="a global average pooling (GAP) layer"),
            Statement("fully_connected", False, words="eliminating the need for fully connected layers"),
        ),
        notes=(
            "The document gives no dropout rates; here they are 0.05 before the pool and 0.1 after it.",
            "It says that global pooling eliminates the need for fully connected layers, and feeds it into nn.Linear.",
            _ONE_RUN,
        ),
    )
)
def blocks_19k(in_channels: int = 1, n_channels: int = 32) -> nn.Module:
    """Seven padded convolution blocks around one max pooling block, with a linear head.

    [N, in_channels, H, W] → [N, 10] logits, for sizes from 2×2. The widest layers have `n_channels`, the others half.

    Raises:
        ConfigError: `n_channels` is not an even number from 2 to 1,024, or `in_channels` not from 1 to 1,024.
    """
    if not 2 <= n_channels <= _WIDEST or n_channels % 2:
        raise ConfigError(
            f"n_channels {n_channels}: half of it is used too, so it must be an even number, at most {_WIDEST:,}. "
            "Take 32, as documented."
        )
    if not 1 <= in_channels <= _WIDEST:
        raise ConfigError(f"in_channels {in_channels}: it is from 1 to {_WIDEST:,}. Take 1 for grey images.")
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


@register(
    documented=Claim(
        parameters=19_668,
        accuracy=0.9945,
        epochs=20,
        source="002_dedaed2bf9ba1bf2.txt",
        wording="99.45 % within 20 epochs, 19,668 parameters",
        figures=(Figure("parameters", 19_668),),
        statements=(
            Statement("batch_norm", words="convolutions, max pooling, batch normalization, dropout"),
            Statement("dropout", words="convolutions, max pooling, batch normalization, dropout"),
            Statement(
                "size_kept", layers=(1,), words="the spatial dimensions of the input and output tensors are the same"
            ),
        ),
        notes=(_ONE_RUN,),
    )
)
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


# The parameter column of the document's table: layer (counted from 1) → figure. Its formulas add a bias that the total
# does not allow, four sums are wrong, and batch norm is counted as C instead of 2C.
_BOTTLENECK_ROWS = {
    1: 140, 3: 14, 5: 3780, 7: 30, 9: 310, 11: 1414, 13: 14, 15: 1890, 17: 15, 19: 2025, 21: 15,
    24: 240, 25: 15, 28: 160,
}  # fmt: skip
_BOTTLENECK_OUTPUTS = (
    *[(14, 26, 26)] * 3, None, *[(30, 24, 24)] * 3, None, (10, 24, 24), (10, 12, 12), *[(14, 10, 10)] * 3, None,
    *[(15, 8, 8)] * 3, None, *[(15, 6, 6)] * 3, None, *[(15, 1, 1)] * 4, None, (10, 1, 1),
)  # fmt: skip
_BOTTLENECK_CONVOLUTIONS = (1, 5, 9, 11, 15, 19, 24, 28)


@register(
    documented=Claim(
        parameters=9_962,
        accuracy=0.994,
        epochs=14,
        strict=True,
        source="003_ad5756a4684e3034.txt",
        wording="over 99.4 % in less than 15 epochs, 9,962 parameters",
        figures=(
            Figure("parameters", 9_962),
            *(Figure("parameters", stated, layer) for layer, stated in _BOTTLENECK_ROWS.items()),
            *_outputs(*_BOTTLENECK_OUTPUTS),
        ),
        statements=(
            Statement(
                "batch_norm_after",
                layers=_BOTTLENECK_CONVOLUTIONS,
                words="Batch normalization is applied after each convolutional layer",
            ),
            Statement(
                "dropout_after",
                layers=_BOTTLENECK_CONVOLUTIONS,
                words="dropout is applied after each convolutional block",
            ),
            Statement("fully_connected", False, words="The model does not include any fully connected layers"),
        ),
        notes=(
            "The stated total holds only without convolution biases, so there are none here: 9,756 in convolutions and "
            "206 in batch norm. With biases it is 10,085. The rows add up to neither: 10,062.",
            "The rows' formulas add a bias, and four of the eight are worked out wrong: 3,780 for 3,810, 1,414 for "
            "1,274, 1,890 for 1,905, 2,025 for 2,040.",
            "The rows count batch norm as C; it learns 2C, a scale and a shift for each channel.",
            "The document says both “less than 15 epochs” and “15 in this case”; 14 epochs satisfy both.",
            _ONE_RUN,
        ),
    )
)
def bottleneck_9k(hidden: int = 0, residual: bool = False) -> nn.Module:
    """Bias-free CNN: a 1×1 bottleneck, average pool, two 1×1 convolutions as head. [N, 1, 28, 28] → [N, 10] logits.

    The options are what the document proposes. `hidden`: one more fully connected layer, of that width, before the
    last. `residual`: connections around the four convolutions behind the bottleneck.

    Raises:
        ConfigError: `hidden` is negative, or above 1,024.
    """
    if not 0 <= hidden <= _WIDEST:
        raise ConfigError(f"hidden {hidden}: it is the width of a layer, at most {_WIDEST:,}, or 0 for none. Take 32.")
    skip = _residual if residual else _as_it_is
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


def _as_it_is(*layers: nn.Module) -> tuple[nn.Module, ...]:
    return layers


def _residual(*layers: nn.Module) -> tuple[nn.Module, ...]:
    return (Residual(*layers),)


# The parameter column of the document's layer summary, in the same form.
_PLAIN_ROWS = {1: 72, 3: 576, 6: 1152, 8: 2304, 11: 4608, 13: 320}
_PLAIN_OUTPUTS = (
    *[(8, 26, 26)] * 2, *[(8, 24, 24)] * 2, (8, 12, 12), *[(16, 10, 10)] * 2, *[(16, 8, 8)] * 2, (16, 4, 4),
    *[(32, 2, 2)] * 2, (10, 2, 2), (10, 1, 1), (10,),
)  # fmt: skip

# What its prose says of the same maps: layer → side, words.
_PLAIN_PROSE = {
    3: (26, "Reduces feature map from 26x26 → 13x13"),
    5: (13, "Reduces feature map from 26x26 → 13x13"),
    8: (11, "11x11 → 5x5 after pooling"),
    10: (5, "11x11 → 5x5 after pooling"),
    11: (3, "Input 5x5 → Output 3x3"),
    13: (3, "still 3x3 spatially"),
}


@register(
    documented=Claim(
        parameters=9_032,
        accuracy=0.9747,
        epochs=1,
        source="004_1aaa43c206af484d.txt",
        wording="97.47 % in the first epoch, 9,032 parameters",
        figures=(
            Figure("parameters", 9_032),
            *(Figure("parameters", stated, layer) for layer, stated in _PLAIN_ROWS.items()),
            *_outputs(*_PLAIN_OUTPUTS),
            *(Figure("output", (side, side), layer, words) for layer, (side, words) in _PLAIN_PROSE.items()),
            Figure("input_mb", 0.00),
            Figure("forward_backward_mb", 0.21),
            Figure("parameters_mb", 0.03),
            Figure("total_mb", 0.24),
        ),
        statements=(
            Statement("batch_norm", False, words="BatchNorm is not used here"),
            Statement("global_pooling", words="Global Average Pooling"),
            Statement("fully_connected", False, words="No dense layers"),
            Statement("size_kept", layers=(13,), words="without affecting spatial dimensions"),
        ),
        notes=(
            "The document's prose (13 and 5 after pooling) and its table (12 and 4) give different map sizes; the "
            "table's hold.",
            "The accuracy is that of one epoch of one run, looked up on the test digits; no digits were held out.",
        ),
    )
)
def plain_9k(batch_norm: bool = False, dropout: float = 0.0, padding: int = 0) -> nn.Module:
    """Bias-free plain CNN: six convolutions, global average pool. [N, 1, H, W] → [N, 10] logits, from 24×24 on.

    The options are what the document proposes: `batch_norm` between convolution and ReLU, `dropout` of that rate after
    it, `padding` of the 3×3 convolutions.

    Raises:
        ConfigError: `dropout` is no rate, or `padding` not 0 or 1.
    """
    between("dropout", dropout, 0, 1, top_open=True)
    between("padding", padding, 0, 1)

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
