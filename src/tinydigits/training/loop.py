"""The training loop, top to bottom: it yields records and knows neither files nor screens."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinydigits.data.normalise import normalise_tensor
from tinydigits.errors import DivergedError
from tinydigits.training.config import Recipe
from tinydigits.training.cuda import TrainingStep, captured
from tinydigits.training.draws import epoch_maps, epoch_order, seed_network, step_seeds
from tinydigits.training.network import Network, make_network
from tinydigits.training.optim import (
    FusedOptimizer,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    start_average,
    update_average,
)

_CHECK_EVERY = 50  # steps between looks at the loss; a GPU, which each look makes wait, is only asked after an epoch


@dataclass(frozen=True)
class Step:
    """One optimiser step is done: `step` of `steps` in this `epoch` (both counted from 1)."""

    epoch: int
    step: int
    steps: int


@dataclass(frozen=True)
class Epoch:
    """One epoch is done. Accuracies lie in [0, 1]; `accuracy` is that of the judging digits.

    `train_loss` and `train_accuracy` are means over the epoch's batches as they were trained on: augmented,
    with dropout, with the weights of that moment.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    accuracy: float
    learning_rate: float
    images_per_second: float
    time_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data: a line of `metrics.jsonl`."""
        return asdict(self)


@dataclass(eq=False)
class Digits:
    """Digits on the device: `images` uint8 [N, 28, 28], `labels` int64 [N]."""

    images: Tensor
    labels: Tensor


@dataclass(eq=False)
class TrainingState:
    """All that a run needs to go on to the same bits: weights aside, everything that changes from step to step."""

    model: nn.Module
    optimizer: FusedOptimizer
    average: dict[str, Tensor] | None  # moving average of the weights, if the recipe asks for one
    step: int  # optimiser steps done, over the whole run
    losses: Tensor  # [steps per epoch] loss of every batch of the current epoch
    hits: Tensor  # [steps per epoch] digits answered right in every batch of it
    seen: int  # digits in an epoch: all, or all but one
    epochs: list[Epoch] = field(default_factory=list)
    epoch_seconds: float = 0.0  # spent in the current epoch so far


def start_state(model: nn.Module, recipe: Recipe, train: Digits) -> TrainingState:
    """The state before the first step."""
    steps = steps_per_epoch(len(train.labels), recipe.batch_size)
    device = train.labels.device
    return TrainingState(
        model=model,
        optimizer=make_optimizer(model, recipe.optimizer),
        average=start_average(model) if recipe.ema_decay else None,
        step=0,
        losses=torch.zeros(steps, device=device),
        hits=torch.zeros(steps, dtype=torch.int64, device=device),
        seen=min(len(train.labels), steps * recipe.batch_size),
    )


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in an epoch: the last may be smaller, but a single digit is left out (batch norm needs two)."""
    return max(1, count // batch_size + (count % batch_size > 1))


def fit(
    state: TrainingState,
    train: Digits,
    judge: Digits,
    recipe: Recipe,
    mean: float,
    deviation: float,
    seed: int,
    kernels: str = "torch",
) -> Iterator[Step | Epoch]:
    """Train from wherever `state` stands to the last epoch.

    Yields a Step after each step but an epoch's last, and an Epoch after that one. Shuffling, augmentation and dropout
    are drawn from (seed, epoch, step) alone, so a run that stops after any yield and goes on from its saved state
    ends with the same bits as one that never stopped.

    `kernels` is `torch` or `native`: what calculates the steps. The judging digits are always PyTorch's.

    Raises:
        DivergedError: the loss is no longer finite.
        ConfigError: the native kernels cannot train this network.
        ToolMissingError: they are asked for, and there is no C compiler.
    """
    model, optimizer, device = state.model, state.optimizer, train.labels.device
    step = training_step(make_network(model, kernels, mean, deviation), optimizer, train, recipe.label_smoothing)
    if device.type == "cuda":
        step = captured(step, model, optimizer)
    steps, current = len(state.losses), model.state_dict()
    while state.step < steps * recipe.epochs:
        epoch, first = divmod(state.step, steps)
        model.train()
        started = time.perf_counter() - state.epoch_seconds
        order = epoch_order(len(train.labels), seed, epoch).to(device)
        seeds = step_seeds(steps, seed, epoch)
        augmenting = epoch < recipe.augmented_epochs
        maps = epoch_maps(len(train.labels), recipe, seeds).to(device) if augmenting else None
        # beside the native kernels' threads, PyTorch's would only wait, and do that busily
        with _torch_threads(1 if kernels == "native" else torch.get_num_threads()):
            for i in range(first, steps):
                batch = slice(i * recipe.batch_size, (i + 1) * recipe.batch_size)
                factor = learning_rate_factor(recipe.schedule, state.step, steps, recipe.epochs)
                set_learning_rate(optimizer, recipe.optimizer.learning_rate * factor)
                seed_network(seeds[i], device)  # what it draws itself: dropout
                state.losses[i], state.hits[i] = step(order[batch], None if maps is None else maps[batch])
                state.step += 1
                if state.average is not None:
                    update_average(state.average, current, recipe.ema_decay, state.step)
                if i + 1 == steps or ((i + 1) % _CHECK_EVERY == 0 and device.type != "cuda"):
                    check_loss(state.losses[: i + 1], epoch, recipe)
                if i + 1 < steps:
                    state.epoch_seconds = time.perf_counter() - started
                    yield Step(epoch + 1, i + 1, steps)
        yield close_epoch(state, judge, recipe, time.perf_counter() - started, mean, deviation)


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_step(network: Network, optimizer: FusedOptimizer, train: Digits, label_smoothing: float) -> TrainingStep:
    """One step of the optimiser, as a function of a batch's indices [B] and, where it is augmented, its maps [B, 2, 3].

    It returns the mean loss and how many were answered right, as tensors: whoever looks at them waits for the device.
    """

    def step(batch: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs, labels = network.inputs(train.images[batch], maps), train.labels[batch]
        logits = network(inputs)  # [B, 10]
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    return step


def close_epoch(
    state: TrainingState, judge: Digits, recipe: Recipe, trained_seconds: float, mean: float, deviation: float
) -> Epoch:
    """Judge after an epoch's last step, and add the epoch to the state's records."""
    started = time.perf_counter()
    with averaged_weights(state):
        accuracy = _accuracy(state.model, judge, mean, deviation)
    steps = len(state.losses)
    record = Epoch(
        epoch=state.step // steps,
        train_loss=float(state.losses.double().mean()),
        train_accuracy=int(state.hits.sum()) / state.seen,
        accuracy=accuracy,
        learning_rate=recipe.optimizer.learning_rate
        * learning_rate_factor(recipe.schedule, state.step - 1, steps, recipe.epochs),
        images_per_second=round(state.seen / trained_seconds, 1),
        time_seconds=round(trained_seconds + time.perf_counter() - started, 3),
    )
    state.epochs.append(record)
    state.epoch_seconds = 0.0
    return record


@contextmanager
def averaged_weights(state: TrainingState) -> Iterator[None]:
    """Within, the model holds the moving average (if there is one): what is judged and shipped."""
    if state.average is None:
        yield
        return
    own = {name: value.clone() for name, value in state.model.state_dict().items()}
    state.model.load_state_dict(state.average)
    try:
        yield
    finally:
        state.model.load_state_dict(own)


def check_loss(losses: Tensor, epoch: int, recipe: Recipe) -> None:
    """Refuse to go on with an epoch (counted from 0) whose losses so far are not all numbers.

    Raises:
        DivergedError: they are not.
    """
    if not math.isfinite(float(losses.sum())):
        step = int((~losses.isfinite()).nonzero()[0]) + 1
        raise DivergedError(
            f"The loss is {float(losses[step - 1])} at step {step} of epoch {epoch + 1}: the training has diverged. "
            f"Try a learning rate below {recipe.optimizer.learning_rate:g} (--learning-rate)."
        )


def _accuracy(model: nn.Module, digits: Digits, mean: float, deviation: float, batch_size: int = 1000) -> float:
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=digits.labels.device)
    with torch.inference_mode():
        for images, labels in zip(digits.images.split(batch_size), digits.labels.split(batch_size), strict=True):
            right += (model(normalise_tensor(images, mean, deviation)).argmax(dim=1) == labels).sum()
    return int(right) / len(digits.labels)
