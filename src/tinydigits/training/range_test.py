"""The learning-rate range test: one short training in which the rate grows from far too small to far too large.

L. N. Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017 (arXiv:1506.01186), section 3.3. The rate
grows by the same factor at every step; the loss is smoothed by a moving average without its bias to the start.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tinydigits.data.dataset import DigitData
from tinydigits.data.normalise import pixel_statistics
from tinydigits.data.sources import load_dataset
from tinydigits.errors import RunError
from tinydigits.training.config import Recipe, RunConfig
from tinydigits.training.draws import epoch_maps, epoch_order, seed_network, step_seeds
from tinydigits.training.loop import Digits, TrainingState, start_state, steps_per_epoch, training_step
from tinydigits.training.network import Network, arranged, make_network
from tinydigits.training.optim import set_learning_rate
from tinydigits.training.run import build_network, to_device

LOWEST, HIGHEST = 1e-5, 10.0  # learning rates
STEPS = 300
SMOOTHING = 0.9  # of the moving average of the loss
BELOW = 10  # the suggestion is this many times below the rate with the lowest loss
_FALLEN = 0.99  # of the first loss: whatever has not fallen below it has not been learned from
_CLIMBED = 3.0  # times the lowest smoothed loss: from there on nothing is learned any more


@dataclass(frozen=True)
class Trial:
    """One step of the test: its learning rate, the batch's loss, and the loss smoothed up to here."""

    learning_rate: float
    loss: float
    smoothed: float


def start_range_test(config: RunConfig) -> tuple[RunConfig, DigitData, Iterator[Trial]]:
    """Load the digits and build the network of a run; no directory is made.

    Returns:
        The config with its names settled, the digits, and the trials, which are made as they are asked for.
    """
    config, model = build_network(config)
    device = torch.device(config.device)
    model = arranged(model, device)
    data = load_dataset(config.data, config.data_dir)
    train = to_device(data.split(config.protocol)[0], device)
    mean, deviation = pixel_statistics(data.train)
    state = start_state(model, config.recipe, train)
    network = make_network(model, config.kernels, mean, deviation)
    return config, data, range_test(state, network, train, config.recipe, config.seed)


def range_test(state: TrainingState, network: Network, train: Digits, recipe: Recipe, seed: int) -> Iterator[Trial]:
    """Train on batches as the recipe would make them, with a learning rate that grows from step to step.

    Yields at most `STEPS` trials; it ends early where the smoothed loss has climbed to three times its lowest, or is no
    longer a number. The weights in `state` are of no use afterwards.
    """
    state.model.train()
    make_step = training_step(network, state.optimizer, train, recipe.label_smoothing)
    count = len(train.labels)
    steps = steps_per_epoch(count, recipe.batch_size)
    average, lowest = 0.0, math.inf
    for step in range(STEPS):
        epoch, i = divmod(step, steps)
        if i == 0:
            order = epoch_order(count, seed, epoch).to(train.labels.device)
            seeds = step_seeds(steps, seed, epoch)
            maps = epoch_maps(count, recipe, seeds) if recipe.augmented_epochs else None
        batch = slice(i * recipe.batch_size, (i + 1) * recipe.batch_size)
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        set_learning_rate(state.optimizer, rate)
        seed_network(seeds[i], train.labels.device)
        loss, _ = make_step(order[batch], None if maps is None else maps[batch])

        average = SMOOTHING * average + (1 - SMOOTHING) * loss.item()
        smoothed = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed):
            return
        yield Trial(rate, loss.item(), smoothed)
        lowest = min(lowest, smoothed)
        if smoothed > _CLIMBED * lowest:
            return


@dataclass(frozen=True)
class Suggestion:
    """A learning rate, the rate `at_lowest` smoothed loss from which it was read, and how, as a sentence."""

    learning_rate: float
    at_lowest: float
    reading: str


def suggest(trials: Sequence[Trial]) -> Suggestion:
    """Read a range test: a tenth of the rate at which the smoothed loss is lowest, to two digits.

    The lowest loss comes late, just before the rate is too large; a tenth of it is the usual distance (the steepest
    fall, the other usual reading, hangs more on chance).

    Raises:
        RunError: the loss did not fall at any rate.
    """
    lowest = min(trials, key=lambda trial: trial.smoothed, default=None)
    if lowest is None or lowest.smoothed > _FALLEN * trials[0].smoothed:
        raise RunError(
            f"The loss did not fall at any learning rate from {LOWEST:g} to {HIGHEST:g}, so none can be suggested. "
            "Look at the network with `tinydigits inspect`: does its output depend on its input, are weights trainable?"
        )
    rate = float(f"{lowest.learning_rate / BELOW:.2g}")
    reading = (
        f"a tenth of {lowest.learning_rate:.2g}, where the smoothed loss was lowest ({lowest.smoothed:.3f}), "
        f"before it climbed"
    )
    return Suggestion(rate, lowest.learning_rate, reading)
