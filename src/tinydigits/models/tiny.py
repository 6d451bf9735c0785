"""Our own family: small networks chosen on validation digits."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from tinydigits.models.layers import Dropout, conv1x1, conv3x3
from tinydigits.models.registry import register
from tinydigits.models.reported import Reported


@register(goal=Reported(parameters=20_000, accuracy=0.9965, epochs=19, recipe="record-20k"))
def tiny_20k() -> nn.Module:
    """A convolution and five separable ones, the map halved after the second. [N, 1, 28, 28] → [N, 10] logits."""
    return _separable_stack(16, 40, (56, 56, 56, 64))


@register(goal=Reported(parameters=10_000, accuracy=0.994, epochs=10, recipes=("record-10k",)))
def tiny_10k() -> nn.Module:
    """As tiny-20k, narrower. [N, 1, 28, 28] → [N, 10] logits."""
    return _separable_stack(12, 28, (40, 40, 44, 48))


@register(goal=Reported(parameters=5_000, accuracy=0.9955, epochs=40, recipe="record-5k"))
def tiny_5k() -> nn.Module:
    """As tiny-20k, narrower. [N, 1, 28, 28] → [N, 10] logits."""
    return _separable_stack(8, 20, (28, 28, 28, 32))


@register(goal=Reported(parameters=2_000, accuracy=0.9935, epochs=40, recipe="record-2k"))
def tiny_2k() -> nn.Module:
    """As tiny-20k, narrower. [N, 1, 28, 28] → [N, 10] logits."""
    return _separable_stack(6, 12, (15, 15, 15, 18))


@register(goal=Reported(parameters=1_000, accuracy=0.9915, epochs=60, recipe="record-1k"))
def tiny_1k() -> nn.Module:
    """As tiny-20k, narrower. [N, 1, 28, 28] → [N, 10] logits."""
    return _separable_stack(5, 8, (9, 9, 9, 11))


@register(goal=Reported(parameters=500, accuracy=0.987, epochs=60, recipe="record-500"))
def tiny_500() -> nn.Module:
    """As tiny-20k, narrower. [N, 1, 28, 28] → [N, 10] logits."""
    return _separable_stack(3, 4, (4, 5, 6, 7))


@register(goal=Reported(parameters=4_999, accuracy=0.994, epochs=15, recipe="record-era"))
def era_record() -> nn.Module:
    """As tiny-20k, narrower, with the dropout that course budgets require. [N, 1, 28, 28] → [N, 10] logits."""
    return _separable_stack(7, 18, (24, 24, 24, 28), dropout=0.02)


@register(goal=Reported(parameters=10_000, accuracy=0.994, epochs=10, recipes=("sprint", "dash")))
def pyramid_9k() -> nn.Module:
    """Five convolutions; the map is halved after the second and the fourth. [N, 1, 28, 28] → [N, 10] logits."""
    return _pyramid((8, 12), (16, 18), 24)


@register(goal=Reported(parameters=7_999, accuracy=0.994, epochs=15, recipe="era"))
def era_8k() -> nn.Module:
    """As pyramid-9k, narrower, with the dropout that course budgets require. [N, 1, 28, 28] → [N, 10] logits."""
    return _pyramid((6, 10), (14, 16), 25, dropout=0.02)


def _pyramid(first: tuple[int, int], second: tuple[int, int], last: int, dropout: float = 0.0) -> nn.Sequential:
    """Five bias-free 3×3 convolutions without padding, global average pool, linear head.

    Max pools come before batch norm and ReLU, which then touch a quarter of the positions.
    """
    a, b, c, d, e = *first, *second, last
    return nn.Sequential(
        conv3x3(1, a), nn.BatchNorm2d(a), nn.ReLU(),                    # [N, a, 26, 26]
        conv3x3(a, b), nn.MaxPool2d(2), nn.BatchNorm2d(b), nn.ReLU(),   # [N, b, 12, 12]
        conv3x3(b, c), nn.BatchNorm2d(c), nn.ReLU(),                    # [N, c, 10, 10]
        conv3x3(c, d), nn.MaxPool2d(2), nn.BatchNorm2d(d), nn.ReLU(),   # [N, d,  4,  4]
        conv3x3(d, e), nn.BatchNorm2d(e), nn.ReLU(),                    # [N, e,  2,  2]
        *_head(e, dropout),                                             # [N, 10]
    )  # fmt: skip


def _separable_stack(stem: int, first: int, rest: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """A 3×3 convolution, then separable ones (3×3 by channel, then 1×1), all without padding and bias; linear head.

    The one max pool comes after the first separable convolution, before its batch norm and ReLU. All later layers see
    the digit at half its size, and each shrinks the map by two pixels.
    """
    return nn.Sequential(
        conv3x3(1, stem), nn.BatchNorm2d(stem), nn.ReLU(),                              # [N, stem, 26, 26]
        *_separable(stem, first), nn.MaxPool2d(2), nn.BatchNorm2d(first), nn.ReLU(),    # [N, first, 12, 12]
        *(
            layer
            for into, out in pairwise((first, *rest))
            for layer in (*_separable(into, out), nn.BatchNorm2d(out), nn.ReLU())
        ),
        *_head(rest[-1], dropout),                                                      # [N, 10]
    )  # fmt: skip


def _separable(into: int, out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(into, into, kernel_size=3, groups=into, bias=False), conv1x1(into, out)


def _head(channels: int, dropout: float) -> tuple[nn.Module, ...]:
    """Global average pool and linear layer: [N, channels, H, W] → [N, 10]."""
    before = (Dropout(dropout),) if dropout else ()
    return *before, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
