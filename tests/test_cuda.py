"""What surrounds a CUDA graph, without a GPU: a recording that runs the step again stands in for the graph."""

import pytest
import torch
from torch import Tensor, nn

from tests.test_loop import RECIPE, digits_to_learn
from tinydigits.training.config import Optimizer
from tinydigits.training.cuda import Arguments, Recording, TrainingStep, captured
from tinydigits.training.loop import Epoch, fit, start_state, training_step
from tinydigits.training.network import TorchNetwork
from tinydigits.training.optim import make_optimizer, set_learning_rate


class Graphs:
    """Records as a GPU does: a recording makes no step, and afterwards only its own tensors are read and written."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.replays = 0

    def record(self, step: TrainingStep, arguments: Arguments) -> Recording:
        assert arguments[0] is not None
        self.sizes.append(len(arguments[0]))
        loss, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)

        def replay() -> None:
            self.replays += 1
            found = step(*arguments)
            loss.copy_(found[0])
            hits.copy_(found[1])

        return Recording(arguments, (loss, hits), replay)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def _train(monkeypatch: pytest.MonkeyPatch, graphs: Graphs | None) -> list[float]:
    digits = digits_to_learn()  # 70: four batches of 16, and one of 6
    if graphs is not None:

        def ours(*arguments: object) -> TrainingStep:
            network, optimizer, *rest = arguments
            step = training_step(network, optimizer, *rest)  # type: ignore[arg-type]
            return captured(step, network.model, optimizer, graphs.record)  # type: ignore[attr-defined, arg-type]

        monkeypatch.setattr("tinydigits.training.loop.training_step", ours)
    state = start_state(_network(), RECIPE, digits)
    records = fit(state, digits, digits, RECIPE, 0.2, 0.3, 0)
    return [record.train_loss for record in records if isinstance(record, Epoch)]


def test_replayed_steps_are_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmented or not, whole batches and the last one: all tensors and the learning rate come through."""
    wanted = _train(monkeypatch, None)
    graphs = Graphs()
    assert _train(monkeypatch, graphs) == pytest.approx(wanted, abs=1e-5)
    assert graphs.sizes == [16]  # that of 6 comes once an epoch, and so is made three times before it is recorded
    assert graphs.replays == 12 - 3


def test_each_shape_has_its_recording() -> None:
    graphs, model = Graphs(), _network()
    optimizer = make_optimizer(model, Optimizer("sgd"))
    digits = digits_to_learn()
    step = captured(
        training_step(TorchNetwork(model, 0.2, 0.3), optimizer, digits, 0.0), model, optimizer, graphs.record
    )
    maps = torch.eye(2, 3).repeat(16, 1, 1)
    for _ in range(5):
        step(torch.arange(16), None)
        step(torch.arange(16), maps)
        step(torch.arange(6), maps[:6])
    assert graphs.sizes == [16, 16, 6]
    assert graphs.replays == 6


def test_the_learning_rate_reaches_a_recorded_step() -> None:
    model = _network()
    optimizer = make_optimizer(model, Optimizer("sgd"))
    step = captured(
        training_step(TorchNetwork(model, 0.2, 0.3), optimizer, digits_to_learn(), 0.0),
        model, optimizer, Graphs().record,
    )  # fmt: skip
    rate = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.5
    set_learning_rate(optimizer, 0.0)
    before = model.get_parameter("4.weight").clone()
    for _ in range(5):
        step(torch.arange(16), None)
    assert torch.equal(model.get_parameter("4.weight"), before)


class _Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_code_of_a_users_own_is_never_frozen() -> None:
    model = nn.Sequential(_Own(), nn.Flatten(), nn.Linear(784, 10))
    optimizer = make_optimizer(model, Optimizer("sgd"))
    step = training_step(TorchNetwork(model, 0.2, 0.3), optimizer, digits_to_learn(), 0.0)
    assert captured(step, model, optimizer, Graphs().record) is step
    assert optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_the_same() -> None:
    """The first losses agree with the CPU's, and graphs are recorded and replayed."""

    def losses(device: str) -> list[float]:
        digits = digits_to_learn()
        digits.images, digits.labels = digits.images.to(device), digits.labels.to(device)
        model = _network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        records = fit(start_state(model, RECIPE, digits), digits, digits, RECIPE, 0.2, 0.3, 0)
        return [record.train_loss for record in records if isinstance(record, Epoch)]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=0.02)
