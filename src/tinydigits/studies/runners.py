"""Jobs on local processes: one process a core, one thread each, fed one run at a time.

Two one-thread processes train more than one process with two threads (results/studies.json has the figure).
A worker keeps its imports and digits from run to run. A worker that dies is replaced, and its run, which has saved
every finished epoch, goes on in the new one; a run whose worker dies twice is reported, never dropped.

Other engines (ray_engine.py) take the same jobs and yield the same events.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from tinydigits.data.dataset import DigitData
from tinydigits.data.sources import load_dataset
from tinydigits.errors import RunError, TinydigitsError, one_line
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.loop import Epoch
from tinydigits.training.run import Run, finish_run, resume_run, run_epochs, start_run

_MOST_LOSSES = 2


@dataclass(frozen=True)
class Job:
    """One run and where it goes. A directory that holds an unfinished run is gone on with.

    `until`: stop after this epoch (counted from 1), although the recipe has more. The run stays unfinished, with its
    state saved, and a later job for the same directory goes on with it.
    """

    config: RunConfig
    directory: Path
    until: int | None = None


@dataclass(frozen=True)
class JobEpoch:
    """A job has finished an epoch; `record` is a line of its metrics.jsonl. Jobs are numbered as they are taken."""

    job: int
    record: dict[str, Any]


@dataclass(frozen=True)
class JobDone:
    """A job is finished; `result` is its result.json."""

    job: int
    result: dict[str, Any]


@dataclass(frozen=True)
class JobPaused:
    """A job has come to its `until`, and its run can be gone on with."""

    job: int


@dataclass(frozen=True)
class JobRepeated:
    """The worker of a job has died, and the job goes on in another."""

    job: int


Event = JobEpoch | JobDone | JobPaused | JobRepeated
Load = Callable[[str, str | None], DigitData]


class Engine(Protocol):
    """Runs jobs, at most `workers` at once (None: as many as there is room for), and yields what happens.

    A job is taken when there is room for it, and never before the events until then are out. So a generator may decide
    on its next job by the events seen so far. It yields None when it has nothing to give for now, though some of its
    jobs still run; it is asked again after the next event.

    Raises:
        RunError: a job fails, or its worker dies too often. Finished runs and saved epochs stay on disk.
    """

    def __call__(self, jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:  # noqa: D102
        ...


class JobQueue:
    """The jobs in the order in which they are to be started; those that have lost their worker come first."""

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self.taken: list[Job] = []
        self.exhausted = False
        self._losses: Counter[int] = Counter()
        self._jobs = iter(jobs)
        self._again: deque[int] = deque()

    def take(self) -> int | None:
        """The number of the next job to be started; None: there is none, or none for now."""
        if self._again:
            return self._again.popleft()
        try:
            job = next(self._jobs)
        except StopIteration:
            self.exhausted = True
            return None
        if job is None:
            return None
        self.taken.append(job)
        return len(self.taken) - 1

    def repeat(self, number: int, end: str | None) -> JobRepeated:
        """Put a job that has lost its worker before all others.

        `end` says how the worker ended, where the job may be why; None: it cannot be.

        Raises:
            RunError: it may be, for the second time.
        """
        self._losses[number] += end is not None
        if self._losses[number] == _MOST_LOSSES:
            raise RunError(
                f"The run in {self.taken[number].directory} lost its process {_MOST_LOSSES} times ({end}). "
                "Go on with it with fewer --workers."
            )
        self._again.appendleft(number)
        return JobRepeated(number)

    def event(self, number: int, message: Mapping[str, Any]) -> Event:
        """What a worker's message means; see `train_job`.

        Raises:
            RunError: the job has failed.
        """
        if message["kind"] == "epoch":
            return JobEpoch(number, message["record"])
        if message["kind"] == "paused":
            return JobPaused(number)
        if message["kind"] == "done":
            return JobDone(number, message["result"])
        raise RunError(f"The run in {self.taken[number].directory} failed. {message['sentence']}")


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    lifeline: Connection  # held open by the parent only: when the parent is gone, the worker stops
    job: int | None = None


def default_workers() -> int:
    """One a core."""
    return os.cpu_count() or 1


def run_local(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
    """The engine of this machine's processes; by default one a core. See `Engine`."""
    places = workers or default_workers()
    queue = JobQueue(jobs)
    staff: list[_Worker] = []
    try:
        _fill(staff, places, queue)
        while busy := [worker.pipe for worker in staff if worker.job is not None]:
            for ready in wait(busy):
                worker = next(worker for worker in staff if worker.pipe is ready)
                yield _hear(worker, queue, staff)
                _fill(staff, places, queue)
        assert queue.exhausted, "nothing runs, so there is no event to wait for"
    finally:
        for worker in staff:
            _dismiss(worker)


