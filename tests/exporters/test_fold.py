"""The folded graph gives PyTorch's logits, for every network of the zoo and for what users write."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ExportError
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.exporters.fold import fold_network
from tinydigits.inference.graph import Affine, AveragePool, Conv, Graph, activations, describe, output_shapes, run
from tinydigits.models.design import Block, Design, build_design
from tinydigits.models.factory import create_model
from tinydigits.models.registry import list_models
from tinydigits.models.weights import load_card, packaged_weights
from tinydigits.records import Card

DIGITS = load_dataset("optdigits").test.images[:64]


@pytest.fixture(scope="module")
def card() -> Card:
    path = packaged_weights("tiny-10k")
    assert path is not None
    return msgspec.structs.replace(load_card(path), model="net.py:Net")


def _settled(model: nn.Module, card: Card) -> nn.Module:
    """Batch norms with uneven scales, some negative, and statistics of real digits: as unlike fresh ones as can be."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1 and "weight" in name:
                value.add_(torch.randn_like(value))
            elif value.ndim == 1:
                value.add_(0.5 * torch.randn_like(value))
        model.train()
        for _ in range(5):
            model(Normalization(card.mean, card.std).array(DIGITS))
    return model.eval()


def _same(model: nn.Module, card: Card) -> Graph:
    graph = fold_network(model, card)
    wanted = predict_logits(model, Normalization(card.mean, card.std).array(DIGITS)).numpy()
    np.testing.assert_allclose(run(graph, DIGITS), wanted, atol=1e-4)
    assert np.ptp(wanted) > 1e-2, "all logits are alike, so this proves nothing"
    return graph


@pytest.mark.parametrize("name", [*list_models(), "plain-9k+batch-norm+padding=1", "blocks-19k+n-channels=8"])
def test_every_network_folds_to_the_same_logits(name: str, card: Card) -> None:
    graph = _same(_settled(create_model(name), card), card)
    assert output_shapes(graph.ops)[-1] == (10, 1, 1)
    assert all(value.dtype == np.float32 for op in graph.ops for value in vars(op).values() if hasattr(value, "dtype"))


def test_unpadded_networks_take_raw_bytes_without_any_affine(card: Card) -> None:
    model = create_model("tiny-10k").eval()  # as it starts, scales are positive
    assert not any(isinstance(op, Affine) for op in fold_network(model, card).ops)


def test_a_shift_before_padding_stays(card: Card) -> None:
    first = fold_network(create_model("blocks-19k").eval(), card).ops[0]
    assert isinstance(first, Affine)
    assert first.scale == pytest.approx([1])
    assert first.shift == pytest.approx([-255 * card.mean], rel=1e-6)


def test_the_pool_of_plain_9k_comes_before_its_last_convolution(card: Card) -> None:
    *_, pool, last = fold_network(create_model("plain-9k").eval(), card).ops
    assert isinstance(pool, AveragePool)
    assert isinstance(last, Conv)
    assert output_shapes(fold_network(create_model("plain-9k").eval(), card).ops)[-2] == (32, 1, 1)


def test_the_pool_that_is_not_global_keeps_its_window(card: Card) -> None:
    assert describe(fold_network(create_model("pooled-16k").eval(), card).ops[-1]) == "average pool 7×7"


def _depthwise(channels: int, kernel: int = 3, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, bias=False)


def test_separable_blocks_leave_nothing_between_their_two_convolutions(card: Card) -> None:
    blocks = (Block(6), Block(12, separable=True, pool="max"), Block(9, kernel=5, separable=True, padding=True))
    model = build_design(Design(blocks)).eval()  # as it starts, scales are positive
    described = [describe(op) for op in fold_network(model, card).ops]
    assert described == [
        *("conv 3×3, 1 → 6", "ReLU"),
        *("depthwise conv 3×3, 6 channels", "conv 1×1, 6 → 12", "max pool 2×2", "ReLU"),
        *("depthwise conv 5×5, 12 channels, padding 2×2", "conv 1×1, 12 → 9", "ReLU"),
        *("average pool 12×12", "conv 1×1, 9 → 10"),
    ]
    _same(_settled(model, card), card)


@pytest.mark.parametrize(
    "layers",
    [
        # as in MobileNet: a norm and ReLU of its own
        [nn.Conv2d(1, 6, 3), nn.ReLU(), _depthwise(6), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 10, 1)],
        # norms before it, without and with padding that their shift must not reach
        [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), _depthwise(6), nn.Conv2d(6, 10, 1)],
        [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), _depthwise(6, 5, padding=1), nn.Conv2d(6, 10, 1)],
        # first, where the normalization stands before it, and last
        [_depthwise(1), nn.Conv2d(1, 10, 1), nn.ReLU()],
        [_depthwise(1, padding=1), nn.Conv2d(1, 10, 1), nn.ReLU()],
        [nn.Conv2d(1, 10, 3), nn.ReLU(), nn.BatchNorm2d(10), _depthwise(10, 7)],
    ],
)
def test_depthwise_convolutions_fold_to_the_same_logits(layers: list[nn.Module], card: Card) -> None:
    _same(_settled(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), card), card)


