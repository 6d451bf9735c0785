"""Studies and runs that nobody trained, as they would stand on disk; simulated results."""

import json
from pathlib import Path
from typing import Any

from tinydigits.storage import write_json


def result(seed: int = 0, accuracy: Any = 0.995, **changes: Any) -> dict[str, Any]:
    """A run's result.json."""
    return {
        "schema": 1, "model": "plain-9k", "data": "mnist", "protocol": "final", "recipe": "fast", "seed": seed,
        "epochs": 10, "accuracy": accuracy, "accuracy_last3": accuracy, "accuracy_best": accuracy, "parameters": 9032,
        "time_seconds": 60.0, "budget": None, "verdict": None, **changes,
    }  # fmt: skip


def study(mean: float = 0.995, n: int = 3, **changes: Any) -> dict[str, Any]:
    """A study.json; the bound lies 0.1 points below the mean."""
    summary = {"mean": mean, "sd": 0.0005 if n > 1 else None, "lower_bound": mean - 0.001 if n > 2 else None}
    return {
        "schema": 1, "model": "plain-9k", "recipe": "fast", "parameters": 9032, "epochs": 10, "data": "mnist",
        "protocol": "final", "n": n, "final": summary, "last3": summary,
        "runs": [{"seed": seed, "accuracy": mean, "time_seconds": 60.0} for seed in range(n)], **changes,
    }  # fmt: skip


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
