"""Our own family: small networks chosen on held-out digits."""

from torch import nn

from tinydigits.models.layers import Dropout, conv3x3
from tinydigits.models.registry import Claim, register


@register(goal=Claim(parameters=10_000, accuracy=0.994, epochs=10))
def tiny_10k() -> nn.Module:
    """Two convolutions, two convolutions, one, and between them the map is halved. [N, 1, 28, 28] → [N, 10] logits."""
    return _pyramid((8, 12), (16, 18), 24)


@register(goal=Claim(parameters=7_999, accuracy=0.994, epochs=15, recipe="era"))
def era_8k() -> nn.Module:
    """As tiny-10k, narrower, with the dropout that course budgets ask for. [N, 1, 28, 28] → [N, 10] logits."""
    return _pyramid((6, 10), (14, 16), 25, dropout=0.02)


def _pyramid(first: tuple[int, int], second: tuple[int, int], last: int, dropout: float = 0.0) -> nn.Sequential:
    """Five bias-free 3×3 convolutions without padding, global average pool, linear head.

    Where a max pool stands, it stands before batch norm and ReLU: these then touch a quarter of the positions.
    """
    a, b, c, d, e = *first, *second, last
    return nn.Sequential(
        conv3x3(1, a), nn.BatchNorm2d(a), nn.ReLU(),                    # [N, a, 26, 26]
        conv3x3(a, b), nn.MaxPool2d(2), nn.BatchNorm2d(b), nn.ReLU(),   # [N, b, 12, 12]
        conv3x3(b, c), nn.BatchNorm2d(c), nn.ReLU(),                    # [N, c, 10, 10]
        conv3x3(c, d), nn.MaxPool2d(2), nn.BatchNorm2d(d), nn.ReLU(),   # [N, d,  4,  4]
        conv3x3(d, e), nn.BatchNorm2d(e), nn.ReLU(),                    # [N, e,  2,  2]
        *([Dropout(dropout)] if dropout else []),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),                          # [N, e]
        nn.Linear(e, 10),                                               # [N, 10]
    )  # fmt: skip
