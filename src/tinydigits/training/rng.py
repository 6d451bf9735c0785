"""What a run draws from its seed: the order of the digits, their affine matrices, the numbers of dropout.

All of it depends on (seed, epoch[, step]) alone, so that a run that stops and resumes ends with the same bits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tinydigits.data.augment import affine_matrices, affine_numbers
from tinydigits.training.config import Recipe


def derive_seed(*key: int) -> int:
    """A seed for (seed, epoch[, step]); NumPy's SeedSequence keeps neighbouring keys independent."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch sees its digits, int64 [N], on the CPU."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))


def step_seeds(steps: int, seed: int, epoch: int) -> list[int]:
    """The seed of each step of an epoch: for the affine matrices of its digits, and then for the network itself."""
    return [derive_seed(seed, epoch, step) for step in range(steps)]


def epoch_matrices(count: int, recipe: Recipe, seeds: Sequence[int]) -> Tensor:
    """The affine matrices of an epoch's digits in their order, [N, 2, 3], on the CPU; `seeds` are its steps'.

    Each batch has its own random numbers; the arithmetic on them is done for all at once. A digit without a batch has
    no matrix.
    """
    generator = torch.Generator()
    starts = range(0, count, recipe.batch_size)
    numbers = [
        affine_numbers(min(recipe.batch_size, count - start), generator.manual_seed(own))
        for start, own in zip(starts, seeds, strict=False)
    ]
    return affine_matrices(torch.cat(numbers, dim=1), 28, recipe.augmentation)


def seed_global_generator(seed: int, device: torch.device) -> None:
    """Seed what the network itself draws from now on: dropout."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # torch.manual_seed asks all devices, and takes long
    else:
        torch.manual_seed(seed)
