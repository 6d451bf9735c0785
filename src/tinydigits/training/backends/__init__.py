"""What turns a batch into a loss and gradients: PyTorch's layers (`torch`), or the same steps in C (`native`)."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits [B, 10] and labels [B] to a scalar."""

Augment = Callable[[Tensor], Tensor]
"""From normalized images [B, 1, 28, 28] to as many; it draws from PyTorch's global generator."""


class Backend(Protocol):
    """Holds a model in training mode."""

    torch_threads: int  # how many PyTorch itself has use for during a step

    def compute_gradients(self, images: Tensor, labels: Tensor, matrices: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forward and backward pass of a batch: leaves the gradients in the model's parameters.

        Returns mean loss, and how many digits were classified correctly, both scalars that nobody has waited for.

        Args:
            images: uint8 [B, 28, 28].
            labels: int64 [B].
            matrices: [B, 2, 3], by which the images are resampled; None: they are taken as they are.
        """
