import pytest
import torch
from torch import nn

from tinydigits.models.layers import Dropout, Residual


def _dropout(p: float, *shape: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    result: torch.Tensor = Dropout(p).train()(torch.ones(shape))
    return result


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_dropout_zeroes_its_share_and_keeps_the_mean(p: float) -> None:
    result = _dropout(p, 1000, 1000)
    assert (result == 0).double().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / 1e6) ** 0.5)
    assert result.double().mean().item() == pytest.approx(1, abs=0.005)
    assert result.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-5)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 1000])
def test_dropout_is_independent_from_place_to_place(lag: int) -> None:
    zero = (_dropout(0.3, 2_000_000) == 0).double()
    both = (zero[:-lag] * zero[lag:]).mean().item()
    assert both == pytest.approx(0.09, abs=4 * (0.09 * 0.91 / 2e6) ** 0.5 * 1.5)


def test_dropout_follows_the_global_seed() -> None:
    assert torch.equal(_dropout(0.1, 8, 3, 5, 5, seed=1), _dropout(0.1, 8, 3, 5, 5, seed=1))
    assert not torch.equal(_dropout(0.1, 8, 3, 5, 5, seed=1), _dropout(0.1, 8, 3, 5, 5, seed=2))


def test_dropout_keeps_layout_and_passes_the_gradient_of_what_it_keeps() -> None:
    x = torch.rand(4, 3, 6, 6).add(1).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = Dropout(0.4).train()(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach() / x.detach())


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 0), (5, 7)])
def test_dropout_takes_any_shape(shape: tuple[int, ...]) -> None:
    assert Dropout(0.1).train()(torch.ones(shape)).shape == shape


def test_dropout_does_nothing_outside_training() -> None:
    x = torch.rand(10)
    assert torch.equal(Dropout(0.9).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


def test_a_residual_connection_cuts_the_border_off_and_fills_channels_with_zeros() -> None:
    zero = nn.Conv2d(2, 3, 3, bias=False)
    nn.init.zeros_(zero.weight)
    x = torch.rand(4, 2, 8, 8)
    y = Residual(zero)(x)
    assert torch.equal(y[:, :2], x[:, :, 1:-1, 1:-1])
    assert not y[:, 2].any()
    assert Residual(nn.Conv2d(2, 3, 4))(x).shape == (4, 3, 5, 5)
