"""`evaluate`: how well a trained network classifies digits, as a record."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from tinydigits.data.dataset import DigitData
from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.evaluation.label_errors import label_errors
from tinydigits.evaluation.predictions import Watch, evaluate_model
from tinydigits.models.factory import load_model
from tinydigits.records import Card, EvaluationResult, RunResult, Split, read_record

MISTAKES = 24  # that a result lists


def evaluate(
    source: str | os.PathLike[str],
    data: DigitData | str = "auto",
    split: Split = "test",
    device: torch.device | str = "cpu",
    watch: Watch = iter,
) -> EvaluationResult:
    """Evaluate trained weights.

    Args:
        source: A zoo name with shipped weights, a run directory, or a .safetensors file with its card beside it.
        data: The digits, or what `--data` takes.
        split: `val` for the validation digits, `test` for the test digits.
        device: Where to compute.
        watch: Goes through the batches, and may show how far it has come.

    Raises:
        TinydigitsError: weights or digits are missing or damaged.
    """
    model, card = load_model(source)
    file = Path(source, "result.json")
    hint = f"Evaluate {file.with_name('model.safetensors')} instead, or train again."
    run = read_record(file, RunResult, hint) if file.is_file() else None
    data = load_dataset(data) if isinstance(data, str) else data
    _, digits = data.split(split)
    found = evaluate_model(model, digits, Normalization(card.mean, card.std), device, watch)
    return EvaluationResult(
        model=card.model,
        data=data.name,
        split=split,
        warning=" ".join(_warnings(card, data, split)) or None,
        accuracy=found.accuracy,
        correct=found.correct,
        total=found.total,
        interval=found.interval,
        confusion=tuple(map(tuple, found.confusion.tolist())),
        per_digit=found.per_digit,
        mistakes=found.mistakes(MISTAKES, label_errors(data, split)),
        run=run,
    )


def _warnings(card: Card, data: DigitData, split: Split) -> Sequence[str]:
    """Why the figure means less than it seems to."""
    warnings = [data.warning] if data.warning else []
    if card.data != data.name:
        warnings.append(f"These weights were trained on {card.data}, and are evaluated on {data.name}.")
    elif card.data_sha256 != data.train.sha256:
        warnings.append(f"{data.name} has changed since the training: some of these digits may have been seen in it.")
    elif split == "val" and card.split == "test":
        warnings.append("These weights were trained on the validation digits too: the accuracy on them is optimistic.")
    return warnings
