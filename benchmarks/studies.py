"""What a study costs beside its runs, on two cores: `make benchmark-studies` → results/studies.json. Needs MNIST.

A study of six seeds of plain-9k, ten epochs each, against the time of its runs alone; and two one-thread processes
against one process with two threads, alternating.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import alternate, figure, measured, ratio, write_evidence

TINYDIGITS = [sys.executable, "-m", "tinydigits"]


def main() -> None:
    """Measure all, then write the evidence."""
    write_evidence("studies", "make benchmark-studies", [*study_costs(), processes_against_threads()])


def study_costs() -> list[dict[str, Any]]:
    """One study, from process start to verdict, against its runs."""
    with tempfile.TemporaryDirectory() as parent:
        study = Path(parent) / "study"
        command = ["prove", "plain-9k", "--recipe", "documented-plain-9k", "--epochs", "10", "--seeds", "6"]
        options = ["--backend", "torch", "--data", "mnist", "--workers", "2", "--out", str(study), "--quiet"]
        cost = measured([*TINYDIGITS, *command, *options])
        runs = json.loads((study / "study.json").read_text(encoding="utf-8"))["runs"]
    training = sum(run["time_seconds"] for run in runs)
    overhead = round(100 * (2 * cost.seconds / training - 1), 1)
    busy = round(100 * cost.cpu_seconds / (2 * cost.seconds), 1)
    memory = round(cost.peak_bytes / 1e9, 3)
    details = {"n": len(runs), "study_seconds": round(cost.seconds, 1), "run_seconds": round(training, 1)}
    return [
        figure("study of 6 runs of a minute: time beyond the runs' own", overhead, "%", "< 5", overhead < 5, **details),
        figure("study of 6 runs of a minute: both cores busy, start and end included", busy, "%", ">= 90", busy >= 90),
        figure("study: peak memory of its largest process", memory, "GB", "< 1", memory < 1),
    ]


def processes_against_threads() -> dict[str, Any]:
    """Seconds an epoch and run of tiny-10k: one run with two threads, against two runs at once with one thread each."""
    seconds = alternate({"two threads": lambda: _epochs(1, 2), "two processes": lambda: _epochs(2, 1) / 2}, rounds=5)
    value, interval = ratio(seconds["two threads"], seconds["two processes"])
    name = "tiny-10k: two one-thread processes / one two-thread process, runs an hour"
    return figure(name, value, "times", None, None, n=5, interval=interval)


def _epochs(processes: int, threads: int) -> float:
    """Wall-clock of `processes` trainings of one epoch at once, by the runs' own clocks (imports are not counted)."""
    with tempfile.TemporaryDirectory() as parent:
        options = [
            "--epochs",
            "1",
            "--data",
            "mnist",
            "--backend",
            "torch",
            "--threads",
            str(threads),
            "--quiet",
            "--json",
        ]
        running = [
            subprocess.Popen(
                [*TINYDIGITS, "train", *options, "--out", str(Path(parent) / str(number))], stdout=subprocess.PIPE
            )
            for number in range(processes)
        ]
        return max(float(json.loads(process.communicate()[0])["time_seconds"]) for process in running)


if __name__ == "__main__":
    main()
