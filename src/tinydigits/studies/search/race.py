"""A search under way: which network is trained next, and what the trials have come to.

A search directory holds:

    config.json    what the search looks for (plan.py)                  trials/trial-0000.toml …   the networks
    journal.log    every trial (journal.py)                             trials/trial-0000/ …       their runs
    net.toml       the network that is chosen                           proof-0000/                its study
    front.json     the results: a `SearchResult`

Networks race by successive halving (halving.py) on validation digits. The last part of the time goes to the decision:
the network that would be chosen is trained with further seeds, because the best of many single runs was also lucky.
This ends when the choice has enough seeds and no longer changes.
"""

import contextlib
import fcntl
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from tinydigits.errors import RunError, StorageError, reason_of
from tinydigits.inspection.budget import budget_in_words
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.design import Design, design_toml
from tinydigits.models.factory import create_model
from tinydigits.records import (
    CandidateCounts,
    Epoch,
    SearchResult,
    TrialCounts,
    TrialRow,
    derive_record,
    read_lines,
    write_record,
)
from tinydigits.storage import write_bytes
from tinydigits.studies.engines.jobs import Engine, Event, Job, JobDivergedError, JobDone, JobEpoch, JobPaused
from tinydigits.studies.search import front
from tinydigits.studies.search.front import Finding
from tinydigits.studies.search.halving import Trial, best_paused, promotion, rungs
from tinydigits.studies.search.journal import Ended, Journal, Lock, suggestions
from tinydigits.studies.search.plan import SearchPlan, reject_foreign, settle
from tinydigits.studies.search.space import Tally, broken_clauses, fit, space_under, start_shape
from tinydigits.studies.study import correct_in_run
from tinydigits.training.environment import environment

SEEDS = 3  # that the chosen network is trained with
_DECIDING = 0.25  # fraction of the time, its last part, in which no new networks are tried
_RETESTED = 4  # networks that are trained with further seeds at the same time, at most
_SHAPES = 200  # that are tried to find a new network that fits


