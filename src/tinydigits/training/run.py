"""One run from its config to its directory: prepare, train epoch by epoch, finish; resume in between."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinydigits.data.augment import Variants, augmented_variants
from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.data.normalise import normalise_tensor, pixel_statistics
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError, RunError
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.evaluation.statistics import wilson_interval
from tinydigits.models.budget import Budget, accuracy_clause, budget_of, overall, refuse, structural_clauses, wording
from tinydigits.models.inspect import Inspection, inspect_model
from tinydigits.models.registry import canonical_name, code_sha256, create_model, model_claim
from tinydigits.models.weights import Card, count_parameters, save_weights
from tinydigits.storage import write_json
from tinydigits.training.checkpoint import load_state, save_state
from tinydigits.training.config import RunConfig
from tinydigits.training.loop import Digits, Epoch, Step, TrainingState, averaged_weights, fit, start_state
from tinydigits.training.memory import keep_freed_memory
from tinydigits.training.network import arranged
from tinydigits.training.recipes import is_named
from tinydigits.training.rundir import (
    SCHEMA,
    RunDirectory,
    append_batches,
    create_run_directory,
    environment,
    open_run_directory,
    rewind_batches,
    save_predictions,
    write_metrics,
)


@dataclass(eq=False)
class Run:
    """A run that is prepared or under way."""

    config: RunConfig
    directory: RunDirectory
    state: TrainingState
    train: Digits
    judge: Digits
    data_name: str
    data_sha256: str  # of the training digits, held-out ones included
    judge_sha256: str
    code_sha256: str | None  # of the user's own file; None for a model of the zoo
    notice: str | None  # why `auto` gave other digits than MNIST
    mean: float
    deviation: float
    budget: Budget | None  # that was asked for
    inspection: Inspection | None  # where there is a budget or a claim to judge
    logged: int = 0  # batches of the current epoch that stand in batches.jsonl already

    @property
    def identity(self) -> dict[str, str | None]:
        """What has to be the same when the run goes on."""
        return {"digits": self.data_sha256, "network's code": self.code_sha256}

    @property
    def parameters(self) -> int:
        """Trainable numbers, as PyTorch counts them."""
        return count_parameters(self.state.model)


def train(config: RunConfig, out: str | os.PathLike[str] | None = None, budget: Budget | None = None) -> dict[str, Any]:
    """Train to the end and return the result, as it stands in `result.json`; it is judged by `budget`.

    `out` is the directory of the run, a new one; by default the next free `runs/<model>-<number>`.

    Raises:
        BudgetError: the network or its training is over the budget; nothing is trained or written.
        TinydigitsError: whatever a user can cause, as a sentence.
    """
    run = start_run(config, Path(out) if out is not None else None, budget=budget)
    for _ in run_epochs(run):
        pass
    return finish_run(run)


def start_run(
    config: RunConfig, out: Path | None = None, data: DigitData | None = None, budget: Budget | None = None
) -> Run:
    """Load the digits (unless they are given), build the network, make the directory.

    Nothing is left behind when that fails, or when the network is over the budget.
    """
    return _prepare(config, data, None, out, budget)


def resume_run(
    path: Path, data: DigitData | None = None, budget: Budget | None = None, data_dir: Path | None = None
) -> Run:
    """Go on with an unfinished run, with the digits that its config names (or `data`, loaded before).

    `data_dir` is where MNIST lies by now, if it was moved.

    Raises:
        RunError: it is no run directory, it is finished, or its digits or the user's network are no longer the same.
    """
    directory, config = open_run_directory(path)
    if data_dir is not None:
        config = replace(config, data_dir=str(data_dir))
    if directory.result.exists():
        raise RunError(f"{path} is finished: result.json is there. Start another run with `tinydigits train`.")
    return _prepare(config, data, directory, None, budget)


def run_epochs(run: Run) -> Iterator[Step | Epoch]:
    """Train, yielding every step and epoch; a finished epoch is on disk before it is yielded."""
    config = run.config
    for record in fit(
        run.state, run.train, run.judge, config.recipe, run.mean, run.deviation, config.seed, config.kernels
    ):
        if isinstance(record, Epoch):
            save_run(run)
            yield record
            run.logged = 0
        else:
            yield record


def save_run(run: Run) -> None:
    """Put on disk all that is done so far, in the middle of an epoch too."""
    _log_batches(run)
    write_metrics(run.directory, [epoch.as_dict() for epoch in run.state.epochs])
    save_state(run.state, run.directory.state, run.identity)


def finish_run(run: Run) -> dict[str, Any]:
    """Write weights, card and result; returns the result."""
    config, epochs = run.config, run.state.epochs
    accuracies = [epoch.accuracy for epoch in epochs]
    inputs = normalise_tensor(run.judge.images, run.mean, run.deviation)
    with averaged_weights(run.state):
        save_weights(run.directory.weights, run.state.model, _card(run))
        save_predictions(run.directory, predict_logits(run.state.model, inputs), run.judge.labels)
    total = len(run.judge.labels)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "model": config.model,
        "data": run.data_name,
        "data_sha256": run.data_sha256,
        "judge_sha256": run.judge_sha256,
        "code_sha256": run.code_sha256,
        "notice": run.notice,
        "protocol": config.protocol,
        "recipe": config.recipe.name,
        "seed": config.seed,
        "epochs": len(epochs),
        "accuracy": accuracies[-1],
        "interval": list(wilson_interval(round(accuracies[-1] * total), total)),
        "accuracy_last3": sum(accuracies[-3:]) / len(accuracies[-3:]),
        "accuracy_best": max(accuracies),
        "parameters": run.parameters,
        "time_seconds": round(sum(epoch.time_seconds for epoch in epochs), 2),
        "images_per_second": round(sum(e.images_per_second for e in epochs) / len(epochs), 1),
        "run_dir": str(run.directory.path),
    }
    result["budget"] = run.budget.name if run.budget else None
    result["verdict"] = _verdict(run, result)
    write_json(run.directory.result, result)
    return result


def _verdict(run: Run, result: dict[str, Any]) -> dict[str, Any] | None:
    """What this one run says of the budget that was asked for, else of its model's own claim; None: there is neither.

    One run can refute an accuracy, and keep every other clause. It cannot prove an accuracy: that takes three seeds.
    """
    budget = run.budget or _claimed(run.config.model)
    if budget is None or run.inspection is None:
        return None
    accuracy = accuracy_clause(
        budget,
        mean=result["accuracy" if budget.accuracy_of == "final" else "accuracy_last3"],
        lower_bound=None,
        n=1,
        data=run.data_name,
        protocol=run.config.protocol,
    )
    clauses = structural_clauses(budget, run.inspection, result["epochs"]) + ((accuracy,) if accuracy else ())
    verdict = overall(clauses)
    return {
        "claim": wording(budget),
        "verdict": verdict,
        "reason": "; ".join(clause.sentence for clause in clauses if clause.verdict == verdict),
        "clauses": [asdict(clause) for clause in clauses],
    }


def _claimed(model: str) -> Budget | None:
    claim = model_claim(model)
    return budget_of(claim) if claim else None


def preview_augmentation(run: Run, variants: int = 8) -> Variants | None:
    """How training changes the first training digit of each class; None where nothing is augmented."""
    recipe = run.config.recipe
    if not recipe.augmented_epochs:
        return None
    images, labels = run.train.images.cpu().numpy(), run.train.labels.cpu().numpy()
    return augmented_variants(images, labels, recipe.augmentation, run.config.seed, variants)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available[name]:
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise ConfigError(
            f"device {name!r} is not available to PyTorch here; there is {there}. Leave --device out to choose it."
        )
    return torch.device(name)


def build_network(config: RunConfig) -> tuple[RunConfig, nn.Module]:
    """Make this process ready to train as `config` says, and build its network, by its seed.

    Returns:
        The config with its names settled, and the network, on the CPU.

    Raises:
        ConfigError, UnknownModelError, ModelError: there is no such device or model, or it cannot be built.
    """
    device = choose_device("cpu" if config.kernels == "native" else config.device)
    config = replace(config, model=canonical_name(config.model), device=device.type)
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    return config, create_model(config.model)


def _prepare(
    config: RunConfig,
    data: DigitData | None,
    directory: RunDirectory | None,
    out: Path | None,
    budget: Budget | None,
) -> Run:
    config, model = build_network(config)
    inspection = inspect_model(model, name=config.model) if budget or _claimed(config.model) else None
    if budget and inspection:
        refuse(budget, inspection, config.recipe.epochs)
    device = torch.device(config.device)
    model = arranged(model, device)
    data = data or load_dataset(config.data, config.data_dir)
    train, judge = data.split(config.protocol)
    mean, deviation = pixel_statistics(data.train)
    train_digits = to_device(train, device)
    resumed = directory is not None
    if directory is None:
        directory = create_run_directory(config, out)
    run = Run(
        config=config,
        directory=directory,
        state=start_state(model, config.recipe, train_digits),
        train=train_digits,
        judge=to_device(judge, device),
        data_name=data.name,
        data_sha256=data.train.sha256,
        judge_sha256=judge.sha256,
        code_sha256=code_sha256(config.model),
        notice=data.notice,
        mean=mean,
        deviation=deviation,
        budget=budget,
        inspection=inspection,
    )
    if resumed:
        _restore(run)
    return run


def _restore(run: Run) -> None:
    """Put the saved state back; a run that was killed before its first epoch ended starts at its first step."""
    if run.directory.state.exists():
        load_state(run.state, run.directory.state, run.identity)
    rewind_batches(run.directory, run.state.step)
    run.logged = run.state.step % len(run.state.losses)


def _log_batches(run: Run) -> None:
    state, steps = run.state, len(run.state.losses)
    done = (state.step - 1) % steps + 1 if state.step else 0
    sizes = [run.config.recipe.batch_size] * steps
    sizes[-1] = min(len(run.train.labels) - (steps - 1) * run.config.recipe.batch_size, sizes[-1])
    new = slice(run.logged, done)
    first = state.step - done + run.logged
    append_batches(run.directory, first, state.losses[new].tolist(), state.hits[new].tolist(), sizes[new])
    run.logged = done


def _card(run: Run) -> Card:
    config = run.config
    return Card(
        model=config.model,
        mean=run.mean,
        deviation=run.deviation,
        data=run.data_name,
        data_sha256=run.data_sha256,
        protocol=config.protocol,
        recipe_name=config.recipe.name,
        recipe=config.as_dict()["recipe"],
        seed=config.seed,
        epochs=len(run.state.epochs),
        accuracy=run.state.epochs[-1].accuracy,
        chosen=f"the last epoch of the run with seed {config.seed}",
        command=_command(config),
        environment=environment(config.kernels),
    )


def _command(config: RunConfig) -> str:
    """The command that gives these weights again, where flags can say it; else what it takes besides."""
    recipe = config.recipe
    digits = f"--data {config.data} --protocol {config.protocol}"
    command = f"tinydigits train {config.model} --recipe {recipe.name} --epochs {recipe.epochs} {digits}"
    command += f" --seed {config.seed} --threads {config.threads}"
    if config.kernels != "torch":
        command += f" --kernels {config.kernels}"
    return command if is_named(recipe) else f"{command}, with the recipe as it stands in this card"


def to_device(dataset: Dataset, device: torch.device) -> Digits:
    """The digits as the loop takes them."""
    labels = torch.from_numpy(dataset.labels).to(device, torch.int64)
    return Digits(torch.from_numpy(dataset.images).to(device), labels)
