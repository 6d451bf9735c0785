"""What all benchmarks share: alternating rounds, ratios with intervals, evidence files, pages that show them."""

import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from tinydigits.storage import write_json
from tinydigits.training.environment import environment

ROOT = Path(__file__).parent.parent
SCHEMA = 1
_CHILD = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True, check=True)
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
cost = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}
print(json.dumps({"seconds": seconds, **cost, "output": done.stdout}))
"""


@dataclass(frozen=True)
class Cost:
    """What a command took, from its start to its end: wall-clock, CPU time, most memory; and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


def measured(command: Sequence[str]) -> Cost:
    """Run a command. A small process in between starts it, for a process begins with the memory of the one before."""
    done = subprocess.run([sys.executable, "-c", _CHILD, *command], stdout=subprocess.PIPE, check=True)
    return Cost(**json.loads(done.stdout))


@contextmanager
def started(commands: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Callable[[], float]]]:
    """Processes that stay warm, and for each the function that lets it make a round.

    Each says that it is warm by a first line, for which all are waited, and answers every line with a number.
    """
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for name, command in commands.items()
        }
        for process in processes.values():
            assert process.stdout is not None
            process.stdout.readline()
        yield {name: partial(_round, process) for name, process in processes.items()}  # leaving closes stdin: they end


def _round(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each contender once a round, in turns, so that a busy machine hurts all alike; returns what each gave."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, contender in contenders.items():
            values[name].append(contender())
            print(f"round {turn + 1}/{rounds}  {name}: {values[name][-1]:.3f}", file=sys.stderr, flush=True)
    return values


def ratio(slow: list[float], fast: list[float], resamples: int = 10_000) -> tuple[float, tuple[float, float]]:
    """Geometric mean of the rounds' ratios slow/fast, and its 95 % bootstrap interval.

    Of few rounds the percentile interval is too narrow (of five, 95 % say what holds in 83). So its tails are smaller
    than α/2, and make it as wide as Student's for a normal sample: Φ(−√(n / (n − 1)) t), with t the quantile of
    1 − α/2 at n − 1 degrees of freedom. Source: T. C. Hesterberg (2015), "What teachers should know about the
    bootstrap", The American Statistician 69, 371-386: the expanded percentile interval.
    """
    logs = np.log(np.asarray(slow) / np.asarray(fast))
    count = len(logs)
    tail = norm.cdf(-math.sqrt(count / (count - 1)) * student.ppf(0.975, count - 1)) if count > 1 else 0.0
    draws = np.random.default_rng(0).choice(logs, (resamples, count)).mean(axis=1)
    low, high = np.exp(np.quantile(draws, [tail, 1 - tail]))
    return round(float(np.exp(logs.mean())), 2), (round(float(low), 2), round(float(high), 2))


def figure(
    name: str, value: float, unit: str, goal: str | None, reached: bool | None, **details: Any
) -> dict[str, Any]:
    """One line of an evidence file; `details` say how it came about (n, sd, interval, single values)."""
    print(f"{name}: {value} {unit}" + (f"  (goal {goal}: {'reached' if reached else 'NOT reached'})" if goal else ""))
    return {"name": name, "value": value, "unit": unit, "goal": goal, "reached": reached, **details}


def write_evidence(name: str, command: str, figures: list[dict[str, Any]]) -> None:
    """Write `results/<name>.json`."""
    document = {"schema": SCHEMA, "command": command, "machine": machine(), "figures": figures}
    write_json(ROOT / "results" / f"{name}.json", document)


def read_figures(name: str) -> list[dict[str, Any]]:
    """The figures that stand in `results/<name>.json` and were measured on a machine such as this; none is no error."""
    path = ROOT / "results" / f"{name}.json"
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    figures: list[dict[str, Any]] = document["figures"]
    return figures if document["machine"] == machine() else []


def with_section(name: str, section: str, figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `read_figures` gives, with the figures of one section replaced; each figure names its section."""
    others = [f for f in read_figures(name) if f.get("section", section) != section]
    return others + [{**f, "section": section} for f in figures]


def write_section(
    name: str, command: str, section: str, figures: list[dict[str, Any]], order: Sequence[str]
) -> list[dict[str, Any]]:
    """Replace a section's figures in the evidence; returns all that stand there then, in the order of sections."""
    found = sorted(with_section(name, section, figures), key=lambda each: order.index(each["section"]))
    write_evidence(name, command, found)
    return found


def machine() -> dict[str, Any]:
    """What figures have to be read with."""
    facts = environment()
    return {
        "processor": facts.processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": facts.python,
        "packages": facts.packages,
        "gpu": facts.gpu,
    }


def figure_value(figure: Mapping[str, Any]) -> str:
    """A figure with its unit, and how sure it is, for a page."""
    spread = ""
    if "sd" in figure:
        bound = f"lower bound {figure['lower_bound']}" if "lower_bound" in figure else f"n = {figure['n']}"
        spread = f" ± {figure['sd']}, {bound}"
    return f"{figure['value']:,} {figure['unit']}{spread}{figure_interval(figure)}"


def figure_interval(figure: Mapping[str, Any]) -> str:
    """Its interval in brackets; empty where it has none."""
    return " ({}–{})".format(*figure["interval"]) if "interval" in figure else ""


def figure_goal(figure: Mapping[str, Any]) -> str:
    """Its goal, and whether it is reached."""
    if figure["goal"] is None:
        return "–"
    reached = "reached" if figure["reached"] else "**not reached**"
    if figure["reached"] and figure.get("stretch_reached"):
        reached = "both reached"
    return f"{figure['goal']}: {reached}"


def made_by(name: str, evidence: Mapping[str, Any], root: str = "") -> str:
    """Where the figures of `results/<name>.json` are from; `root` leads from the page to the repository."""
    machine, file = evidence["machine"], f"results/{name}.json"
    packages = ", ".join(f"{package} {machine['packages'][package]}" for package in ("torch", "numpy"))
    return (
        f"Made by `{evidence['command']}` on {machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, {packages}; kept in [{file}]({root}{file})."
    )


def markdown_table(columns: str, rows: Sequence[Sequence[str]]) -> str:
    """A table from its headings, divided by "|"; one that ends in ">" is set to the right."""
    headings = columns.split("|")
    rule = "|".join("--:" if heading.endswith(">") else "---" for heading in headings)
    head, *lines = (f"| {' | '.join(row)} |" for row in ([heading.rstrip(">") for heading in headings], *rows))
    return "\n".join([head, f"|{rule}|", *lines])


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