class Search:
    """A search under way. `events` runs its trials, `conclude` chooses. See `open_search`."""

    def __init__(self, plan: SearchPlan, journal: Journal, active: TextIO) -> None:
        self.plan, self.journal, self.directory = plan, journal, plan.directory
        self.steps = rungs(plan.epochs)
        self._space = space_under(plan.trial_budget)
        self._active = active
        self._running: dict[int, Trial] = {}  # by the job's number
        self._locks: dict[int, TextIO] = {}  # by the trial's number: those that this process trains
        self._correct = functools.cache(lambda number: correct_in_run(self._file(number)))  # [validation digits]
        self._exhausted = False
        self._busy = _Busy(plan.workers)
        spent = sum(trial.seconds for trial in journal.trials()) / plan.workers
        if journal.ended and plan.limits.minutes > journal.ended.minutes:
            spent = 60 * journal.ended.minutes
        self._begun = time.monotonic() - spent

    @property
    def seconds_left(self) -> float:
        """The time that is left for trials; what they took counts, also, by their own clocks, in earlier processes."""
        return max(0.0, self.plan.limits.seconds - (time.monotonic() - self._begun))

    @property
    def over(self) -> bool:
        """Whether there is nothing left to try under these limits."""
        ended, limits = self.journal.ended, self.plan.limits
        if ended is None:
            return False
        trials = ended.trials is None or (limits.trials is not None and limits.trials <= ended.trials)
        return trials and limits.minutes <= ended.minutes

    def events(self, engine: Engine) -> Iterator[tuple[Trial, Event]]:
        """Run trials until the limits are reached; yields what happens, and to which trial.

        Raises:
            RunError: a training fails other than by divergence.
        """
        while not self.over:
            self._running.clear()
            try:
                for event in engine(self._jobs()):
                    trial = self._running[event.job]
                    if isinstance(event, JobEpoch):
                        self._busy.trained += event.epoch.time_seconds
                    elif isinstance(event, JobPaused | JobDone):
                        self._keep(trial)
                    yield trial, event
                return
            except JobDivergedError as error:  # one network fewer
                self.journal.fail(self._running[error.job].number, str(error))
            finally:
                for lock in self._locks.values():
                    lock.close()
                self._locks.clear()

    def wait_for_others(self) -> None:
        """Wait until no other process runs trials of this search; from then on none may begin."""
        fcntl.flock(self._active, fcntl.LOCK_EX)

    def _jobs(self) -> Iterator[Job | None]:
        number = 0
        while True:
            with self.journal.lock:
                trial = self._next()
            if trial is not None:
                self._running[number] = trial
                number += 1
                self._busy.given(len(self._locks))
                yield self._job(trial)
            elif self._locks:
                yield None
            else:
                return

    def _next(self) -> Trial | None:
        """The trial to train now, up to its `until`; None: none for now, or, if none is running, none at all."""
        trials = self.journal.trials()
        findings = self._findings(trials)
        in_time = self.seconds_left > 0
        for trial in trials:
            if trial.under_way and (in_time or not findings) and self._lock(trial):  # its process was killed
                if not (self._file(trial.number) / "result.json").exists():
                    return trial
                self._keep(trial)  # the process was killed before it could report that the run was done
                return self._next()
        if self.seconds_left > _DECIDING * self.plan.limits.seconds or not trials:
            if (promoted := promotion(trials, self.steps)) is not None and self._lock(promoted[0]):
                return self._allow(*promoted)
            if (new := self._new(trials)) is not None:
                return new
            if any(trial.under_way and trial.seed == 0 for trial in trials):
                return None  # their results may promote others
        if findings:
            return self._retest(trials, findings) if in_time else None
        paused = best_paused(trials, self.plan.epochs)
        if paused is not None and not self._locks and self._lock(paused):
            return self._allow(paused, self.plan.epochs)
        return None

    def _new(self, trials: Sequence[Trial]) -> Trial | None:
        """Begin a trial of a network that was not tried yet; None: the limit is reached, or no other network fits."""
        begun, most = sum(trial.seed == 0 for trial in trials), self.plan.limits.trials
        if self._exhausted or (most is not None and begun >= most):
            return None
        tried, tally = {trial.design for trial in trials}, Tally()
        first = [] if trials else [start_shape(self._space)]
        for shape in islice(chain(first, suggestions(self._space, trials, self.steps)), _SHAPES):
            design = fit(shape, self.plan.trial_budget, self.plan.epochs, tally)
            if design is not None and design not in tried:
                trial = self.journal.begin(shape, design, 0, self.steps[0], tally)
                self._lock(trial)
                return trial
        self._exhausted = True
        return None

    def _retest(self, trials: Sequence[Trial], findings: Sequence[Finding]) -> Trial | None:
        """Begin another seed of the network that would be chosen, or of the next best; None: the choice is settled."""
        for rank, finding in enumerate(front.preference(findings, self.plan.budget.min_accuracy)[:_RETESTED]):
            begun = [trial for trial in trials if trial.design == finding.design]
            if len(begun) >= SEEDS:
                if rank == 0 and len(finding.trials) == len(begun):
                    return None
                continue
            first = finding.trials[0]
            if first.seconds > self.seconds_left:
                continue
            trial = self.journal.begin(first.shape, first.design, len(begun), self.plan.epochs, Tally())
            self._lock(trial)
            return trial
        return None

    def _allow(self, trial: Trial, until: int) -> Trial:
        self.journal.allow(trial.number, until)
        return replace(trial, until=until)

    def _lock(self, trial: Trial) -> bool:
        """Whether this process may train it: it holds a lock then, which the kernel releases when the process dies."""
        if trial.number in self._locks:
            return False
        lock = self._file(trial.number, ".lock", hidden=True).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._locks[trial.number] = lock
        return True

    def _file(self, number: int, suffix: str = "", *, hidden: bool = False) -> Path:
        return self.directory / "trials" / f"{'.' * hidden}trial-{number:04d}{suffix}"

    def _job(self, trial: Trial) -> Job:
        """The job of a trial; its network's file is written first, or restored."""
        file = self._file(trial.number, ".toml")
        text = design_toml(trial.design).encode()
        if not file.exists() or file.read_bytes() != text:
            write_bytes(file, text)
        config = replace(self.plan.config, model=str(file), seed=trial.seed)
        until = trial.until if trial.until < self.plan.epochs else None
        return Job(config, self._file(trial.number), until)

    def _keep(self, trial: Trial) -> None:
        """Copy from a trial's run directory to the journal how far it is, and release it."""
        metrics = self._file(trial.number) / "metrics.jsonl"
        epochs = read_lines(metrics, Epoch, "Begin a new search with another --out.")
        over = trial.over_budget
        if not trial.epochs:  # it was built for the first time: counted, it may be over the budget after all
            network = inspect_model(create_model(str(self._file(trial.number, ".toml"))))
            over = bool(broken_clauses(self.plan.trial_budget, network, self.plan.epochs))
        accuracies, seconds = [epoch.accuracy for epoch in epochs], sum(epoch.time_seconds for epoch in epochs)
        self.journal.report(trial.number, accuracies, seconds, over_budget=over)
        self._locks.pop(trial.number).close()

    def _findings(self, trials: Sequence[Trial]) -> list[Finding]:
        """The networks that are trained to their last epoch."""
        by_design: dict[Design, list[Trial]] = {}
        for trial in trials:
            if trial.epochs == self.plan.epochs and trial.failed is None:
                by_design.setdefault(trial.design, []).append(trial)
        findings = []
        for same in by_design.values():
            accuracies = tuple(front.budget_accuracy(self.plan.budget, trial) for trial in same)
            doubt = front.margin([self._correct(trial.number) for trial in same], len(self.plan.data.test))
            findings.append(Finding(tuple(same), accuracies, doubt))
        return findings

    def conclude(self) -> SearchResult:
        """Choose a network (see `front.preference`), write `net.toml` and `front.json`, and return the latter.

        Raises:
            RunError: no network was trained to its last epoch.
        """
        trials = self.journal.trials()
        findings = self._findings(trials)
        if not findings:
            failed = [trial.failed for trial in trials if trial.failed is not None]
            why = f"{len(failed)} failed ({failed[-1]})" if failed else "they were stopped"
            raise RunError(
                f"{self.directory}: none of {len(trials)} trials was trained to its last epoch: {why}. "
                "Give it more --minutes."
            )
        for finding in findings:
            for trial, accuracy in zip(finding.trials, finding.accuracies, strict=True):
                self.journal.complete(trial.number, accuracy, trial.parameters)
        limits = self.plan.limits
        if not self.over:
            self.journal.end(Ended(limits.minutes, limits.trials, self._busy.fraction))
        chosen = front.preference(findings, self.plan.budget.min_accuracy)[0]
        write_bytes(self.directory / "net.toml", design_toml(chosen.design).encode())
        result = self._result(trials, findings, chosen)
        write_record(self.directory / "front.json", result)
        return result

    def _result(self, trials: Sequence[Trial], findings: Sequence[Finding], chosen: Finding) -> SearchResult:
        plan, budget, config, ended = self.plan, self.plan.budget, self.plan.config, self.journal.ended
        assert ended is not None
        tally = self.journal.tally()
        racing = [trial for trial in trials if trial.seed == 0]
        complete = sum(trial.epochs == plan.epochs for trial in racing)
        failed = sum(trial.failed is not None for trial in racing)
        return SearchResult(
            budget=budget.name,
            goal=budget_in_words(budget),
            target=budget.min_accuracy,
            accuracy_of=budget.accuracy_of,
            data=plan.data.name,
            warning=plan.data.warning,
            split=config.split,
            validation=len(plan.data.validation),
            recipe=config.recipe.name,
            epochs=plan.epochs,
            backend=config.backend,
            max_macs=plan.trial_budget.max_macs,
            minutes=plan.limits.minutes,
            workers=plan.workers,
            trials=TrialCounts(
                begun=len(racing),
                complete=complete,
                pruned=len(racing) - complete - failed,
                failed=failed,
                retests=len(trials) - len(racing),
            ),
            epochs_trained=sum(trial.epochs for trial in trials),
            training_seconds=round(sum(trial.seconds for trial in trials), 1),
            candidates=CandidateCounts(
                costed=tally.costed,
                seconds=round(tally.seconds, 3),
                per_second=round(tally.costed / tally.seconds) if tally.seconds else None,
            ),
            over_budget_built=sum(trial.over_budget for trial in trials),
            busy_fraction=ended.busy_fraction,
            front=tuple(map(front.front_row, front.pareto(findings))),
            chosen=front.chosen_row(chosen, budget.min_accuracy, str(self.directory / "net.toml")),
            networks=tuple(map(_trial_row, trials)),
            environment=environment(config.backend),
            search_dir=str(self.directory),
        )


