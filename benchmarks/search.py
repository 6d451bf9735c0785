"""A search under a course's budget: `make benchmark-search` → results/search.json. Needs MNIST.

    tinydigits search --budget era-s7 --minutes 30

on an idle machine of two cores: half an hour of trials, then the proof, about ten minutes. An interrupted search
(studies/search-era-s7) is resumed. `make benchmark-scale` measures how many candidates are costed a second. `--quick`:
a search of seconds on small digits, which writes nothing.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measure import ROOT, figure, write_evidence
from tinydigits.records import SearchResult

BUDGET, MINUTES = "era-s7", 30
QUICK = 'dataset = "optdigits"\nmax_parameters = 1_500\nmax_epochs = 4\nmin_accuracy = 0.5\n'
_KEPT = (
    "budget", "minutes", "workers", "backend", "epochs", "recipe", "max_macs", "trials", "epochs_trained", "candidates",
)  # fmt: skip
_PROOF = ("n", "sd", "lower_bound", "accuracy_of", "verdict", "line")


def main() -> None:
    """Measure all, then write the evidence."""
    if "--quick" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as directory:
            budget = Path(directory) / "quick.toml"
            budget.write_text(QUICK, encoding="utf-8")
            options = ["--data", "optdigits", "--minutes", "0.5", "--trials", "6", "--seeds", "3"]
            figures(run_search(str(budget), [*options, "--out", str(Path(directory) / "search")]))
        return
    out = ROOT / "studies" / f"search-{BUDGET}"
    result = run_search(BUDGET, ["--data", "mnist", "--minutes", str(MINUTES), "--out", str(out)])
    write_evidence("search", "make benchmark-search", figures(result))


def run_search(budget: str, options: list[str]) -> SearchResult:
    """What the command prints with --json."""
    command = [sys.executable, "-m", "tinydigits", "search", "--budget", budget, *options, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"`{' '.join(command[2:])}` ended with {done.returncode}")
    return msgspec.json.decode(done.stdout, type=SearchResult)


def figures(result: SearchResult) -> list[dict[str, Any]]:
    """The figures of the evidence file."""
    verdict = result.verdict
    assert verdict is not None
    what = f"search under {result.budget}, {result.minutes:g} minutes on {os.cpu_count()} cores"
    busy = round(100 * (result.busy_fraction or 0.0), 1)
    built = result.over_budget_built
    proof = {key: value for key, value in verdict.as_dict().items() if key in _PROOF}
    proof["line"] = verdict.line.replace(f"{result.search_dir}/", "")
    plain = result.as_dict()
    facts = {key: value for key, value in plain.items() if key in _KEPT}
    network = {key: value for key, value in result.chosen.as_dict().items() if key != "definition"}
    return [
        figure(
            f"{what}: accuracy of the chosen network, proved",
            round(100 * verdict.mean, 3),
            "%",
            "met",
            verdict.verdict == "met",
            **proof,
            chosen=network,
            front=plain["front"],
            **facts,
        ),
        figure(f"{what}: workers busy while trials remain", busy, "%", ">= 90", busy >= 90),
        figure(f"{what}: networks over the budget that were built", built, "networks", "0", built == 0),
    ]


if __name__ == "__main__":
    main()
