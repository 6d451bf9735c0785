"""Jobs, and what happens to them: what every engine takes and yields.

An engine trains jobs in processes of this machine (local.py) or on a Ray cluster (ray.py).
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinydigits.data.dataset import DigitData
from tinydigits.errors import DivergedError, RunError, TinydigitsError, one_line
from tinydigits.records import Epoch, Record, RunResult
from tinydigits.training.config import RunConfig
from tinydigits.training.run import finish_run, resume_run, run_epochs, start_run

_MOST_LOSSES = 2


@dataclass(frozen=True)
class Job:
    """One run and its directory, up to the epoch `until` (counted from 1) if the recipe has more.

    An unfinished run in the directory, such as one that was stopped so, is resumed.
    """

    config: RunConfig
    directory: Path
    until: int | None = None


class JobEpoch(Record, frozen=True, tag=True):
    """A job has finished an epoch, which is on disk. Jobs are numbered in the order in which the engine takes them."""

    job: int
    epoch: Epoch


class JobDone(Record, frozen=True, tag=True):
    """A job is finished."""

    job: int
    result: RunResult


class JobPaused(Record, frozen=True, tag=True):
    """A job has reached its `until`; its run can be resumed."""

    job: int


class JobFailed(Record, frozen=True, tag=True):
    """What a worker says of a job that has failed, in a sentence; engines raise it. `diverged`: its training has."""

    job: int
    sentence: str
    diverged: bool = False


class JobRepeated(Record, frozen=True):
    """The worker of a job has died, and another worker resumes the job."""

    job: int


class JobDivergedError(DivergedError):
    """The training of a job has diverged."""

    def __init__(self, job: int, sentence: str) -> None:
        super().__init__(sentence)
        self.job = job


Report = JobEpoch | JobDone | JobPaused | JobFailed
"""What a worker says of its job; all but an epoch say that it has ended."""
Event = JobEpoch | JobDone | JobPaused | JobRepeated
Load = Callable[[str, str | None], DigitData]
RunJobs = Callable[[Iterable[Job | None], int | None], Iterator[Event]]


@dataclass(frozen=True)
class Engine:
    """Trains jobs and yields what happens to them.

    `run` takes the jobs, and how many to train at once (`workers`; None: as many as fit). It takes a job when a worker
    is free, after it has yielded all earlier events; so a generator of jobs can base the next one on these. It yields
    None if it has no job now but waits for one that is running; `run` asks it again after the next event. `device` is
    what jobs train on. `remote`: other machines take part.
    """

    run: RunJobs
    workers: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    remote: bool = False

    def __call__(self, jobs: Iterable[Job | None]) -> Iterator[Event]:
        """Train jobs.

        Raises:
            RunError: a job fails, or its worker dies too often. Finished runs and saved epochs stay on disk.
        """
        return self.run(jobs, self.workers)


class JobQueue:
    """Jobs in the order in which they start; those that have lost their worker come first."""

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self.taken: list[Job] = []
        self.exhausted = False
        self._losses: Counter[int] = Counter()
        self._jobs = iter(jobs)
        self._again: deque[int] = deque()

    def take(self) -> int | None:
        """The number of the next job to start; None: there is none, or none for now."""
        if self._again:
            return self._again.popleft()
        for job in self._jobs:
            if job is None:
                return None
            self.taken.append(job)
            return len(self.taken) - 1
        self.exhausted = True
        return None

    def repeat(self, number: int, end: str | None) -> JobRepeated:
        """Put a job that has lost its worker at the head of the queue.

        `end` says how the worker died, if the job may be the cause; None: it cannot be.

        Raises:
            RunError: the job may have caused this a second time.
        """
        self._losses[number] += end is not None
        if self._losses[number] == _MOST_LOSSES:
            raise RunError(
                f"The run in {self.taken[number].directory} lost its process {_MOST_LOSSES} times ({end}). "
                "Resume it with fewer --workers."
            )
        self._again.appendleft(number)
        return JobRepeated(number)

    def event(self, report: Report) -> Event:
        """What a worker reports, unless it is a failure.

        Raises:
            RunError: the job has failed; a JobDivergedError if its training has diverged.
        """
        if not isinstance(report, JobFailed):
            return report
        sentence = f"The run in {self.taken[report.job].directory} failed. {report.sentence}"
        raise JobDivergedError(report.job, sentence) if report.diverged else RunError(sentence)


def train_job(number: int, job: Job, load: Load) -> Iterator[Report]:
    """Do a job in this process, with the digits that `load` returns for its config's `data` and `data_dir`."""
    try:
        digits = load(job.config.data, job.config.data_dir)
        resumes = (job.directory / "config.json").exists()
        run = resume_run(job.directory, digits) if resumes else start_run(job.config, job.directory, digits)
        last = run.config.recipe.epochs
        stop = min(job.until or last, last)
        records = run_epochs(run) if len(run.state.epochs) < stop else ()
        for record in records:
            if isinstance(record, Epoch):
                yield JobEpoch(number, record)
                if record.epoch == stop:
                    break
        yield JobDone(number, finish_run(run)) if stop == last else JobPaused(number)
    except TinydigitsError as error:
        yield JobFailed(number, str(error), diverged=isinstance(error, DivergedError))
    except (Exception, SystemExit) as error:  # a user's network may raise anything
        cause = f"{type(error).__name__}: {one_line(error)}"
        yield JobFailed(number, f"{cause}. Fix that, then rerun the same command.")
