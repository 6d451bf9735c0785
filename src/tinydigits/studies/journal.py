"""A search's trials in Optuna's JournalStorage, which processes may share, and Optuna's suggestions of new ones.

Takes the extra `search`. A trial of a search is one of Optuna's, with what else is known of it in its user attributes.
It stays *running* there while it is paused, for it may go on, and is *complete* when it is trained to its last epoch.
"""

import fcntl
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TextIO

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinydigits.errors import RunError, one_line
from tinydigits.models.design import Design
from tinydigits.settings import build
from tinydigits.studies.halving import Trial, shape_losses
from tinydigits.studies.plan import JOURNAL
from tinydigits.studies.space import OneOf, Real, Setting, Shape, Space, Whole

_STUDY = "search"
# Of the accuracy on held-out digits, and of the number of parameters.
_DIRECTIONS: Sequence[Literal["maximize", "minimize"]] = ("maximize", "minimize")
_AT_RANDOM = 16  # trials before the sampler models anything


class Lock:
    """A lock that the kernel takes from whoever dies; Optuna's own outlive them. Whoever holds it may take it again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._depth = 0

    def acquire(self) -> bool:
        """Wait for it, and take it."""
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._depth += 1
        return True

    def release(self) -> None:
        """Give it back, as often as it was taken."""
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> "Lock":
        """Hold it within."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.release()


class Journal:
    """The journal of a search directory."""

    def __init__(self, directory: Path, question: str, lock: Lock) -> None:
        """Open it, or begin it; `question` says which search it is of, `lock` is held by whoever writes.

        Raises:
            RunError: it cannot be read, or is of another search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path = directory / JOURNAL
        self._lock = lock
        self._designs: dict[int, Design] = {}
        with lock, _readable(self.path):
            _cut_torn_line(self.path)
            backend = JournalFileBackend(str(self.path), self._lock)  # type: ignore[arg-type]  # has no public base class
            self._storage = JournalStorage(backend)
            self._study = optuna.create_study(
                storage=self._storage, study_name=_STUDY, directions=_DIRECTIONS, load_if_exists=True
            )
            there = self._study.user_attrs.get("question")
            if there is None and not self._study.get_trials(deepcopy=False):
                self._study.set_user_attr("question", question)
            elif there != question:
                raise RunError(
                    f"{self.path} is the journal of another search than config.json beside it says. Put its own back, "
                    "or begin a new search with another --out."
                )

    def alone(self) -> AbstractContextManager[Lock]:
        """While this process decides by what it has read, no other writes."""
        return self._lock

    @property
    def ended(self) -> Mapping[str, Any]:
        """The limits up to which the trials have come, `minutes` and `trials`, and what `end` was told besides.

        Empty while they go on.
        """
        ended: Mapping[str, Any] = self._study.user_attrs.get("ended", {})
        return ended

    def end(self, minutes: float, trials: int | None, **facts: Any) -> None:
        """The trials have come to these limits."""
        self._study.set_user_attr("ended", {"minutes": minutes, "trials": trials, **facts})

    def trials(self) -> list[Trial]:
        """All of them, by number.

        Raises:
            RunError: the journal cannot be read.
        """
        with _readable(self.path):
            return [self._trial(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def _trial(self, frozen: FrozenTrial) -> Trial:
        facts = frozen.user_attrs
        number = frozen.number
        if number not in self._designs:
            self._designs[number] = build(Design, facts["design"], f"{self.path}, trial {number}")
        report = facts.get("report", {})
        return Trial(
            number=number,
            shape=frozen.params,
            design=self._designs[number],
            parameters=facts["parameters"],
            macs=facts["macs"],
            seed=facts["seed"],
            until=facts["until"],
            accuracies=tuple(report.get("accuracies", ())),
            seconds=report.get("seconds", 0.0),
            over_budget=report.get("over_budget", False),
            failed=facts.get("failed"),
        )

    def begin(self, space: Space, shape: Shape, design: Design, **facts: Any) -> Trial:
        """Add a trial; `facts`: its `parameters, macs, seed, until`, and whatever else is worth keeping."""
        attributes = {"design": asdict(design), **facts}
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(shape),
                distributions=_distributions(space),
                user_attrs=attributes,
            )
        )
        return self.trials()[-1]

    def allow(self, number: int, until: int) -> None:
        """Let a trial go on to an epoch."""
        self._attribute(number, "until", until)

    def report(self, number: int, accuracies: Sequence[float], seconds: float, *, over_budget: bool) -> None:
        """What a trial has come to, at a pause or at its end."""
        facts = {"accuracies": list(accuracies), "seconds": seconds, "over_budget": over_budget}
        self._attribute(number, "report", facts)

    def fail(self, number: int, why: str) -> None:
        """A trial cannot be trained."""
        self._attribute(number, "failed", why)
        self._study.tell(number, state=TrialState.FAIL)

    def complete(self, number: int, accuracy: float, parameters: int) -> None:
        """A trial is trained to its last epoch; telling so again changes nothing."""
        self._study.tell(number, [accuracy, parameters], skip_if_finished=True)

    def total(self, key: str) -> float:
        """The sum of a fact that trials were begun with, over all."""
        return float(sum(frozen.user_attrs.get(key, 0) for frozen in self._study.get_trials(deepcopy=False)))

    def _attribute(self, number: int, key: str, value: Any) -> None:
        frozen = self._study.get_trials(deepcopy=False)[number]
        self._storage.set_trial_user_attr(frozen._trial_id, key, value)


def suggestions(space: Space, trials: Sequence[Trial], steps: Sequence[int]) -> Iterator[Shape]:
    """Shapes to try, by what the trials have shown; whoever cannot use one takes the next. There is no end of them.

    TPE (Bergstra et al., NeurIPS 2011), in a study in memory, where trials that are only paused count with what may be
    expected of them. It judges a shape by its error against that of other networks of its size, and the size is drawn
    apart. So a small network teaches something of large ones: with accuracy and size as two objectives most suggestions
    went to small networks, and the large ones got no better. The same trials give the same suggestions.
    """
    losses = shape_losses(trials, steps)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, seed=len(trials)))
    distributions = _distributions({name: setting for name, setting in space.items() if name != "size"})
    for trial in trials:
        if trial.number in losses:
            settings = {name: trial.shape[name] for name in distributions}
            study.add_trial(create_trial(params=settings, distributions=distributions, value=losses[trial.number]))
    size, draws = space["size"], random.Random(len(trials))
    assert isinstance(size, Real)
    while True:
        yield {**study.ask(dict(distributions)).params, "size": draws.uniform(size.low, size.high)}


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: _distribution(setting) for name, setting in space.items()}


def _distribution(setting: Setting) -> BaseDistribution:
    if isinstance(setting, OneOf):
        return CategoricalDistribution(setting.values)
    if isinstance(setting, Whole):
        return IntDistribution(setting.low, setting.high)
    return FloatDistribution(setting.low, setting.high)


def _cut_torn_line(path: Path) -> None:
    """A kill in the middle of a write leaves half a line at the end; whatever it said was not acted upon yet."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What Optuna raises over a damaged journal, as a sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
        reason = one_line(error) or type(error).__name__
        raise RunError(
            f"{path} cannot be read ({reason}). Put back a copy, or begin a new search with another --out."
        ) from error