def _fill(staff: list[_Worker], places: int, queue: JobQueue) -> None:
    """Give jobs to idle workers, and start workers for others, until there is no room or no job."""
    idle = [worker for worker in staff if worker.job is None]
    while (idle or len(staff) < places) and (number := queue.take()) is not None:
        if not idle:
            staff.append(_start())
        worker = idle.pop(0) if idle else staff[-1]
        worker.job = number
        job = queue.taken[number]
        message = {"config": job.config.as_dict(), "directory": str(job.directory), "until": job.until}
        with contextlib.suppress(OSError):  # a dead worker takes nothing; `run_local` finds its pipe at an end
            worker.pipe.send_bytes(json.dumps(message).encode())


def _hear(worker: _Worker, queue: JobQueue, staff: list[_Worker]) -> Event:
    """The next event of a worker, which may be its death."""
    number = worker.job
    assert number is not None
    try:
        message = json.loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):  # the worker is dead, perhaps in the middle of a message
        _dismiss(worker)
        staff.remove(worker)
        return queue.repeat(number, f"exit code {worker.process.exitcode}; -9 is often too little memory")
    if message["kind"] != "epoch":
        worker.job = None
    return queue.event(number, message)


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads may hang
    pipe, theirs = context.Pipe()
    lifeline, their_lifeline = context.Pipe()
    process = context.Process(target=_work, args=(theirs, their_lifeline), daemon=True)
    with _interrupts_ignored():
        process.start()
    theirs.close()
    their_lifeline.close()
    return _Worker(process, pipe, lifeline)


def _dismiss(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    worker.lifeline.close()


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


def _work(pipe: Connection, lifeline: Connection) -> None:
    """A worker's life: one run after the other until the parent closes the pipe."""
    os.dup2(2, 1)  # what a user's network prints does not belong into the parent's results
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for parents that start workers from another thread
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    load = functools.cache(load_dataset)
    while True:
        try:
            order = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        job = Job(config_from_dict(order["config"], "job"), Path(order["directory"]), order["until"])
        for message in train_job(job, load):
            pipe.send_bytes(json.dumps(message).encode())


def train_job(job: Job, load: Load) -> Iterator[dict[str, Any]]:
    """Do a job in this process, with the digits that `load` gives for the config's `data` and `data_dir`.

    Yields messages, plain data: `{kind: epoch, record}` after each epoch, which is on disk by then; and one at the end:
    `{kind: done, result}`, `{kind: paused}`, or, whatever was raised, `{kind: failed, sentence}`.
    """
    try:
        yield from _train(job, load)
    except TinydigitsError as error:
        yield {"kind": "failed", "sentence": str(error)}
    except (Exception, SystemExit) as error:  # a user's network may raise anything
        cause = f"{type(error).__name__}: {one_line(error)}"
        yield {"kind": "failed", "sentence": f"{cause}. Mend that, then give the same command again."}


def open_run(job: Job, load: Load) -> Run:
    """Start a job's run, or go on with it."""
    digits = load(job.config.data, job.config.data_dir)
    if (job.directory / "config.json").exists():
        return resume_run(job.directory, digits)
    return start_run(job.config, job.directory, digits)


def _train(job: Job, load: Load) -> Iterator[dict[str, Any]]:
    run = open_run(job, load)
    last = run.config.recipe.epochs
    stop = min(job.until or last, last)
    if len(run.state.epochs) < stop:
        for record in run_epochs(run):
            if isinstance(record, Epoch):
                yield {"kind": "epoch", "record": record.as_dict()}
                if record.epoch == stop:
                    break
    yield {"kind": "paused"} if stop < last else {"kind": "done", "result": finish_run(run)}


def _die_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, ConnectionResetError):
        os._exit(1)
