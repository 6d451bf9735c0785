"""Blocks that several networks of the zoo use."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014): in training, zeroes each activation with probability `p`, scales the rest.

    On a CPU PyTorch draws one random number per activation, which takes a quarter to a third of a small network's
    training time. Here each 64-bit number decides four activations, 16 bits each: one is zeroed if its bits are below
    t = round(65536 p). So the rate is t / 65536, which is p to within 1/131072, and the rest is scaled by exactly
    1 / (1 - t / 65536). The numbers come from torch's default generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        assert 0 <= p < 1
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the same shape out."""
        if not self.training or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        threshold = round(self.p * 65536)
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = numbers.view(torch.int16)[: x.numel()].as_strided(x.shape, torch.empty_like(x).stride())
        return x * (bits >= threshold - 32768).to(x.dtype).mul_(1 / (1 - threshold / 65536))

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"p={self.p}"


class Residual(nn.Module):
    """Layers with a skip connection that has no weights of its own (He et al. 2015, shortcut A).

    [N, in, H, W] → [N, out, H', W'] with out ≥ in. The skip connection adds zero channels, and crops the border that
    unpadded convolutions lose.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] → [N, out, H', W']."""
        y: Tensor = self.layers(x)
        channels, height, width = (there - here for there, here in zip(y.shape[1:], x.shape[1:], strict=True))
        # negative numbers crop
        edges = (width // 2, width - width // 2, height // 2, height - height // 2, 0, channels)
        return y + F.pad(x, edges)


def conv3x3(in_channels: int, out_channels: int, padding: int = 0, bias: bool = False) -> nn.Conv2d:
    """3×3 convolution, stride 1: [N, in, H, W] → [N, out, H − 2 + 2·padding, W − 2 + 2·padding]."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=padding, bias=bias)


def conv1x1(in_channels: int, out_channels: int, padding: int = 0, bias: bool = False) -> nn.Conv2d:
    """1×1 convolution: [N, in, H, W] → [N, out, H + 2·padding, W + 2·padding]."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, padding=padding, bias=bias)
