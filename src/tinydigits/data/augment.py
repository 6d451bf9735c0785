"""Augmentation that keeps digits digits: rotation, shift, scale, shear, and a centre crop, in one resampling.

Flips are not offered: a mirrored 2, 5 or 7 is no digit, and a 6 turned over is not a 9 in anybody's hand.
"""

import math
from dataclasses import dataclass, fields

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
    """Ranges of the random affine map; each value is drawn uniformly from ± its range, per example.

    `crop_probability` is the share of examples whose centre `crop_size` × `crop_size` pixels are cut out and
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
                raise ConfigError(f"augmentation.{name} = {value}: it lies between 0 (off) and {limit:g}.")
        if not 8 <= self.crop_size <= 28:
            raise ConfigError(f"augmentation.crop_size = {self.crop_size}: it lies between 8 and 28 pixels.")
        if self.off_epochs < 0:
            raise ConfigError(f"augmentation.off_epochs = {self.off_epochs}: it is 0 or a number of epochs.")

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return any(getattr(self, field.name) for field in fields(self) if field.name in _LIMITS)


@dataclass(frozen=True, eq=False)
class Variants:
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
    """Resample float images [N, C, H, W] once through a random affine map each. Same shape and layout out.

    Pixels from outside repeat the border, which in a centred digit is background. The generator lives on the
    CPU, so that the same seed gives the same maps on every device.
    """
    return resample(images, random_maps(len(images), images.shape[-1], augmentation, generator))


def resample(images: Tensor, maps: Tensor) -> Tensor:
    """Float images [N, C, H, W], each sampled bilinearly where its affine map [2, 3] from output to input says."""
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)  # [N, H, W, 2]
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_maps(count: int, size: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Maps from output to input coordinates (−1…1), [N, 2, 3]: rotation · shear · scale, then shift.

    `size` is the side of the pictures, in pixels.
    """
    return affine_maps(affine_draws(count, generator), size, augmentation)


def affine_draws(count: int, generator: torch.Generator) -> Tensor:
    """The random numbers behind that many maps, uniform in [0, 1): [7, N], a column a map."""
    return torch.rand(7, count, generator=generator)


def affine_maps(draws: Tensor, size: int, augmentation: Augmentation) -> Tensor:
    """The maps [N, 2, 3] that such numbers [7, N] stand for."""
    symmetric = draws * 2 - 1
    angle = symmetric[0] * math.radians(augmentation.rotation_degrees)
    shear = torch.tan(symmetric[1] * math.radians(augmentation.shear_degrees))
    zoom = 1 + symmetric[2:4] * augmentation.scale
    zoom = torch.where(draws[6] < augmentation.crop_probability, zoom * size / augmentation.crop_size, zoom)
    shift = symmetric[4:6] * augmentation.shift_pixels * 2 / size
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cosine / zoom[0], (cosine * shear - sine) / zoom[1], shift[0]], dim=1),
        torch.stack([sine / zoom[0], (sine * shear + cosine) / zoom[1], shift[1]], dim=1),
    ]
    return torch.stack(rows, dim=1)
