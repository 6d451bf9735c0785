"""The training loop, top to bottom: it yields records and knows neither files nor screens."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinydigits.data.normalize import Normalization
from tinydigits.errors import DivergedError
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.models.factory import Model
from tinydigits.records import Epoch
from tinydigits.training.backends import Augment, Backend, Loss
from tinydigits.training.backends.native.network import NativeBackend
from tinydigits.training.backends.torch import TorchBackend
from tinydigits.training.config import Recipe
from tinydigits.training.optim import (
    FusedOptimizer,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    start_ema,
    update_ema,
)
from tinydigits.training.rng import epoch_matrices, epoch_order, seed_global_generator, step_seeds

_CHECK_EVERY = 50  # steps between looks at the loss; each look makes a GPU wait, so there it comes after an epoch only


@dataclass(frozen=True)
class Step:
    """One optimiser step is done: `step` of `steps` in this `epoch` (both counted from 1)."""

    epoch: int
    step: int
    steps: int


@dataclass(frozen=True, eq=False)
class Digits:
    """Digits on the device: `images` uint8 [N, 28, 28], `labels` int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Custom:
    """What a user puts in instead of a model or recipe that has a name; None: nothing.

    `model`: a network, of which a copy is trained, or a class or function that makes one. `loss`: from logits [B, 10]
    and labels [B] to a scalar. `optimizer`: from the model to a `torch.optim.Optimizer`, whose learning rates the
    recipe's schedule sets. `augment`: from normalized images [B, 1, 28, 28] to as many, after the recipe's own
    augmentation; PyTorch's global generator is seeded before each step.
    """

    model: Model | None = None
    loss: Loss | None = None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    augment: Augment | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what is replaced."""
        return tuple(name for name, part in vars(self).items() if part is not None)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be trained: on which digits, how, from which seed, and by which backend (`torch` or `native`)."""

    train: Digits
    evaluation: Digits
    normalization: Normalization
    recipe: Recipe
    seed: int
    backend: str = "torch"
    custom: Custom = field(default_factory=Custom)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: the last may be smaller, but a single digit is left out (batch norm needs two)."""
        count, size = len(self.train), self.recipe.batch_size
        return max(1, count // size + (count % size > 1))

    @property
    def batch_sizes(self) -> list[int]:
        """Digits in each batch of an epoch."""
        count, size = len(self.train), self.recipe.batch_size
        return [min(size, count - start) for start in range(0, count, size)][: self.steps_per_epoch]

    def make_backend(self, model: nn.Module) -> Backend:
        """What calculates the steps of this task.

        Raises:
            ConfigError: the native backend cannot train this network.
            ToolMissingError: there is no C compiler for it.
        """
        loss = self.custom.loss or partial(F.cross_entropy, label_smoothing=self.recipe.label_smoothing)
        if self.backend == "native":
            return NativeBackend(model, self.normalization, loss, torch.get_num_threads())
        return TorchBackend(model, self.normalization, loss, self.custom.augment)


@dataclass(eq=False)
class TrainingState:
    """All that a run needs to resume to the same bits: weights aside, everything that changes from step to step."""

    model: nn.Module
    optimizer: FusedOptimizer | torch.optim.Optimizer
    ema: dict[str, Tensor] | None  # moving average of the weights, if the recipe asks for one
    steps_done: int  # over the whole run
    losses: Tensor  # [steps per epoch] loss of every batch of the current epoch
    correct: Tensor  # [steps per epoch] digits classified correctly in every batch of it
    epochs: list[Epoch] = field(default_factory=list)
    epoch_seconds: float = 0.0  # spent in the current epoch so far


def start_state(model: nn.Module, task: Task) -> TrainingState:
    """The state before the first step."""
    device = task.train.labels.device
    make = task.custom.optimizer or partial(make_optimizer, settings=task.recipe.optimizer)
    return TrainingState(
        model=model,
        optimizer=make(model),
        ema=start_ema(model) if task.recipe.ema_decay else None,
        steps_done=0,
        losses=torch.zeros(task.steps_per_epoch, device=device),
        correct=torch.zeros(task.steps_per_epoch, dtype=torch.int64, device=device),
    )


Rate = Callable[[int], float]
"""The learning rate of a step, counted from 0 over the whole run."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step is made of: `indices` [B] of its digits, their affine `matrices` [B, 2, 3] or None, rate and seed."""

    index: int  # in its epoch, from 0
    indices: Tensor
    matrices: Tensor | None
    learning_rate: float
    seed: int


