"""Optimisers with their parameter groups, learning-rate schedules, and the moving average of weights."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from tinydigits.training.config import Optimizer, Schedule


class FusedOptimizer:
    """SGD or AdamW by PyTorch's fused kernels: what `torch.optim.SGD` and `AdamW` do with `fused=True`, to the bit.

    To make one of those loads PyTorch's compiler, which takes a second; and beside a small network's step, what they do
    in Python takes long.

    Args:
        groups: each with `params` and their `weight_decay`. As `param_groups` they have a learning rate `lr` too.
        settings: all else.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], settings: Optimizer) -> None:
        self.settings = settings
        self.param_groups: list[dict[str, Any]] = [{**group, "lr": settings.learning_rate} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)  # by parameter: what is remembered

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                move = self._sgd if self.settings.name == "sgd" else self._adamw
                move(parameters, group["lr"], group["weight_decay"])

    def _sgd(self, parameters: list[Tensor], rate: float, weight_decay: float) -> None:
        own = self.settings
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters]
        gradients = [_gradient(parameter) for parameter in parameters]
        sgd(
            parameters, gradients, buffers, fused=True, lr=rate,
            weight_decay=weight_decay, momentum=own.momentum, nesterov=own.nesterov, dampening=0.0, maximize=False,
        )  # fmt: skip
        if own.momentum:
            for parameter, buffer in zip(parameters, buffers, strict=True):
                assert buffer is not None
                self.state[parameter]["momentum_buffer"] = buffer

    def _adamw(self, parameters: list[Tensor], rate: float, weight_decay: float) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        adamw(
            parameters, [_gradient(parameter) for parameter in parameters], means, squares, [], steps, fused=True,
            lr=rate, weight_decay=weight_decay, beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def make_optimizer(model: nn.Module, settings: Optimizer) -> FusedOptimizer:
    """SGD or AdamW over two groups: kernels and matrices decay, norms and biases do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return FusedOptimizer([group for group in groups if group["params"]], settings)


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


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def set_learning_rate(optimizer: FusedOptimizer | torch.optim.Optimizer, rate: float) -> None:
    """What the next `step` uses, in all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def start_ema(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers, to be moved by `update_ema`."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def update_ema(ema: dict[str, Tensor], live_weights: Mapping[str, Tensor], decay: float, step: int) -> None:
    """Exponential moving average: ema ← d·ema + (1 − d)·live weights, d = min(decay, (1 + step) / (10 + step)).

    `live_weights` are weights and buffers by name, as in a `state_dict`. The smaller d at the beginning lets the EMA
    forget the random start (as in TensorFlow's ExponentialMovingAverage with `num_updates`). Integer buffers (batch
    counts) are copied.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    moving = [name for name, value in ema.items() if value.is_floating_point()]
    torch._foreach_lerp_([ema[n] for n in moving], [live_weights[n] for n in moving], weight)
    for name in ema.keys() - set(moving):
        ema[name].copy_(live_weights[name])
