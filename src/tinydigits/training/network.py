"""What the loop trains through: PyTorch's own layers, or the native kernels."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tinydigits.data.augment import resample
from tinydigits.data.normalise import normalise_tensor
from tinydigits.training.native.network import NativeNetwork

_CHANNELS_A_THREAD = 4


class Network(Protocol):
    """From raw digits to logits, with gradients for the weights of a model in training mode."""

    def inputs(self, images: Tensor, maps: Tensor | None) -> Any:
        """Digits uint8 [N, 28, 28] as the network takes them; each resampled by its map [2, 3], if there are maps."""

    def __call__(self, inputs: Any) -> Tensor:
        """Logits [N, 10]."""


class TorchNetwork:
    """PyTorch's layers, as the model calls them."""

    def __init__(self, model: nn.Module, mean: float, deviation: float) -> None:
        self.model, self.mean, self.deviation = model, mean, deviation

    def inputs(self, images: Tensor, maps: Tensor | None) -> Tensor:
        """Normalised float32 [N, 1, 28, 28]."""
        x = normalise_tensor(images, self.mean, self.deviation)
        if maps is not None:
            x = resample(x, maps)
        return x

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [N, 10]."""
        logits: Tensor = self.model(inputs)
        return logits


def arranged(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on `device`, its kernels laid out in the memory format in which PyTorch trains it faster.

    That is channels last, but on a CPU not for narrow networks: batch norm goes along the channels there, which are too
    few for a vector, and its threads write into one line of the cache. The first convolution decides, whose map is the
    largest: with 3 channels and one thread channels last takes 1.14 times as long, with 5 it takes 0.93 times; with
    two threads 6 and 8 channels are on either side (LOG.md, 2026-11-29).
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    narrow = first is not None and first.out_channels < _CHANNELS_A_THREAD * torch.get_num_threads()
    plain = narrow and device.type == "cpu"
    return model.to(device, memory_format=torch.contiguous_format if plain else torch.channels_last)  # type: ignore[call-overload,no-any-return]


def make_network(model: nn.Module, kernels: str, mean: float, deviation: float) -> Network:
    """The model as the loop calls it; `kernels` is `torch` or `native`, which take as many threads as PyTorch has.

    Raises:
        ConfigError: the native kernels cannot train this model.
        ToolMissingError: they are asked for, and there is no C compiler.
    """
    if kernels == "native":
        return NativeNetwork(model, mean, deviation, torch.get_num_threads())
    return TorchNetwork(model, mean, deviation)
