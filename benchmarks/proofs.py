"""The studies behind the shipped weights and the README's verdicts: `make proofs` → results/proofs/, shipped weights.

Needs MNIST. A study that was begun is gone on with, and a finished one is only judged again (`studies/` keeps them).
The whole takes about half an hour on two cores.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.measure import ROOT
from tinydigits.storage import write_json

TINYDIGITS = [sys.executable, "-m", "tinydigits"]
WEIGHTS = ROOT / "src" / "tinydigits" / "weights"
SCHEMA = 1


@dataclass(frozen=True)
class Proof:
    """A study, the budgets it is held against, and whether seed 0 of it is what we ship."""

    model: str
    recipe: str
    seeds: int
    budgets: tuple[str, ...]
    ships: bool


PROOFS = (
    Proof("tiny-10k", "fast", 3, (), ships=True),
    Proof("era-8k", "era", 5, ("era-s7", "era-s6"), ships=True),
    Proof("plain-9k", "documented-plain-9k", 8, ("document-plain-9k",), ships=False),
)


def main() -> None:
    """Prove all of them, in order; name models as arguments to prove only these."""
    chosen = sys.argv[1:]
    for proof in PROOFS:
        if not chosen or proof.model in chosen:
            prove(proof)


def prove(proof: Proof) -> None:
    """Train what is missing, judge by every budget, keep the summary, ship the weights."""
    study = ROOT / "studies" / f"{proof.model}-{proof.recipe}"
    options = ["--recipe", proof.recipe, "--seeds", str(proof.seeds), *(["--twin"] if proof.ships else [])]
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


if __name__ == "__main__":
    main()
