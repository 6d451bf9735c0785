"""The run directory: what a run leaves on disk, and who writes what."""

import errno
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save
from torch import Tensor

from tinydigits.errors import RunError, StorageError
from tinydigits.storage import append_line, read_lines, staged_directory, write_bytes, write_json
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.native.library import compiler_version

SCHEMA = 1


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    config.json           the whole RunConfig                        environment.json   versions, processor, threads
    metrics.jsonl         a line an epoch                            batches.jsonl      a line a batch
    state.safetensors     all that is needed to resume
    model.safetensors     the weights, and model.json, their card    predictions.safetensors   of the judging digits
    result.json           the summary, written last
    """

    path: Path

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


def create_run_directory(config: RunConfig, out: Path | None) -> RunDirectory:
    """A new directory, `out` or the next free `runs/<model>-<number>`, holding the config and the environment.

    It appears with both files in it, or not at all.

    Raises:
        StorageError: `out` exists already, or nothing can be written there.
    """
    taken = f"{out} exists already, and nothing is overwritten. Name another directory or remove it."
    if out is not None and out.exists():
        raise StorageError(taken)
    with staged_directory(out.parent if out is not None else Path("runs")) as staging:
        write_json(staging / "environment.json", environment(config.kernels))
        write_json(staging / "config.json", {"schema": SCHEMA, **config.as_dict()})
        path = out if out is not None else next_free(Path("runs"), file_stem(config.model))
        while not _renamed(staging, path):
            if out is not None:
                raise StorageError(taken)
            path = next_free(Path("runs"), file_stem(config.model))
    return RunDirectory(path)


def open_run_directory(path: Path) -> tuple[RunDirectory, RunConfig]:
    """An existing run and its config.

    Raises:
        RunError: it is no run directory.
        ConfigError: its config is damaged or from another version.
    """
    file = path / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        schema = values.pop("schema")
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise RunError(
            f"{path} is no run directory: {file.name} in it cannot be read. Name one such as runs/tiny-10k-001."
        ) from error
    if schema != SCHEMA:
        raise RunError(f"{file} has schema {schema}, this version reads {SCHEMA}. Start the run anew.")
    return RunDirectory(path), config_from_dict(values, str(file))


def write_metrics(directory: RunDirectory, epochs: list[dict[str, Any]]) -> None:
    """Replace `metrics.jsonl`: one line an epoch."""
    write_bytes(directory.metrics, "".join(json.dumps(epoch) + "\n" for epoch in epochs).encode())


def read_metrics(directory: RunDirectory, keys: Sequence[str], remedy: str) -> dict[str, list[float]]:
    """Some figures of `metrics.jsonl`, epoch by epoch.

    Raises:
        RunError: it cannot be read, or lacks one of them; `remedy` says what to do then.
    """
    try:
        epochs = read_lines(directory.metrics)
        return {key: [float(epoch[key]) for epoch in epochs] for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{directory.metrics} cannot be read: {error}. {remedy}") from error


def append_batches(
    directory: RunDirectory, first_step: int, losses: list[float], hits: list[int], sizes: list[int]
) -> None:
    """Add a line a batch: step (from 1, over the whole run), loss, accuracy."""
    lines = [
        json.dumps({"step": first_step + i + 1, "loss": loss, "accuracy": round(hit / size, 6)})
        for i, (loss, hit, size) in enumerate(zip(losses, hits, sizes, strict=True))
    ]
    if lines:
        append_line(directory.batches, "\n".join(lines))


def rewind_batches(directory: RunDirectory, step: int) -> None:
    """Forget batches after `step`: they were logged, but the state that is resumed from is older."""
    if directory.batches.exists():
        lines = directory.batches.read_text(encoding="utf-8").splitlines(keepends=True)[:step]
        write_bytes(directory.batches, "".join(lines).encode())


def save_predictions(directory: RunDirectory, logits: Tensor, labels: Tensor) -> None:
    """Write logits float32 [N, 10] and labels uint8 [N] of the judging digits, in their order."""
    tensors = {"logits": logits.float().cpu().contiguous(), "labels": labels.to("cpu", torch.uint8)}
    write_bytes(directory.predictions, save(tensors))


def load_predictions(directory: RunDirectory) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits [N, 10] and labels [N] of the judging digits.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        tensors = load_file(directory.predictions)
        return tensors["logits"], tensors["labels"]
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"{directory.predictions} cannot be read: {error}. Train the run anew.") from error


def environment(kernels: str = "torch") -> dict[str, Any]:
    """Versions, processor and threads: what a figure has to be read with; for native kernels the compiler too."""
    packages = ("tinydigits", "torch", "numpy", "pillow", "safetensors", "scikit-learn", "scipy")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "compiler": compiler_version() if kernels == "native" else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": " ".join(["tinydigits", *sys.argv[1:]]) if sys.argv[0].endswith("tinydigits") else None,
    }


def file_stem(name: str) -> str:
    """A model's or data set's name as part of a directory's name: `dir/net.py:Net` becomes `net-py-Net`."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(name).name).strip("-")


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def next_free(parent: Path, stem: str) -> Path:
    """The next of the numbered names `<stem>-001`, … in a directory, which need not be there yet."""
    pattern = re.compile(rf"{re.escape(stem)}-(\d+)")
    taken = [int(match[1]) for path in parent.glob("*") if (match := pattern.fullmatch(path.name))]
    return parent / f"{stem}-{max(taken, default=0) + 1:03d}"


def _renamed(staging: Path, path: Path) -> bool:
    """Give the directory its name; False when another process was faster."""
    try:
        staging.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise StorageError(f"{path} could not be made: {(error.strerror or '').lower()}. Use another --out.") from error
    return True
