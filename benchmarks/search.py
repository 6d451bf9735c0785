"""A search under a course's budget: `make benchmark-search` → results/search.json. Needs MNIST.

    tinydigits search --budget era-s7 --minutes 30

on an idle machine of two cores: half an hour of trials, then the proof, about ten minutes. A search that was begun is
gone on with (studies/search-era-s7). How many candidates are costed a second is in `make benchmark-scale`. `--quick`: a
search of seconds on small digits, which writes nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, figure, write_evidence

BUDGET, MINUTES = "era-s7", 30
QUICK = 'dataset = "optdigits"\nmax_parameters = 1_500\nmax_epochs = 4\nmin_accuracy = 0.5\n'
_KEPT = (
    "budget", "minutes", "workers", "kernels", "epochs", "recipe", "max_macs", "trials", "epochs_trained", "candidates",
)  # fmt: skip


def main() -> None:
    """Measure all, then write the evidence."""
    if "--quick" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            budget = Path(place) / "quick.toml"
            budget.write_text(QUICK, encoding="utf-8")
            options = ["--data", "optdigits", "--minutes", "0.5", "--trials", "6", "--seeds", "3"]
            figures(run_search(str(budget), [*options, "--out", str(Path(place) / "search")]))
        return
    out = ROOT / "studies" / f"search-{BUDGET}"
    document = run_search(BUDGET, ["--data", "mnist", "--minutes", str(MINUTES), "--out", str(out)])
    write_evidence("search", "make benchmark-search", figures(document))


def run_search(budget: str, options: list[str]) -> dict[str, Any]:
    """What the command prints with --json, its verdict included."""
    command = [sys.executable, "-m", "tinydigits", "search", "--budget", budget, *options, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"`{' '.join(command[2:])}` ended with {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def figures(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the evidence."""
    verdict, chosen = document["verdict"], document["chosen"]
    what = f"search under {document['budget']}, {document['minutes']:g} minutes on {os.cpu_count()} cores"
    busy = round(100 * (document["busy_share"] or 0.0), 1)
    built = document["over_budget_built"]
    proof = {key: verdict[key] for key in ("n", "sd", "lower_bound", "accuracy_of", "verdict", "line")}
    proof["line"] = proof["line"].replace(f"{document['search_dir']}/", "")
    facts = {key: document[key] for key in _KEPT}
    network = {key: value for key, value in chosen.items() if key != "definition"}
    return [
        figure(
            f"{what}: accuracy of the chosen network, proved",
            round(100 * verdict["mean"], 3),
            "%",
            "met",
            verdict["verdict"] == "met",
            **proof,
            chosen=network,
            front=document["front"],
            **facts,
        ),
        figure(f"{what}: workers busy while trials remain", busy, "%", ">= 90", busy >= 90),
        figure(f"{what}: networks over the budget that were built", built, "networks", "0", built == 0),
    ]


if __name__ == "__main__":
    main()
