"""What all benchmarks share: alternating rounds, ratios with intervals, evidence files, pages that show them."""

import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinydigits.storage import write_json
from tinydigits.training.rundir import environment

ROOT = Path(__file__).parent.parent
SCHEMA = 1


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each contender once a round, in turns, so that a busy machine hurts all alike; returns what each gave."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, contender in contenders.items():
            values[name].append(contender())
            print(f"round {turn + 1}/{rounds}  {name}: {values[name][-1]:.3f}", file=sys.stderr, flush=True)
    return values


def ratio(slow: list[float], fast: list[float], resamples: int = 10_000) -> tuple[float, tuple[float, float]]:
    """Geometric mean of the rounds' ratios slow/fast, and its 95 % percentile-bootstrap interval."""
    logs = np.log(np.asarray(slow) / np.asarray(fast))
    draws = np.random.default_rng(0).choice(logs, (resamples, len(logs))).mean(axis=1)
    low, high = np.exp(np.quantile(draws, [0.025, 0.975]))
    return round(float(np.exp(logs.mean())), 2), (round(float(low), 2), round(float(high), 2))


def figure(
    name: str, value: float, unit: str, goal: str | None, reached: bool | None, **details: Any
) -> dict[str, Any]:
    """One line of an evidence file; `details` say how it came about (n, sd, interval, single values)."""
    print(f"{name}: {value} {unit}" + (f"  (goal {goal}: {'reached' if reached else 'NOT reached'})" if goal else ""))
    return {"name": name, "value": value, "unit": unit, "goal": goal, "reached": reached, **details}


def write_evidence(name: str, command: str, figures: list[dict[str, Any]]) -> None:
    """Write `results/<name>.json`."""
    facts = environment()
    machine = {
        "processor": facts["processor"],
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": facts["python"],
        "packages": facts["packages"],
        "gpu": facts["gpu"],
    }
    write_json(
        ROOT / "results" / f"{name}.json",
        {"schema": SCHEMA, "command": command, "machine": machine, "figures": figures},
    )


def fill(page: Path, parts: Mapping[str, str], command: str) -> None:
    """Put each part where `page` has its place: between ``<!-- name: made by `command` -->`` and ``<!-- /name -->``.

    The page stays as it is unless every part has exactly one place.
    """
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name}: made by `{command}` -->", f"<!-- /{name} -->"
        pieces = re.split(f"{re.escape(begin)}.*?{re.escape(end)}", text, flags=re.DOTALL)
        assert len(pieces) == 2, f"{page} has {len(pieces) - 1} places for {name}"
        text = f"{begin}\n{part}\n{end}".join(pieces)
    page.write_text(text, encoding="utf-8")
