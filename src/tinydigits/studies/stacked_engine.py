"""Jobs that differ only in their seeds, as one training in this process: what a GPU is for. See training/stacked.py."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError, RunError, TinydigitsError, one_line
from tinydigits.studies.runners import Event, Job, JobDone, JobEpoch, JobPaused, Load, open_run
from tinydigits.training.loop import Epoch
from tinydigits.training.run import Run, finish_run, save_run
from tinydigits.training.stacked import fit_stacked


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A job by its number, and its run, new or gone on with."""

    number: int
    job: Job
    run: Run


def run_stacked(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
    """The engine that trains jobs together, at most `workers` at once; see `Engine`.

    It takes all jobs that there are for now before it starts.

    Raises:
        ConfigError: the jobs ask for native kernels, or the network cannot be trained so.
        RunError: a run fails. Finished runs and saved epochs stay on disk.
    """
    load = functools.cache(load_dataset)
    waiting = iter(jobs)
    number = 0
    while taken := list(iter(functools.partial(next, waiting, None), None)):
        alike = defaultdict(list)
        for job in taken:
            prepared = _prepare(number, job, load)
            alike[replace(prepared.run.config, seed=0), job.until, prepared.run.state.step].append(prepared)
            number += 1
        for group in alike.values():
            size = workers or len(group)
            for first in range(0, len(group), size):
                yield from _train(group[first : first + size])


def _prepare(number: int, job: Job, load: Load) -> _Prepared:
    if job.config.kernels == "native":
        raise ConfigError(
            "The stacked engine trains with PyTorch's operations, not with native kernels: leave them out."
        )
    return _Prepared(number, job, open_run(job, load))


def _train(group: Sequence[_Prepared]) -> Iterator[Event]:
    """Train runs of one config and equally many steps to their end, or to where they are to pause."""
    runs = [prepared.run for prepared in group]
    first = runs[0]
    for run in runs:  # the same digits, once on the device
        run.train, run.judge = first.train, first.judge
    last = first.config.recipe.epochs
    stop = min(group[0].job.until or last, last)
    if len(first.state.epochs) < stop:
        for records in _epochs(group):
            for prepared, record in zip(group, records, strict=True):
                save_run(prepared.run)
                prepared.run.logged = 0
                yield JobEpoch(prepared.number, record.as_dict())
            if records[0].epoch == stop:
                break
    for prepared in group:
        yield JobPaused(prepared.number) if stop < last else JobDone(prepared.number, finish_run(prepared.run))


def _epochs(group: Sequence[_Prepared]) -> Iterator[list[Epoch]]:
    runs = [prepared.run for prepared in group]
    first, seeds = runs[0], [run.config.seed for run in runs]
    states = [run.state for run in runs]
    try:
        yield from fit_stacked(
            states, first.train, first.judge, first.config.recipe, first.mean, first.deviation, seeds
        )
    except ConfigError:
        raise
    except TinydigitsError as error:
        raise RunError(f"The runs of {first.config.model} failed together. {error}") from error
    except Exception as error:  # a user's network may raise anything, and vmap does not take every one
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise RunError(
            f"The runs of {first.config.model} cannot be trained at once: {cause}. "
            "Choose another engine: the runs are then trained one by one."
        ) from error
