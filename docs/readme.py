"""All figures, captures and pictures of README.md and of the pages in docs/, made again: `make readme`.

The tables come from results/ and from the cards of the shipped weights; `python -m docs.readme --tables` rewrites them
alone, in a second. Captures and pictures take MNIST, Chromium and one training of tiny-10k, about two minutes. Each
lands between the marks of its name in the page, ``<!-- name: made by `make readme` -->`` and ``<!-- /name -->``.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from benchmarks.measure import ROOT, figure_goal, figure_value, fill, made_by, markdown_table
from docs.browser.writing import page_picture
from docs.evidence import documented_names, documented_recipe
from docs.plots import digit_gallery
from tinydigits.data.sources import load_dataset
from tinydigits.evaluation.statistics import wilson_interval
from tinydigits.models.registry import list_models, target_of
from tinydigits.models.weights import load_card, packaged_weights
from tinydigits.records import Calibration, Card, ProofFile, Summary, read_record
from tinydigits.reports.tables import percent

COMMAND = "make readme"
PICTURES = ROOT / "docs" / "pictures"
TINYDIGITS = [sys.executable, "-m", "tinydigits"]
Parts = Mapping[str, Mapping[str, str]]
"""By page, what stands between the marks of each name."""

_COLUMNS = 80
_NOT_IN_README = ("pooled-16k", "era-8k")  # docs/zoo.md has them all


def main() -> None:
    """Rewrite the tables, and unless `--tables` is given captures and pictures too."""
    write(tables())
    if "--tables" not in sys.argv[1:]:
        write(captures())


def write(parts: Parts, root: Path = ROOT) -> None:
    """Put each part into its page below `root`."""
    for page, texts in parts.items():
        fill(root / page, texts, COMMAND)


# ------------------------------------------------------------------------------------------ tables


def tables() -> Parts:
    """All that is made from results/ and the shipped cards."""
    return {
        "README.md": {"zoo": _zoo_table(_NOT_IN_README), "seeds": _seeds_table()},
        "docs/zoo.md": {"zoo": _zoo_table(), "frontier": _frontier_table(), "weights": _weights_table()},
        "docs/method.md": {"lucky-seed": _lucky_seed(), "rejected": _rejection_table()},
        "docs/results.md": {
            "verdicts": _verdict_table(),
            "loop": _figures("loop"),
            "inference": _inference_tables(),
            "serve": _figures("serve"),
        },
    }


def _cards() -> dict[str, Card]:
    return {name: load_card(path) for name in list_models() if (path := packaged_weights(name))}


def _zoo_table(left_out: Sequence[str] = ()) -> str:
    """Cost and accuracy of each network, as its card tells them."""
    rows = []
    for name, card in _cards().items():
        if name in left_out:
            continue
        assert card.study is not None
        assert card.int8 is not None
        cells = [f"{card.parameters:,}", f"{card.macs:,}", str(card.epochs), _spread(card.study.final)]
        rows.append([f"`{name}`", *cells, str(card.study.n), f"{card.int8.weight_bytes:,}"])
    heading = "network|parameters>|MACs>|epochs>|accuracy, %>|seeds>|int8 bytes>"
    return markdown_table(heading, rows)


def _spread(summary: Summary) -> str:
    """Mean and standard deviation over seeds, in per cent, on one line."""
    assert summary.sd is not None
    return f"{100 * summary.mean:.3f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * summary.sd:.3f}"


def _seeds_table() -> str:
    """What a document reports of one run, beside what its recipe gives over seeds."""
    rows = []
    for name in documented_names():
        recipe, reported = documented_recipe(name), target_of(name)
        if recipe is None or reported is None or reported.accuracy is None:
            continue
        study, verdict = (proof := _proof(name, recipe)).study, proof.verdicts[0]
        ends = [run.accuracy for run in study.runs]
        seeds = f"{100 * min(ends):.2f}–{percent(max(ends))}"
        bound = percent(study.final.lower_bound, 3)
        cells = [percent(reported.accuracy), seeds, str(study.n), _spread(study.final), bound, f"**{verdict.verdict}**"]
        rows.append([f"`{name}`", *cells])
    heading = "network|reported, one run>|our seeds, lowest to highest>|seeds>|mean ± sd, %>|95 % lower bound>|verdict"
    return markdown_table(heading, rows)


def _weights_table() -> str:
    """The zoo with what is reported of each network, and what the shipped weights reach."""
    rows = []
    for name, card in _cards().items():
        reported = target_of(name)
        stated = reported.accuracy if reported and reported.documented else None
        assert card.int8 is not None
        accuracies = [percent(stated), percent(card.accuracy), percent(card.int8.accuracy)]
        rows.append([f"`{name}`", f"`{card.recipe_name}`", *accuracies])
    return markdown_table("network|recipe|reported>|shipped weights>|shipped weights, int8>", rows)


def _frontier_table() -> str:
    rows = []
    for row in _evidence("frontier")["rows"]:
        accuracy = f"{percent(row['mean'], 3)} ± {100 * row['sd']:.3f}, n = {row['n']}"
        last = " (last three epochs)" if row["accuracy_of"] == "last3" else ""
        goals = (
            f"{100 * row[key]:.2f}: {'reached' if row['reached'][key] else 'not reached'}"
            for key in ("goal", "stretch_goal")
        )
        counts = [f"{row[key]:,}" for key in ("parameters", "macs", "epochs")]
        int8 = row["int8"]
        rows.append(
            [
                f"`{row['model']}`",
                *counts,
                accuracy + last,
                *goals,
                f"{int8['weight_bytes']:,}",
                percent(int8["accuracy"]),
            ]
        )
    heading = "network|parameters>|MACs>|epochs>|test digits, mean of all seeds|frontier goal|stretch goal"
    return markdown_table(f"{heading}|int8 bytes>|int8, seed 0>", rows)


def _lucky_seed() -> str:
    """A document's figure of one run against what its recipe gives over seeds, in words."""
    proof = _proof("plain-9k", "documented-plain-9k")
    reported = target_of("plain-9k")
    assert reported is not None
    assert reported.accuracy is not None
    accuracies = [run.accuracy for run in proof.study.runs]
    reaching = sum(accuracy >= reported.accuracy for accuracy in accuracies)
    low, high = wilson_interval(9_940, 10_000)
    listed = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    return (
        f"The document of `plain-9k` reports {percent(reported.accuracy)} after the first epoch. Its recipe with "
        f"{len(accuracies)} seeds gives {listed}: {_spread(proof.study.final)} %. {reaching} of {len(accuracies)} seeds "
        f"{'reaches' if reaching == 1 else 'reach'} the figure, and the verdict on it is **{proof.verdicts[0].verdict}**. "
        "A single run reports luck, and the best epoch of a single run, picked on the test digits, reports luck twice.\n\n"
        "A test set is a sample too. A network that classifies 9,940 of 10,000 digits correctly has, with 95 % confidence, a "
        f"true accuracy between {percent(low)} and {percent(high)} on digits of that kind (Wilson)."
    )


