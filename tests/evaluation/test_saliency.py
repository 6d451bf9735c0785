"""Grad-CAM against its formula, worked out by hand and by finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinydigits.data.normalize import Normalization
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import ModelError
from tinydigits.evaluation.saliency import grad_cam
from tinydigits.models.factory import create_model, load_model
from tinydigits.models.registry import list_models


class Corners(nn.Module):
    """Ten maps, the picture itself in each; class k is the mean of map k, but class 9 speaks against it."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 10, 1, bias=False)
        nn.init.ones_(self.maps.weight)
        with torch.no_grad():
            self.maps.weight[9] = -1

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.maps(images).mean(dim=(2, 3)))


def picture() -> Tensor:
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, :7, 21:] = 2.0
    return image


def test_the_map_of_a_class_is_what_raises_it() -> None:
    found = grad_cam(Corners(), picture(), torch.tensor([3]))
    assert found.layer == "maps"
    assert found.map_size == (28, 28)
    assert np.allclose(found.heat[0], picture()[0, 0] / 2)  # 1/784 · 2, divided by its maximum


def test_what_speaks_against_a_class_is_not_shown() -> None:
    model = Corners()
    with torch.no_grad():
        model.maps.weight[9] = 1

    class Against(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.maps

        def forward(self, images: Tensor) -> Tensor:
            return torch.as_tensor(-self.inner(images).mean(dim=(2, 3)))

    assert not grad_cam(Against(), picture(), torch.tensor([9])).heat.any()


def by_hand(model: nn.Sequential, cut: int, image: Tensor, digit: int) -> Tensor:
    """The formula with its gradients by central differences, position by position."""
    with torch.no_grad():
        found = model[:cut](image.double())
        gradient = torch.zeros_like(found)
        for place in np.ndindex(*found.shape):
            step = torch.zeros_like(found)
            step[place] = 1e-5
            up, down = (model[cut:](found + sign * step)[0, digit] for sign in (1, -1))
            gradient[place] = (up - down) / 2e-5
        heat = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * found).sum(dim=1, keepdim=True))
        return F.interpolate(heat, size=(28, 28), mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("digit", [1, 7])
def test_gradients_are_those_of_finite_differences(digit: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=2), nn.Tanh(), nn.AvgPool2d(5), nn.Flatten(),
        nn.Linear(6, 10),
    ).eval()  # fmt: skip
    image = torch.rand(1, 1, 28, 28)
    found = grad_cam(model, image, torch.tensor([digit]))
    expected = by_hand(model.double(), 4, image, digit)
    assert found.layer == "3"
    assert found.map_size == (5, 5)
    assert np.allclose(found.heat[0], expected / expected.max(), atol=1e-4)


def test_each_digit_of_a_batch_is_explained_by_itself() -> None:
    model, card = load_model("tiny-10k")
    images = Normalization(card.mean, card.std).array(load_optdigits().test.images[:4])
    classes = torch.tensor([1, 4, 7, 2])
    together = grad_cam(model, images, classes)
    alone = [grad_cam(model, images[i : i + 1], classes[i : i + 1]).heat[0] for i in range(4)]
    assert np.allclose(together.heat, alone, atol=1e-4)


@pytest.mark.parametrize("name", list_models())
def test_every_network_can_be_explained_and_is_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = next(iter(model.children()))
    frozen.eval()
    found = grad_cam(model, torch.randn(3, 1, 28, 28), torch.tensor([0, 1, 2]))
    assert found.heat.shape == (3, 28, 28)
    assert found.heat.dtype == np.float32
    assert found.heat.min() >= 0
    assert all(heat.max() == pytest.approx(1) or not heat.any() for heat in found.heat)
    assert min(found.map_size) >= 2
    assert model.training
    assert not frozen.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_that_changes_maps_in_place_gives_the_same() -> None:
    def build(inplace: bool) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=3),
            nn.ReLU(inplace=inplace),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 10),
        )

    image = torch.rand(2, 1, 28, 28)
    one, other = (grad_cam(build(inplace), image, torch.tensor([0, 1])).heat for inplace in (False, True))
    assert np.allclose(one, other)


def test_small_last_maps_give_way_to_one_that_tells_places_apart() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=4), nn.MaxPool2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    assert grad_cam(model, torch.rand(1, 1, 28, 28), torch.tensor([0])).map_size == (7, 7)  # not 2×2
    coarse = nn.Sequential(nn.AvgPool2d(7), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(36, 10))
    assert grad_cam(coarse, torch.rand(1, 1, 28, 28), torch.tensor([0])).map_size == (4, 4)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(self.inner(images))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        Detached(),
    ],
)
def test_a_network_without_maps_is_refused_with_a_sentence(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="no feature map of more than one position"):
        grad_cam(model, torch.rand(1, 1, 28, 28), torch.tensor([0]))
