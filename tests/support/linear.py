"""The network that trains fastest: used where no claim depends on the network."""

from torch import nn


def net() -> nn.Module:
    """784 pixels to ten logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
