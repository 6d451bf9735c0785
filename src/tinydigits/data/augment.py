"""Augmentation that keeps digits recognisable: rotation, shift, scale, shear and a centre crop, in one resampling.

There are no flips: a mirrored 2, 5 or 7 is no digit, and a 6 turned over is not a handwritten 9.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tinydigits.errors import ConfigError

_LIMITS = {
    "rotation_degrees": 45.0,  # beyond, a 1 becomes a dash and a 7 an L
    "shift_pixels": 8.0,
    "scale": 0.5,
    "shear_degrees": 45.0,
    "crop_probability": 1.0,
}


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random affine matrices; each value is drawn uniformly from ± its range, for each example.

    `crop_probability` is the fraction of examples whose centre `crop_size` × `crop_size` pixels are cut out and
    enlarged to the whole picture. In the last `off_epochs` epochs nothing is augmented.
    """

    rotation_degrees: float = 0.0
    shift_pixels: float = 0.0
    scale: float = 0.0
    shear_degrees: float = 0.0
    crop_probability: float = 0.0
    crop_size: int = 22
    off_epochs: int = 0

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ConfigError(f"augmentation.{name} = {value}: must be from 0 (off) to {limit:g}.")
        if not 8 <= self.crop_size <= 28:
            raise ConfigError(f"augmentation.crop_size = {self.crop_size}: must be from 8 to 28 pixels.")
        if self.off_epochs < 0:
            raise ConfigError(f"augmentation.off_epochs = {self.off_epochs}: must be 0 or a number of epochs.")

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return any(getattr(self, name) for name in _LIMITS)


class Variants(NamedTuple):
    """Digits uint8 [D, 28, 28], and augmented variants of each, uint8 [D, K, 28, 28]."""

    originals: NDArray[np.uint8]
    augmented: NDArray[np.uint8]


def augmented_variants(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], augmentation: Augmentation, seed: int, count: int
) -> Variants:
    """The first digit of each class of images [N, 28, 28], and `count` variants of each."""
    originals = images[[int(np.flatnonzero(labels == digit)[0]) for digit in np.unique(labels)]]
    repeated = torch.from_numpy(originals.repeat(count, axis=0)).unsqueeze(1).float()  # [D·K, 1, 28, 28]
    changed = augment(repeated, augmentation, torch.Generator().manual_seed(seed)).round().to(torch.uint8)
    return Variants(originals, changed.reshape(len(originals), count, 28, 28).numpy())


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """For previews: float images [N, C, H, W], each resampled once by a random affine matrix.

    Pixels from outside repeat the border, which is background in a centred digit. The generator is on the CPU, so that
    the same seed gives the same matrices on every device.
    """
    return resample(images, affine_matrices(affine_numbers(len(images), generator), images.shape[-1], augmentation))


def resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Float images [N, C, H, W], resampled bilinearly by affine matrices [N, 2, 3] from output to input."""
    grid = F.affine_grid(matrices.to(images), list(images.shape), align_corners=False)  # [N, H, W, 2]
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def affine_numbers(count: int, generator: torch.Generator) -> Tensor:
    """The random numbers behind `count` affine matrices, uniform in [0, 1): [7, N], a column for each."""
    return torch.rand(7, count, generator=generator)


def affine_matrices(numbers: Tensor, size: int, augmentation: Augmentation) -> Tensor:
    """The affine matrices [N, 2, 3] that such numbers [7, N] stand for, for pictures of `size` × `size` pixels.

    From output to input coordinates (−1…1): rotation · shear · scale, then shift.
    """
    symmetric = numbers * 2 - 1
    angle = symmetric[0] * math.radians(augmentation.rotation_degrees)
    shear = torch.tan(symmetric[1] * math.radians(augmentation.shear_degrees))
    zoom = 1 + symmetric[2:4] * augmentation.scale
    zoom = torch.where(numbers[6] < augmentation.crop_probability, zoom * size / augmentation.crop_size, zoom)
    shift = symmetric[4:6] * augmentation.shift_pixels * 2 / size
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cosine / zoom[0], (cosine * shear - sine) / zoom[1], shift[0]], dim=1),
        torch.stack([sine / zoom[0], (sine * shear + cosine) / zoom[1], shift[1]], dim=1),
    ]
    return torch.stack(rows, dim=1)
