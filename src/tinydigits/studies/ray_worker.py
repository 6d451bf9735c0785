"""A job on a machine of a Ray cluster, where nothing of the user's is: all that a run needs and leaves is sent.

What is sent out is an order, and what comes back are the messages of `train_job`, each with the files of the run
directory that are new or have changed since the message before.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.errors import RunError, StorageError
from tinydigits.models.registry import is_users_own, lend_copy, users_file
from tinydigits.storage import staged_directory, write_bytes, write_json
from tinydigits.studies.runners import Job, train_job
from tinydigits.training.rundir import open_run_directory

Files = dict[str, tuple[int, bytes]]
"""Files by name: what stands in each, from a place on (0: the whole file)."""

_GROWS = "batches.jsonl"  # the only file that is appended to; of it, the new end travels
_LAST = ("state.safetensors", "result.json")  # by these the others count, so they are written last
_TO_GO_ON = ("config.json", "environment.json", "metrics.jsonl", _GROWS, "state.safetensors")


@dataclass(frozen=True)
class Order:
    """A job as it is sent out, with the files of an unfinished run, and with that of a network of the user's own."""

    job: Job
    files: dict[str, bytes]
    network: tuple[str, bytes] | None  # name and content
    command: list[str]  # that was typed, for environment.json


def make_order(job: Job) -> Order:
    """A job with everything that it takes elsewhere.

    Raises:
        RunError: its directory holds no unfinished run, or a file of it cannot be read.
        ModelError: the user's own network is not there.
    """
    files: dict[str, bytes] = {}
    if job.directory.exists():
        run, _ = open_run_directory(job.directory)
        if run.result.exists():
            raise RunError(f"{job.directory} is finished: result.json is there. Name another directory.")
        try:
            paths = (job.directory / name for name in _TO_GO_ON)
            files = {path.name: path.read_bytes() for path in paths if path.exists()}
        except OSError as error:
            raise RunError(f"{job.directory} cannot be read: {(error.strerror or '').lower()}.") from error
    network = None
    if is_users_own(job.config.model):
        path = users_file(job.config.model)
        network = path.name, path.read_bytes()
    return Order(job, files, network, sys.argv)


def carry_out(order: Order, digits: DigitData, place: str | None) -> Iterator[dict[str, Any]]:
    """On the worker: do the job in a directory of its own; `files` stands in each message besides.

    That directory is in `place` (None: where the machine has such), which goes with the cluster: a worker that is
    killed cannot remove its files.
    """
    sys.argv[:] = order.command  # as a process has it that the user's starts
    last: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tinydigits-", dir=place) as own:
        if order.network is not None:
            name, content = order.network
            (Path(own) / name).write_bytes(content)
            lend_copy(order.job.config.model, Path(own) / name)
        directory = Path(own) / "run"
        if order.files:
            directory.mkdir()
            for name, content in order.files.items():
                (directory / name).write_bytes(content)
        sent: dict[str, tuple[int, int]] = {}
        for message in train_job(Job(order.job.config, directory, order.job.until), lambda *_: _own(digits)):
            if message["kind"] == "done":
                message["result"]["run_dir"] = str(order.job.directory)
                write_json(directory / "result.json", message["result"])
            elif message["kind"] == "failed":
                message["sentence"] = message["sentence"].replace(str(directory), str(order.job.directory))
            last = {**message, "files": _changes(directory, sent)}
            if message["kind"] == "epoch":
                yield last
    yield last  # by now nothing is left here; who has it may end this process


def _own(digits: DigitData) -> DigitData:
    """A copy: what comes out of Ray's store is in memory that nobody may write to, which PyTorch does not take."""

    def copied(dataset: Dataset) -> Dataset:
        copy = Dataset(np.array(dataset.images), np.array(dataset.labels), dataset.name)
        vars(copy)["sha256"] = dataset.sha256  # calculated once, by the sender
        return copy

    return DigitData(digits.name, copied(digits.train), copied(digits.test), np.array(digits.held_out), digits.notice)


def _changes(directory: Path, sent: dict[str, tuple[int, int]]) -> Files:
    """The files that have changed since the last call, which `sent` remembers."""
    files: Files = {}
    for path in sorted(directory.glob("*")):
        stat = path.stat()
        before = sent.get(path.name)
        if before != (stat.st_mtime_ns, stat.st_size):
            sent[path.name] = stat.st_mtime_ns, stat.st_size
            start = before[1] if before and path.name == _GROWS else 0
            files[path.name] = start, path.read_bytes()[start:]
    return files


def keep_files(directory: Path, files: Files) -> None:
    """On the user's machine: write what has come, each file whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        if directory.exists() or not files:
            _write(directory, files)
        else:
            with staged_directory(directory.parent) as staging:
                _write(staging, files)
                staging.rename(directory)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"{directory} could not be written: {reason}. Give the same command again.") from error


def _write(directory: Path, files: Files) -> None:
    for name in sorted(files, key=lambda name: (name in _LAST, name)):
        start, content = files[name]
        before = (directory / name).read_bytes()[:start] if start else b""
        write_bytes(directory / name, before + content)
