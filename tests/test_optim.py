import math

import pytest
import torch
from torch import nn

from tinydigits.training.config import Optimizer, Schedule
from tinydigits.training.optim import learning_rate_factor, make_optimizer, start_average, update_average


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(name: str) -> None:
    model = _network()
    optimizer = make_optimizer(model, Optimizer(name, learning_rate=0.1, weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for parameter in model.parameters():
        assert decay[id(parameter)] == (0.5 if parameter.ndim > 1 else 0.0)


def test_a_model_without_vectors_has_one_group() -> None:
    assert len(make_optimizer(nn.Conv2d(1, 2, 3, bias=False), Optimizer()).param_groups) == 1


def test_constant_is_one() -> None:
    assert {learning_rate_factor(Schedule(), step, 10, 3) for step in range(30)} == {1.0}


def test_step_falls_at_the_epoch_it_names() -> None:
    schedule = Schedule("step", step_epochs=2, factor=0.1)
    assert [round(learning_rate_factor(schedule, step, 5, 5), 6) for step in (0, 9, 10, 19, 20)] == [
        1,
        1,
        0.1,
        0.1,
        0.01,
    ]


def test_one_cycle_rises_to_one_and_falls_to_its_end() -> None:
    schedule = Schedule("one_cycle", warmup=0.25, final=0.001)
    factors = [learning_rate_factor(schedule, step, 100, 4) for step in range(400)]
    assert factors[0] == pytest.approx(0.04)
    assert factors[100] == 1.0
    assert factors[:101] == sorted(factors[:101])
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert factors[-1] == pytest.approx(0.001, abs=1e-4)


def test_one_cycle_without_warmup_starts_at_the_top() -> None:
    assert learning_rate_factor(Schedule("one_cycle", warmup=0.0), 0, 10, 2) == 1.0


def test_cosine_is_a_half_way_down_in_the_middle() -> None:
    assert learning_rate_factor(Schedule("cosine", final=0.2), 10, 10, 2) == pytest.approx(0.6)


def test_the_average_follows_its_formula() -> None:
    model = nn.BatchNorm1d(1)
    average = start_average(model)
    expected = 1.0
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.fill_(step)
            assert model.num_batches_tracked is not None
            model.num_batches_tracked.fill_(step)
        update_average(average, model, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert math.isclose(average["weight"].item(), expected, rel_tol=1e-5)
    assert average["num_batches_tracked"].item() == 199
