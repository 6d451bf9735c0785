"""The studies behind the shipped weights and the README's verdicts: `make proofs` → results/proofs/, shipped weights.

Needs MNIST. A study that was begun is gone on with, and a finished one is only judged again (`studies/` keeps them).
`make proofs` takes about eight hours on two cores, most of them for the documented networks; name models to prove
only these: `python -m benchmarks.proofs plain-9k`. What the proofs say of the five documents is gathered
in results/documented.json.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from benchmarks.measure import ROOT
from tinydigits.data.sources import load_dataset
from tinydigits.exporters.fold import fold_network
from tinydigits.exporters.quantize import calibration_images, quantize
from tinydigits.inference import int8
from tinydigits.inference.store import save_graph
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model, load_model
from tinydigits.models.registry import list_models, target_of
from tinydigits.records import Int8Figures, write_record
from tinydigits.storage import write_json

TINYDIGITS = [sys.executable, "-m", "tinydigits"]
WEIGHTS = ROOT / "src" / "tinydigits" / "weights"
SCHEMA = 1


@dataclass(frozen=True)
class Proof:
    """A study, the budgets it is held against, whether seed 0 of it is what we ship, and what calculated its steps."""

    model: str
    recipe: str
    seeds: int
    budgets: tuple[str, ...]
    ships: bool
    backend: str = "torch"


PROOFS = (
    Proof("pyramid-9k", "fast", 3, (), ships=True),
    Proof("era-8k", "era", 5, ("era-s7", "era-s6"), ships=True),
    Proof("plain-9k", "documented-plain-9k", 8, ("document-plain-9k",), ships=False),
    Proof("plain-9k", "improved-plain-9k", 8, ("document-plain-9k",), ships=True),
    Proof("blocks-19k", "documented-blocks-19k", 3, ("document-blocks-19k",), ships=False),
    Proof("layered-19k", "documented-layered-19k", 5, ("document-layered-19k",), ships=False),
    Proof("layered-19k", "improved-layered-19k", 5, ("document-layered-19k",), ships=True),
    Proof("bottleneck-9k", "documented-bottleneck-9k", 5, ("document-bottleneck-9k",), ships=False),
    Proof("bottleneck-9k", "improved-bottleneck-9k", 5, ("document-bottleneck-9k",), ships=True),
    Proof("pooled-16k", "fast", 3, (), ships=True),
    Proof("blocks-19k", "fast", 3, ("document-blocks-19k",), ships=True),
)


def main() -> None:
    """Prove all of them, in order; name models as arguments to prove only these."""
    chosen = sys.argv[1:]
    for proof in PROOFS:
        if not chosen or proof.model in chosen:
            prove(proof)
    write_documented()


def prove(proof: Proof) -> None:
    """Train what is missing, judge by every budget, keep the summary, ship the weights."""
    study = ROOT / "studies" / f"{proof.model}-{proof.recipe}"
    options = ["--recipe", proof.recipe, "--seeds", str(proof.seeds), *(["--calibrate"] if proof.ships else [])]
    options += ["--backend", proof.backend]
    command = ["prove", proof.model, *options, "--data", "mnist"]
    verdicts = []
    for budget in proof.budgets or (None,):
        judged = [*command, *(["--budget", budget] if budget else []), "--out", str(study), "--json"]
        done = subprocess.run([*TINYDIGITS, *judged], stdout=subprocess.PIPE, check=False)
        if done.returncode not in (0, 1):
            sys.exit(f"{proof.model}: `tinydigits {' '.join(judged)}` ended with {done.returncode}")
        verdicts.append({**json.loads(done.stdout), "study_dir": study.name})
        print(verdicts[-1]["line"])
    summary = json.loads((study / "study.json").read_text(encoding="utf-8"))
    target = ROOT / "results" / "proofs" / f"{study.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = f"tinydigits {' '.join(command)}"
    write_json(target, {"schema": SCHEMA, "command": text, "study": summary, "verdicts": verdicts})
    if proof.ships:
        for suffix in (".safetensors", ".json"):
            shutil.copy(study / f"model{suffix}", WEIGHTS / f"{proof.model}{suffix}")
        ship_graphs(proof.model)


def ship_graphs(name: str) -> None:
    """Fold the shipped weights of a model, and quantise them, with validation digits to tell the ranges of its maps.

    What they cost, and how well the quantised ones read the test digits, goes into their card.
    """
    model, card = load_model(name)
    digits = load_dataset("mnist")
    graph = fold_network(model, card)
    save_graph(WEIGHTS / f"{name}.graph.safetensors", graph)
    quantised = quantize(graph, calibration_images(digits))
    save_graph(WEIGHTS / f"{name}.int8.safetensors", quantised)
    inspection = inspect_model(model, name=name)
    figures = Int8Figures(
        accuracy=float((int8.run(quantised, digits.test.images).argmax(axis=1) == digits.test.labels).mean()),
        weight_bytes=inspection.weight_bytes.int8,
        activation_bytes=inspection.activation_bytes.int8,
    )
    write_record(WEIGHTS / f"{name}.json", structs.replace(card, macs=inspection.macs, int8=figures))


def write_documented() -> None:
    """`results/documented.json`: each document claimed, measured and reproduced, as far as it is proved by now."""
    names = [name for name in list_models() if (claim := target_of(name)) and claim.documented]
    document = {"schema": SCHEMA, "command": "make proofs", "rows": [_documented_row(name) for name in names]}
    write_json(ROOT / "results" / "documented.json", document)


def _documented_row(name: str) -> dict[str, Any]:
    claim = target_of(name)
    assert claim is not None
    inspection = inspect_model(create_model(name), name=name)
    studies = []
    for path in sorted((ROOT / "results" / "proofs").glob(f"{name}-*.json")):
        proof = json.loads(path.read_text(encoding="utf-8"))
        verdict = proof["verdicts"][0]
        studies.append(
            {
                "recipe": verdict["recipe"],
                "epochs": proof["study"]["epochs"],
                **{key: verdict[key] for key in ("n", "mean", "sd", "lower_bound", "verdict")},
                "command": proof["command"],
                "evidence": str(path.relative_to(ROOT)),
            }
        )
    best = next((study for study in studies if study["verdict"] == "met"), studies[-1] if studies else None)
    return {
        "model": name,
        "reported": claim.as_dict(),
        "measured": {"parameters": inspection.parameters, "macs": inspection.macs},
        "studies": studies,
        "verdict": best["verdict"] if best else "not judged",
        "recipe": best["recipe"] if best else None,
    }


if __name__ == "__main__":
    main()
