"""Optimisers with their parameter groups, learning-rate schedules, and the moving average of weights."""

import math

import torch
from torch import Tensor, nn

from tinydigits.training.config import Optimizer, Schedule


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """SGD or AdamW over two groups: kernels and matrices decay, norms and biases do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov, fused=True
        )
    return torch.optim.AdamW(groups, settings.learning_rate, fused=True)


def learning_rate_factor(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The factor on the learning rate at a step, counted from 0 over the whole run."""
    total = steps_per_epoch * epochs
    if schedule.name == "step":
        return schedule.factor ** (step // steps_per_epoch // schedule.step_epochs)
    if schedule.name == "cosine":
        return _cosine(1.0, schedule.final, step / total)
    if schedule.name == "one_cycle":
        peak = schedule.warmup * total
        if step < peak:
            return _cosine(0.04, 1.0, step / peak)
        return _cosine(1.0, schedule.final, (step - peak) / (total - peak))
    return 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def start_average(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers, to be moved by `update_average`."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average: average ← d·average + (1 − d)·weights, d = min(decay, (1 + step) / (10 + step)).

    The smaller d at the beginning lets the average forget the random start (as in TensorFlow's
    ExponentialMovingAverage with `num_updates`). Integer buffers (batch counts) are copied.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    current = model.state_dict()
    moving = [name for name, value in average.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in moving], [current[n] for n in moving], weight)
    for name in average.keys() - set(moving):
        average[name].copy_(current[name])
