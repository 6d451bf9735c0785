"""Studies and runs as they would stand on disk, with made-up figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinydigits.records import Clause, Environment, Outcome, ProofResult, RunResult, SeedResult, StudyResult, Summary
from tinydigits.storage import write_json
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe

ENVIRONMENT = Environment(python="3.11", packages={}, platform="Linux", processor="simulated", cores=2, threads=1)
DIGEST = "0" * 64


def result(seed: int = 0, accuracy: Any = 0.995, **changes: Any) -> dict[str, Any]:
    """A run's result.json; `changes` may be of any kind."""
    record = RunResult(
        model="plain-9k",
        data="mnist",
        data_sha256=DIGEST,
        evaluation_sha256=DIGEST,
        code_sha256=None,
        warning=None,
        split="test",
        backend="torch",
        recipe="fast",
        seed=seed,
        epochs=10,
        accuracy=accuracy,
        interval=(0.9, 1.0),
        accuracy_last3=accuracy,
        accuracy_best=accuracy,
        parameters=9032,
        time_seconds=60.0,
        images_per_second=1000.0,
        run_dir="run",
    )
    return {**record.as_dict(), **changes}


def study(mean: float = 0.995, n: int = 3, **changes: Any) -> dict[str, Any]:
    """A study.json; the bound lies 0.1 points below the mean. `changes` may be of any kind."""
    summary = Summary(mean=mean, sd=0.0005 if n > 1 else None, lower_bound=mean - 0.001 if n > 2 else None)
    runs = tuple(
        SeedResult(seed=seed, accuracy=mean, accuracy_last3=mean, accuracy_best=mean, time_seconds=60.0)
        for seed in range(n)
    )
    record = StudyResult(
        model="plain-9k",
        recipe="fast",
        config=RunConfig("plain-9k", get_recipe("fast")).as_dict(),
        parameters=9032,
        epochs=10,
        data="mnist",
        data_sha256=DIGEST,
        evaluation_sha256=DIGEST,
        split="test",
        warning=None,
        seeds=tuple(range(n)),
        n=n,
        final=summary,
        last3=summary,
        interval=(0.9, 1.0),
        runs=runs,
        calibration=None,
        environment=ENVIRONMENT,
    )
    return {**record.as_dict(), **changes}


def proof(budget: str, verdict: Outcome, clauses: Sequence[Clause] = ()) -> dict[str, Any]:
    """A verdict.json."""
    return ProofResult(
        model="plain-9k",
        recipe="fast",
        budget=budget,
        data="mnist",
        split="test",
        warning=None,
        n=3,
        accuracy_of="final",
        mean=0.995,
        sd=0.0005,
        lower_bound=0.994,
        interval=(0.9, 1.0),
        verdict=verdict,
        clauses=tuple(clauses),
        study_dir="study",
        line="",
    ).as_dict()


def write_study(directory: Path, document: dict[str, Any] | None = None, runs: int = 0) -> Path:
    """A study's directory, with some of its runs."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", {"schema": 1, "kind": "study"})
    (directory / "runs").mkdir()
    if document is not None:
        write_json(directory / "study.json", document)
    for seed in range(runs):
        write_run(directory / "runs" / f"seed-{seed:03d}", result(seed))
    return directory


def write_run(directory: Path, document: dict[str, Any]) -> Path:
    """A run's directory."""
    directory.mkdir(parents=True)
    (directory / "result.json").write_text(json.dumps(document))
    return directory
