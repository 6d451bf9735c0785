"""Runs and studies to report on: small real ones on optdigits, and a large one on MNIST with made-up curves."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from tests.support import records
from tinydigits.data.augment import Augmentation
from tinydigits.data.dataset import DigitData
from tinydigits.data.normalize import Normalization
from tinydigits.data.optdigits import load_optdigits
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.evaluation.rejection import nondigit_pictures
from tinydigits.inspection.budget import Budget
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model, load_model
from tinydigits.models.weights import save_weights
from tinydigits.records import Epoch
from tinydigits.storage import write_json
from tinydigits.studies.study import collect, open_study, run_directory, write_verdict
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


def small_study(
    directory: Path, name: str, *, seeds: int = 3, learning_rate: float = 0.01, calibration_run: bool = True
) -> Path:
    """A study of a user's network in `directory`, which is created, with a verdict on a budget."""
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
        validation = None
        if calibration_run:
            train(replace(config, split="val"), study / "calibration_run")
            validation = data.split("val")[1]
        few = functools.partial(nondigit_pictures, count=20)
        with mock.patch("tinydigits.studies.study.nondigit_pictures", few):  # takes seconds otherwise
            result = collect(study, config, range(seeds), validation)
        write_verdict(study, result, budget, inspection)
    return study


def large_study(study: Path, mnist: DigitData, seeds: int = 20) -> Path:
    """Of MNIST's test digits: the logits of shipped weights with noise, and made-up curves of twenty epochs."""
    model, card = load_model("plain-9k")
    logits = predict_logits(model, Normalization(card.mean, card.std).array(mnist.test.images))
    labels = torch.from_numpy(mnist.test.labels)
    recipe = replace(get_recipe("fast"), epochs=20)
    config = RunConfig("plain-9k", recipe, data="mnist", device="cpu")
    generator = torch.Generator().manual_seed(0)
    with open_study(study, config):
        for seed in range(seeds):
            run = create_run_directory(replace(config, seed=seed), run_directory(study, seed))
            predicted = logits + torch.randn(logits.shape, generator=generator)
            accuracy = float((predicted.argmax(dim=1) == labels).float().mean())
            curve = [accuracy - 0.05 / (epoch + 1) for epoch in range(19)] + [accuracy]
            write_metrics(
                run,
                [
                    Epoch(
                        epoch=i,
                        train_loss=1 / i,
                        train_accuracy=a - 0.01,
                        accuracy=a,
                        learning_rate=0.1,
                        images_per_second=1000.0,
                        time_seconds=3.0,
                    )
                    for i, a in enumerate(curve, start=1)
                ],
            )
            save_predictions(run, predicted, labels)
            save_weights(run / "model.safetensors", model, card)
            figures = {"accuracy_best": max(curve), "epochs": 20, "run_dir": str(run)}
            digests = {"data_sha256": mnist.train.sha256, "evaluation_sha256": mnist.test.sha256}
            write_json(run / "result.json", records.result(seed, accuracy, **figures, **digests))
        write_verdict(study, collect(study, config, range(seeds)), None, inspect_model(model, name="plain-9k"))
    return study


def copied(study: Path, target: Path, **changes: object) -> Path:
    """A copy of a study with other values in its study.json."""
    shutil.copytree(study, target)
    document = json.loads((target / "study.json").read_text())
    (target / "study.json").write_text(json.dumps({**document, **changes}))
    return target