def _rejection_table() -> str:
    """How many pictures that are no digits the shipped networks reject, at their card's threshold."""
    fitted: dict[str, Calibration] = {name: c.calibration for name, c in _cards().items() if c.calibration}
    kinds = list(next(iter(fitted.values())).rejected)
    columns = "|".join(["network", *(f"{kind.replace('_', ' ')}>" for kind in kinds), "ECE>", "ECE, calibrated>"])
    rows = []
    for name, calibration in fitted.items():
        rejected = [f"{100 * calibration.rejected[kind]:.0f} %" for kind in kinds]
        errors = ["–" if e is None else f"{100 * e:.2f}" for e in (calibration.ece_before, calibration.ece_after)]
        rows.append([f"`{name}`", *rejected, *errors])
    return markdown_table(columns, rows)


def _verdict_table() -> str:
    rows = []
    for path in sorted((ROOT / "results" / "proofs").glob("*.json")):
        for verdict in _read_proof(path).verdicts:
            assert verdict.sd is not None
            last = " (last three epochs)" if verdict.accuracy_of == "last3" else ""
            spread = f"{100 * verdict.mean:.3f} ± {100 * verdict.sd:.3f} %{last}"
            outcome = verdict.verdict if verdict.budget else "–"
            bound = percent(verdict.lower_bound, 3)
            what = f"`{verdict.model}`, `{verdict.recipe}`"
            rows.append([what, verdict.budget or "–", spread, str(verdict.n), bound, outcome])
    table = markdown_table("model, recipe|budget|mean ± sd>|n>|lower bound>|verdict", rows)
    return f"{table}\n\nMade by `make proofs`; kept in [results/proofs](../results/proofs)."


