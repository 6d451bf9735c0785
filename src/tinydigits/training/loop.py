"""The training loop, top to bottom: it yields records and knows neither files nor screens."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinydigits.data.augment import random_maps
from tinydigits.data.normalise import normalise_tensor
from tinydigits.errors import DivergedError
from tinydigits.training.config import Recipe
from tinydigits.training.network import make_network
from tinydigits.training.optim import learning_rate_factor, make_optimizer, start_average, update_average

_CHECK_EVERY = 50  # steps between looks at the loss; each look makes a GPU wait


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
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None  # moving average of the weights, if the recipe asks for one
    step: int  # optimiser steps done, over the whole run
    losses: Tensor  # [steps per epoch] loss of every batch of the current epoch
    hits: Tensor  # [steps per epoch] digits answered right in every batch of it
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
    model, optimizer = state.model, state.optimizer
    network = make_network(model, kernels, mean, deviation)
    steps = steps_per_epoch(len(train.labels), recipe.batch_size)
    while state.step < steps * recipe.epochs:
        epoch, first = divmod(state.step, steps)
        model.train()
        order = torch.randperm(len(train.labels), generator=keyed_generator(seed, epoch)).to(train.labels.device)
        augmenting = epoch < recipe.augmented_epochs
        started = time.perf_counter() - state.epoch_seconds
        for i in range(first, steps):
            batch = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
            draws = keyed_generator(seed, epoch, i)
            maps = random_maps(len(batch), 28, recipe.augmentation, draws) if augmenting else None
            inputs, labels = network.inputs(train.images[batch], maps), train.labels[batch]

            factor = learning_rate_factor(recipe.schedule, state.step, steps, recipe.epochs)
            for group in optimizer.param_groups:
                group["lr"] = recipe.optimizer.learning_rate * factor
            torch.manual_seed(draws.initial_seed())  # what the network itself draws: dropout
            logits = network(inputs)  # [B, 10]
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            state.losses[i] = loss.detach()
            state.hits[i] = (logits.detach().argmax(dim=1) == labels).sum()
            state.step += 1
            if state.average is not None:
                update_average(state.average, model, recipe.ema_decay, state.step)
            if (i + 1) % _CHECK_EVERY == 0 or i + 1 == steps:
                _check_loss(state.losses[: i + 1], epoch, recipe)
            if i + 1 < steps:
                state.epoch_seconds = time.perf_counter() - started
                yield Step(epoch + 1, i + 1, steps)

        seen = min(len(train.labels), steps * recipe.batch_size)
        trained_seconds = time.perf_counter() - started
        with averaged_weights(state):
            accuracy = _accuracy(model, judge, mean, deviation)
        record = Epoch(
            epoch=epoch + 1,
            train_loss=float(state.losses.double().mean()),
            train_accuracy=int(state.hits.sum()) / seen,
            accuracy=accuracy,
            learning_rate=optimizer.param_groups[0]["lr"],
            images_per_second=round(seen / trained_seconds, 1),
            time_seconds=round(time.perf_counter() - started, 3),
        )
        state.epochs.append(record)
        state.epoch_seconds = 0.0
        yield record


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


def keyed_generator(*key: int) -> torch.Generator:
    """A CPU generator for (seed, epoch[, step]); NumPy's SeedSequence keeps neighbouring keys independent."""
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )


def _check_loss(losses: Tensor, epoch: int, recipe: Recipe) -> None:
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
            inputs = normalise_tensor(images, mean, deviation).contiguous(memory_format=torch.channels_last)
            right += (model(inputs).argmax(dim=1) == labels).sum()
    return int(right) / len(digits.labels)
