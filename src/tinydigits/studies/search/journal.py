"""A search's trials in Optuna's JournalStorage, which several processes may use, and Optuna's suggestions of new ones.

Takes the extra `search`. A trial of a search is one of Optuna's, whose user attributes hold what else is known of it.
For Optuna it is *running* while it is paused, because it may be resumed, and *complete* after its last epoch.
"""

import fcntl
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinydigits.errors import RunError, one_line
from tinydigits.inspection.design_cost import design_facts
from tinydigits.models.design import Design
from tinydigits.settings import build
from tinydigits.studies.search.halving import Trial, shape_losses
from tinydigits.studies.search.plan import JOURNAL
from tinydigits.studies.search.space import Real, Setting, Shape, Space, Tally, build_shape

_STUDY = "search"
# Of the accuracy on validation digits, and of the number of parameters.
_DIRECTIONS: Sequence[Literal["maximize", "minimize"]] = ("maximize", "minimize")
_AT_RANDOM = 16  # trials before the sampler models anything


class Lock:
    """A lock that the kernel releases when its holder dies, unlike Optuna's own. Its holder may take it again."""

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
        """Release it; to be called once for each `acquire`."""
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True)
class Ended:
    """The limits at which the trials have ended, and how much of the workers' time was training (None: unknown)."""

    minutes: float
    trials: int | None
    busy_fraction: float | None


class Journal:
    """The journal of a search directory."""

    def __init__(self, directory: Path, question: str, space: Space, lock: Lock) -> None:
        """Open or begin the journal of the search that `question` identifies; who writes holds `lock`.

        Raises:
            RunError: it cannot be read, or belongs to another search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path = directory / JOURNAL
        self.lock = lock  # to hold where a decision depends on what was read: then no other process writes
        self._space = space
        self._designs: dict[int, Design] = {}
        with lock, _readable(self.path):
            _cut_torn_line(self.path)
            backend = JournalFileBackend(str(self.path), lock)  # type: ignore[arg-type]  # has no public base class
            self._storage = JournalStorage(backend)
            self._study = optuna.create_study(
                storage=self._storage, study_name=_STUDY, directions=_DIRECTIONS, load_if_exists=True
            )
            there = self._study.user_attrs.get("question")
            if there is None and not self._study.get_trials(deepcopy=False):
                self._study.set_user_attr("question", question)
            elif there != question:
                raise RunError(
                    f"{self.path} is the journal of another search than config.json beside it describes. Put its own "
                    "back, or begin a new search with another --out."
                )

    @property
    def ended(self) -> Ended | None:
        """How the trials have ended; None while they are under way."""
        facts = self._study.user_attrs.get("ended")
        return Ended(**facts) if facts else None

    def end(self, ended: Ended) -> None:
        """The trials have reached these limits."""
        self._study.set_user_attr("ended", asdict(ended))

    def trials(self) -> list[Trial]:
        """All trials, by number.

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
        report = facts.get("report", {"accuracies": ()})
        return Trial(
            number=number,
            shape=build_shape(frozen.params),
            design=self._designs[number],
            **{name: facts[name] for name in ("parameters", "macs", "seed", "until")},
            **{**report, "accuracies": tuple(report["accuracies"])},
            failed=facts.get("failed"),
        )

    def begin(self, shape: Shape, design: Design, seed: int, until: int, tally: Tally) -> Trial:
        """Add a trial, to be trained up to the epoch `until`; `tally`: what it took to find it."""
        facts = design_facts(design)
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=shape.settings(self._space),
                distributions=_distributions(self._space),
                user_attrs={
                    "design": asdict(design),
                    "parameters": facts.parameters,
                    "macs": facts.macs,
                    "seed": seed,
                    "until": until,
                    "costed": tally.costed,
                    "costing_seconds": tally.seconds,
                },
            )
        )
        return self.trials()[-1]

    def allow(self, number: int, until: int) -> None:
        """Let a trial be trained up to a later epoch."""
        self._attribute(number, "until", until)

    def report(self, number: int, accuracies: Sequence[float], seconds: float, *, over_budget: bool) -> None:
        """How far a trial is, at a pause or at its end."""
        facts = {"accuracies": list(accuracies), "seconds": seconds, "over_budget": over_budget}
        self._attribute(number, "report", facts)

    def fail(self, number: int, why: str) -> None:
        """A trial cannot be trained."""
        self._attribute(number, "failed", why)
        self._study.tell(number, state=TrialState.FAIL)

    def complete(self, number: int, accuracy: float, parameters: int) -> None:
        """A trial is trained to its last epoch; a second call changes nothing."""
        self._study.tell(number, [accuracy, parameters], skip_if_finished=True)

    def tally(self) -> Tally:
        """What it took to find the networks of all trials."""
        facts = [frozen.user_attrs for frozen in self._study.get_trials(deepcopy=False)]
        return Tally(sum(each["costed"] for each in facts), sum(each["costing_seconds"] for each in facts))

    def _attribute(self, number: int, key: str, value: object) -> None:
        frozen = self._study.get_trials(deepcopy=False)[number]
        self._storage.set_trial_user_attr(frozen._trial_id, key, value)


def suggestions(space: Space, trials: Sequence[Trial], steps: Sequence[int]) -> Iterator[Shape]:
    """Shapes to try, based on what the trials have shown; there is no end of them.

    TPE (Bergstra et al., NeurIPS 2011), in a study in memory, where paused trials count with the error that they are
    expected to end with. TPE rates a shape by its error relative to other networks of its size, and the size is drawn
    separately. So small networks inform the choice of large ones: with accuracy and size as two objectives, most
    suggestions were small networks, and the large ones did not improve. The same trials give the same suggestions.
    """
    losses = shape_losses(trials, steps)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, seed=len(trials)))
    without_size = {name: setting for name, setting in space.items() if name != "size"}
    distributions = _distributions(without_size)
    for trial in trials:
        if trial.number in losses:
            settings = trial.shape.settings(without_size)
            study.add_trial(create_trial(params=settings, distributions=distributions, value=losses[trial.number]))
    size, rng = space["size"], random.Random(len(trials))
    assert isinstance(size, Real)
    while True:
        yield build_shape({**study.ask(dict(distributions)).params, "size": rng.uniform(size.low, size.high)})


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    def distribution(setting: Setting) -> BaseDistribution:
        if isinstance(setting, Real):
            return FloatDistribution(setting.low, setting.high)
        return (
            IntDistribution(setting[0], setting[-1]) if isinstance(setting, range) else CategoricalDistribution(setting)
        )

    return {name: distribution(setting) for name, setting in space.items()}


def _cut_torn_line(path: Path) -> None:
    """A kill in the middle of a write leaves half a line at the end, on which nobody has acted yet: remove it."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what Optuna raises over a damaged journal into a sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
        reason = one_line(error) or type(error).__name__
        raise RunError(
            f"{path} cannot be read ({reason}). Put back a copy, or begin a new search with another --out."
        ) from error
