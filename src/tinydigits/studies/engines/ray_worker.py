"""A job on a machine of a Ray cluster, which has none of the user's files: all that a run reads and writes is sent.

An order goes out. The reports of `train_job` come back, each with the files of the run directory that are new or have
changed since the report before.
"""

import copy
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tinydigits.data.dataset import DigitData
from tinydigits.errors import RunError, StorageError, reason_of
from tinydigits.models.user_model import is_user_model, lend_copy, user_file
from tinydigits.records import write_record
from tinydigits.storage import staged_directory, write_bytes
from tinydigits.studies.engines.jobs import Job, JobDone, JobEpoch, JobFailed, Report, train_job
from tinydigits.training.rundir import read_config

Files = dict[str, tuple[int, bytes]]
"""Files by name: an offset in bytes, and the content from there on (0: the whole file)."""

_GROWS = "batches.jsonl"  # the only file that is appended to: only its new end travels
_LAST = ("state.safetensors", "result.json")  # they say that the others are complete, so they are written last
_TO_RESUME = ("config.json", "environment.json", "metrics.jsonl", _GROWS, "state.safetensors")


@dataclass(frozen=True)
class Order:
    """A job as it is sent out, with the files of an unfinished run and the file of the user's own network."""

    number: int
    job: Job
    files: dict[str, bytes]
    network: tuple[str, bytes] | None  # name and content
    command: list[str]  # what the user typed, for environment.json


def make_order(number: int, job: Job) -> Order:
    """A job with everything that another machine needs for it.

    Raises:
        RunError: its directory holds no unfinished run, or a file of it cannot be read.
        ModelError: the file of the user's own network is missing.
    """
    files: dict[str, bytes] = {}
    if job.directory.exists():
        read_config(job.directory)  # it is a run
        if (job.directory / "result.json").exists():
            raise RunError(f"{job.directory} is finished: result.json is there. Name another directory.")
        try:
            paths = (job.directory / name for name in _TO_RESUME)
            files = {path.name: path.read_bytes() for path in paths if path.exists()}
        except OSError as error:
            raise RunError(f"{job.directory} cannot be read: {reason_of(error)}.") from error
    network = None
    if is_user_model(job.config.model):
        path = user_file(job.config.model)
        network = path.name, path.read_bytes()
    return Order(number, job, files, network, sys.argv)


def carry_out(order: Order, digits: DigitData, temporary: str | None) -> Iterator[tuple[Report, Files]]:
    """On the worker: do the job in a directory of its own; each report comes with the files that have changed.

    That directory is made in `temporary`, which is removed with the cluster, because a worker that is killed cannot
    remove its files. None: where the machine keeps temporary files.
    """
    sys.argv[:] = order.command  # as in a process that the user's own process starts
    with tempfile.TemporaryDirectory(prefix="tinydigits-", dir=temporary) as own:
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
        own_digits = copy.deepcopy(digits)  # Ray's store returns read-only memory, which PyTorch does not accept
        here = Job(order.job.config, directory, order.job.until)
        for report in train_job(order.number, here, lambda *_: own_digits):
            if isinstance(report, JobDone):
                report = replace(report, result=replace(report.result, run_dir=str(order.job.directory)))
                write_record(directory / "result.json", report.result)
            elif isinstance(report, JobFailed):
                report = replace(report, sentence=report.sentence.replace(str(directory), str(order.job.directory)))
            answer = report, _changes(directory, sent)
            if isinstance(report, JobEpoch):
                yield answer
    yield answer  # the directory is removed by now: once the driver has the last report, it may end this process


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
    """On the user's machine: write the files that a report came with, each whole or not at all.

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
        raise StorageError(f"{directory} could not be written: {reason_of(error)}. Rerun the same command.") from error


def _write(directory: Path, files: Files) -> None:
    for name in sorted(files, key=lambda name: (name in _LAST, name)):
        start, content = files[name]
        before = (directory / name).read_bytes()[:start] if start else b""
        write_bytes(directory / name, before + content)
