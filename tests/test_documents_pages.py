"""The documents' pages: made from whatever results exist, the same bytes every time, and nothing invented."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from docs import documents
from docs.advice import advice
from docs.evidence import changes_in_short, changes_in_words, documented_names, load_document, recipe_in_words
from tinydigits.storage import write_json
from tinydigits.training.recipes import get_recipe, list_recipes

ROOT = Path(__file__).parent.parent
NO_BREAK = "\N{NO-BREAK SPACE}"
PNG = b"\x89PNG\r\n"


def settings(recipe: str) -> dict[str, Any]:
    return asdict(get_recipe(recipe))


def write_proof(results: Path, model: str, recipe: str, mean: float, verdict: str) -> dict[str, Any]:
    """A finished study of three seeds, as `make proofs` keeps it; returns its line of documented.json."""
    epochs = get_recipe(recipe).epochs
    runs = [
        {
            "seed": seed,
            "accuracy": mean + 0.001 * (seed - 1),
            "accuracy_best": mean + 0.002,
            "time_seconds": 60.0,
            "accuracy_by_epoch": [mean - 0.01 / (i + 1) for i in range(epochs - 1)] + [mean + 0.001 * (seed - 1)],
        }
        for seed in range(3)
    ]
    final = {"mean": mean, "sd": 0.001, "lower_bound": mean - 0.0017}
    study = {
        "recipe": recipe, "config": {"recipe": settings(recipe)}, "epochs": epochs, "n": 3, "split": "test",
        "final": final, "runs": runs,
    }  # fmt: skip
    found = {"verdict": verdict, "n": 3, **final, "interval": [mean - 0.002, mean + 0.002]}
    path = results / "proofs" / f"{model}-{recipe}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": "tinydigits prove", "study": study, "verdicts": [found]})
    return {"recipe": recipe, "epochs": epochs, **found, "evidence": f"results/proofs/{path.name}"}


def write_documented(results: Path, studies: dict[str, list[dict[str, Any]]]) -> None:
    rows = []
    for name in documented_names():
        document = load_document(name, results)
        counts = {"parameters": document.inspection.parameters}
        rows.append(
            {
                "model": name,
                "reported": document.reported.target().as_dict(),
                "measured": counts,
                "studies": studies.get(name, []),
            }
        )
    write_json(results / "documented.json", {"rows": rows})


def ablation(what: str, difference: float | None) -> dict[str, Any]:
    around = None if difference is None else [difference - 0.001, difference + 0.001]
    return {
        "network": "plain-9k", "what": what, "epochs": 10, "parameters": 9032, "macs": 662816, "n": 3, "mean": 0.98,
        "evaluated_on": "5,000 validation digits", "interval": [0.97, 0.99], "time_seconds": 60.0,
        "difference": difference, "difference_interval": around, "worth": difference and "It helps: so much.",
    }  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One document failed and then met, with ablations; of the others nothing is known yet."""
    directory = tmp_path_factory.mktemp("evidence") / "results"
    lines = [
        write_proof(directory, "plain-9k", "improved-plain-9k", 0.9812, "met"),
        write_proof(directory, "plain-9k", "documented-plain-9k", 0.9701, "failed"),
    ]
    rows = [ablation("as documented", None), ablation("batch norm", 0.005), ablation("dropout 0.05", -0.004)]
    write_json(directory / "ablations.json", {"rows": [*rows, ablation("padding 1", 0.0005)]})
    write_documented(directory, {"plain-9k": lines})
    return directory


def files(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in sorted(target.rglob("*")) if path.is_file()}


def test_two_runs_write_the_same_bytes_and_every_picture_that_a_page_shows(results: Path, tmp_path: Path) -> None:
    for directory in ("first", "second"):
        documents.main(tmp_path / directory, results)
    written = files(tmp_path / "first")
    assert written == files(tmp_path / "second")
    pages = {name: content.decode() for name, content in written.items() if name.endswith(".md")}
    assert set(pages) == {f"documents/{name}.md" for name in (*documented_names(), "README")}
    shown = {picture for text in pages.values() for picture in re.findall(r"\]\(\.\./(pictures/[^)]+)\)", text)}
    assert shown == {name for name in written if name.endswith(".png")}
    assert all(written[picture].startswith(PNG) for picture in shown)
    assert "pictures/documents/plain-9k-ablations.png" in shown
    assert "pictures/documents/blocks-19k-seeds.png" not in shown


def test_a_page_shows_the_failed_recipe_first_and_then_the_one_that_meets_the_figure(results: Path) -> None:
    text = documents.page(load_document("plain-9k", results))
    rows = [line.replace(NO_BREAK, " ") for line in text.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `documented-plain-9k` | 97.010 ± 0.100 | 3 | 96.840 | 96.81–97.21 % | **failed** |",
        "| `improved-plain-9k` | 98.120 ± 0.100 | 3 | 97.950 | 97.92–98.32 % | **met** |",
    ]
    assert "| layer 3 Conv2d, output | 26×26 | 24×24 |" in text
    assert "|  | **total** |  |  | **9,032** | **662,816** |  |  |" in text
    assert documents.NOT_YET not in text


def test_what_is_missing_is_named_and_never_invented(results: Path) -> None:
    text = documents.page(load_document("bottleneck-9k", results))
    assert "| `documented-bottleneck-9k` | – | – | – | – | not proved yet |" in text
    assert "Not measured yet: `make ablations`." in text
    assert "-seeds.png" not in text


