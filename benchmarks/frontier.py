"""The best networks of each size: `make frontier` → results/frontier.json, results/proofs/, docs/pictures/frontier.png.

Needs MNIST and a C compiler (the native backend trains these). A study that was begun is resumed, and a finished one
is only evaluated again. Name models to prove only these: `python -m benchmarks.frontier tiny-500`.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, SCHEMA
from benchmarks.proofs import WEIGHTS, Proof, prove
from docs.plots import frontier_plot
from tinydigits.inspection.budget import Budget, accuracy_clause, load_budget, overall_verdict, structural_clauses
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model
from tinydigits.models.weights import load_card
from tinydigits.storage import write_json


@dataclass(frozen=True)
class Row:
    """A size: the budget that its network has to meet, named after it, and the mean accuracy that is its stretch goal.

    The seeds are 0 to `seeds` - 1, fixed beforehand. `budgets`: further ones that the study is compared with.
    """

    budget: Budget
    recipe: str
    seeds: int
    stretch: float
    budgets: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Its name in the zoo."""
        return self.budget.name


def _budget(model: str, parameters: int, epochs: int, accuracy: float) -> Budget:
    return Budget(model, max_parameters=parameters, max_epochs=epochs, min_accuracy=accuracy)


ROWS = (
    Row(_budget("tiny-20k", 20_000, 19, 0.9965), "record-20k", 10, 0.9975),
    Row(_budget("tiny-10k", 10_000, 19, 0.9960), "record-10k", 10, 0.9970),
    Row(_budget("tiny-5k", 5_000, 40, 0.9955), "record-5k", 10, 0.9965),
    Row(_budget("tiny-2k", 2_000, 40, 0.9935), "record-2k", 5, 0.9955),
    Row(_budget("tiny-1k", 1_000, 60, 0.9915), "record-1k", 5, 0.9940),
    Row(_budget("tiny-500", 500, 60, 0.9870), "record-500", 5, 0.9920),
    Row(replace(load_budget("era-s7"), name="era-record", max_parameters=4_999), "record-era", 5, 0.994, ("era-s7",)),
)


@dataclass(frozen=True)
class Published:
    """What somebody else has reported. `chosen_on_test`: the best run or epoch was picked by the test digits."""

    name: str
    source: str
    parameters: int
    accuracy: float
    chosen_on_test: bool
    caveat: str


_GITHUB = "https://github.com/"
PUBLISHED = (
    Published(
        "uNAS",
        "Liberis et al. 2020, arXiv:2010.14246",
        parameters=480,
        accuracy=0.9919,
        chosen_on_test=True,
        caveat="480 bytes in int8; tuned on test digits, and nobody has reproduced it",
    ),
    Published(
        "NeuralGolfing",
        "https://hexhowells.com/posts/neural-golfing.html",
        parameters=575,
        accuracy=0.9800,
        chosen_on_test=True,
        caveat="575 of its numbers are not zero",
    ),
    Published(
        "Parameter-Efficient-MNIST",
        f"{_GITHUB}JoshWarn/Parameter-Efficient-MNIST",
        parameters=697,
        accuracy=0.9903,
        chosen_on_test=True,
        caveat="the best of about 700 runs",
    ),
    Published(
        "mnist-minimal-model",
        f"{_GITHUB}ruslangrimov/mnist-minimal-model",
        parameters=1_936,
        accuracy=0.9910,
        chosen_on_test=False,
        caveat="75 epochs",
    ),
    Published(
        "woolly-of-cv",
        "GitHub, woolly-of-cv",
        parameters=3_762,
        accuracy=0.9952,
        chosen_on_test=False,
        caveat="one seed, 15 epochs",
    ),
    Published(
        "ERA course",
        f"{_GITHUB}snehanshu-raj/ERA",
        parameters=7_918,
        accuracy=0.9952,
        chosen_on_test=True,
        caveat="the best epoch by test digits, of 11",
    ),
    Published(
        "EfficientMnist-Under20K",
        f"{_GITHUB}divya-r-kamat/EfficientMnist-Under20K",
        parameters=15_794,
        accuracy=0.9959,
        chosen_on_test=False,
        caveat="one run, 20 epochs",
    ),
)


def main() -> None:
    """Prove the rows (all, or those named), then write down what is proved by now."""
    chosen = sys.argv[1:]
    for row in ROWS:
        if not chosen or row.model in chosen:
            prove(Proof(row.model, row.recipe, row.seeds, row.budgets, ships=True, backend="native"))
    rows = [found for row in ROWS if (found := _row(row)) is not None]
    others = [asdict(published) for published in PUBLISHED]
    document = {"schema": SCHEMA, "command": "make frontier", "rows": rows, "published": others}
    write_json(ROOT / "results" / "frontier.json", document)
    frontier_plot(rows, others, ROOT / "docs" / "pictures" / "frontier.png")


def _row(row: Row) -> dict[str, Any] | None:
    path = ROOT / "results" / "proofs" / f"{row.model}-{row.recipe}.json"
    if not path.exists():
        return None
    proof = json.loads(path.read_text(encoding="utf-8"))
    study, budget = proof["study"], row.budget
    summary = study[budget.accuracy_of]
    inspection = inspect_model(create_model(row.model), name=row.model)
    accuracy = accuracy_clause(
        budget,
        mean=summary["mean"],
        lower_bound=summary["lower_bound"],
        n=study["n"],
        data=study["data"],
        split=study["split"],
    )
    assert accuracy is not None
    assert budget.min_accuracy is not None
    card = load_card(WEIGHTS / f"{row.model}.safetensors")
    assert card.int8 is not None
    return {
        "model": row.model,
        "recipe": row.recipe,
        "parameters": inspection.parameters,
        "macs": inspection.macs,
        "epochs": study["epochs"],
        "n": study["n"],
        "accuracy_of": budget.accuracy_of,
        **{key: summary[key] for key in ("mean", "sd", "lower_bound")},
        "interval": study["interval"],
        "goal": budget.min_accuracy,
        "stretch_goal": row.stretch,
        "reached": {
            "goal": summary["mean"] >= budget.min_accuracy,
            "stretch_goal": summary["mean"] >= row.stretch,
        },
        "verdict": overall_verdict((*structural_clauses(budget, inspection, study["epochs"]), accuracy)),
        "budgets": {verdict["budget"]: verdict["verdict"] for verdict in proof["verdicts"] if verdict["budget"]},
        "seconds_an_epoch": _median_seconds(study),
        "int8": card.int8.as_dict(),
        "command": proof["command"],
        "evidence": str(path.relative_to(ROOT)),
    }


def _median_seconds(study: dict[str, Any]) -> float:
    seconds = [run["time_seconds"] / study["epochs"] for run in study["runs"]]
    return round(float(np.median(seconds)), 2)


if __name__ == "__main__":
    main()
