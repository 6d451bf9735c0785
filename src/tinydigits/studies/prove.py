"""`prove`: train several seeds of one configuration, and say what they prove of a budget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinydigits.data.dataset import DigitData
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError
from tinydigits.inspection.budget import Budget, reject_over_budget
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import Inspection
from tinydigits.models.factory import create_model
from tinydigits.models.registry import canonical_name
from tinydigits.records import ProofResult, StudyResult
from tinydigits.storage import file_stem
from tinydigits.studies.engines.jobs import Engine, Event, Job
from tinydigits.studies.engines.local import LOCAL
from tinydigits.studies.study import (
    collect,
    default_directory,
    finished_runs,
    open_jobs,
    open_study,
    recorded_setting,
    write_verdict,
)
from tinydigits.training.backends.choice import choose_backend
from tinydigits.training.config import RunConfig

Watch = Callable[[Sequence[Job], Iterator[Event]], Iterator[Event]]
"""Goes through the events of a study's jobs, and may show how far they have come."""


@dataclass(frozen=True, eq=False)
class Study:
    """A study that is checked and can begin: nothing is trained or written yet, but `config` has no `auto` any more.

    `directory` is the same for the same question, so that the same command resumes what it began.
    """

    config: RunConfig
    budget: Budget | None
    inspection: Inspection
    data: DigitData
    directory: Path


def plan_study(
    config: RunConfig, budget: Budget | None = None, out: Path | None = None, data: DigitData | None = None
) -> Study:
    """Settle what will be trained, and reject what cannot keep the budget.

    Raises:
        BudgetError: the network or its training is over the budget.
    """
    device = "cpu" if config.device == "auto" else config.device
    config = replace(config, model=canonical_name(config.model), threads=1, device=device)
    model = create_model(config.model)
    inspection = inspect_model(model, name=config.model)
    if budget is not None:
        reject_over_budget(budget, inspection, config.recipe.epochs)
    data = data or load_dataset(config.data, config.data_dir)
    names = file_stem(config.model), config.recipe.name
    directory = out or default_directory(*names, data=data.name, split=config.split)
    begun = recorded_setting(directory, "backend") if config.backend == "auto" else None
    backend = begun if isinstance(begun, str) and begun else choose_backend(config, model, device).name
    return Study(replace(config, data=data.name, backend=backend), budget, inspection, data, directory)


def run_study(
    study: Study, seeds: int, *, calibrate: bool = False, engine: Engine = LOCAL, watch: Watch | None = None
) -> tuple[StudyResult, ProofResult]:
    """Train what is missing of the seeds 0 to `seeds` − 1, and collect; like `prove`, but it returns both records.

    Seeds that are finished already count too, however many: leaving some out would be choosing by result.

    Raises:
        RunError: a run fails, or something else lies in the directory.
    """
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}: must be at least 1.")
    directory = study.directory
    with open_study(directory, study.config):
        n = max(seeds, finished_runs(directory))
        jobs = open_jobs(directory, study.config, range(n), calibrate=calibrate)
        events = engine(jobs)
        for _ in watch(jobs, events) if watch else events:
            pass
        validation = study.data.split("val")[1] if calibrate else None
        result = collect(directory, study.config, range(n), validation, study.data.warning)
        return result, write_verdict(directory, result, study.budget, study.inspection)


def prove(
    config: RunConfig,
    *,
    seeds: int = 5,
    budget: Budget | None = None,
    calibrate: bool = False,
    engine: Engine = LOCAL,
    out: Path | None = None,
    watch: Watch | None = None,
) -> ProofResult:
    """Train `config` with the seeds 0 to `seeds` − 1, and say what that proves of `budget`.

    Rerun it after an interruption: finished runs are kept, unfinished ones resume from their last epoch.

    Args:
        config: What every run trains, but for the seed.
        seeds: How many; a lower bound takes at least three.
        budget: The goal; None: the verdict is “not judged”.
        calibrate: Also train a calibration run (seed 0, without the validation digits), and fit temperature and
            rejection threshold on them.
        engine: Where the runs are trained.
        out: The study's directory; None: `studies/MODEL-RECIPE`.
        watch: Goes through the events.

    Raises:
        BudgetError: the network or its training is over the budget; nothing is trained or written.
    """
    study = plan_study(config, budget, out)
    return run_study(study, seeds, calibrate=calibrate, engine=engine, watch=watch)[1]
