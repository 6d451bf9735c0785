"""`search`: find a network that meets a budget, and prove it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from tinydigits.errors import ConfigError, ToolMissingError
from tinydigits.inspection.budget import Budget
from tinydigits.records import SearchResult, write_record
from tinydigits.studies.engines.jobs import Engine, Event
from tinydigits.studies.engines.local import LOCAL
from tinydigits.studies.prove import Study, Watch, plan_study, run_study
from tinydigits.studies.search.halving import Trial
from tinydigits.studies.search.plan import Limits, SearchPlan, plan_search

if TYPE_CHECKING:
    from tinydigits.studies.search.race import Search

TrialEvents = Iterator[tuple[Trial, Event]]


class SearchWatch(Protocol):
    """Follows a search, and may show how far it is."""

    def trials(self, search: "Search", events: TrialEvents) -> TrialEvents:
        """Goes through the events of the trials."""

    def proof(self, result: SearchResult, study: Study, seconds: float) -> Watch:
        """Is told what was chosen and about how long its proof takes; returns what goes through the proof's events."""


def search(
    budget: Budget,
    *,
    minutes: float = 30,
    trials: int | None = None,
    seeds: int = 5,
    data: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    engine: Engine = LOCAL,
    out: str | os.PathLike[str] | None = None,
    watch: SearchWatch | None = None,
) -> SearchResult:
    """Try networks that meet a budget, choose one on validation digits, and prove it on the test digits.

    Networks are trained for a few epochs, the promising ones further. The smallest whose accuracy is above the budget's
    by a margin is chosen; if there is none, the most accurate. The same call resumes the search, and several processes
    may make it at once. Returned is what stands in `front.json`: the front, the choice, all trials, and the verdict.

    Args:
        budget: What the network has to keep.
        minutes: The time for trials; the proof comes after.
        trials: The most networks to try; None: as many as there is time for.
        seeds: Of the proof, 0 to `seeds` − 1.
        data: The digits, as `--data` takes them.
        data_dir: The directory of MNIST's files.
        engine: Where networks are trained.
        out: The search's directory; None: `studies/search-BUDGET`.
        watch: Follows the search.

    Raises:
        BudgetError: no network that the search can build meets the budget; nothing is trained or written.
        ToolMissingError: the extra `search` is not installed.
    """
    limits = Limits(minutes, trials)
    plan = plan_search(budget, limits, data=data, data_dir=data_dir, engine=engine, out=Path(out) if out else None)
    return run_search(plan, seeds, engine=engine, watch=watch)


def run_search(
    plan: SearchPlan, seeds: int, *, engine: Engine = LOCAL, watch: SearchWatch | None = None
) -> SearchResult:
    """Do or resume a planned search; see `search`.

    Raises:
        RunError: a training fails, or something else lies in the directory.
        ToolMissingError: the extra `search` is not installed.
    """
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}: must be at least 1.")
    try:
        from tinydigits.studies.search.race import open_search
    except ModuleNotFoundError as error:
        raise ToolMissingError(
            f"The package {error.name} is not installed. Install what a search needs with "
            '`pip install "tinydigits[search]"`.'
        ) from error
    with open_search(plan) as race:
        events = race.events(engine)
        for _ in watch.trials(race, events) if watch else events:
            pass
        race.wait_for_others()
        result, plan = race.conclude(), race.plan
        # the chosen network is proved as it was tried, but trained on all training digits, and on test digits
        config = replace(plan.config, model=result.chosen.definition, split="test")
        out = plan.directory / f"proof-{result.chosen.trial:04d}"
        study = plan_study(config, plan.budget, out, plan.data)
        digits = len(plan.data.train)
        one = result.chosen.seconds / len(result.chosen.seeds) * digits / (digits - len(plan.data.validation))
        proof_watch = watch.proof(result, study, one * -(-seeds // plan.workers)) if watch else None
        _, verdict = run_study(study, seeds, engine=engine, watch=proof_watch)
        result = msgspec.structs.replace(result, verdict=verdict)
        write_record(plan.directory / "front.json", result)
        return result
