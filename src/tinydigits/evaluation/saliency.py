"""Where a network looks: Grad-CAM, the positions of the last feature map that speak for a digit."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tinydigits.errors import ModelError
from tinydigits.evaluation.predictions import evaluating

_ENOUGH = 25  # positions: a last map of 2×2 would only say which quarter of a digit counts


@dataclass(frozen=True, eq=False)
class Saliency:
    """Grad-CAM of some digits: `heat` float32 [N, H, W] as large as the pictures, each from 0 to its own maximum, 1.

    A picture whose heat is 0 everywhere shows nothing that speaks for its class. `layer` is the module whose output was
    weighed, and `map_size` that map's height and width.
    """

    heat: NDArray[np.float32]
    layer: str
    map_size: tuple[int, int]


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Saliency:
    """Which parts of digits raise the score of a class, by the last map that still tells positions apart.

    That is the last one of at least 25 positions (5×5); in a network without one, the last of those with most.

    With A_k the channels of that map, y_c the class's score (before softmax) and Z the number of positions::

        L_c = ReLU(Σ_k α_k A_k),   α_k = 1/Z Σ_ij ∂y_c / ∂A_k,ij

    enlarged bilinearly and divided by its maximum. Source: R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh,
    D. Batra (2017), "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV,
    equations 1 and 2.

    Args:
        model: it runs in evaluation mode, and is left in the mode in which it was.
        images: normalized digits [N, 1, H, W], N ≥ 1, on the model's device.
        classes: the class of each, int64 [N].

    Raises:
        ModelError: the network has no such map before its scores, or no gradient reaches it.
    """
    with evaluating(model), _maps(model) as maps, torch.enable_grad():
        scores = model(images.clone().requires_grad_())
        # in place, a later module may have changed a map that was seen: then both names lead to the same tensor
        chosen = scores.gather(1, classes.view(-1, 1)).sum()
        reached = []
        if maps and chosen.requires_grad:
            gradients = torch.autograd.grad(chosen, [found for _, found in maps], allow_unused=True)
            reached = [(*pair, found) for pair, found in zip(maps, gradients, strict=True) if found is not None]
    if not reached:
        raise ModelError(
            f"{type(model).__name__} has no feature map of more than one position that its scores depend on, so "
            "Grad-CAM has nothing to weigh."
        )
    # the last of those with the most positions, of which all that have enough are equal
    layer, found, gradient = max(reversed(reached), key=lambda item: min(item[1][0, 0].numel(), _ENOUGH))
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # [N, K, 1, 1]
    heat = F.relu((weights * found.detach()).sum(dim=1, keepdim=True))  # [N, 1, h, w]
    large = F.interpolate(heat, size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax(dim=(1, 2), keepdim=True)
    heat = torch.where(highest > 0, large / highest, 0)
    return Saliency(heat.float().cpu().numpy(), layer, (found.shape[2], found.shape[3]))


@contextmanager
def _maps(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """The outputs of leaf modules that run within, in their order, where these are maps of several positions."""
    maps = []

    def note(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.requires_grad and output[0, 0].numel() > 1:
            maps.append((name, output))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                hooks.enter_context(module.register_forward_hook(partial(note, name)))
        yield maps
