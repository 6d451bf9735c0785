"""The run directory: what a run leaves on disk.

config.json           the whole RunConfig                        environment.json   versions, processor, threads
metrics.jsonl         one line per epoch                         batches.jsonl      one line per batch
state.safetensors     all that is needed to resume
model.safetensors     the weights, and model.json, their card    predictions.safetensors   of the evaluation digits
result.json           the summary, written last

The command `train` adds curve.png, augmentation.png and, with --tensorboard, tensorboard/; `evaluate` adds
evaluation.json, confusion.png and mistakes.png; `report` adds report.html.
"""

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save
from torch import Tensor

from tinydigits.errors import RunError, StorageError, reason_of
from tinydigits.records import BatchLog, Epoch, RunResult, read_record, write_record
from tinydigits.storage import append_line, file_stem, next_free, staged_directory, write_bytes, write_json
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.environment import environment

SCHEMA = 1


def create_run_directory(config: RunConfig, out: Path | None, custom: Sequence[str] = ()) -> Path:
    """A new directory, `out` or the next free `runs/<model>-<number>`, holding the config and the environment.

    It appears with both files in it, or not at all. `custom` names the parts that are the user's own objects.

    Raises:
        StorageError: `out` exists already, or nothing can be written there.
    """
    taken = f"{out} exists already, and nothing is overwritten. Name another directory or remove it."
    if out is not None and out.exists():
        raise StorageError(taken)
    with staged_directory(out.parent if out else Path("runs")) as staging:
        write_record(staging / "environment.json", environment(config.backend))
        own = {"custom": list(custom)} if custom else {}
        write_json(staging / "config.json", {"schema": SCHEMA, **own, **config.as_dict()})
        while not _renamed(staging, path := out or next_free(Path("runs"), file_stem(config.model))):
            if out is not None:
                raise StorageError(taken)
    return path


def read_config(run: Path) -> tuple[RunConfig, tuple[str, ...]]:
    """A run's config, and the names of its parts that are the user's own objects.

    Raises:
        RunError: it is no run directory.
        ConfigError: its config is damaged or from another version.
    """
    file = run / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        schema, custom = values.pop("schema"), tuple(values.pop("custom", ()))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise RunError(
            f"{run} is no run directory: {file.name} in it cannot be read. Name one such as runs/tiny-10k-001."
        ) from error
    if schema != SCHEMA:
        raise RunError(f"{file} has schema {schema}, this version reads {SCHEMA}. Train again.")
    return config_from_dict(values, str(file)), custom


def write_metrics(run: Path, epochs: Sequence[Epoch]) -> None:
    """Replace `metrics.jsonl`: one line per epoch."""
    write_bytes(run / "metrics.jsonl", b"".join(msgspec.json.encode(epoch) + b"\n" for epoch in epochs))


def read_result(run: Path, hint: str) -> RunResult:
    """The result of a finished run; `run_dir` is where it lies now.

    Raises:
        RunError: it is not finished, or its result is damaged; `hint` says what to do then.
    """
    return replace(read_record(run / "result.json", RunResult, hint), run_dir=str(run))


def append_batches(run: Path, first_step: int, losses: list[float], correct: list[int], sizes: list[int]) -> None:
    """Add one line per batch: step (from 1, over the whole run), loss, accuracy."""
    lines = [
        msgspec.json.encode(BatchLog(step=step, loss=loss, accuracy=round(right / size, 6))).decode()
        for step, (loss, right, size) in enumerate(zip(losses, correct, sizes, strict=True), first_step + 1)
    ]
    if lines:
        append_line(run / "batches.jsonl", "\n".join(lines))


def rewind_batches(run: Path, step: int) -> None:
    """Forget batches after `step`: they were logged, but the state that is resumed from is older."""
    file = run / "batches.jsonl"
    if file.exists():
        write_bytes(file, b"".join(file.read_bytes().splitlines(keepends=True)[:step]))


def save_predictions(run: Path, logits: Tensor, labels: Tensor) -> None:
    """Write logits float32 [N, 10] and labels uint8 [N] of the evaluation digits, in their order."""
    tensors = {"logits": logits.float().cpu().contiguous(), "labels": labels.to("cpu", torch.uint8)}
    write_bytes(run / "predictions.safetensors", save(tensors))


def load_predictions(run: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits [N, 10] and labels [N] of the evaluation digits.

    Raises:
        RunError: the file is missing or damaged.
    """
    file = run / "predictions.safetensors"
    try:
        tensors = load_file(file)
        return tensors["logits"], tensors["labels"]
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"{file} cannot be read: {error}. Train again.") from error


def _renamed(staging: Path, path: Path) -> bool:
    """Give the directory its name; False when another process was faster."""
    try:
        staging.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise StorageError(f"{path} could not be made: {reason_of(error)}. Use another --out.") from error
    return True
