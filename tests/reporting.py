"""Runs and studies to report on: small real ones on optdigits, and a large one on MNIST that was not trained for it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from tinydigits.data.augment import Augmentation
from tinydigits.data.dataset import DigitData
from tinydigits.data.normalise import normalise
from tinydigits.data.optdigits import load_optdigits
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.models.budget import Budget
from tinydigits.models.inspect import inspect_model
from tinydigits.models.registry import create_model
from tinydigits.models.weights import load_model, save_weights
from tinydigits.storage import write_json
from tinydigits.studies.prove import collect, judge, open_study, run_directory
from tinydigits.training.config import Optimizer, Recipe, RunConfig
from tinydigits.training.recipes import get_recipe
from tinydigits.training.run import train
from tinydigits.training.rundir import create_run_directory, save_predictions, write_metrics

NETWORK = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(576, 10),
        )
"""
RECIPE = Recipe(
    "of the tests",
    epochs=4,
    batch_size=32,
    optimizer=Optimizer("adamw", learning_rate=0.01),
    augmentation=Augmentation(rotation_degrees=10, shift_pixels=1),
)
HOSTILE = "<img src=x onerror=alert(1)> & 'co'"


def small_study(directory: Path, name: str, *, seeds: int = 3, learning_rate: float = 0.01, twin: bool = True) -> Path:
    """A study of a user's network in `directory`, which is made, judged by a budget that it meets in part."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "net.py").write_text(NETWORK)
    recipe = replace(RECIPE, optimizer=Optimizer("adamw", learning_rate=learning_rate))
    config = RunConfig(f"{directory / 'net.py'}:Net", recipe, data="optdigits", device="cpu")
    study = directory / name
    budget = Budget("tests", dataset="optdigits", max_parameters=8_000, min_accuracy=0.6, forbid=("batch_norm",))
    inspection = inspect_model(create_model(config.model), name=config.model)
    with open_study(study, config):
        for seed in range(seeds):
            train(replace(config, seed=seed), run_directory(study, seed))
        data = load_optdigits()
        held_out = None
        if twin:
            train(replace(config, protocol="tune"), study / "twin")
            held_out = data.split("tune")[1]
        judge(study, collect(study, config, range(seeds), held_out), budget, inspection)
    return study


def large_study(study: Path, mnist: DigitData, seeds: int = 20) -> Path:
    """Of MNIST's test digits: the logits of shipped weights with noise, and made-up curves of twenty epochs."""
    model, card = load_model("plain-9k")
    logits = predict_logits(model, normalise(mnist.test.images, card.mean, card.deviation))
    labels = torch.from_numpy(mnist.test.labels)
    recipe = replace(get_recipe("fast"), epochs=20)
    config = RunConfig("plain-9k", recipe, data="mnist", device="cpu")
    draw = torch.Generator().manual_seed(0)
    with open_study(study, config):
        for seed in range(seeds):
            run = create_run_directory(replace(config, seed=seed), run_directory(study, seed))
            answers = logits + torch.randn(logits.shape, generator=draw)
            accuracy = float((answers.argmax(dim=1) == labels).float().mean())
            curve = [accuracy - 0.05 / (epoch + 1) for epoch in range(19)] + [accuracy]
            write_metrics(
                run,
                [
                    {"epoch": i, "train_loss": 1 / i, "train_accuracy": a - 0.01, "accuracy": a, "learning_rate": 0.1}
                    for i, a in enumerate(curve, start=1)
                ],
            )
            save_predictions(run, answers, labels)
            save_weights(run.weights, model, card)
            figures = {"accuracy": accuracy, "accuracy_last3": accuracy, "accuracy_best": max(curve)}
            digests = {"data_sha256": mnist.train.sha256, "judge_sha256": mnist.test.sha256, "code_sha256": None}
            more = {"seed": seed, "parameters": 9032, "epochs": 20, "data": "mnist", "time_seconds": 60.0}
            write_json(run.result, {"schema": 1, **figures, **digests, **more})
        judge(study, collect(study, config, range(seeds)), None, inspect_model(model, name="plain-9k"))
    return study


def copied(study: Path, target: Path, **changes: object) -> Path:
    """A copy of a study with other values in its study.json."""
    shutil.copytree(study, target)
    document = json.loads((target / "study.json").read_text())
    (target / "study.json").write_text(json.dumps({**document, **changes}))
    return target
