"""Bytes → the float tensors that networks take as input."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinydigits.data.dataset import Dataset


@dataclass(frozen=True)
class Normalization:
    """Pixels x in [0, 255] → the inputs of networks, (x / 255 − `mean`) / `std`."""

    mean: float
    std: float

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 [N, 28, 28] → float32 [N, 1, 28, 28], on the same device."""
        return images.unsqueeze(1).float().div_(255).sub_(self.mean).div_(self.std)

    def array(self, images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
        """Images uint8 [N, 28, 28] as an array → float32 [N, 1, 28, 28] on `device`."""
        return self(torch.from_numpy(np.ascontiguousarray(images)).to(device))


@functools.lru_cache(maxsize=4)  # a study uses the same digits in every run
def normalization_of(dataset: Dataset) -> Normalization:
    """Mean and standard deviation of all pixels scaled to [0, 1], rounded to four digits (MNIST: 0.1307, 0.3081).

    If all pixels are equal, `std` is 1.
    """
    total = squares = 0
    for part in np.array_split(dataset.images.ravel(), 64):  # integers, little memory at a time
        total += int(part.sum(dtype=np.uint64))
        squares += int(np.square(part, dtype=np.uint16).sum(dtype=np.uint64))
    count = dataset.images.size
    mean = total / count / 255
    variance = squares / count / 255**2 - mean**2
    return Normalization(round(mean, 4), round(variance**0.5, 4) or 1.0)
