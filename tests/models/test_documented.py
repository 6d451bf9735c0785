"""Every model of the zoo, walked; then what only the documented five promise."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tinydigits.errors import ConfigError
from tinydigits.models.factory import create_model
from tinydigits.models.registry import list_models, target_of

PARAMETERS = {
    "pooled-16k": 16_806,
    "blocks-19k": 19_866,
    "layered-19k": 19_668,
    "bottleneck-9k": 9_962,
    "plain-9k": 9_032,
    "tiny-20k": 16_122,
    "tiny-10k": 9_426,
    "pyramid-9k": 9_550,
    "tiny-5k": 4_882,
    "tiny-2k": 1_945,
    "tiny-1k": 1_000,
    "tiny-500": 483,
    "era-record": 3_858,
    "era-8k": 7_872,
}

every_model = pytest.mark.parametrize("name", list_models())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@every_model
def test_parameters_are_counted_exactly_and_keep_what_is_reported(name: str) -> None:
    reported = target_of(name)
    assert parameters(create_model(name)) == PARAMETERS[name]
    assert reported is not None
    assert reported.parameters is None or PARAMETERS[name] <= reported.parameters


@every_model
@pytest.mark.parametrize(("batch", "training"), [(1, False), (7, False), (2, True), (7, True)])
def test_logits_are_finite_and_shaped(name: str, batch: int, training: bool) -> None:
    torch.manual_seed(0)
    logits = create_model(name).train(training)(torch.randn(batch, 1, 28, 28))
    assert logits.shape == (batch, 10)
    assert logits.isfinite().all()
    assert logits.std() > 0


@every_model
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name)
    F.cross_entropy(model(torch.randn(8, 1, 28, 28)), torch.arange(8)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@every_model
def test_an_example_is_scored_alike_in_any_batch(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name).eval()
    images = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(model(images)[:2], model(images[:2]))


@every_model
def test_the_seed_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in create_model(name).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@every_model
def test_outputs_are_logits_not_log_probabilities(name: str) -> None:
    torch.manual_seed(0)
    logits = create_model(name).eval()(torch.randn(4, 1, 28, 28))
    assert (logits.logsumexp(1).abs() > 1e-3).all()


@every_model
def test_the_model_learns_what_it_is_shown(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name)
    images, labels = torch.randn(10, 1, 28, 28), torch.arange(10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("pooled-16k", "C R B D C C R B D M C R B D C R B D M C C R C A Flatten"),
        ("blocks-19k", "C B R D C B R D C B R D C B R D M C C B R D C B R D C B R D G Flatten Linear"),
        ("layered-19k", "C R B C R B M C D C R B C R B C R B M D C R B M D C Flatten"),
        ("bottleneck-9k", "C R B D C R B D C M C R B D C R B D C R B D A C B R D C Flatten"),
        ("plain-9k", "C R C R M C R C R M C R C G Flatten"),
    ],
)
def test_layers_stand_in_the_documented_order(name: str, kinds: str) -> None:
    short = {
        "Conv2d": "C",
        "ReLU": "R",
        "BatchNorm2d": "B",
        "Dropout": "D",
        "MaxPool2d": "M",
        "AvgPool2d": "A",
        "AdaptiveAvgPool2d": "G",
    }
    leaves = [type(module).__name__ for module in create_model(name).modules() if not any(module.children())]
    assert " ".join(short.get(kind, kind) for kind in leaves) == kinds


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("pooled-16k", [0.1] * 4),
        ("blocks-19k", [0.05] * 4 + [0.1] * 3),
        ("layered-19k", [0.05] * 3),
        ("bottleneck-9k", [0.1] * 6),
        ("plain-9k", []),
    ],
)
def test_dropout_rates_are_as_documented(name: str, rates: list[float]) -> None:
    assert [module.p for module in create_model(name).modules() if type(module).__name__ == "Dropout"] == rates


@pytest.mark.parametrize("side", [24, 28, 32, 45, 64])
def test_plain_9k_takes_other_sizes(side: int) -> None:
    assert create_model("plain-9k")(torch.randn(2, 1, side, side + 3)).shape == (2, 10)


@pytest.mark.parametrize("side", [2, 8, 28, 33])
@pytest.mark.parametrize(("in_channels", "n_channels"), [(1, 32), (3, 16), (4, 2), (1, 50)])
def test_blocks_19k_is_general(in_channels: int, n_channels: int, side: int) -> None:
    model = create_model("blocks_19k", in_channels=in_channels, n_channels=n_channels)
    assert model(torch.randn(2, in_channels, side, side)).shape == (2, 10)


@pytest.mark.parametrize(
    ("option", "value"), [("n_channels", 33), ("n_channels", 0), ("n_channels", -2), ("in_channels", 0)]
)
def test_blocks_19k_refuses_widths_it_cannot_have(option: str, value: int) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ConfigError, match=f"{option} = {value}"):
        create_model("blocks-19k", **options)