def _figures(name: str) -> str:
    """All figures of results/NAME.json, and where they are from."""
    evidence = _evidence(name)
    return "\n".join([_figure_table(evidence["figures"]), "", made_by(name, evidence, "../")])


def _figure_table(figures: Sequence[Mapping[str, Any]]) -> str:
    return markdown_table("figure|value>|goal", [[f["name"], figure_value(f), figure_goal(f)] for f in figures])


def _inference_tables() -> str:
    """The figures that are not of one network among several; then a line for each network."""
    evidence = _evidence("inference")
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
        sizes = (figures[f"{model}, C {kind}: code and constants"]["value"] for kind in ("float", "int8"))
        rows.append([f"`{model}`", *cells, *(f"{size:,} B" for size in sizes)])
    heading = "|".join(["microseconds a picture, one thread", *(f"{column}>" for column in columns)])
    return "\n".join([table, "", markdown_table(heading, rows), "", made_by("inference", evidence, "../")])


def _evidence(name: str) -> dict[str, Any]:
    evidence: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return evidence


def _proof(model: str, recipe: str) -> ProofFile:
    return _read_proof(ROOT / "results" / "proofs" / f"{model}-{recipe}.json")


def _read_proof(path: Path) -> ProofFile:
    return read_record(path, ProofFile, "Run `make proofs`.")


# ------------------------------------------------------------------------------------------ captures and pictures


def captures() -> Parts:
    """What commands print; on the way, everything in docs/pictures that is not made by a benchmark."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        parts = {
            "README.md": {"train": trimmed(_capture(["train"], here))},
            "docs/how-to/network.md": {"inspect": _capture(["inspect", "plain-9k"], here)},
            "docs/how-to/microcontroller.md": {"export": _capture(["export", "era-8k", "--to", "c", "--int8"], here)},
        }
        run = here / "runs" / "tiny-10k-001"
        _capture(["evaluate", str(run)], here)
        for picture in ("curve.png", "mistakes.png"):
            shutil.copy(run / picture, PICTURES / picture)
        _capture(["export", "tiny-10k", "--to", "html"], here)
        page_picture(here / "exports" / "tiny-10k-html" / "tiny-10k.html", PICTURES / "page.png", digit=3)
        study = ROOT / "results" / "proofs" / "layered-19k-improved-layered-19k.json"
        _capture(["report", str(study), "--out", "report.html"], here)
        page_picture(here / "report.html", PICTURES / "report.png")
    _served_picture(PICTURES / "serve.png")
    _terminal_picture(["models"], PICTURES / "terminal.svg")
    test = load_dataset("mnist").test
    rows = [[i for i, label in enumerate(test.labels) if label == digit][:4] for digit in range(10)]
    indices = [row[k] for k in range(4) for row in rows]
    digit_gallery(test.images[indices], test.labels[indices], PICTURES / "digits.png")
    return parts


def _capture(arguments: Sequence[str], directory: Path) -> str:
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


_LEFT_OUT = ("mean of the last three", "best on ", "parameters ", "epochs ", "time ", "images/s ")


def trimmed(capture: str) -> str:
    """The capture of a training without the epochs in the middle, some lines of its summary, and blank lines."""
    kept: list[str] = []
    lines = [line for line in capture.splitlines() if line and not line.strip().startswith(_LEFT_OUT)]
    epochs = [line for line in lines if line.startswith("epoch ")]
    for line in lines:
        if line in epochs[2:-1]:
            if kept[-1] != "…":
                kept.append("…")
        else:
            kept.append(line)
    return "\n".join(kept)


def _terminal_picture(arguments: Sequence[str], picture: Path) -> None:
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


if __name__ == "__main__":
    main()
