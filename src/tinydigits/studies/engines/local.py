"""Jobs in processes of this machine: one process per core, with one thread each.

Two one-thread processes train more than one process with two threads (results/studies.json has the figure).
A worker keeps its imports and digits from run to run. A worker that dies is replaced, and the new one resumes its run
from the last finished epoch; a run whose worker dies twice is reported as failed.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import msgspec

from tinydigits.data.sources import load_dataset
from tinydigits.studies.engines.jobs import Engine, Event, Job, JobEpoch, JobQueue, Report, train_job


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: int | None = None


def default_workers() -> int:
    """One a core."""
    return os.cpu_count() or 1


def run_local(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
    """Train jobs in processes of this machine, by default one a core; see `Engine`."""
    most = workers or default_workers()
    queue = JobQueue(jobs)
    staff: list[_Worker] = []
    try:
        _fill(staff, most, queue)
        while busy := [worker.pipe for worker in staff if worker.job is not None]:
            for ready in wait(busy):
                worker = next(worker for worker in staff if worker.pipe is ready)
                yield _receive(worker, queue, staff)
                _fill(staff, most, queue)
        assert queue.exhausted, "nothing runs, so there is no event to wait for"
    finally:
        for worker in staff:
            _dismiss(worker)


LOCAL = Engine(run_local)


def _fill(staff: list[_Worker], most: int, queue: JobQueue) -> None:
    """Give jobs to idle workers and start new workers, until `most` are busy or there is no job."""
    idle = [worker for worker in staff if worker.job is None]
    while (idle or len(staff) < most) and (number := queue.take()) is not None:
        if not idle:
            staff.append(_start())
        worker = idle.pop(0) if idle else staff[-1]
        worker.job = number
        with contextlib.suppress(OSError):  # the worker is dead; `_receive` finds out
            worker.pipe.send_bytes(msgspec.json.encode((number, queue.taken[number]), enc_hook=str))  # str: a path


def _receive(worker: _Worker, queue: JobQueue, staff: list[_Worker]) -> Event:
    """The next event of a worker, which may be its death."""
    number = worker.job
    assert number is not None
    try:
        report = msgspec.json.decode(worker.pipe.recv_bytes(), type=Report)
    except (EOFError, OSError):  # the worker is dead, perhaps in the middle of a message
        _dismiss(worker)
        staff.remove(worker)
        return queue.repeat(number, f"exit code {worker.process.exitcode}; -9 is often too little memory")
    if not isinstance(report, JobEpoch):
        worker.job = None
    return queue.event(report)


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads may hang
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    # it ignores Ctrl-C: the parent takes it, and stops its workers; only the main thread may set signal handlers
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        process.start()
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
    theirs.close()
    return _Worker(process, pipe)


def _dismiss(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _work(pipe: Connection) -> None:
    """A worker's life: one run after the other until the parent closes the pipe."""
    os.dup2(2, 1)  # what a user's network prints must not mix with the parent's results
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # in case the parent started it from another thread
    threading.Thread(target=_die_with_parent, daemon=True).start()
    load = functools.cache(load_dataset)
    with contextlib.suppress(EOFError):
        while True:
            order = msgspec.json.decode(
                pipe.recv_bytes(), type=tuple[int, Job], dec_hook=lambda kind, value: kind(value)
            )
            for report in train_job(*order, load):
                pipe.send_bytes(msgspec.json.encode(report))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
