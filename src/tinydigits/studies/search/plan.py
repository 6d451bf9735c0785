"""What a search looks for, and how it trains all its networks: settled when it begins, and kept in `config.json`."""

import contextlib
import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from tinydigits.data.dataset import DigitData
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError, RunError, StorageError, ToolMissingError
from tinydigits.inspection.budget import Budget
from tinydigits.records import LAST3, SearchConfig, encode, read_record, write_record
from tinydigits.settings import differences, flatten
from tinydigits.storage import file_stem
from tinydigits.studies.engines.jobs import Engine
from tinydigits.studies.engines.local import LOCAL, default_workers
from tinydigits.studies.search.space import SPACE, reject_impossible
from tinydigits.studies.study import default_directory, reject_other_kinds
from tinydigits.training.backends.native.library import load_kernels
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.recipes import get_recipe

RECIPE = "era"  # its moving average of the weights makes early epochs comparable
JOURNAL = "journal.log"
_ANYWHERE = ("config.data_dir", "config.device")  # may change from start to start
_FREE = ("max_macs", "config.backend", "config.recipe.epochs", *_ANYWHERE)  # the others were settled at the first
_TRAININGS = 20  # whole ones, of which each worker has time for so many
# Rough figures of a core of today: they set the number of epochs and the largest network, nothing else.
_MACS_A_SECOND = 25e9
_PASSES = 3  # a training step takes the MACs of three passes
_SECONDS_A_DIGIT = {"native": 25e-6, "torch": 100e-6}
_ORDINARY_MACS, _LEAST_MACS = 1_000_000, 300_000


@dataclass(frozen=True)
class Limits:
    """When the trials end: after `minutes`, or when `trials` networks are tried (None: any number).

    Raises:
        ConfigError: a limit is out of its range.
    """

    minutes: float
    trials: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ConfigError(f"minutes = {self.minutes:g}: must be greater than 0; try 30.")
        if self.trials is not None and self.trials < 1:
            raise ConfigError(f"trials = {self.trials}: must be at least 1.")

    @property
    def seconds(self) -> float:
        """The time for trials."""
        return 60 * self.minutes


@dataclass(frozen=True, eq=False)
class SearchPlan:
    """A search that is checked and can begin: nothing is trained or written yet.

    `config` trains every network, but for its name. `max_macs` is the size of the largest network that leaves time for
    many. `workers` networks are trained at once. `directory` is the same for the same question, so that the same
    command resumes what it began.
    """

    budget: Budget
    config: RunConfig
    max_macs: int
    data: DigitData
    limits: Limits
    workers: int
    directory: Path

    @property
    def trial_budget(self) -> Budget:
        """What a network has to keep to be tried."""
        return replace(self.budget, max_macs=min(self.max_macs, self.budget.max_macs or self.max_macs))

    @property
    def epochs(self) -> int:
        """Of a whole training."""
        return self.config.recipe.epochs


def plan_search(
    budget: Budget,
    limits: Limits,
    *,
    data: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    engine: Engine = LOCAL,
    out: Path | None = None,
) -> SearchPlan:
    """Settle how networks are trained, and reject a budget that no network can keep.

    Trainings have as many epochs as the recipe has, or as budget and time allow. Networks are small enough that there
    is time for many. The native backend trains them if this machine has a compiler, and no GPU and no other machine
    takes part.

    Raises:
        BudgetError: no network that the search can build meets the budget.
        DataError: the digits are missing or damaged.
    """
    reject_impossible(budget)
    digits = load_dataset(data, Path(data_dir) if data_dir else None)
    backend = "torch"
    if engine.device == "cpu" and not engine.remote:  # whether other machines have a compiler is unknown here
        with contextlib.suppress(ToolMissingError, StorageError):
            load_kernels()
            backend = "native"
    workers = engine.workers or default_workers()
    epochs, max_macs = _affordable(budget, digits, limits.seconds * workers / _TRAININGS, backend)
    config = RunConfig(
        model="net.toml",
        recipe=replace(get_recipe(RECIPE), epochs=epochs),
        data=digits.name,
        data_dir=str(data_dir) if data_dir else None,
        split="val",
        device=engine.device,
        backend=backend,
    )
    out = out or default_directory("search", file_stem(budget.name), data=digits.name)
    return SearchPlan(budget, config, max_macs, digits, limits, workers, out)


def _affordable(budget: Budget, data: DigitData, seconds: float, backend: str) -> tuple[int, int]:
    """How many epochs a training takes, and how many MACs a network, so that one training ends within `seconds`."""
    recipe = get_recipe(RECIPE)
    digits = len(data.train) - len(data.validation)
    ordinary = min(budget.max_macs or _ORDINARY_MACS, _ORDINARY_MACS)
    epoch_seconds = digits * (_SECONDS_A_DIGIT[backend] + _PASSES * ordinary / _MACS_A_SECOND)
    least = LAST3 if budget.accuracy_of == "last3" else 1
    most = min(recipe.epochs, budget.max_epochs or recipe.epochs)
    epochs = max(least, min(most, int(seconds / epoch_seconds)))
    macs = (seconds / epochs / digits - _SECONDS_A_DIGIT[backend]) * _MACS_A_SECOND / _PASSES
    return epochs, max(_LEAST_MACS, int(macs))


def reject_foreign(directory: Path) -> None:
    """Leave a directory alone that holds something else than a search.

    Raises:
        RunError: the directory is neither empty nor a search's, or its journal is missing.
    """
    names = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    if not names - {"trials"}:
        return
    reject_other_kinds(directory, "search")
    if JOURNAL not in names and any((directory / "trials").glob("trial-*")):
        raise RunError(
            f"{directory} has trials, but no {JOURNAL} that describes them. Put it back, or name a new directory with "
            "--out."
        )


def settle(plan: SearchPlan) -> tuple[SearchPlan, str]:
    """The plan with the settings that the search was begun with; and a digest of these, for the journal.

    Raises:
        RunError: another search is in the directory, or its config cannot be read.
    """
    file = plan.directory / "config.json"
    hint = f"Use another --out, or remove {plan.directory}."
    record = SearchConfig(
        budget=asdict(plan.budget),
        data_sha256=plan.data.train.sha256,
        space=hashlib.sha256(repr(SPACE).encode()).hexdigest()[:12],
        max_macs=plan.max_macs,
        config=plan.config.as_dict(),
    )
    wanted = msgspec.json.decode(encode(record), type=SearchConfig)  # as it is when it is read again
    if not file.exists():
        write_record(file, wanted)
    there = read_record(file, SearchConfig, hint)
    try:
        odd = differences(there.as_dict(), wanted.as_dict(), _FREE)
        config = config_from_dict(there.config, str(file))
    except KeyError as error:
        raise RunError(f"{file} cannot be read: {error} is missing. {hint}") from error
    if odd:
        raise RunError(f"{plan.directory} holds another search: {odd}. Use another --out, or remove it.")
    config = replace(config, data_dir=plan.config.data_dir, device=plan.config.device)
    digest = {key: value for key, value in flatten(there.as_dict()).items() if key not in _ANYWHERE}
    question = hashlib.sha256(json.dumps(digest, sort_keys=True).encode()).hexdigest()
    return replace(plan, config=config, max_macs=there.max_macs), question
