"""Everything in README.md that the program says or draws, made again: `make readme`.

Trains tiny-10k once as `make train` does (about two minutes), then replaces what stands between the README's
markers and the pictures in docs/pictures. Needs MNIST.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from benchmarks.measure import figure_goal, figure_value, fill, made_by, markdown_table
from docs.browser.writing import page_picture
from docs.documents import documented_table
from tinydigits.data.sources import load_dataset
from tinydigits.evaluation.statistics import wilson_interval
from tinydigits.models.registry import list_models, model_claim
from tinydigits.models.weights import load_card, packaged_weights
from tinydigits.reports.plots import digit_gallery
from tinydigits.reports.tables import percent

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
_COLUMNS = 80
TINYDIGITS = [sys.executable, "-m", "tinydigits"]


def main() -> None:
    """Make pictures and captures, and put the captures into README.md."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as parent:
        parts = {
            "train": _capture(["train", "--kernels", "native"], Path(parent)),
            "inspect": _capture(["inspect", "plain-9k"], Path(parent)),
            "frontier": _frontier_table(),
            "zoo": _zoo_table(),
            "documented": documented_table(),
            "export": _capture(["export", "tiny-10k", "--to", "c", "--int8"], Path(parent)),
            "inference": _inference_table(),
            "serve": _evidence_table("serve"),
            "races": _evidence_table("training", ("sprint", "dash")),
            "figures": _evidence_table("loop"),
            "proof": _lucky_seed(),
            "verdicts": _verdict_table(),
            "rejected": _rejection_table(),
        }
        run = Path(parent) / "runs" / "tiny-10k-001"
        _capture(["evaluate", str(run)], Path(parent))
        _capture(["export", "tiny-10k", "--to", "html"], Path(parent))
        page_picture(Path(parent) / "exports" / "tiny-10k-html" / "tiny-10k.html", PICTURES / "page.png", digit=3)
        study = ROOT / "results" / "proofs" / "layered-19k-improved-layered-19k.json"
        _capture(["report", str(study), "--out", "report.html"], Path(parent))
        page_picture(Path(parent) / "report.html", PICTURES / "report.png")
        for name in ("curve.png", "mistakes.png"):
            shutil.copy(run / name, PICTURES / name)
    _served_picture(PICTURES / "serve.png")
    _terminal_picture(["models"], PICTURES / "terminal.svg")
    test = load_dataset("mnist").test
    rows = [[i for i, label in enumerate(test.labels) if label == digit][:4] for digit in range(10)]
    indices = [row[k] for k in range(4) for row in rows]
    digit_gallery(test.images[indices], test.labels[indices], PICTURES / "digits.png")
    fill(ROOT / "README.md", parts, "make readme")


