"""What turns a batch into a loss and gradients: PyTorch's layers (`torch`), or the same steps in C (`native`)."""

from typing import Protocol

from torch import Tensor


class Backend(Protocol):
    """Holds a model in training mode; a call leaves the gradients of a batch in its parameters."""

    torch_threads: int  # how many PyTorch itself has use for during a step

    def __call__(self, images: Tensor, labels: Tensor, matrices: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean loss, and how many digits were classified correctly, both scalars that nobody has waited for.

        Args:
            images: uint8 [B, 28, 28].
            labels: int64 [B].
            matrices: [B, 2, 3], by which the images are resampled; None: they are taken as they are.
        """
