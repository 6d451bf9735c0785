"""One run from its config to its directory: prepare, train epoch by epoch, finish; resume in between."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tinydigits.data.augment import Variants, augmented_variants
from tinydigits.data.dataset import DigitData
from tinydigits.errors import RunError
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.evaluation.statistics import wilson_interval
from tinydigits.inspection.budget import (
    Budget,
    accuracy_clause,
    budget_in_words,
    budget_of,
    overall_verdict,
    reject_over_budget,
    structural_clauses,
)
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import Inspection
from tinydigits.models.factory import Model
from tinydigits.models.registry import target_of
from tinydigits.models.user_model import code_sha256
from tinydigits.models.weights import WEIGHTS_FILE, count_parameters, save_weights
from tinydigits.records import LAST3, Card, Epoch, RunResult, Verdict, write_record
from tinydigits.training.checkpoint import load_state, save_state
from tinydigits.training.config import RunConfig
from tinydigits.training.environment import environment
from tinydigits.training.loop import Custom, Step, Task, TrainingState, ema_weights, fit, start_state
from tinydigits.training.prepare import BuiltNetwork, build_network, prepare_task
from tinydigits.training.recipes import is_named
from tinydigits.training.run_config import run_config
from tinydigits.training.rundir import (
    append_batches,
    create_run_directory,
    read_config,
    rewind_batches,
    save_predictions,
    write_metrics,
)


@dataclass(eq=False)
class Run:
    """A run that is prepared or under way.

    `held_to` is its budget, else the target of its model as one; `inspection` is there if it is held to something.
    `logged` counts the steps that stand in batches.jsonl already.
    """

    config: RunConfig
    directory: Path
    task: Task
    state: TrainingState
    data: DigitData
    code_sha256: str | None  # of the user's own file; None for a model of the zoo
    budget: Budget | None
    held_to: Budget | None
    inspection: Inspection | None
    why_torch: str  # see `Choice`
    logged: int = 0

    @property
    def identity(self) -> dict[str, str | None]:
        """What has to be the same when the run resumes."""
        return {"digits": self.data.train.sha256, "network's code": self.code_sha256}

    @property
    def parameters(self) -> int:
        """Trainable numbers, as PyTorch counts them."""
        return count_parameters(self.state.model)


Listener = Callable[["Run", Step | Epoch], None]
"""Is told of every step and epoch of a run, and may show how far it has come."""


def train(
    config: RunConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    model: Model | None = None,
    custom: Custom | None = None,
    budget: Budget | None = None,
    on_record: Listener | None = None,
) -> RunResult:
    """Train to the end, and return the result, as it stands in `result.json`.

    Args:
        config: The run, as `run_config` makes it; None: tiny-10k by its own recipe.
        out: The directory of the run, a new one; None: the next free `runs/<model>-<number>`.
        model: A network of your own instead of `config.model`: an instance (a copy of it is trained), or a class or
            function that makes one.
        custom: A loss, optimiser or augmentation of your own. A run with such parts, or with `model`, is marked
            `custom`, and cannot be resumed without them.
        budget: What the run is held against.
        on_record: Is told of every step and epoch.

    Raises:
        BudgetError: the network or its training is over the budget; nothing is trained or written.
        TinydigitsError: whatever a user can cause, as a sentence.
    """
    directory = Path(out) if out is not None else None
    if model is not None:
        custom = replace(custom or Custom(), model=model)
    return _train_to_end(start_run(config or run_config(), directory, budget=budget, custom=custom), on_record)


def resume(
    path: str | os.PathLike[str],
    *,
    custom: Custom | None = None,
    budget: Budget | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    on_record: Listener | None = None,
) -> RunResult:
    """Resume an unfinished run, to the same bits as if it had never stopped; see `train`.

    `data_dir` is the directory of the MNIST files by now, if they were moved.

    Raises:
        RunError: it is no run directory, it is finished, or its digits, network or custom parts are not the same.
    """
    moved = Path(data_dir) if data_dir is not None else None
    return _train_to_end(resume_run(Path(path), budget=budget, data_dir=moved, custom=custom), on_record)


def _train_to_end(run: "Run", on_record: Listener | None) -> RunResult:
    for record in run_epochs(run):
        if on_record is not None:
            on_record(run, record)
    return finish_run(run)


def start_run(
    config: RunConfig,
    out: Path | None = None,
    data: DigitData | None = None,
    budget: Budget | None = None,
    custom: Custom | None = None,
) -> Run:
    """Build the network, load the digits (unless they are given), make the directory.

    Raises:
        BudgetError: the network or its training is over the budget.
        TinydigitsError: whatever else a user can cause; nothing is left behind then.
    """
    network = build_network(config, custom)
    return _prepare_run(network, data, budget, lambda: create_run_directory(network.config, out, network.custom.parts))


def resume_run(
    path: Path,
    data: DigitData | None = None,
    budget: Budget | None = None,
    data_dir: Path | None = None,
    custom: Custom | None = None,
) -> Run:
    """Resume an unfinished run, with the digits that its config names (or `data`, loaded before).

    `data_dir` is where MNIST lies by now, if it was moved. A run with parts of the user's own takes the same again, as
    `custom`.

    Raises:
        RunError: it is no run directory, it is finished, or its digits or the user's network are no longer the same.
    """
    config, own = read_config(path)
    given = custom.parts if custom else ()
    if odd := sorted(set(own) ^ set(given)):
        raise RunError(
            f"{path}: the run was begun {'with' if odd[0] in own else 'without'} a {odd[0]} of your own. "
            "Resume it from Python, with `tinydigits.resume(path, custom=tinydigits.Custom(…))` and the same parts."
        )
    if data_dir is not None:
        config = replace(config, data_dir=str(data_dir))
    if (path / "result.json").exists():
        raise RunError(f"{path} is finished: result.json is there. Start another run with `tinydigits train`.")
    run = _prepare_run(build_network(config, custom), data, budget, lambda: path)
    if (file := path / "state.safetensors").exists():  # else it was killed before its first epoch ended
        load_state(run.state, file, run.identity)
    rewind_batches(path, run.state.steps_done)
    run.logged = run.state.steps_done
    return run


def _prepare_run(
    network: BuiltNetwork, data: DigitData | None, budget: Budget | None, make_directory: Callable[[], Path]
) -> Run:
    """The run at its first step. The budget is checked before digits are loaded, and the directory is made last.

    Raises:
        BudgetError: the network or its training is over the budget.
    """
    config, named = network.config, network.custom.model is None
    target = target_of(config.model) if named else None
    held_to = budget or (budget_of(target) if target else None)
    inspection = inspect_model(network.model, name=config.model if named else None) if held_to else None
    if budget is not None and inspection is not None:
        reject_over_budget(budget, inspection, config.recipe.epochs)
    task, data = prepare_task(network, data)
    return Run(
        config=config,
        directory=make_directory(),
        task=task,
        state=start_state(network.model, task),
        data=data,
        code_sha256=code_sha256(config.model) if named else None,
        budget=budget,
        held_to=held_to,
        inspection=inspection,
        why_torch=network.why_torch,
    )


def run_epochs(run: Run) -> Iterator[Step | Epoch]:
    """Train, yielding every step and epoch; a finished epoch is on disk before it is yielded."""
    for record in fit(run.task, run.state):
        if isinstance(record, Epoch):
            save_run(run)
        yield record


def save_run(run: Run) -> None:
    """Put on disk all that is done so far, in the middle of an epoch too."""
    _log_batches(run)
    write_metrics(run.directory, run.state.epochs)
    save_state(run.state, run.directory / "state.safetensors", run.identity)


def finish_run(run: Run) -> RunResult:
    """Write weights, card and result; returns the result."""
    config, epochs = run.config, run.state.epochs
    accuracies = [epoch.accuracy for epoch in epochs]
    last3 = sum(accuracies[-LAST3:]) / len(accuracies[-LAST3:])
    inputs = run.task.normalization(run.task.evaluation.images)
    with ema_weights(run.state):
        save_weights(run.directory / WEIGHTS_FILE, run.state.model, _card(run))
        save_predictions(run.directory, predict_logits(run.state.model, inputs), run.task.evaluation.labels)
    total = len(run.task.evaluation)
    result = RunResult(
        model=config.model,
        data=run.data.name,
        data_sha256=run.data.train.sha256,
        evaluation_sha256=run.data.split(config.split)[1].sha256,
        code_sha256=run.code_sha256,
        warning=run.data.warning,
        split=config.split,
        backend=config.backend,
        recipe=config.recipe.name,
        seed=config.seed,
        epochs=len(epochs),
        accuracy=accuracies[-1],
        interval=wilson_interval(round(accuracies[-1] * total), total),
        accuracy_last3=last3,
        accuracy_best=max(accuracies),
        parameters=run.parameters,
        time_seconds=round(sum(epoch.time_seconds for epoch in epochs), 2),
        images_per_second=round(sum(e.images_per_second for e in epochs) / len(epochs), 1),
        run_dir=str(run.directory),
        budget=run.budget.name if run.budget else None,
        verdict=_verdict(run, accuracies[-1], last3),
        custom=run.task.custom.parts,
    )
    write_record(run.directory / "result.json", result)
    return result


def _verdict(run: Run, accuracy: float, last3: float) -> Verdict | None:
    """What this one run says of what it is held to; None: nothing.

    One run can refute an accuracy, and keep every other clause. It cannot prove an accuracy: that takes three seeds.
    """
    budget = run.held_to
    if budget is None or run.inspection is None:
        return None
    mean = accuracy if budget.accuracy_of == "final" else last3
    clauses = structural_clauses(budget, run.inspection, len(run.state.epochs))
    clause = accuracy_clause(budget, mean=mean, lower_bound=None, n=1, data=run.data.name, split=run.config.split)
    if clause is not None:
        clauses = (*clauses, clause)
    verdict = overall_verdict(clauses)
    return Verdict(
        budget=run.budget.name if run.budget else None,
        wording=budget_in_words(budget),
        verdict=verdict,
        reason="; ".join(clause.sentence for clause in clauses if clause.verdict == verdict),
        clauses=clauses,
    )


def preview_augmentation(run: Run, variants: int = 8) -> Variants | None:
    """How training changes the first training digit of each class; None where nothing is augmented."""
    recipe = run.config.recipe
    if not recipe.augmented_epochs:
        return None
    images, labels = run.task.train.images.cpu().numpy(), run.task.train.labels.cpu().numpy()
    return augmented_variants(images, labels, recipe.augmentation, run.config.seed, variants)


def _log_batches(run: Run) -> None:
    """Add the steps since the last call; all of them belong to one epoch, because each epoch ends with a call."""
    state, steps = run.state, run.task.steps_per_epoch
    before = max(0, state.steps_done - 1) // steps * steps  # steps of earlier epochs
    new = slice(run.logged - before, state.steps_done - before)
    sizes = run.task.batch_sizes[new]
    append_batches(run.directory, run.logged, state.losses[new].tolist(), state.correct[new].tolist(), sizes)
    run.logged = state.steps_done


def _card(run: Run) -> Card:
    config = run.config
    return Card(
        model=config.model,
        mean=run.task.normalization.mean,
        std=run.task.normalization.std,
        data=run.data.name,
        data_sha256=run.data.train.sha256,
        split=config.split,
        recipe_name=config.recipe.name,
        recipe=asdict(config.recipe),
        seed=config.seed,
        epochs=len(run.state.epochs),
        accuracy=run.state.epochs[-1].accuracy,
        chosen=f"the last epoch of the run with seed {config.seed}",
        command=_command(config),
        environment=environment(config.backend),
        custom=run.task.custom.parts,
    )


def _command(config: RunConfig) -> str:
    """The command that gives these weights again, where flags can say it; else what it takes besides."""
    recipe = config.recipe
    digits = f"--data {config.data} --split {config.split}"
    command = f"tinydigits train {config.model} --recipe {recipe.name} --epochs {recipe.epochs} {digits}"
    command += f" --seed {config.seed} --threads {config.threads} --backend {config.backend}"
    return command if is_named(recipe) else f"{command}, with the recipe as it stands in this card"
