"""Our own family: small networks chosen on held-out digits."""

from torch import nn

from tinydigits.models.layers import Dropout, conv3x3
from tinydigits.models.registry import Claim, register


@register(goal=Claim(parameters=10_000, accuracy=0.994, epochs=10))
def tiny_10k() -> nn.Module:
    """Five bias-free 3×3 convolutions, global average pool, linear head. [N, 1, 28, 28] → [N, 10] logits.

    Where a max pool stands, it stands before batch norm and ReLU: these then touch a quarter of the positions.
    """
    return nn.Sequential(
        conv3x3(1, 8), nn.BatchNorm2d(8), nn.ReLU(),                       # [N,  8, 26, 26]
        conv3x3(8, 12), nn.MaxPool2d(2), nn.BatchNorm2d(12), nn.ReLU(),    # [N, 12, 12, 12]
        conv3x3(12, 16), nn.BatchNorm2d(16), nn.ReLU(),                    # [N, 16, 10, 10]
        conv3x3(16, 18), nn.MaxPool2d(2), nn.BatchNorm2d(18), nn.ReLU(),   # [N, 18,  4,  4]
        conv3x3(18, 24), nn.BatchNorm2d(24), nn.ReLU(),                    # [N, 24,  2,  2]
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),                             # [N, 24]
        nn.Linear(24, 10),                                                 # [N, 10]
    )  # fmt: skip


@register(goal=Claim(parameters=7_999, accuracy=0.994, epochs=15, recipe="era"))
def era_8k() -> nn.Module:
    """As tiny-10k, narrower, with the dropout that course budgets ask for. [N, 1, 28, 28] → [N, 10] logits."""
    return nn.Sequential(
        conv3x3(1, 6), nn.BatchNorm2d(6), nn.ReLU(),                       # [N,  6, 26, 26]
        conv3x3(6, 10), nn.MaxPool2d(2), nn.BatchNorm2d(10), nn.ReLU(),    # [N, 10, 12, 12]
        conv3x3(10, 14), nn.BatchNorm2d(14), nn.ReLU(),                    # [N, 14, 10, 10]
        conv3x3(14, 16), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU(),   # [N, 16,  4,  4]
        conv3x3(16, 25), nn.BatchNorm2d(25), nn.ReLU(),                    # [N, 25,  2,  2]
        Dropout(0.02),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),                             # [N, 25]
        nn.Linear(25, 10),                                                 # [N, 10]
    )  # fmt: skip