class Functional(nn.Module):
    """All that can be written as a function is; strides, paddings and kernels are uneven."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, (3, 5))
        self.hidden = nn.Linear(6 * 3 * 2, 20)
        self.flat_norm = nn.BatchNorm1d(20)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.first(x))), 3, stride=2, padding=1)  # 7×7
        x = functional.avg_pool2d(torch.relu(self.second(x)), 2, stride=1, padding=1)  # 6×4
        x = functional.max_pool2d(x, 2)
        x = self.flat_norm(self.hidden(x.view(x.size(0), -1)))
        result: Tensor = self.head(functional.dropout(functional.relu(x), training=self.training))
        return result


def test_a_users_network_may_use_functions(card: Card) -> None:
    _same(_settled(Functional(), card), card)


def test_a_final_log_softmax_is_left_out(card: Card) -> None:
    plain = _settled(nn.Sequential(nn.Conv2d(1, 10, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), card)
    with_softmax = nn.Sequential(*plain.children(), nn.LogSoftmax(dim=1)).eval()
    folded = fold_network(with_softmax, card)
    np.testing.assert_array_equal(run(folded, DIGITS), run(fold_network(plain, card), DIGITS))
    assert fold_network(plain, card).threshold is not None
    assert folded.threshold is None  # it was fitted on log-probabilities


class Squeezes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(self.conv(x), 1).squeeze(-1).squeeze(-1)


def test_dimensions_of_one_may_be_dropped_one_by_one(card: Card) -> None:
    _same(_settled(Squeezes(), card), card)


def test_the_name_of_a_file_becomes_a_name_for_files(card: Card) -> None:
    model = create_model("tiny-10k").eval()
    for name, stem in (("/home/me/sub/net.py:Net", "net-py-Net"), ("plain-9k+dropout=0.05", "plain-9k-dropout-0-05")):
        assert fold_network(model, msgspec.structs.replace(card, model=name)).model == stem


def _net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        result: Tensor = (y + torch.relu(y)).mean((2, 3))
        return result


class Reorders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 10, 14)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x.view(-1, 4, 14, 14)).flatten(1)
        return result


class AlwaysDrops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.conv(x)).mean((2, 3))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x).mean((2, 3)) if x.sum() > 0 else self.conv(x).amax((2, 3))
        return result


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: _net(nn.Conv2d(1, 10, 3), nn.Sigmoid()), r"1 \(Sigmoid\) cannot be exported. Use convolution"),
        (lambda: _net(nn.Conv2d(1, 10, 3), nn.Conv2d(10, 10, 3, groups=2)), r"1 \(Conv2d\) has groups = 2, but"),
        (lambda: _net(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 10, 3, groups=5)), r"1 \(Conv2d\) has groups = 5, but"),
        (lambda: _net(nn.Conv2d(1, 10, 3, dilation=2)), r"0 \(Conv2d\) has dilation"),
        (lambda: _net(nn.Conv2d(1, 10, 3), nn.MaxPool2d(3, ceil_mode=True)), r"1 \(MaxPool2d\) has ceil_mode"),
        (lambda: _net(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(3)), r"1 \(AdaptiveAvgPool2d\) has an output of"),
        (
            lambda: _net(nn.Conv2d(1, 10, 3), nn.AvgPool2d(3, padding=1, count_include_pad=False)),
            "padding that the average does not count",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10)),
            r"1 \(BatchNorm1d\) has the flattened map as its input",
        ),
        (lambda: nn.Sequential(nn.Linear(28, 10), nn.Flatten(), nn.Linear(280, 10)), r"0 \(Linear\) has a map as its"),
        (lambda: _net(nn.Conv2d(1, 10, 3)).append(nn.Softmax(dim=1)), r"3 \(Softmax\) cannot be exported"),
        (Reorders, "the function view reorders the map|Reorders"),
        (Twice, "the function add|Twice"),
        (AlwaysDrops, "a training mode that eval"),
        (Branches, "cannot be traced"),
        (lambda: nn.Sequential(nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10, track_running_stats=False)), "training mode"),
    ],
)
def test_what_cannot_be_exported_is_named_with_its_layer(
    build: Callable[[], nn.Module], sentence: str, card: Card
) -> None:
    with pytest.raises(ExportError, match=sentence):
        fold_network(build().eval(), card)


def test_weights_that_are_not_finite_are_rejected(card: Card) -> None:
    model = create_model("tiny-10k").eval()
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match="not finite"):
        fold_network(model, card)


def test_folding_leaves_the_network_and_its_mode_alone(card: Card) -> None:
    model = create_model("tiny-10k").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fold_network(model, card)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_interpreter_shows_every_operation(card: Card) -> None:
    graph = fold_network(create_model("tiny-10k").eval(), card)
    shapes = [x.shape[1:] for x in activations(graph, DIGITS[:2])]
    assert shapes == output_shapes(graph.ops)
