"""What a search is asked, and how all its networks are trained: settled when it begins, and kept in `config.json`."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tinydigits.data.dataset import DigitData
from tinydigits.errors import RunError
from tinydigits.models.budget import LAST3, Budget
from tinydigits.settings import differences, flatten
from tinydigits.storage import write_json
from tinydigits.studies.prove import refuse_other_kinds
from tinydigits.studies.space import SPACE
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.recipes import get_recipe

RECIPE = "era"  # its moving average of the weights makes early epochs comparable
JOURNAL = "journal.log"
_SCHEMA = 1
_KIND = "search"
# Settled when the search begins, or of no account for what comes out.
_FREE = ("max_macs", "config.kernels", "config.recipe.epochs", "config.data_dir", "config.device")
_SHARE = 20  # a trial to its last epoch takes at most so small a part of the search
# Rough figures of a core of today: they set the number of epochs and the largest network, nothing else.
_MACS_A_SECOND = 25e9
_PASSES = 3  # a step takes the MACs of one pass three times
_SECONDS_A_DIGIT = {"native": 25e-6, "torch": 100e-6}
_ORDINARY_MACS, _LEAST_MACS = 1_000_000, 300_000


@dataclass(frozen=True)
class Limits:
    """When the trials end: after `minutes`, or when so many `trials` were begun (None: any number) and are decided."""

    minutes: float
    trials: int | None = None

    @property
    def seconds(self) -> float:
        """The time for trials."""
        return 60 * self.minutes


@dataclass(frozen=True)
class Plan:
    """How all networks of a search are trained, and how large they may be so that many can be: settled at its start.

    `config` is their RunConfig, but for the network; `max_macs` the largest that the time allows.
    """

    budget: Budget
    config: RunConfig
    max_macs: int

    @property
    def limits(self) -> Budget:
        """What a network has to keep to be tried."""
        return replace(self.budget, max_macs=min(self.max_macs, self.budget.max_macs or self.max_macs))

    @property
    def epochs(self) -> int:
        """Of a whole training."""
        return self.config.recipe.epochs

    def as_dict(self, data: DigitData) -> dict[str, Any]:
        """Plain data: `config.json`."""
        space = hashlib.sha256(repr(SPACE).encode()).hexdigest()[:12]
        values = {
            "schema": _SCHEMA,
            "kind": _KIND,
            "budget": asdict(self.budget),
            "data_sha256": data.train.sha256,
            "space": space,
            "max_macs": self.max_macs,
            "config": self.config.as_dict(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain


def make_plan(budget: Budget, config: RunConfig, data: DigitData, limits: Limits, workers: int) -> Plan:
    """As many epochs as the recipe has, or as budget and time allow, and the largest networks that leave time for many.

    Args:
        budget: what the network has to keep.
        config: with the digits, the kernels and the device; model and recipe are of no account.
        data: the digits.
        limits: of the search.
        workers: how many trainings run at once.
    """
    recipe = get_recipe(RECIPE)
    digits = len(data.train) - len(data.held_out)
    seconds = limits.seconds * workers / _SHARE  # for one training
    ordinary = min(budget.max_macs or _ORDINARY_MACS, _ORDINARY_MACS)
    affordable = int(seconds / _epoch_seconds(ordinary, digits, config.kernels))
    least = LAST3 if budget.accuracy_of == "last3" else 1
    most = min(recipe.epochs, budget.max_epochs or recipe.epochs)
    epochs = max(least, min(most, affordable))
    macs = (seconds / epochs / digits - _SECONDS_A_DIGIT[config.kernels]) * _MACS_A_SECOND / _PASSES
    config = replace(config, recipe=replace(recipe, epochs=epochs), protocol="tune", seed=0, threads=1)
    return Plan(budget, config, max(_LEAST_MACS, int(macs)))


def _epoch_seconds(macs: int, digits: int, kernels: str) -> float:
    return digits * (_SECONDS_A_DIGIT[kernels] + _PASSES * macs / _MACS_A_SECOND)


def refuse_foreign(directory: Path) -> None:
    """Leave whatever is no search as it is.

    Raises:
        RunError: the directory is neither empty nor a search's, or its journal is not there.
    """
    names = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    if not names - {"trials"}:
        return
    refuse_other_kinds(directory, _KIND)
    if JOURNAL not in names and any((directory / "trials").glob("trial-*")):
        raise RunError(
            f"{directory} has trials, but no {JOURNAL} that tells of them. Put it back, or name a new directory with "
            "--out."
        )


def settle(directory: Path, plan: Plan, data: DigitData) -> tuple[Plan, str]:
    """The plan that a search goes by, the one it was begun with; and a digest of it, for the journal.

    Raises:
        RunError: another search is in the directory, or its config cannot be read.
    """
    file = directory / "config.json"
    wanted = plan.as_dict(data)
    if not file.exists():
        write_json(file, wanted)
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        if odd := differences(there, wanted, _FREE):
            raise RunError(f"{directory} holds another search: {odd}. Use another --out, or remove it.")
        config = config_from_dict(there["config"], str(file))
        # where MNIST lies, and on what device it is trained, may change from start to start
        config = replace(config, data_dir=plan.config.data_dir, device=plan.config.device)
        settled = Plan(plan.budget, config, int(there["max_macs"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} cannot be read: {error}. Use another --out, or remove {directory}.") from error
    digest = {key: value for key, value in flatten(there).items() if key not in ("config.data_dir", "config.device")}
    return settled, hashlib.sha256(json.dumps(digest, sort_keys=True).encode()).hexdigest()
