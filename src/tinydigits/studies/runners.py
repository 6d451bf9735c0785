"""Jobs on local processes: one process a core, one thread each, fed one run at a time.

Two one-thread processes train more than one process with two threads (results/studies.json has the figure).
A worker keeps its imports and digits from run to run. A worker that dies is replaced, and its run, which has saved
every finished epoch, goes on in the new one; a run whose worker dies twice is reported, never dropped.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from tinydigits.data.dataset import DigitData
from tinydigits.data.sources import load_dataset
from tinydigits.errors import RunError, TinydigitsError
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.loop import Epoch
from tinydigits.training.run import finish_run, resume_run, run_epochs, start_run

_ATTEMPTS = 2


@dataclass(frozen=True)
class Job:
    """One run and where it goes. A directory that holds an unfinished run is gone on with."""

    config: RunConfig
    directory: Path


@dataclass(frozen=True)
class JobEpoch:
    """A job (by its position) has finished an epoch; `record` is a line of its metrics.jsonl."""

    job: int
    record: dict[str, Any]


@dataclass(frozen=True)
class JobDone:
    """A job is finished; `result` is its result.json."""

    job: int
    result: dict[str, Any]


@dataclass(frozen=True)
class JobRepeated:
    """The worker of a job has died, and the job goes on in another."""

    job: int


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    lifeline: Connection  # held open by the parent only: when the parent is gone, the worker stops
    job: int | None = None


def run_local(jobs: Sequence[Job], workers: int | None = None) -> Iterator[JobEpoch | JobDone | JobRepeated]:
    """Run all jobs, at most `workers` (default: one a core) at once; yields what happens, as it happens.

    Raises:
        RunError: a job fails, or its worker dies twice. Finished runs and saved epochs stay on disk.
    """
    waiting = deque(range(len(jobs)))
    attempts = [0] * len(jobs)
    staff: list[_Worker] = []
    try:
        for _ in range(min(workers or os.cpu_count() or 1, len(jobs))):
            staff.append(_start(waiting, jobs, attempts))
        while any(worker.job is not None for worker in staff):
            for ready in wait([worker.pipe for worker in staff if worker.job is not None]):
                worker = next(worker for worker in staff if worker.pipe is ready)
                assert worker.job is not None
                try:
                    message = json.loads(worker.pipe.recv_bytes())
                except (EOFError, OSError):  # the worker is dead, perhaps in the middle of a message
                    yield _replace(worker, waiting, jobs, attempts, staff)
                    continue
                if message["kind"] == "epoch":
                    yield JobEpoch(worker.job, message["record"])
                elif message["kind"] == "done":
                    yield JobDone(worker.job, message["result"])
                    _assign(worker, waiting, jobs, attempts)
                else:
                    raise RunError(f"The run in {jobs[worker.job].directory} failed. {message['sentence']}")
    finally:
        for worker in staff:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
            worker.lifeline.close()


def _start(waiting: deque[int], jobs: Sequence[Job], attempts: list[int]) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads may hang
    pipe, theirs = context.Pipe()
    lifeline, their_lifeline = context.Pipe()
    process = context.Process(target=_work, args=(theirs, their_lifeline), daemon=True)
    with _interrupts_ignored():
        process.start()
    theirs.close()
    their_lifeline.close()
    worker = _Worker(process, pipe, lifeline)
    _assign(worker, waiting, jobs, attempts)
    return worker


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started meanwhile inherit that: Ctrl-C goes to the parent, which stops its workers."""
    if threading.current_thread() is not threading.main_thread():  # the only one that may set signal handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _assign(worker: _Worker, waiting: deque[int], jobs: Sequence[Job], attempts: list[int]) -> None:
    worker.job = waiting.popleft() if waiting else None
    if worker.job is not None:
        attempts[worker.job] += 1
        job = jobs[worker.job]
        message = {"config": job.config.as_dict(), "directory": str(job.directory)}
        with contextlib.suppress(OSError):  # a dead worker takes nothing; `run_local` finds its pipe at an end
            worker.pipe.send_bytes(json.dumps(message).encode())


def _replace(
    worker: _Worker, waiting: deque[int], jobs: Sequence[Job], attempts: list[int], staff: list[_Worker]
) -> JobRepeated:
    """Another worker for one that has died; its job comes first."""
    assert worker.job is not None
    worker.process.join()
    if attempts[worker.job] >= _ATTEMPTS:
        raise RunError(
            f"The run in {jobs[worker.job].directory} lost its process {_ATTEMPTS} times (exit code "
            f"{worker.process.exitcode}; -9 is often too little memory). Go on with it with fewer --workers."
        )
    worker.pipe.close()
    worker.lifeline.close()
    waiting.appendleft(worker.job)
    staff[staff.index(worker)] = _start(waiting, jobs, attempts)
    return JobRepeated(worker.job)


def _work(pipe: Connection, lifeline: Connection) -> None:
    """A worker's life: one run after the other until the parent closes the pipe."""
    os.dup2(2, 1)  # what a user's network prints does not belong into the parent's results
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for parents that start workers from another thread
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    digits: dict[tuple[str, str | None], DigitData] = {}
    while True:
        try:
            message = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            config = config_from_dict(message["config"], "job")
            source = (config.data, config.data_dir)
            if source not in digits:
                digits[source] = load_dataset(config.data, Path(config.data_dir) if config.data_dir else None)
            result = _train(config, Path(message["directory"]), digits[source], pipe)
        except TinydigitsError as error:
            pipe.send_bytes(json.dumps({"kind": "failed", "sentence": str(error)}).encode())
        except (Exception, SystemExit) as error:  # a user's network may raise anything
            cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
            sentence = f"{cause}. Mend that, then give the same command again."
            pipe.send_bytes(json.dumps({"kind": "failed", "sentence": sentence}).encode())
        else:
            pipe.send_bytes(json.dumps({"kind": "done", "result": result}).encode())


def _train(config: RunConfig, directory: Path, digits: DigitData, pipe: Connection) -> dict[str, Any]:
    """Start the run, or go on with it."""
    begun = (directory / "config.json").exists()
    run = resume_run(directory, digits) if begun else start_run(config, directory, digits)
    for record in run_epochs(run):
        if isinstance(record, Epoch):
            pipe.send_bytes(json.dumps({"kind": "epoch", "record": record.as_dict()}).encode())
    return finish_run(run)


def _die_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, ConnectionResetError):
        os._exit(1)