def _capture(arguments: list[str], directory: Path) -> str:
    """What a terminal shows for a command, as a Markdown block."""
    done = subprocess.run(
        [*TINYDIGITS, *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    lines = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
    return f"```text\n$ tinydigits {' '.join(arguments)}\n{lines}\n```"


def _terminal_picture(arguments: list[str], picture: Path) -> None:
    """What a terminal shows for a command, in its colours."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(_COLUMNS)}
    done = subprocess.run([*TINYDIGITS, *arguments], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(done.stdout.rstrip("\n")))
    svg = console.export_svg(title=f"tinydigits {' '.join(arguments)}", unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts from elsewhere; any monospaced one does
    picture.write_text(svg, encoding="utf-8")


def _served_picture(picture: Path) -> None:
    """The server's page, reading a written 7."""
    command = [*TINYDIGITS, "serve", "--port", "0", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            page_picture(server.stdout.readline().split()[0], picture, digit=7)
        finally:
            server.terminate()


def _zoo_table() -> str:
    listed = subprocess.run([*TINYDIGITS, "models", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    rows = []
    for model in json.loads(listed.stdout):
        shares = (percent(model[key] and model[key]["accuracy"]) for key in ("documented", "weights"))
        rows.append([f"`{model['model']}`", f"{model['parameters']:,}", f"{model['macs']:,}", *shares])
    return markdown_table("model|parameters>|MACs>|documented>|shipped weights>", rows)


def _evidence_table(name: str, sections: Sequence[str] = ()) -> str:
    """All figures of a file, or those of some sections that have a goal; and where they are from."""
    path = ROOT / "results" / f"{name}.json"
    if not path.exists():
        return f"Not measured yet: `make benchmark-{name}`."
    evidence = json.loads(path.read_text(encoding="utf-8"))
    figures = [f for f in evidence["figures"] if not sections or (f["section"] in sections and f["goal"])]
    return "\n".join([_figure_table(figures), "", made_by(name, evidence)])


def _figure_table(figures: list[dict[str, Any]]) -> str:
    return markdown_table("figure|value>|goal", [[f["name"], figure_value(f), figure_goal(f)] for f in figures])


def _inference_table() -> str:
    """The figures that are not of one network among several; then a line for each network."""
    evidence = json.loads((ROOT / "results" / "inference.json").read_text(encoding="utf-8"))
    figures = {figure["name"]: figure for figure in evidence["figures"]}
    exports = [figure for name, figure in figures.items() if ": export to " in name]
    general = [f for name, f in figures.items() if "Cortex" in name or name.startswith("predict ")]
    slowest = max(exports, key=lambda figure: float(figure["value"]))
    count = f"the slowest of {len(exports)} exports, {slowest['name']}"
    table = _figure_table([*general, {**slowest, "name": count, "reached": all(f["reached"] for f in exports)}])
    heads = {
        "C": "{}, C float: one picture, p50",
        "onnxruntime": "{}, onnxruntime float: one picture, p50",
        "PyTorch": "{}, PyTorch eager: one picture, p50",
        "C int8": "{}, C int8: one picture, p50",
        "onnxruntime int8": "{}, onnxruntime int8: one picture, p50",
    }
    others = ("{}, emx-onnx-cgen int8, QDQ: one picture, p50", "{}, emx-onnx-cgen int8, QLinearConv: one picture, p50")
    columns = [*heads, "emx-onnx-cgen int8", "C, code and constants", "C int8, code and constants"]
    rows = []
    for model in (model for model in list_models() if heads["C"].format(model) in figures):
        cells = [f"{figures[head.format(model)]['value']:.0f}" for head in heads.values()]
        cells.append(f"{min(figures[head.format(model)]['value'] for head in others):.0f}")
        sizes = (figures[f"{model}, C {form}: code and constants"]["value"] for form in ("float", "int8"))
        rows.append([f"`{model}`", *cells, *(f"{size:,} B" for size in sizes)])
    heading = "|".join(["microseconds a picture, one thread", *(f"{column}>" for column in columns)])
    return "\n".join([table, "", markdown_table(heading, rows), "", made_by("inference", evidence)])


def _lucky_seed() -> str:
    """The document's figure of one run against what its recipe gives over seeds."""
    proof = _proof("plain-9k-documented-plain-9k")
    claim = model_claim("plain-9k")
    assert claim is not None
    assert claim.accuracy is not None
    accuracies = [run["accuracy"] for run in proof["study"]["runs"]]
    final, verdict = proof["study"]["final"], proof["verdicts"][0]
    reaching = sum(accuracy >= claim.accuracy for accuracy in accuracies)
    low, high = wilson_interval(9_940, 10_000)
    listed = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    return (
        f"The document of `plain-9k` reports {percent(claim.accuracy)} after the first epoch. Its recipe, repeated with "
        f"{len(accuracies)} seeds, gives {listed}: a mean of {percent(final['mean'])}, "
        f"sd {100 * final['sd']:.2f} points. {reaching} of {len(accuracies)} seeds reach the figure, and the verdict on it is "
        f"**{verdict['verdict']}**. Whoever reports one run reports luck; whoever reports the best epoch of one run on the "
        "test digits chooses it.\n\n"
        "And a test set is a sample too. A network that reads 9,940 of 10,000 digits right has, with 95 % confidence, a "
        f"true accuracy between {percent(low)} and {percent(high)} on digits of that kind (Wilson)."
    )


def _verdict_table() -> str:
    rows = ["| model, recipe | budget | mean ± sd | n | lower bound | verdict |", "|---|---|--:|--:|--:|---|"]
    for path in sorted((ROOT / "results" / "proofs").glob("*.json")):
        for verdict in _proof(path.stem)["verdicts"]:
            what = " (last three)" if verdict["accuracy_of"] == "last3" else ""
            rows.append(
                f"| `{verdict['model']}`, `{verdict['recipe']}` | {verdict['budget'] or '–'} "
                f"| {100 * verdict['mean']:.3f} ± {100 * verdict['sd']:.3f} %{what} | {verdict['n']} "
                f"| {100 * verdict['lower_bound']:.3f} % | {verdict['verdict'] if verdict['budget'] else '–'} |"
            )
    rows += ["", "Made by `make proofs`; kept in [results/proofs](results/proofs)."]
    return "\n".join(rows)


def _rejection_table() -> str:
    """What the shipped networks make of pictures that are no digits, at their card's threshold."""
    cards = {model: load_card(path) for model in list_models() if (path := packaged_weights(model))}
    fitted = {model: card.calibration for model, card in cards.items() if card.calibration}
    kinds = list(next(iter(fitted.values()))["rejected"])
    columns = "|".join(["network", *(f"{kind.replace('_', ' ')}>" for kind in kinds), "ECE>", "ECE, calibrated>"])
    rows = []
    for model, calibration in fitted.items():
        shares = [f"{100 * calibration['rejected'][kind]:.0f} %" for kind in kinds]
        errors = [f"{100 * calibration[key]:.2f}" for key in ("ece_before", "ece_after")]
        rows.append([f"`{model}`", *shares, *errors])
    return markdown_table(columns, rows)


def _frontier_table() -> str:
    evidence = json.loads((ROOT / "results" / "frontier.json").read_text(encoding="utf-8"))
    rows = []
    for row in evidence["rows"]:
        accuracy = f"{percent(row['mean'], 3)} ± {100 * row['sd']:.3f}, n = {row['n']}"
        last = " (last three)" if row["accuracy_of"] == "last3" else ""
        goals = (f"{100 * row[key]:.2f}: {'yes' if row['reached'][key] else 'no'}" for key in ("must", "reach"))
        int8 = row["int8"]
        rows.append(
            [
                f"`{row['model']}`",
                f"{row['parameters']:,}",
                f"{row['macs']:,}",
                str(row["epochs"]),
                accuracy + last,
                *goals,
                f"{int8['weight_bytes']:,}",
                percent(int8["accuracy"]),
            ]
        )
    columns = (
        "network|parameters>|MACs>|epochs>|test digits, mean of all seeds|asked|hoped for|int8 bytes>|int8, seed 0>"
    )
    return markdown_table(columns, rows)


def _proof(name: str) -> Any:
    return json.loads((ROOT / "results" / "proofs" / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