def epoch_batches(task: Task, steps_done: int, rate: Rate) -> Iterator[Batch]:
    """The batches of an epoch that are left after `steps_done` of the run; only this function makes batches.

    Order, matrices and seeds depend on (seed, epoch, step) alone.
    """
    recipe, count, device = task.recipe, len(task.train), task.train.labels.device
    epoch, first = divmod(steps_done, task.steps_per_epoch)
    order = epoch_order(count, task.seed, epoch).to(device)
    seeds = step_seeds(task.steps_per_epoch, task.seed, epoch)
    augmented = epoch < recipe.augmented_epochs
    matrices = epoch_matrices(count, recipe, seeds).to(device) if augmented else None
    for index in range(first, task.steps_per_epoch):
        part = slice(index * recipe.batch_size, (index + 1) * recipe.batch_size)
        chosen = None if matrices is None else matrices[part]
        yield Batch(index, order[part], chosen, rate(epoch * task.steps_per_epoch + index), seeds[index])


def fit(task: Task, state: TrainingState, rate: Rate | None = None) -> Iterator[Step | Epoch]:
    """Train from wherever `state` stands to the last epoch.

    Yields a Step after each step but an epoch's last, and an Epoch after that one. A run that stops after any yield
    and resumes from its saved state ends with the same bits as one that never stopped. `rate` is the recipe's unless
    another is given.

    Raises:
        DivergedError: the loss is no longer finite.
        ConfigError: the native backend cannot train this network.
        ToolMissingError: there is no C compiler for it.
    """
    model, optimizer, train, device = state.model, state.optimizer, task.train, task.train.labels.device
    backend, rate = task.make_backend(model), rate or partial(learning_rate, task)
    live_weights = model.state_dict()
    while state.steps_done < task.steps_per_epoch * task.recipe.epochs:
        model.train()
        started = time.perf_counter() - state.epoch_seconds
        with _torch_threads(backend.torch_threads):
            for batch in epoch_batches(task, state.steps_done, rate):
                set_learning_rate(optimizer, batch.learning_rate)
                seed_global_generator(batch.seed, device)  # which dropout draws from
                optimizer.zero_grad()
                images, labels = train.images[batch.indices], train.labels[batch.indices]
                loss, correct = backend.compute_gradients(images, labels, batch.matrices)  # forward and backward
                state.losses[batch.index], state.correct[batch.index] = loss, correct
                optimizer.step()
                state.steps_done += 1
                if state.ema is not None:
                    update_ema(state.ema, live_weights, task.recipe.ema_decay, state.steps_done)
                done = batch.index + 1
                if done == task.steps_per_epoch or (done % _CHECK_EVERY == 0 and device.type != "cuda"):
                    _check_losses(state, task, done)
                if done < task.steps_per_epoch:
                    state.epoch_seconds = time.perf_counter() - started
                    yield Step((state.steps_done - 1) // task.steps_per_epoch + 1, done, task.steps_per_epoch)
        yield _evaluate_and_record(task, state, time.perf_counter() - started, rate(state.steps_done - 1))


def learning_rate(task: Task, run_step: int) -> float:
    """The recipe's learning rate at a step, counted from 0 over the whole run."""
    recipe, steps = task.recipe, task.steps_per_epoch
    return recipe.optimizer.learning_rate * learning_rate_factor(recipe.schedule, run_step, steps, recipe.epochs)


@contextmanager
def ema_weights(state: TrainingState) -> Iterator[None]:
    """Within, the model holds the moving average (if there is one): what is evaluated and shipped."""
    if state.ema is None:
        yield
        return
    live_weights = {name: value.clone() for name, value in state.model.state_dict().items()}
    state.model.load_state_dict(state.ema)
    try:
        yield
    finally:
        state.model.load_state_dict(live_weights)


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _evaluate_and_record(task: Task, state: TrainingState, trained_seconds: float, rate: float) -> Epoch:
    """Evaluate after an epoch's last step, and add the epoch to the state's records."""
    started = time.perf_counter()
    with ema_weights(state):
        predicted = predict_logits(state.model, task.normalization(task.evaluation.images)).argmax(dim=1)
    seen = sum(task.batch_sizes)
    record = Epoch(
        epoch=state.steps_done // task.steps_per_epoch,
        train_loss=float(state.losses.double().mean()),
        train_accuracy=int(state.correct.sum()) / seen,
        accuracy=int((predicted == task.evaluation.labels).sum()) / len(task.evaluation),
        learning_rate=rate,
        images_per_second=round(seen / trained_seconds, 1),
        time_seconds=round(trained_seconds + time.perf_counter() - started, 3),
    )
    state.epochs.append(record)
    state.epoch_seconds = 0.0
    return record


def _check_losses(state: TrainingState, task: Task, done: int) -> None:
    """Stop an epoch whose losses so far, of `done` steps, are not all numbers.

    Raises:
        DivergedError: they are not.
    """
    losses = state.losses[:done]
    if not math.isfinite(float(losses.sum())):
        step, epoch = int((~losses.isfinite()).nonzero()[0]) + 1, (state.steps_done - 1) // task.steps_per_epoch + 1
        raise DivergedError(
            f"The loss is {float(losses[step - 1])} at step {step} of epoch {epoch}: the training has diverged. "
            f"Try a learning rate below {task.recipe.optimizer.learning_rate:g} (--learning-rate)."
        )
