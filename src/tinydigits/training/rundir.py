"""The run directory: what a run leaves on disk, and who writes what."""

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
from tinydigits.records import BatchLog, Epoch, RunResult, read_lines, read_record, write_record
from tinydigits.storage import append_line, file_stem, next_free, staged_directory, write_bytes, write_json
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.environment import environment

SCHEMA = 1


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    config.json           the whole RunConfig                        environment.json   versions, processor, threads
    metrics.jsonl         a line an epoch                            batches.jsonl      a line a batch
    state.safetensors     all that is needed to resume
    model.safetensors     the weights, and model.json, their card    predictions.safetensors   of the evaluation digits
    result.json           the summary, written last
    """

    path: Path
    custom: tuple[str, ...] = ()  # the names of the parts that are the user's own objects

    @property
    def state(self) -> Path:  # noqa: D102
        return self.path / "state.safetensors"

    @property
    def weights(self) -> Path:  # noqa: D102
        return self.path / "model.safetensors"

    @property
    def result(self) -> Path:  # noqa: D102
        return self.path / "result.json"

    @property
    def predictions(self) -> Path:  # noqa: D102
        return self.path / "predictions.safetensors"

    @property
    def metrics(self) -> Path:  # noqa: D102
        return self.path / "metrics.jsonl"

    @property
    def batches(self) -> Path:  # noqa: D102
        return self.path / "batches.jsonl"


def create_run_directory(config: RunConfig, out: Path | None, custom: Sequence[str] = ()) -> RunDirectory:
    """A new directory, `out` or the next free `runs/<model>-<number>`, holding the config and the environment.

    It appears with both files in it, or not at all. `custom` names the parts that are the user's own objects.

    Raises:
        StorageError: `out` exists already, or nothing can be written there.
    """
    taken = f"{out} exists already, and nothing is overwritten. Name another directory or remove it."
    if out is not None and out.exists():
        raise StorageError(taken)
    with staged_directory(out.parent if out is not None else Path("runs")) as staging:
        write_record(staging / "environment.json", environment(config.backend))
        own = {"custom": list(custom)} if custom else {}
        write_json(staging / "config.json", {"schema": SCHEMA, **own, **config.as_dict()})
        path = out if out is not None else next_free(Path("runs"), file_stem(config.model))
        while not _renamed(staging, path):
            if out is not None:
                raise StorageError(taken)
            path = next_free(Path("runs"), file_stem(config.model))
    return RunDirectory(path, tuple(custom))


def open_run_directory(path: Path) -> tuple[RunDirectory, RunConfig]:
    """An existing run and its config.

    Raises:
        RunError: it is no run directory.
        ConfigError: its config is damaged or from another version.
    """
    file = path / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        schema, custom = values.pop("schema"), tuple(values.pop("custom", ()))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is no run directory: {file.name} in it cannot be read. Name one such as runs/tiny-10k-001."
        ) from error
    if schema != SCHEMA:
        raise RunError(f"{file} has schema {schema}, this version reads {SCHEMA}. Train again.")
    return RunDirectory(path, custom), config_from_dict(values, str(file))


def write_metrics(directory: RunDirectory, epochs: Sequence[Epoch]) -> None:
    """Replace `metrics.jsonl`: one line an epoch."""
    write_bytes(directory.metrics, b"".join(msgspec.json.encode(epoch) + b"\n" for epoch in epochs))


def read_metrics(directory: RunDirectory, hint: str) -> list[Epoch]:
    """What `metrics.jsonl` says, epoch by epoch.

    Raises:
        RunError: it cannot be read, or is damaged; `hint` says what to do then.
    """
    return read_lines(directory.metrics, Epoch, hint)


def read_result(directory: RunDirectory, hint: str) -> RunResult:
    """The result of a finished run; `run_dir` is where it lies now.

    Raises:
        RunError: it is not finished, or its result is damaged; `hint` says what to do then.
    """
    return replace(read_record(directory.result, RunResult, hint), run_dir=str(directory.path))


def append_batches(
    directory: RunDirectory, first_step: int, losses: list[float], correct: list[int], sizes: list[int]
) -> None:
    """Add a line a batch: step (from 1, over the whole run), loss, accuracy."""
    lines = [
        msgspec.json.encode(BatchLog(step=first_step + i + 1, loss=loss, accuracy=round(right / size, 6))).decode()
        for i, (loss, right, size) in enumerate(zip(losses, correct, sizes, strict=True))
    ]
    if lines:
        append_line(directory.batches, "\n".join(lines))


def rewind_batches(directory: RunDirectory, step: int) -> None:
    """Forget batches after `step`: they were logged, but the state that is resumed from is older."""
    if directory.batches.exists():
        lines = directory.batches.read_text(encoding="utf-8").splitlines(keepends=True)[:step]
        write_bytes(directory.batches, "".join(lines).encode())


def save_predictions(directory: RunDirectory, logits: Tensor, labels: Tensor) -> None:
    """Write logits float32 [N, 10] and labels uint8 [N] of the evaluation digits, in their order."""
    tensors = {"logits": logits.float().cpu().contiguous(), "labels": labels.to("cpu", torch.uint8)}
    write_bytes(directory.predictions, save(tensors))


def load_predictions(directory: RunDirectory) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits [N, 10] and labels [N] of the evaluation digits.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        tensors = load_file(directory.predictions)
        return tensors["logits"], tensors["labels"]
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"{directory.predictions} cannot be read: {error}. Train again.") from error


def _renamed(staging: Path, path: Path) -> bool:
    """Give the directory its name; False when another process was faster."""
    try:
        staging.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise StorageError(f"{path} could not be made: {reason_of(error)}. Use another --out.") from error
    return True
