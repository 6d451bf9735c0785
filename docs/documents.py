"""A page for each of the five documents: `make documents` → docs/documents, docs/pictures/documents.

Everything on them comes from inspecting the network or from results/: run it again when there are new results. It trains
nothing and needs no digits.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.measure import ROOT, markdown_table
from docs.advice import advice
from docs.architecture import architecture_picture
from docs.evidence import (
    Document,
    changes_in_short,
    changes_in_words,
    documented_names,
    documented_recipe,
    expected_recipes,
    load_document,
    recipe_in_words,
)
from docs.plots import ablation_picture, study_curves
from tinydigits.inspection.audit import AuditRow, check_reported
from tinydigits.inspection.result import by, times, window
from tinydigits.models.registry import target_of
from tinydigits.reports.tables import duration, interval_text, percent
from tinydigits.storage import write_bytes
from tinydigits.training import recipes

COMMAND = "make documents"
TO_ROOT = "../.."  # from a page to the repository
NOT_YET = "not proved yet"
# Where a documented recipe is from: no document states its own in full.
SOURCES = {"documented-bottleneck-9k": "a related published run"}


def main(target: Path = ROOT / "docs", results: Path = ROOT / "results") -> None:
    """Write pages and pictures into `target`."""
    pages, pictures = target / "documents", target / "pictures" / "documents"
    for directory in (pages, pictures):
        directory.mkdir(parents=True, exist_ok=True)
    for name in documented_names():
        document = load_document(name, results)
        draw(document, pictures)
        write_bytes(pages / f"{name}.md", page(document).encode())
    write_bytes(pages / "README.md", _index(results).encode())


def draw(document: Document, directory: Path) -> None:
    """The network; the seeds of its studies and its ablations, as far as there are any."""
    architecture_picture(document.inspection.layers, directory / f"{document.name}.png")
    if document.proofs:
        studies = [proof["study"] for proof in document.proofs.values()]
        study_curves(studies, directory / f"{document.name}-seeds.png", document.reported.accuracy)
    if document.ablations:
        ablation_picture(document.ablations, directory / f"{document.name}-ablations.png")


def page(document: Document) -> str:
    """The whole page in Markdown."""
    name, inspection = document.name, document.inspection
    parts = [
        f"<!-- made by `{COMMAND}`: change docs/documents.py or docs/advice.py, not this file -->\n\n# {name}",
        f"The document `{document.reported.source}` reports {document.reported.wording or 'no figures'}. Measured: "
        f"{inspection.parameters:,} parameters, {inspection.macs:,} MACs per image.",
        _picture(name, "The network as a row of feature maps"),
        "## Layers",
        _layer_table(document),
        "MACs: multiply-accumulates of convolutions and linear layers. Receptive field and jump in input pixels. "
        f"Structure, by what the network does: {_structure(document)}.",
        "## Its figures, measured",
        *_recount(document),
        "## Its accuracy, trained",
        *_trained(document),
        *_list_of_improvements(document),
        "## What we would change",
        _bullets(advice(document)),
    ]
    return "\n\n".join(parts) + "\n"


def _picture(stem: str, words: str) -> str:
    return f"![{words}](../pictures/documents/{stem}.png)"


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _layer_table(document: Document) -> str:
    rows = []
    for number, layer in enumerate(document.inspection.layers, start=1):
        counts = [f"{count:,}" if count else "–" for count in (layer.parameters, layer.macs)]
        field = [times(layer.receptive_field), times(layer.jump)]
        rows.append([str(number), layer.kind, window(layer), by(layer.output_shape), *counts, *field])
    rows.append(
        [
            "",
            "**total**",
            "",
            "",
            f"**{document.inspection.parameters:,}**",
            f"**{document.inspection.macs:,}**",
            "",
            "",
        ]
    )
    return markdown_table("#>|layer|window|output>|parameters>|MACs>|field>|jump>", rows)


def _structure(document: Document) -> str:
    facts = document.inspection.structure.facts().items()
    return ", ".join(f"{fact.replace('_', ' ')} {'yes' if holds else 'no'}" for fact, holds in facts)


def _recount(document: Document) -> list[str]:
    """What needs no training: only the lines that do not hold are shown one by one."""
    untrained = replace(document.reported, accuracy=None, epochs=None)
    audited = check_reported(document.inspection, untrained, None, "")
    odd = [line for line in audited.lines if line.verdict != "agrees"]
    parts = [
        f"{audited.agreeing} of {len(audited.lines)} figures and statements agree with the measured ones"
        + (". The others:" if odd else ".")
    ]
    if odd:
        parts.append(markdown_table("figure|reported>|measured>|why", [_odd_row(line) for line in odd]))
    if audited.findings:
        parts.append("Findings:\n\n" + _bullets(audited.findings))
    if audited.notes:
        parts.append("How the document was read:\n\n" + _bullets(audited.notes))
    return [*parts, f"All lines: `tinydigits audit {document.name}`."]


def _odd_row(line: AuditRow) -> list[str]:
    return [line.what, line.reported, line.measured, line.why.replace("|", "\\|") or "–"]


def _trained(document: Document) -> list[str]:
    """Verdicts, what was trained how, and every seed."""
    reported = document.reported
    if reported.accuracy is None:
        parts = ["It reports no accuracy, so there is no verdict; this is what it reaches."]
    else:
        sign = "over" if reported.strict else "at least"
        parts = [
            f"Reported: {sign} {percent(reported.accuracy)}, in at most {reported.epochs} epoch{'' if reported.epochs == 1 else 's'}. "
            "Each study trains on all 60,000 digits and is evaluated on the test digits after its last epoch. The verdict is "
            "`met` if the one-sided 95 % lower bound of the mean over seeds reaches the reported accuracy."
        ]
    rows = [[f"`{recipe}`", *_study_cells(document.proofs.get(recipe))] for recipe in _order(document)]
    parts.append(markdown_table("recipe|mean ± sd, %>|n>|lower bound, %>|on new digits>|verdict", rows))
    parts.append(_bullets([_how(document, recipe) for recipe in _order(document)]))
    if document.proofs:
        parts += [
            _picture(f"{document.name}-seeds", "Accuracy of every seed"),
            "“On new digits” is the two-way bootstrap over seeds and test digits, 95 %: what to expect of other digits of the "
            f"same kind ([statistics]({TO_ROOT}/docs/statistics.md)).",
        ]
    return parts


def _order(document: Document) -> list[str]:
    """Every recipe that is proved, then those that are to be."""
    return [*document.proofs, *(recipe for recipe in document.expected if recipe not in document.proofs)]


def _study_cells(proof: dict[str, Any] | None) -> list[str]:
    if proof is None:
        return ["–", "–", "–", "–", NOT_YET]
    verdict = proof["verdicts"][0]
    return [*_figures(verdict), interval_text(verdict["interval"]), _verdict(verdict)]


def _figures(verdict: dict[str, Any]) -> list[str]:
    """Mean ± sd, n, lower bound; three decimals, because a bound may miss its target by a hundredth."""
    mean, sd, bound = (
        "–" if fraction is None else f"{100 * fraction:.3f}"
        for fraction in (verdict[key] for key in ("mean", "sd", "lower_bound"))
    )
    return [f"{mean} ± {sd}".replace(" ", "\N{NO-BREAK SPACE}"), str(verdict["n"]), bound]


def _verdict(verdict: dict[str, Any]) -> str:
    """In bold; a document without figures has no verdict."""
    return "nothing reported" if verdict["verdict"] == "not judged" else f"**{verdict['verdict']}**"


def _how(document: Document, recipe: str) -> str:
    """What a recipe does: in full, or how it differs from the documented one."""
    proof = document.proofs.get(recipe)
    settings = proof["study"]["config"]["recipe"] if proof else _settings(recipe)
    if document.base is None or recipe == document.documented_recipe:
        words = recipe_in_words(settings)
    else:
        words = changes_in_words(settings, document.base)
    if recipe == document.documented_recipe:
        words = f"{SOURCES.get(recipe, 'a published log')}, {words}"
    if proof is None:
        return f"`{recipe}`: {words}. {NOT_YET.capitalize()}."
    seconds = [run["time_seconds"] for run in proof["study"]["runs"]]
    took = duration(sum(seconds) / len(seconds))
    return (
        f"`{recipe}`: {words}. {took} a run. `{proof['command']}`, kept in "
        f"[{proof['evidence']}]({TO_ROOT}/{proof['evidence']})."
    )


def _settings(recipe: str) -> dict[str, Any]:
    return asdict(recipes.get_recipe(recipe))


def _list_of_improvements(document: Document) -> list[str]:
    """What the document only wonders about, measured; nothing where it does not wonder."""
    if not document.has_list:
        return []
    heading = "## What its list of improvements is worth"
    if not document.ablations:
        return [heading, "The document ends in a list of what might help. Not measured yet: `make ablations`."]
    first = document.ablations[0]
    rows = [
        [
            row["what"],
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            f"{percent(row['mean'])} ({interval_text(row['interval'])})",
            row["worth"] or "the others are compared with this",
        ]
        for row in document.ablations
    ]
    return [
        heading,
        "The document ends in a list of what might help. Each change is compared with the first row: "
        f"{first['n']} seeds, {first['epochs']} epochs, evaluated on {first['evaluated_on']}. The test digits decide nothing here.",
        _picture(f"{document.name}-ablations", "What each change is worth"),
        markdown_table("change|parameters>|MACs>|accuracy (95 % interval)>|what it is worth", rows),
        f"Made by `make ablations`, kept in [results/ablations.json]({TO_ROOT}/results/ablations.json).",
    ]


def _index(results: Path) -> str:
    return (
        f"<!-- made by `{COMMAND}` -->\n\n# The five documents\n\nEach describes one compact CNN for MNIST, and the accuracy that it reports is that of one run. "
        "Here each is measured and trained over several seeds. A documented recipe that fails to reach its reported accuracy is "
        "a result too; below it is the changed recipe that was tried instead.\n\n"
        f"{documented_table(f'{TO_ROOT}/', results)}\n"
    )


def documented_table(root: str = "", results: Path = ROOT / "results") -> str:
    """`documented.json` in Markdown, a line a study and one for each that is still to come.

    Args:
        root: leads from the page to the repository, as `../../`.
        results: the directory of `documented.json` and `proofs`.
    """
    rows = []
    for row in json.loads((results / "documented.json").read_text(encoding="utf-8"))["rows"]:
        name = row["model"]
        wording = row["reported"]["wording"] or "no figures"
        first = [f"[`{name}`]({root}docs/documents/{name}.md): {wording}", _counted(row)]
        found = sorted(row["studies"], key=lambda study: not study["recipe"].startswith("documented-"))
        for study in found:
            settings = json.loads((results / "proofs" / Path(study["evidence"]).name).read_text(encoding="utf-8"))
            words = _in_short(name, study["recipe"], settings["study"]["config"]["recipe"])
            rows.append([*first, f"[{words}]({root}{study['evidence']})", *_figures(study), _verdict(study)])
            first = ["", ""]
        for recipe in sorted(set(expected_recipes(name)) - {study["recipe"] for study in found}):
            rows.append([*first, _in_short(name, recipe, _settings(recipe)), "–", "–", "–", NOT_YET])
            first = ["", ""]
    return markdown_table(
        "document, and what it reports|parameters, measured|trained|mean ± sd, %>|n>|lower bound, %>|verdict", rows
    )


def _counted(row: dict[str, Any]) -> str:
    """The parameters, and how they compare with the document."""
    stated, counted, reported = (
        row["reported"]["parameters"],
        row["measured"]["parameters"],
        target_of(row["model"]),
    )
    assert reported is not None
    exact = any(figure.quantity == "parameters" and figure.layer is None for figure in reported.figures)
    if stated is None:
        suits = "none reported"
    elif exact:
        suits = "as reported" if counted == stated else f"reported: {stated:,}"
    else:
        suits = "within the limit" if counted <= stated else "over the limit"
    return f"{counted:,} ({suits})"


def _in_short(name: str, recipe: str, settings: dict[str, Any]) -> str:
    """How it was trained: as documented, or what is changed."""
    documented = documented_recipe(name)
    if documented is None:
        return f"our recipe `{recipe}`"
    return "as documented" if recipe == documented else changes_in_short(settings, _settings(documented))


if __name__ == "__main__":
    main()
