"""Search under a budget: networks that keep it are trained, the promising ones further, and one is chosen.

A search directory holds:

    config.json    "kind": "search", the question, and how all networks are trained
    journal.log    every trial: see journal.py                          trials/trial-0000.toml …   the networks
    net.toml       the one that is chosen                               trials/trial-0000/ …       their runs
    front.json     what came out: see `Search.conclude`

Networks race by successive halving (halving.py) on held-out digits. The last part of the time goes to what decides: the
network that would be chosen is trained with further seeds, for the best of many single runs was lucky too, and this
goes on until it has enough of them and would still be chosen.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from tinydigits.data.dataset import DigitData
from tinydigits.errors import RunError, StorageError
from tinydigits.models.budget import percent, structural_clauses, wording
from tinydigits.models.design import design_toml
from tinydigits.models.inspect import inspect_model
from tinydigits.models.registry import create_model
from tinydigits.storage import write_bytes, write_json
from tinydigits.studies.front import Finding, judged_accuracy, margin, pareto, preference, sketch
from tinydigits.studies.halving import Trial, best_paused, promotion, rungs
from tinydigits.studies.journal import Journal, Lock, suggestions
from tinydigits.studies.plan import Limits, Plan, refuse_foreign, settle
from tinydigits.studies.prove import right_answers
from tinydigits.studies.runners import Engine, Event, Job, JobDone, JobEpoch, JobPaused, default_workers
from tinydigits.studies.space import Candidate, Shape, Tally, fit, space_under, start_shape
from tinydigits.training.config import RunConfig
from tinydigits.training.rundir import RunDirectory, environment, read_metrics

SCHEMA = 1
SEEDS = 3  # by which the choice is judged
_EXPLORING = 0.75  # share of the time in which new networks are tried
_RETESTED = 4  # networks that are trained with further seeds at the same time, at most
_SHAPES = 200  # that are tried for a network that is new and fits


class Search:
    """A search under way. `events` runs its trials, `conclude` says what came out. See `open_search`."""

    def __init__(
        self, directory: Path, plan: Plan, data: DigitData, journal: Journal, limits: Limits, workers: int | None
    ) -> None:
        self.directory, self.plan, self.data, self.journal = directory, plan, data, journal
        self.limits, self.asked_workers, self.workers = limits, workers, workers or default_workers()
        self.steps = rungs(plan.epochs)
        self.space = space_under(plan.limits)
        self.running: dict[int, Trial] = {}  # by the job's number
        self._claims: dict[int, TextIO] = {}  # by the trial's
        self._correct: dict[int, NDArray[np.bool_]] = {}
        self._exhausted = False
        self._busy = _Busy(self.workers)
        self._begun = time.monotonic() - self._spent()

    @property
    def elapsed(self) -> float:
        """Seconds that the trials have taken, in this process and, by their own clocks, in those before."""
        return time.monotonic() - self._begun

    @property
    def over(self) -> bool:
        """Whether there is nothing left to try under these limits."""
        ended = self.journal.ended
        if not ended:
            return False
        trials = ended["trials"] is None or (self.limits.trials is not None and self.limits.trials <= ended["trials"])
        return trials and self.limits.minutes <= ended["minutes"]

    def _spent(self) -> float:
        ended = self.journal.ended
        if ended and self.limits.minutes > ended["minutes"]:
            return float(60 * ended["minutes"])
        return sum(trial.seconds for trial in self.journal.trials()) / self.workers

    def events(self, engine: Engine) -> Iterator[tuple[Trial, Event]]:
        """Run trials until the limits are reached; yields what happens, and to which trial.

        Raises:
            RunError: a training fails by anything but divergence.
        """
        while not self.over:
            self.running.clear()
            try:
                for event in engine(self._jobs(), self.asked_workers):
                    trial = self.running[event.job]
                    self._note(event, trial)
                    yield trial, event
                return
            except RunError as error:
                self._give_up(error)
            finally:
                for claim in self._claims.values():
                    claim.close()
                self._claims.clear()

    def _jobs(self) -> Iterator[Job | None]:
        number = 0
        while True:
            with self.journal.alone():
                trial = self._next()
            if trial is not None:
                self.running[number] = trial
                number += 1
                self._busy.given(len(self._claims))
                yield self._job(trial)
            elif self._claims:
                yield None
            else:
                return

    def _next(self) -> Trial | None:
        """The trial to be trained now, up to its `until`; None: none for now, or, if none is running, none at all."""
        trials = self.journal.trials()
        findings = self._findings(trials)
        in_time = self.elapsed < self.limits.seconds
        for trial in trials:
            if trial.under_way and (in_time or not findings) and self._claim(trial):  # its process was killed
                if not RunDirectory(self._file(trial.number)).result.exists():
                    return trial
                self._keep(trial)  # just before it could say that all was done
                return self._next()
        if self.elapsed < _EXPLORING * self.limits.seconds or not trials:
            if (promoted := promotion(trials, self.steps)) is not None and self._claim(promoted[0]):
                return self._allow(*promoted)
            if (new := self._new(trials)) is not None:
                return new
            if any(trial.under_way and trial.seed == 0 for trial in trials):
                return None  # what these come to may let others go on
        if findings:
            return self._retest(trials, findings) if in_time else None
        paused = best_paused(trials, self.plan.epochs)
        if paused is not None and not self._claims and self._claim(paused):
            return self._allow(paused, self.plan.epochs)
        return None

    def _new(self, trials: Sequence[Trial]) -> Trial | None:
        """Begin a trial of a network that was not tried yet; None: the limit is reached, or no other fits."""
        begun = sum(trial.seed == 0 for trial in trials)
        if self._exhausted or (self.limits.trials is not None and begun >= self.limits.trials):
            return None
        tried, tally = {trial.design for trial in trials}, Tally()
        first = [] if trials else [start_shape(self.space)]
        for shape in islice(chain(first, suggestions(self.space, trials, self.steps)), _SHAPES):
            candidate = fit(shape, self.plan.limits, self.plan.epochs, tally)
            if candidate is not None and candidate.design not in tried:
                return self._begin(shape, candidate, seed=0, until=self.steps[0], tally=tally)
        self._exhausted = True
        return None

    def _retest(self, trials: Sequence[Trial], findings: Sequence[Finding]) -> Trial | None:
        """Another seed for what would be chosen, or for what comes next while that runs; None: it is settled."""
        for place, finding in enumerate(preference(findings, self.plan.budget.min_accuracy)[:_RETESTED]):
            begun = [trial for trial in trials if trial.design == finding.design]
            if len(begun) >= SEEDS:
                if place == 0 and len(finding.trials) == len(begun):
                    return None
                continue
            first = finding.trials[0]
            if first.seconds > self.limits.seconds - self.elapsed:
                continue
            facts = {"parameters": first.parameters, "macs": first.macs}
            trial = self.journal.begin(
                self.space, first.shape, first.design, seed=len(begun), until=self.plan.epochs, **facts
            )
            self._claim(trial)
            return trial
        return None

    def _begin(self, shape: Shape, candidate: Candidate, *, seed: int, until: int, tally: Tally) -> Trial:
        facts = {"parameters": candidate.facts.parameters, "macs": candidate.facts.macs}
        costs = {"costed": tally.costed, "costing_seconds": tally.seconds}
        trial = self.journal.begin(self.space, shape, candidate.design, seed=seed, until=until, **facts, **costs)
        self._claim(trial)
        return trial

    def _allow(self, trial: Trial, until: int) -> Trial:
        self.journal.allow(trial.number, until)
        return replace(trial, until=until)

    def _claim(self, trial: Trial) -> bool:
        """Whether it is this process that trains it now: a lock says so, which the kernel takes from whoever dies."""
        if trial.number in self._claims:
            return False
        lock = self._file(trial.number, ".lock", hidden=True).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._claims[trial.number] = lock
        return True

    def _file(self, number: int, suffix: str = "", *, hidden: bool = False) -> Path:
        return self.directory / "trials" / f"{'.' * hidden}trial-{number:04d}{suffix}"

    def _job(self, trial: Trial) -> Job:
        """Its definition file is written, or mended, before it is trained."""
        file = self._file(trial.number, ".toml")
        text = design_toml(trial.design).encode()
        if not file.exists() or file.read_bytes() != text:
            write_bytes(file, text)
        config = replace(self.plan.config, model=str(file), seed=trial.seed)
        until = trial.until if trial.until < self.plan.epochs else None
        return Job(config, self._file(trial.number), until)

    def _note(self, event: Event, trial: Trial) -> None:
        """Keep what an event says."""
        if isinstance(event, JobEpoch):
            self._busy.trained(event.record["time_seconds"])
        elif isinstance(event, JobPaused | JobDone):
            self._keep(trial)

    def _keep(self, trial: Trial) -> None:
        """What a trial has come to, by its run directory, into the journal; it is given back."""
        run, remedy = RunDirectory(self._file(trial.number)), "Begin a new search with another --out."
        epochs = read_metrics(run, ("accuracy", "time_seconds"), remedy)
        over = trial.over_budget if trial.epochs else self._breaks(trial)
        self.journal.report(trial.number, epochs["accuracy"], sum(epochs["time_seconds"]), over_budget=over)
        self._claims.pop(trial.number).close()

    def _breaks(self, trial: Trial) -> bool:
        """Whether the network that was built is over the budget after all, by counting it."""
        inspection = inspect_model(create_model(str(self._file(trial.number, ".toml"))))
        clauses = structural_clauses(self.plan.limits, inspection, self.plan.epochs)
        return any(clause.verdict == "failed" for clause in clauses)

    def _give_up(self, error: RunError) -> None:
        """A training that has diverged is one network less; whatever else went wrong ends the search."""
        said = str(error)
        for trial in self.running.values():
            if trial.number in self._claims and f"{self._file(trial.number)} failed. " in said and "diverged" in said:
                self.journal.fail(trial.number, said)
                return
        raise error

    def _findings(self, trials: Sequence[Trial]) -> list[Finding]:
        """What is trained to its last epoch, network by network."""
        by_design: dict[Any, list[Trial]] = {}
        for trial in trials:
            if trial.epochs == self.plan.epochs and trial.failed is None:
                by_design.setdefault(trial.design, []).append(trial)
        findings = []
        for same in by_design.values():
            accuracies = tuple(judged_accuracy(self.plan.budget, trial) for trial in same)
            doubt = margin([self._right(trial.number) for trial in same], len(self.data.test))
            findings.append(Finding(tuple(same), accuracies, doubt))
        return findings

    def _right(self, number: int) -> NDArray[np.bool_]:
        """Which of the held-out digits a trial reads right, [n]."""
        if number not in self._correct:
            self._correct[number] = right_answers(self._file(number))
        return self._correct[number]

    def conclude(self) -> dict[str, Any]:
        """Choose, write `net.toml` and `front.json`, and return the latter.

        The smallest network is chosen whose accuracy on held-out digits is above the budget's by its margin; where none
        is, or the budget asks for no accuracy, the most accurate.

        Raises:
            RunError: no network was trained to its last epoch.
        """
        trials = self.journal.trials()
        findings = self._findings(trials)
        if not findings:
            raise RunError(
                f"{self.directory}: none of {len(trials)} trials came to its last epoch, for {_why_none(trials)}. "
                "Give it more --minutes."
            )
        for finding in findings:
            for trial, accuracy in zip(finding.trials, finding.accuracies, strict=True):
                self.journal.complete(trial.number, accuracy, trial.parameters)
        if not self.over:
            self.journal.end(self.limits.minutes, self.limits.trials, busy_share=self._busy.share)
        target = self.plan.budget.min_accuracy
        chosen = preference(findings, target)[0]
        write_bytes(self.directory / "net.toml", design_toml(chosen.design).encode())
        document = {
            "schema": SCHEMA,
            **self._question(),
            **self._effort(trials),
            "front": [finding.as_dict() for finding in pareto(findings)],
            "chosen": {**chosen.as_dict(), "why": _why(chosen, target), "definition": str(self.directory / "net.toml")},
            "networks": [_row(trial) for trial in trials],
            "environment": environment(self.plan.config.kernels),
            "search_dir": str(self.directory),
        }
        write_json(self.directory / "front.json", document)
        return document

    def _question(self) -> dict[str, Any]:
        budget, config = self.plan.budget, self.plan.config
        return {
            "budget": budget.name,
            "asked": wording(budget),
            "target": budget.min_accuracy,
            "accuracy_of": budget.accuracy_of,
            "data": self.data.name,
            "notice": self.data.notice,
            "protocol": "tune",
            "held_out": len(self.data.held_out),
            "recipe": config.recipe.name,
            "epochs": self.plan.epochs,
            "kernels": config.kernels,
            "max_macs": self.plan.limits.max_macs,
            "minutes": self.limits.minutes,
            "workers": self.workers,
        }

    def _effort(self, trials: Sequence[Trial]) -> dict[str, Any]:
        racing = [trial for trial in trials if trial.seed == 0]
        complete = sum(trial.epochs == self.plan.epochs for trial in racing)
        failed = sum(trial.failed is not None for trial in racing)
        costed, seconds = self.journal.total("costed"), self.journal.total("costing_seconds")
        return {
            "trials": {
                "begun": len(racing),
                "complete": complete,
                "pruned": len(racing) - complete - failed,
                "failed": failed,
                "retests": len(trials) - len(racing),
            },
            "epochs_trained": sum(trial.epochs for trial in trials),
            "training_seconds": round(sum(trial.seconds for trial in trials), 1),
            "candidates": {
                "costed": int(costed),
                "seconds": round(seconds, 3),
                "per_second": round(costed / seconds) if seconds else None,
            },
            "over_budget_built": sum(trial.over_budget for trial in trials),
            "busy_share": self.journal.ended["busy_share"],
        }

    def proof_seconds(self, document: Mapping[str, Any], seeds: int) -> float:
        """How long the chosen network's proof will take, by what its trials took."""
        chosen = document["chosen"]
        share = len(self.data.train) / (len(self.data.train) - len(self.data.held_out))
        one = chosen["seconds"] / len(chosen["seeds"]) * share
        return float(one * -(-seeds // self.workers))

    def proof_config(self) -> RunConfig:
        """How the chosen network is proved: as it was tried, but with all training digits, by the test digits."""
        return replace(self.plan.config, model=str(self.directory / "net.toml"), protocol="final", seed=0)


class _Busy:
    """How much of the workers' time goes to training, while there are trials to give them."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._first: float | None = None
        self._last = self._seconds = self._counted = 0.0

    def given(self, running: int) -> None:
        """A worker was free, and has got a trial; so many are now running."""
        self._workers = max(self._workers, running)  # a cluster may have more
        self._last, self._counted = time.monotonic(), self._seconds
        self._first = self._last if self._first is None else self._first

    def trained(self, seconds: float) -> None:
        """An epoch took so long."""
        self._seconds += seconds

    @property
    def share(self) -> float | None:
        """From the first trial given to the last, by the epochs that ended in between; None: no time was in between."""
        if self._first is None or self._last == self._first:
            return None
        return round(self._counted / (self._workers * (self._last - self._first)), 4)


@contextlib.contextmanager
def open_search(
    directory: Path, plan: Plan, data: DigitData, limits: Limits, workers: int | None = None
) -> Iterator[tuple[Search, Callable[[], None]]]:
    """Make the search's directory, or go on with it; several processes may do so at once.

    A search that was begun goes on with the plan that it was begun with. `workers`: how many trainings run at once;
    None: as many as the engine has room for.

    Yields:
        The search, and a function that waits until no other process runs trials of it; from then on none may begin.

    Raises:
        RunError: it holds something else or another search, its journal cannot be read, or another process proves what
            was chosen.
        StorageError: it cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        refuse_foreign(directory)
        (directory / "trials").mkdir(exist_ok=True)
        lock, active = (directory / ".lock").open("w"), (directory / ".active").open("w+")
    except OSError as error:
        raise StorageError(f"{directory} could not be written: {(error.strerror or '').lower()}. Use --out.") from error
    with lock, active:
        try:
            fcntl.flock(active, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{directory}: another process has ended the trials of this search, and proves what was chosen. Wait "
                "for it, or use another --out."
            ) from error
        with (writing := Lock(lock)):
            plan, question = settle(directory, plan, data)
            journal = Journal(directory, question, writing)
        yield Search(directory, plan, data, journal, limits, workers), lambda: fcntl.flock(active, fcntl.LOCK_EX)


def _why_none(trials: Sequence[Trial]) -> str:
    failed = [trial.failed for trial in trials if trial.failed is not None]
    return f"{len(failed)} failed ({failed[-1]})" if failed else "they were stopped"


def _why(chosen: Finding, target: float | None) -> str:
    """Why this network."""
    if target is None:
        return "the most accurate on the held-out digits; the budget asks for no accuracy"
    difference = 100 * (chosen.accuracy - target)
    points = f"{abs(difference):.3f} points {'above' if difference >= 0 else 'below'} it"
    points += f", margin {100 * chosen.margin:.3f}"
    if chosen.accuracy - chosen.margin >= target:
        return f"the smallest that is above {percent(target)} on the held-out digits by its margin ({points})"
    return f"the most accurate on the held-out digits; none is above {percent(target)} by its margin ({points})"


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "network": sketch(trial.design),
        "parameters": trial.parameters,
        "macs": trial.macs,
        "seed": trial.seed,
        "epochs": trial.epochs,
        "accuracy": trial.accuracies[-1] if trial.accuracies else None,
        "seconds": round(trial.seconds, 2),
        "failed": trial.failed,
    }