class _Busy:
    """How much of the workers' time goes to training while there are trials for them."""

    def __init__(self, workers: int) -> None:
        self.trained, self._workers = 0.0, workers
        self._given: list[tuple[float, float]] = []  # when a worker was given a trial, and the seconds trained by then

    def given(self, running: int) -> None:
        """A worker was free, and was given a trial; so many are now running."""
        self._workers = max(self._workers, running)  # a cluster may have more
        self._given.append((time.monotonic(), self.trained))

    @property
    def fraction(self) -> float | None:
        """From the first trial given to the last, by the epochs that ended in between; None: no time passed."""
        if not self._given:
            return None
        (first, _), (last, trained) = self._given[0], self._given[-1]
        return round(trained / (self._workers * (last - first)), 4) if last > first else None


@contextlib.contextmanager
def open_search(plan: SearchPlan) -> Iterator[Search]:
    """Make the search's directory, or resume the search in it; several processes may do so at once.

    A search that is resumed keeps the settings that it was begun with.

    Raises:
        RunError: the directory holds something else or another search, its journal cannot be read, or another process
            proves the choice.
        StorageError: it cannot be written to.
    """
    directory = plan.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        reject_foreign(directory)
        (directory / "trials").mkdir(exist_ok=True)
        lock, active = (directory / ".lock").open("w"), (directory / ".active").open("w+")
    except OSError as error:
        raise StorageError(f"{directory} could not be written: {reason_of(error)}. Use --out.") from error
    with lock, active:
        try:
            fcntl.flock(active, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{directory}: another process has ended the trials of this search, and proves what was chosen. Wait "
                "for it, or use another --out."
            ) from error
        with (writing := Lock(lock)):
            plan, question = settle(plan)
            journal = Journal(directory, question, space_under(plan.trial_budget), writing)
        yield Search(plan, journal, active)


def _trial_row(trial: Trial) -> TrialRow:
    return derive_record(
        TrialRow,
        trial,
        trial=trial.number,
        network=front.sketch(trial.design),
        accuracy=trial.accuracies[-1] if trial.accuracies else None,
        seconds=round(trial.seconds, 2),
    )
