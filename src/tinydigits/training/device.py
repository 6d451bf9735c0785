"""Where a run computes: the device, the layout of its tensors there, and the memory that steps use again."""

import ctypes
import sys

import torch
from torch import nn

from tinydigits.errors import ConfigError

_CHANNELS_PER_THREAD = 4
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available[name]:
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise ConfigError(
            f"device {name!r} is not available to PyTorch here; there is {there}. Omit --device to choose it."
        )
    return torch.device(name)


def to_memory_format(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on `device`, its kernels laid out in the memory format in which PyTorch trains it faster.

    That is channels last, but on a CPU not for narrow networks: batch norm goes along the channels there, which are too
    few for a vector, and its threads write into one line of the cache. The first convolution decides, whose map is the
    largest: with 3 channels and one thread channels last takes 1.14 times as long, with 5 it takes 0.93 times; with
    two threads 6 and 8 channels are on either side (LOG.md, 2026-11-29).
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    narrow = first is not None and first.out_channels < _CHANNELS_PER_THREAD * torch.get_num_threads()
    plain = narrow and device.type == "cpu"
    return model.to(device, memory_format=torch.contiguous_format if plain else torch.channels_last)  # type: ignore[call-overload,no-any-return]


def keep_freed_memory() -> None:
    """Let glibc's allocator keep freed memory, for the rest of this process.

    Each step frees its activations and asks for the same again. Blocks of megabytes would go back to Linux every time,
    and come back as pages to be zeroed one by one: 15 to 30 % of a training's time. Nothing happens with another
    allocator.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)
