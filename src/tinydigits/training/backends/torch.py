"""The backend that everybody knows: PyTorch's layers and autograd."""

import torch
from torch import Tensor, nn

from tinydigits.data.augment import resample
from tinydigits.data.normalize import Normalization
from tinydigits.training.backends import Augment, Loss


class TorchBackend:
    """PyTorch's layers, as the model calls them."""

    def __init__(
        self, model: nn.Module, normalization: Normalization, loss: Loss, augment: Augment | None = None
    ) -> None:
        self.model, self.normalization, self.loss, self.augment = model, normalization, loss, augment
        self.torch_threads = torch.get_num_threads()

    def compute_gradients(self, images: Tensor, labels: Tensor, matrices: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        logits = self.model(self.inputs(images, matrices))  # [B, 10]
        loss = self.loss(logits, labels)
        loss.backward()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def inputs(self, images: Tensor, matrices: Tensor | None) -> Tensor:
        """What the model sees: float32 [B, 1, 28, 28]."""
        x = self.normalization(images)
        if matrices is not None:
            x = resample(x, matrices)
        return x if self.augment is None else self.augment(x)
