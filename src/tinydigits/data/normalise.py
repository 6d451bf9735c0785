"""Bytes → the float tensors that networks take."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinydigits.data.dataset import Dataset


@functools.lru_cache(maxsize=4)  # a study asks for the same digits run after run
def pixel_statistics(dataset: Dataset) -> tuple[float, float]:
    """Mean and standard deviation of all pixels scaled to [0, 1], rounded to four digits (MNIST: 0.1307, 0.3081)."""
    total = squares = 0
    for part in np.array_split(dataset.images.ravel(), 64):  # in whole numbers, a little memory at a time
        total += int(part.sum(dtype=np.uint64))
        squares += int(np.square(part, dtype=np.uint16).sum(dtype=np.uint64))
    count = dataset.images.size
    mean = total / count / 255
    variance = squares / count / 255**2 - mean**2
    return round(mean, 4), round(variance**0.5, 4)


def normalise_tensor(images: Tensor, mean: float, deviation: float) -> Tensor:
    """Images uint8 [N, 28, 28] → float32 [N, 1, 28, 28]: scaled to [0, 1], less mean, over deviation."""
    return images.unsqueeze(1).float().div_(255).sub_(mean).div_(deviation)


def normalise(images: NDArray[np.uint8], mean: float, deviation: float, device: torch.device | str = "cpu") -> Tensor:
    """Images uint8 [N, 28, 28] as an array → float32 [N, 1, 28, 28] on `device`."""
    return normalise_tensor(torch.from_numpy(np.ascontiguousarray(images)).to(device), mean, deviation)
