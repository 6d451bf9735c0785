"""What the documents only wonder about, measured: `make ablations` → results/ablations.json.

Two documents end with lists of what might help. Each entry is tried alone, as a variant of the network or of its
recipe, with three seeds, and judged on validation digits: the test digits decide nothing here. Needs MNIST and
three hours on two cores. Studies are kept in `studies/ablations`, and the same command goes on with what was begun.
Name a network to do only its list: `python -m benchmarks.ablations plain-9k`.
"""

import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT
from tinydigits.data.augment import Augmentation
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model
from tinydigits.records import StudyResult
from tinydigits.reports.tables import duration
from tinydigits.storage import write_json
from tinydigits.studies.compare import compare
from tinydigits.studies.study import read_study
from tinydigits.training.config import Recipe, Schedule
from tinydigits.training.recipes import get_recipe

SCHEMA = 1
SEEDS = 3
STUDIES = ROOT / "studies" / "ablations"
RESULT = ROOT / "results" / "ablations.json"
ANNEALED = Schedule("one_cycle", warmup=0.25, final=0.001)


@dataclass(frozen=True)
class Trial:
    """One entry of a document's list: a variant of the network, or of its recipe, against both as documented."""

    network: str
    what: str
    model: str
    recipe: Recipe


def trials() -> list[Trial]:
    """Each list after what it is held against, which stands first and is called `as documented`."""
    bottleneck = get_recipe("documented-bottleneck-9k")
    annealed = replace(bottleneck, name="annealed", schedule=ANNEALED)
    plain = replace(get_recipe("documented-plain-9k"), epochs=10)
    decay = replace(bottleneck, name="decayed", optimizer=replace(bottleneck.optimizer, weight_decay=5e-4))
    augmented = replace(
        plain, augmentation=Augmentation(rotation_degrees=10, shift_pixels=2, scale=0.1, shear_degrees=5)
    )
    return [
        Trial("bottleneck-9k", "as documented", "bottleneck-9k", bottleneck),
        Trial("bottleneck-9k", "hidden linear layer, 32 wide", "bottleneck-9k+hidden=32", bottleneck),
        Trial("bottleneck-9k", "residual connections", "bottleneck-9k+residual", bottleneck),
        Trial("bottleneck-9k", "weight decay 0.0005", "bottleneck-9k", decay),
        Trial("bottleneck-9k", "one-cycle schedule", "bottleneck-9k", annealed),
        Trial("plain-9k", "as documented", "plain-9k", plain),
        Trial("plain-9k", "batch norm", "plain-9k+batch-norm", plain),
        Trial("plain-9k", "dropout 0.05", "plain-9k+dropout=0.05", plain),
        Trial("plain-9k", "padding 1", "plain-9k+padding=1", plain),
        Trial("plain-9k", "augmentation", "plain-9k", augmented),
        Trial("plain-9k", "all four", "plain-9k+batch-norm+dropout=0.05+padding=1", augmented),
    ]


def main() -> None:
    """Train what is missing, list by list, and write the results after each trial."""
    chosen = sys.argv[1:]
    for trial in trials():
        if not chosen or trial.network in chosen:
            _prove(trial)
            write_results()


def _directory(trial: Trial) -> Path:
    words = "".join(c if c.isalnum() else "-" for c in trial.what.replace(",", ""))
    return STUDIES / f"{trial.network}-{words}"


def _prove(trial: Trial) -> None:
    directory = _directory(trial)
    config = directory.with_suffix(".json")
    config.parent.mkdir(parents=True, exist_ok=True)
    write_json(config, {"model": trial.model, "recipe": asdict(trial.recipe)})
    options = [
        "--config",
        str(config),
        "--split",
        "val",
        "--data",
        "mnist",
        "--seeds",
        str(SEEDS),
        "--backend",
        "torch",
    ]
    print(f"{trial.network}: {trial.what}", flush=True)
    subprocess.run([sys.executable, "-m", "tinydigits", "prove", *options, "--out", str(directory)], check=True)


def write_results() -> None:
    """`results/ablations.json`, as far as the studies are finished."""
    rows = []
    for trial in trials():
        directory = _directory(trial)
        if (directory / "study.json").exists():
            base = next(other for other in trials() if other.network == trial.network)
            rows.append(_row(trial, directory, None if trial == base else _directory(base)))
    write_json(RESULT, {"schema": SCHEMA, "command": "make ablations", "rows": rows})


def _row(trial: Trial, directory: Path, base: Path | None) -> dict[str, Any]:
    study = read_study(directory)
    inspection = inspect_model(create_model(trial.model), name=trial.model)
    against = compare(directory, base) if base else None
    return {
        "network": trial.network,
        "what": trial.what,
        "model": trial.model,
        "epochs": study.epochs,
        "parameters": inspection.parameters,
        "macs": inspection.macs,
        "evaluated_on": "5,000 validation digits",
        "n": study.n,
        **study.final.as_dict(),
        "interval": study.interval,
        "time_seconds": sum(run.time_seconds for run in study.runs) / study.n,
        "difference": against and against.difference,
        "difference_interval": against and against.interval,
        "worth": against and _worth(against.difference, against.interval, study, inspection.macs),
    }


def _worth(difference: float, interval: tuple[float, float], study: StudyResult, macs: int) -> str:
    """What a change is worth, in a sentence."""
    low, high = interval
    points = f"{100 * difference:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"
    if low > 0:
        verdict = "It helps"
    elif high < 0:
        verdict = "It harms"
    else:
        verdict = f"No effect shown with {study.n} seeds"
    run = duration(sum(run.time_seconds for run in study.runs) / study.n)
    return f"{verdict}: {points}, with {macs / 1e6:.2f} M MACs and {run} a run."


if __name__ == "__main__":
    main()
