"""An engine for tests: jobs trained in this process, one after the other."""

import functools
from collections.abc import Iterable, Iterator

from tinydigits.data.sources import load_dataset
from tinydigits.studies.engines.jobs import Event, Job, JobQueue, train_job


def inline(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
    """The events of the jobs."""
    queue, load = JobQueue(jobs), functools.cache(load_dataset)
    while (number := queue.take()) is not None:
        for report in train_job(number, queue.taken[number], load):
            yield queue.event(report)
