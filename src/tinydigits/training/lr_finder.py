"""The learning-rate finder: one short training in which the rate grows from far too small to far too large.

L. N. Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017 (arXiv:1506.01186), section 3.3. The rate
grows by the same factor at every step; the loss is smoothed by a moving average without its bias to the start.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tinydigits.data.dataset import DigitData
from tinydigits.errors import DivergedError, RunError, StorageError
from tinydigits.records import LearningRateResult, RateTrial, write_record
from tinydigits.storage import file_stem, make_directory, next_free
from tinydigits.training.config import RunConfig
from tinydigits.training.environment import environment
from tinydigits.training.loop import Task, TrainingState, fit, start_state
from tinydigits.training.prepare import build_network, prepare_task

LOWEST, HIGHEST = 1e-5, 10.0  # learning rates
STEPS = 300
SMOOTHING = 0.9  # of the moving average of the loss
SUGGESTION_DIVISOR = 10  # the suggestion is this many times below the rate with the lowest loss
_FALLEN = 0.99  # of the first loss: whatever has not fallen below it has not been learned from
_CLIMBED = 3.0  # times the lowest smoothed loss: from there on nothing is learned any more


def find_learning_rate(
    config: RunConfig, out: Path | None = None, watch: Callable[[Iterator[RateTrial]], Iterable[RateTrial]] = iter
) -> LearningRateResult:
    """Try growing rates, read the curve, and write `learning_rate.json` into a new directory.

    That is `out`, or the next free `runs/MODEL-learning-rate-NNN`. `watch` goes through the trials.

    Raises:
        StorageError: `out` exists already.
        RunError: the loss did not fall at any rate.
    """
    if out is not None and out.exists():  # before a minute of work
        raise StorageError(f"{out} exists already, and nothing is overwritten. Name another directory.")
    network = build_network(config)
    task, data = prepare_task(network)
    trials = list(watch(learning_rate_trials(task, start_state(network.model, task))))
    directory = out or next_free(Path("runs"), f"{file_stem(network.config.model)}-learning-rate")
    result = suggest(network.config, data, trials, str(directory))
    make_directory(directory)
    write_record(directory / "learning_rate.json", result)
    return result


def learning_rate_trials(task: Task, state: TrainingState) -> Iterator[RateTrial]:
    """Train on batches as the recipe would make them, with a learning rate that grows from step to step.

    Yields at most `STEPS` trials; it ends early where the smoothed loss has climbed to three times its lowest, or is no
    longer a number. The weights in `state` are of no use afterwards.
    """
    augmentation = replace(task.recipe.augmentation, off_epochs=0)
    recipe = replace(task.recipe, epochs=math.ceil(STEPS / task.steps_per_epoch), augmentation=augmentation)
    average, lowest = 0.0, math.inf
    try:
        for step, _ in enumerate(fit(replace(task, recipe=recipe), state, _growing_rate)):
            if step == STEPS:
                return
            loss = float(state.losses[step % task.steps_per_epoch])
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smoothed = average / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(smoothed):
                return
            yield RateTrial(learning_rate=_growing_rate(step), loss=loss, smoothed=smoothed)
            lowest = min(lowest, smoothed)
            if smoothed > _CLIMBED * lowest:
                return
    except DivergedError:
        return


def _growing_rate(step: int) -> float:
    return float(LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)))


def suggest(config: RunConfig, data: DigitData, trials: Sequence[RateTrial], run_dir: str) -> LearningRateResult:
    """Read the trials: a tenth of the rate at which the smoothed loss is lowest, to two digits.

    The lowest loss comes late, just before the rate is too large; a tenth of it is the usual distance (the steepest
    fall, the other usual reading, depends more on chance).

    Raises:
        RunError: the loss did not fall at any rate.
    """
    lowest = min(trials, key=lambda trial: trial.smoothed, default=None)
    if lowest is None or lowest.smoothed > _FALLEN * trials[0].smoothed:
        raise RunError(
            f"The loss did not fall at any learning rate from {LOWEST:g} to {HIGHEST:g}, so none can be suggested. "
            "Look at the network with `tinydigits inspect`: does its output depend on its input, are weights trainable?"
        )
    reading = (
        f"a tenth of {lowest.learning_rate:.2g}, where the smoothed loss was lowest ({lowest.smoothed:.3f}), "
        f"before it climbed"
    )
    return LearningRateResult(
        model=config.model,
        data=data.name,
        warning=data.warning,
        recipe=config.recipe.name,
        optimizer=config.recipe.optimizer.name,
        batch_size=config.recipe.batch_size,
        seed=config.seed,
        learning_rate=float(f"{lowest.learning_rate / SUGGESTION_DIVISOR:.2g}"),
        at_lowest=lowest.learning_rate,
        reading=reading,
        recipe_learning_rate=config.recipe.optimizer.learning_rate,
        trials=tuple(trials),
        environment=environment(config.backend),
        run_dir=run_dir,
    )
