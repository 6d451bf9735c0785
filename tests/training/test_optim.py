import copy
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tinydigits.training.config import Optimizer, Schedule
from tinydigits.training.optim import (
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    start_ema,
    update_ema,
)


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
    average = start_ema(model)
    expected = 1.0
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.fill_(step)
            assert model.num_batches_tracked is not None
            model.num_batches_tracked.fill_(step)
        update_ema(average, model.state_dict(), 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert math.isclose(average["weight"].item(), expected, rel_tol=1e-5)
    assert average["num_batches_tracked"].item() == 199


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (
            Optimizer("sgd", 0.1, weight_decay=0.01),
            lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, fused=True),
        ),
        (Optimizer("sgd", 0.1, momentum=0.0), lambda groups: torch.optim.SGD(groups, 0.1, fused=True)),
        (
            Optimizer("sgd", 0.1, nesterov=True),
            lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, nesterov=True, fused=True),
        ),
        (Optimizer("adamw", 0.1, weight_decay=0.01), lambda groups: torch.optim.AdamW(groups, 0.1, fused=True)),
    ],
)
def test_steps_are_those_of_pytorchs_optimisers_to_the_bit(
    settings: Optimizer, theirs: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
) -> None:
    torch.manual_seed(0)
    model = _network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibration_run = copy.deepcopy(model)
    ours = make_optimizer(model, settings)
    places = {id(mine): its for mine, its in zip(model.parameters(), calibration_run.parameters(), strict=True)}
    groups = [
        {"params": [places[id(p)] for p in group["params"]], "weight_decay": group["weight_decay"]}
        for group in ours.param_groups
    ]
    other = theirs(groups)
    for step in range(5):
        set_learning_rate(ours, 0.1 / (step + 1))
        for group in other.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for mine, its in zip(model.parameters(), calibration_run.parameters(), strict=True):
            if step == 3 and mine.ndim == 4:
                continue  # no gradient in this step
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        ours.step()
        other.step()
        ours.zero_grad()
        other.zero_grad()
        for mine, its in zip(model.parameters(), calibration_run.parameters(), strict=True):
            assert mine.grad is None
            assert torch.equal(mine, its)
            for name, value in other.state[its].items():
                if value is not None:
                    assert torch.equal(ours.state[mine][name], value), name


def test_training_does_not_load_pytorchs_compiler() -> None:
    """It takes a second."""
    code = (
        "import sys, torch; from torch import nn; from tinydigits.training.optim import make_optimizer;"
        "from tinydigits.training.config import Optimizer; o = make_optimizer(nn.Linear(2, 2), Optimizer('adamw'));"
        "o.zero_grad(); p = o.param_groups[0]['params'][0]; p.grad = torch.ones_like(p); o.step();"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