def test_the_table_has_a_line_a_study_and_one_for_each_that_is_to_come(results: Path) -> None:
    lines = documents.documented_table("../../", results).replace(NO_BREAK, " ").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    plain = next(i for i, row in enumerate(cells) if "plain-9k" in row[0])
    first, second = cells[plain], cells[plain + 1]
    assert first[0] == "[`plain-9k`](../../docs/documents/plain-9k.md): 97.47 % in the first epoch, 9,032 parameters"
    assert first[1] == "9,032 (as reported)"
    assert first[2] == "[as documented](../../results/proofs/plain-9k-documented-plain-9k.json)"
    assert first[3:] == ["97.010 ± 0.100", "3", "96.840", "**failed**"]
    assert second[:2] == ["", ""]
    assert second[2].startswith("[")
    assert "a one-cycle schedule" in second[2]
    assert "instead of" not in second[2]
    assert second[6] == "**met**"
    assert [row[6] for row in cells if "blocks-19k" in row[0]] == ["not proved yet"]
    assert next(row for row in cells if "blocks-19k" in row[0])[1] == "19,866 (within the limit)"
    assert next(row for row in cells if "pooled-16k" in row[0])[1:3] == [
        "16,806 (none reported)",
        "our recipe `fast`",
    ]


def test_a_study_without_a_reported_accuracy_has_no_verdict(results: Path, tmp_path: Path) -> None:
    mine = tmp_path / "results"
    shutil.copytree(results, mine)
    line = write_proof(mine, "pooled-16k", "fast", 0.993, "not judged")
    write_documented(mine, {"pooled-16k": [line]})
    row = next(line for line in documents.documented_table("", mine).splitlines() if "pooled-16k" in line)
    assert row.replace(NO_BREAK, " ").endswith("| 99.300 ± 0.100 | 3 | 99.130 | nothing reported |")
    assert "AdamW, learning rate 0.01" in documents.page(load_document("pooled-16k", mine))


def test_links_from_the_repository_lead_to_files() -> None:
    names = documented_names()
    for link in re.findall(r"\]\(([^)]+)\)", documents.documented_table()):
        page = link.removeprefix("docs/documents/").removesuffix(".md")
        assert page in names or (ROOT / link).is_file(), link


@pytest.mark.parametrize("name", documented_names())
def test_every_document_has_advice_in_whole_sentences(name: str, results: Path) -> None:
    sentences = advice(load_document(name, results))
    assert len(sentences) >= 4
    assert len(set(sentences)) == len(sentences)
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in sentences)


def test_advice_takes_its_figures_from_the_results(results: Path) -> None:
    text = "\n".join(advice(load_document("plain-9k", results)))
    assert "we would take batch norm (+0.50 points). We would leave out dropout 0.05 (-0.40 points)." in text
    assert "98.12 ± 0.10 % in place of 97.01 ± 0.10 %, and the verdict on the reported accuracy is **met**." in text
    assert "No effect shown with 3 seeds: padding 1 (+0.05 points)." in text
    assert "6 of 6 that it gives are wrong" in text
    assert "end between 96.91 % and 97.11 %" in text


def test_advice_on_the_pool_of_pooled_16k_is_measured(results: Path) -> None:
    text = "\n".join(advice(load_document("pooled-16k", results)))
    assert "sees 49 of 121 positions" in text
    assert "2,505,856 MACs per image, 1,944,320 without it" in text


def test_a_worse_recipe_is_no_advice(results: Path, tmp_path: Path) -> None:
    mine = tmp_path / "results"
    shutil.copytree(results, mine)
    write_proof(mine, "plain-9k", "improved-plain-9k", 0.9651, "failed")
    text = "\n".join(advice(load_document("plain-9k", mine)))
    assert "improved" not in text
    assert "Let the learning rate fall to zero at the end." in text


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_recipe_in_words_names_what_is_on(recipe: str) -> None:
    words = recipe_in_words(settings(recipe))
    assert f"batches of {get_recipe(recipe).batch_size}" in words
    assert ("moving average" in words) == (get_recipe(recipe).ema_decay > 0)
    assert ", ," not in words
    assert changes_in_words(settings(recipe), settings(recipe)) == ""


def test_changes_of_a_recipe_in_words() -> None:
    base, other = settings("documented-plain-9k"), settings("documented-plain-9k")
    other["optimizer"]["learning_rate"] = 0.05
    other["augmentation"]["rotation_degrees"] = 10.0
    other["label_smoothing"] = 0.1
    assert changes_in_words(other, base) == "learning rate 0.05 instead of 0.01; rotation ±10°; label smoothing 0.1"
    assert changes_in_short(other, base) == "learning rate 0.05, rotation ±10°, label smoothing 0.1"
    assert changes_in_short(base, other) == "learning rate 0.01, no augmentation, without label smoothing 0.1"
    assert changes_in_words(base, other) == (
        "learning rate 0.01 instead of 0.05; no augmentation instead of rotation ±10°; without label smoothing 0.1"
    )


def test_what_is_committed_is_what_the_program_makes() -> None:
    """The pages must not fall behind: the parts that no training changes are compared."""
    for name in documented_names():
        committed = (ROOT / "docs" / "documents" / f"{name}.md").read_text(encoding="utf-8")
        fresh = documents.page(load_document(name, ROOT / "results"))
        untrained = [text.partition("## Its accuracy, trained")[0] for text in (committed, fresh)]
        assert untrained[0] == untrained[1], f"docs/documents/{name}.md is old: run `{documents.COMMAND}`"
