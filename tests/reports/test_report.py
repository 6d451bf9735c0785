"""What reports say, read back from their HTML: figures, reasons for what is missing, and nothing unescaped."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from msgspec import structs
from torch import nn

from tests.support.reporting import HOSTILE, RECIPE, copied, large_study, small_study
from tinydigits.cli.main import main
from tinydigits.data.dataset import DigitData
from tinydigits.errors import ConfigError, StorageError, TinydigitsError
from tinydigits.evaluation.predictions import Evaluation
from tinydigits.inspection.budget import Budget, accuracy_clause
from tinydigits.records import (
    Difference,
    PairedTest,
    ProofFile,
    ProofResult,
    StudyResult,
    Verdict,
    read_record,
    write_record,
)
from tinydigits.reports import charts
from tinydigits.reports.analysis import target_sentences
from tinydigits.reports.html import report_page
from tinydigits.reports.markup import heat_picture, tag
from tinydigits.reports.report import report
from tinydigits.studies.compare import compare
from tinydigits.studies.predictions import SeedPredictions
from tinydigits.studies.report_data import gather_report_data
from tinydigits.studies.results import read_source
from tinydigits.training.config import RunConfig
from tinydigits.training.loop import Custom
from tinydigits.training.run import train

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page's text, its elements, and whether they nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports") / "mine"


@pytest.fixture(scope="module")
def study(place: Path) -> Path:
    return small_study(place, "study")


@pytest.fixture(scope="module")
def page(study: Path) -> Page:
    source = read_source(study)
    return Page(report_page(source, gather_report_data(source)))


def predictions_of(study: Path) -> SeedPredictions:
    predictions = gather_report_data(read_source(study), explain=False).predictions
    assert not isinstance(predictions, str)
    return predictions


def reported(*arguments: object) -> Page:
    """The page that the command writes."""
    out = Path(str(arguments[-1]))
    assert main(["report", *map(str, arguments[:-1]), "--out", str(out)]) == 0
    return Page(out.read_text(encoding="utf-8"))


def test_the_command_writes_beside_the_study_and_says_where(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"wrote {study / 'report.html'} (")
    first = (study / "report.html").read_bytes()
    assert main(["report", str(study), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file"] == str(study / "report.html")
    assert document["size_bytes"] == len(first) < 300_000
    assert [(found["budget"], found["verdict"]) for found in document["verdicts"]] == [("tests", "met")]
    assert document["missing"] == []
    assert (study / "report.html").read_bytes() == first, "the same files give another page"


def test_the_function_does_what_the_command_does(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = report(str(study), out=tmp_path)
    assert result.file == str(tmp_path / "report.html")
    assert result.size_bytes == (tmp_path / "report.html").stat().st_size
    assert [found.goal for found in result.verdicts] == ["tests"]
    assert (result.differences, result.missing) == ((), ())
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ConfigError, match="There is nothing to report"):
        report()


def test_only_reports_are_overwritten(study: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>mine")
    with pytest.raises(StorageError, match=r"page\.html exists already and is no report"):
        report(study, out=page)
    assert page.read_text() == "<p>mine"
    page.unlink()
    assert report(study, out=page) == report(study, out=page)


def test_verdict_and_clauses_stand_on_top(study: Path, page: Page) -> None:
    verdict = json.loads((study / "verdict.json").read_text())
    top, _, _ = page.text.partition("Target The")
    for clause in verdict["clauses"]:
        assert clause["sentence"] in top
    assert top.index("✓ met tests") < top.index(verdict["clauses"][0]["sentence"])


@pytest.mark.parametrize(("of", "words"), [("final", ""), ("last3", " as mean of the last three epochs")])
def test_the_target_says_of_which_epochs(study: Path, of: Literal["final", "last3"], words: str) -> None:
    budget = Budget("course", min_accuracy=0.994, accuracy_of=of)
    clause = accuracy_clause(budget, mean=0.995, lower_bound=0.9945, n=5, data="mnist", split="test")
    assert clause is not None
    verdict = Verdict(budget="course", wording="course", verdict="met", reason="", clauses=(clause,))
    source = replace(read_source(study), verdicts=(verdict,))
    assert target_sentences(source) == [f"course: accuracy at least 99.40 %{words}."]


def test_figures_are_those_of_the_files(study: Path, page: Page) -> None:
    document = json.loads((study / "study.json").read_text())
    final = document["final"]
    assert f"Mean accuracy{100 * final['mean']:.3f} %" in page.text
    assert f"95 % lower bound{100 * final['lower_bound']:.3f} %" in page.text
    for run in document["runs"]:
        cells = "".join(f"{100 * run[key]:.2f} %" for key in ("accuracy", "accuracy_last3", "accuracy_best"))
        assert f"{run['seed']}{cells}" in page.text
    assert f"temperature{document['calibration']['temperature']:.3f}" in page.text


def test_all_sections_are_there_and_none_is_missing(page: Page) -> None:
    titles = [
        "Target, result, analysis", "Training", "Digit by digit", "Mistakes", "Where it looks", "Calibration",
        "Network", "Recipe", "Environment and command",
    ]  # fmt: skip
    for title in titles:
        assert page.text.count(title) >= 2, title  # the link, and the heading
    assert "Not shown" not in page.text
    keys = {attributes["id"] for attributes in page.all("section")}
    assert {f"#{key}" for key in keys} == {a["href"] for a in page.all("a")} - {"#content"}


def test_target_result_analysis_are_filled_in(study: Path, page: Page) -> None:
    assert "tests: at most 8,000 parameters, batch norm forbidden, accuracy at least 60.00 %." in page.text
    assert "tests is met: 3 of 3 clauses met." in page.text
    predictions = predictions_of(study)
    some, everyone = int((~predictions.correct).any(axis=0).sum()), int((~predictions.correct).all(axis=0).sum())
    assert (
        f"{some} of {len(predictions.labels)} digits are misclassified by some seed, {everyone} by all 3" in page.text
    )
    assert "The hardest digit is the" in page.text
    assert "calibration error (ECE)" in page.text


def test_the_confusion_of_all_seeds_is_their_sum(study: Path) -> None:
    predictions = predictions_of(study)
    each = []
    for seed, predicted in enumerate(predictions.predictions):
        probabilities = np.eye(10, dtype=np.float32)[predicted]
        one = Evaluation(predictions.labels, probabilities)
        result = json.loads((study / f"runs/seed-{seed:03d}/result.json").read_text())
        assert one.accuracy == pytest.approx(result["accuracy"])
        each.append(one.confusion)
    assert np.array_equal(predictions.confusion, sum(each))
    wrong = {row.digit: row.errors for row in predictions.per_digit}
    assert wrong == {d: int(predictions.confusion[d].sum() - predictions.confusion[d, d]) for d in range(10)}
    assert sum(row.seeds for row in predictions.misclassified({})) == sum(wrong.values())
    assert sum(found.count for found in predictions.reliability(calibrated=True)) == predictions.correct.size


def test_mistakes_are_ordered_and_those_in_doubt_marked(study: Path) -> None:
    predictions = predictions_of(study)
    rows = predictions.misclassified({})
    keys = [(-row.seeds, -row.confidence) for row in rows]
    assert keys == sorted(keys)
    assert all(row.label != row.predicted for row in rows)
    marked = predictions.misclassified({rows[3].index: "reviewers say 4"})[3]
    assert marked == structs.replace(rows[3], label_error="reviewers say 4")


def test_every_layer_has_its_row(page: Page) -> None:
    for row in ("1Conv2d3×3 s28×13×1380", "6Linear105,7705,760"):
        assert row in page.text
    assert "total7,018" in page.text
    assert "Field: receptive field" in page.text


def test_pictures_have_words_and_tables_captions(page: Page) -> None:
    images = page.all("img")
    assert all("alt" in image for image in images)
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in images)
    heats = [image for image in images if image["class"] == "heat"]
    assert all(image["alt"] == "" for image in heats)  # the digit below says it
    explained = [image for image in images if "what speaks for" in str(image["alt"])]
    assert len(explained) == len(heats) > 10
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(svg.get("aria-label") for svg in page.all("svg") if svg.get("role") == "img")


def test_headings_go_down_one_by_one(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_page_holds_all_it_shows_and_runs_nothing(page: Page) -> None:
    assert not page.all("script")
    assert not page.all("iframe")
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:"))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'; style-src 'sha256-")


def test_names_and_paths_are_escaped(tmp_path: Path) -> None:
    study = small_study(tmp_path / HOSTILE, f"study {HOSTILE}", seeds=1, calibration_run=False)
    found = reported(study, tmp_path / "page.html")
    assert HOSTILE in found.text
    assert not any(image.get("src") == "x" for image in found.all("img"))
    assert not any("onerror" in attributes for _, attributes in found.elements)
    page = reported(study, study / "runs" / "seed-000", tmp_path / "both.html")
    assert HOSTILE in page.text
    assert not any("onerror" in attributes for _, attributes in page.elements)


def test_texts_from_files_are_escaped(study: Path, tmp_path: Path) -> None:
    environment = json.loads((study / "study.json").read_text())["environment"]
    environment |= {"packages": {HOSTILE: HOSTILE}, "processor": HOSTILE, "command": HOSTILE}
    other = copied(study, tmp_path / "study", warning=HOSTILE, environment=environment)
    verdict = json.loads((other / "verdict.json").read_text())
    verdict["budget"], verdict["clauses"][0]["sentence"] = HOSTILE, HOSTILE
    (other / "verdict.json").write_text(json.dumps(verdict))
    found = reported(other, tmp_path / "page.html")
    assert found.text.count(HOSTILE) >= 7
    assert not any("onerror" in attributes for _, attributes in found.elements)


def test_tags_escape_what_is_not_made_by_tags() -> None:
    assert tag("p", "a < b & c", tag("b", "5 %"), title='"') == '<p title="&quot;">a &lt; b &amp; c<b>5\u00a0%</b></p>'
    assert tag("td", None, class_=None, hidden=True, width=1.25) == '<td hidden width="1.25"></td>'
    assert tag("img", src="x", alt="") == '<img src="x" alt="">'


def test_a_run_reports_itself(study: Path, tmp_path: Path) -> None:
    run = study / "runs" / "seed-001"
    found = reported(run, tmp_path / "page.html")
    result = json.loads((run / "result.json").read_text())
    assert f"A run, seed 1, recipe {RECIPE.name}" in found.text
    assert f"Accuracy{100 * result['accuracy']:.2f} %" in found.text
    assert "Final epoch, seed by seed" not in found.text
    assert "No temperature and no threshold were fitted" in found.text
    assert "One seed shows the result of one training" in found.text
    assert "tinydigits train" in found.text


def test_a_run_of_ones_own_network_has_no_command(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    config = RunConfig("plain-9k", replace(RECIPE, epochs=1), data="optdigits", device="cpu")
    train(config, tmp_path / "run", model=network, custom=Custom(augment=lambda images: images))
    found = reported(tmp_path / "run", tmp_path / "page.html")
    assert "Trained from Python with model, augment of your own, so no command repeats it." in found.text
    assert "Sequential is a network from Python code that is not recorded, so its layers are not shown." in found.text
    assert "The augmentation is Python code that is not recorded." in found.text
    assert "tinydigits train" not in found.text
    assert "Accuracy by digit" in found.text


def test_a_run_of_one_epoch_is_drawn_batch_by_batch(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    train(RunConfig("plain-9k", recipe, data="optdigits", device="cpu"), tmp_path / "run")
    (loss,) = read_source(tmp_path / "run").losses
    lines = (tmp_path / "run" / "batches.jsonl").read_text().splitlines()
    assert 30 <= len(loss) <= 48
    assert 0 < loss[0][0] < 0.05
    assert 0.95 < loss[-1][0] < 1
    assert np.mean([y for _, y in loss]) == pytest.approx(
        np.mean([json.loads(line)["loss"] for line in lines]), rel=0.1
    )
    found = reported(tmp_path / "run", tmp_path / "page.html")
    assert "Training loss" in found.text
    assert "Accuracy by epoch" not in found.text


def test_a_summary_alone_says_what_it_lacks(study: Path, tmp_path: Path) -> None:
    record = read_record(study / "study.json", StudyResult, "")
    verdict = read_record(study / "verdict.json", ProofResult, "")
    proof = ProofFile(command="tinydigits prove it", study=record, verdicts=(verdict, verdict))
    write_record(tmp_path / "proof.json", proof)
    found = reported(tmp_path / "proof.json", tmp_path / "page.html")
    assert "proof is a summary without its run directories" in found.text
    assert "Accuracy by epoch" in found.text
    assert "tinydigits prove it" in found.text
    assert found.text.count("3 of 3 clauses met") == 2
    write_record(tmp_path / "renamed.json", record)
    assert "Mean accuracy" in reported(tmp_path / "renamed.json", tmp_path / "page.html").text
    result = report(tmp_path / "proof.json", out=tmp_path / "page.html")
    assert {part.part for part in result.missing} == {"predictions", "explanations"}
    assert len(result.verdicts) == 2


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "proofs").glob("*.json")), ids=lambda path: path.stem)
def test_committed_proofs_are_read(path: Path) -> None:
    source = read_source(path)
    document = json.loads(path.read_text())
    assert source.result.final.mean == document["study"]["final"]["mean"]
    assert [found.verdict for found in source.verdicts] == [
        verdict["verdict"] for verdict in document["verdicts"] if verdict["budget"]
    ]


def _without(*names: str) -> Callable[[Path], None]:
    def remove(study: Path) -> None:
        for name in names:
            for found in study.rglob(name):
                found.unlink()

    return remove


@pytest.mark.parametrize(
    ("change", "gone", "kept"),
    [
        (_without("predictions.safetensors"), "predictions.safetensors cannot be read", "Layers of the network"),
        (_without("model.safetensors"), "no model.safetensors", "Accuracy by digit"),
        (_without("metrics.jsonl", "environment.json"), None, "Accuracy by epoch"),
        (_without("verdict.json"), "No budget was given", "Accuracy by digit"),
    ],
)
def test_what_is_missing_leaves_a_line(
    study: Path, tmp_path: Path, change: Callable[[Path], None], gone: str | None, kept: str
) -> None:
    shutil.copytree(study, tmp_path / "study")
    change(tmp_path / "study")
    found = reported(tmp_path / "study", tmp_path / "page.html")
    assert kept in found.text
    assert gone is None or gone in found.text


def test_a_changed_network_is_not_shown_as_the_trained_one(study: Path, tmp_path: Path) -> None:
    network = study.parent / "net.py"
    before = network.read_text()
    try:
        network.write_text(before.replace("8", "9"))
        found = reported(study, tmp_path / "page.html")
        assert "has changed since this training, so its layers are not shown" in found.text
        network.unlink()
        found = reported(study, tmp_path / "page.html")
        assert "Not shown:" in found.text
        assert "Accuracy by digit" in found.text
    finally:
        network.write_text(before)


def test_other_digits_are_not_shown_as_the_evaluated_ones(study: Path, tmp_path: Path) -> None:
    other = copied(study, tmp_path / "study", evaluation_sha256="0" * 64)
    found = reported(other, tmp_path / "page.html")
    assert "The available digits of optdigits are not those it was evaluated on" in found.text
    assert "Accuracy by digit" in found.text


def test_mnist_that_is_not_there_is_not_downloaded(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINYDIGITS_DATA", raising=False)
    other = copied(study, tmp_path / "study", data="mnist")
    started = time.monotonic()
    found = reported(other, tmp_path / "page.html")
    assert "MNIST is not on this machine" in found.text
    assert time.monotonic() - started < 30


BROKEN: dict[str, Any] = {
    "no JSON": "{",
    "no text": b"\xff\xfe\x00",
    "a list": [],
    "nested too deep": "[" * 100_000,
    "empty": {},
    "foreign": {"schema": 1, "kind": "study", "name": "a card of another program"},
}
VALUES: dict[str, Any] = {
    "final": [3, {"mean": "high", "sd": None, "lower_bound": None}, {"mean": 99.6, "sd": 0.1, "lower_bound": 99.5}],
    "runs": [7, [], [{}], [{"seed": "0"}]],
    "interval": [[0.5], "ab", None, [0.5, 1.5]],
    "config": [None, [], {"model": 3}, {"model": "plain-9k", "recipe": "fast", "flips": True}],
    "calibration": [3, {}, {"temperature": -1}],
    "environment": [[1, 2], "text"],
    "parameters": [None, -1, 0.5],
    "schema": [2],
    "split": ["final"],
    "warning": [{}],
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(
    "file", ["study.json", "verdict.json", "runs/seed-000/result.json", "runs/seed-000/metrics.jsonl"]
)
def test_broken_and_foreign_json_is_a_sentence(
    study: Path, tmp_path: Path, file: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(study, tmp_path / "study")
    content = BROKEN[name]
    raw = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    (tmp_path / "study" / file).write_bytes(raw)
    target = tmp_path / "study" / "runs" / "seed-000" if file.startswith("runs") else tmp_path / "study"
    assert main(["report", str(target)]) == 2
    assert_a_sentence(capsys.readouterr().err)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in VALUES.items() for value in values])
def test_a_value_of_the_wrong_kind_is_a_sentence(study: Path, tmp_path: Path, key: str, value: object) -> None:
    document = json.loads((study / "study.json").read_text())
    path = tmp_path / "study.json"
    path.write_text(json.dumps({**document, key: value}))
    with pytest.raises(TinydigitsError) as stop:
        read_source(path)
    assert stop.value.exit_code == 2
    assert "study.json" in str(stop.value)


def assert_a_sentence(text: str) -> None:
    assert text.startswith("tinydigits report: ")
    assert text.count("\n") == 1
    assert text.rstrip().endswith(".")
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["."], "no run directory"),
        (["a.txt"], "no valid JSON"),
        (["{study}", "--out", "nowhere/page.html"], "there is no directory nowhere"),
        (["{study}"] * 13, "at most 12"),
    ],
)
def test_what_cannot_be_reported_is_a_sentence(
    study: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("hello")
    assert main(["report", *(argument.format(study=study) for argument in arguments)]) == 2
    found = capsys.readouterr().err
    assert_a_sentence(found)
    assert words in found


def test_an_unfinished_run_is_a_sentence(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(study / "runs" / "seed-000", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.fixture(scope="module")
def poorer(place: Path) -> Path:
    return small_study(place, "poorer", learning_rate=0.0001, calibration_run=False)


def test_the_comparison_says_what_compare_says(
    study: Path, poorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = reported(poorer, study, tmp_path / "page.html")
    document = compare(study, poorer)
    low, high = document.interval
    assert "▲ better B (study) is better than A (poorer)" in found.text
    assert f"Difference {100 * document.difference:+.3f} points" in found.text
    assert f"interval {100 * low:+.3f} to {100 * high:+.3f}" in found.text
    pair = document.seed_0
    assert f"{pair.only_first} correct only here, {pair.only_second} only in A" in found.text
    assert "Settings in which the recipes differ" in found.text
    assert "learning rate0.00010.01" in found.text
    assert "The first 48 of" in found.text
    reverse = reported(study, poorer, tmp_path / "page.html")
    assert "▼ worse B (poorer) is worse than A (study)" in reverse.text
    capsys.readouterr()
    assert main(["report", str(study), str(poorer), "--out", str(tmp_path / "c.html"), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert [(row["source"], row["baseline"]) for row in written["differences"]] == [(str(poorer), str(study))]
    assert written["differences"][0]["difference"] == pytest.approx(-document.difference)


def test_runs_and_studies_can_be_mixed(study: Path, poorer: Path, tmp_path: Path) -> None:
    found = reported(study, poorer, study / "runs" / "seed-000", tmp_path / "page.html")
    assert "3 runs and studies on the test digits of optdigits" in found.text
    assert "No difference is shown between C (seed-000) and A (study)." in found.text
    assert "With fewer than 3 seeds a side" in found.text
    assert "Each comparison is at 95 % on its own" in found.text


def test_the_same_twice_differs_in_nothing(study: Path, tmp_path: Path) -> None:
    found = reported(study, study, tmp_path / "page.html")
    assert "– undecided No difference is shown between B (study) and A (study)." in found.text
    assert "There are none: every digit is classified correctly by the same fraction of seeds." in found.text
    assert "None: the recipes are the same." in found.text


def test_a_comparison_without_predictions_says_so(study: Path, tmp_path: Path) -> None:
    other = copied(study, tmp_path / "study")
    (other / "runs" / "seed-001" / "predictions.safetensors").unlink()
    found = reported(study, other, tmp_path / "page.html")
    assert "Not shown: the paired test." in found.text
    assert "Figures of each" in found.text
    assert "Accuracy by epoch" in found.text


def test_different_digits_are_not_compared(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copied(study, tmp_path / "study", evaluation_sha256="0" * 64)
    assert main(["report", str(study), str(other)]) == 2
    assert "these are different digits" in capsys.readouterr().err


def test_twenty_seeds_on_mnist_are_quick_and_small(mnist: DigitData, tmp_path: Path) -> None:
    """In processor time, which other work on the machine does not lengthen."""
    study = large_study(tmp_path / "study", mnist)
    started = time.process_time()
    found = reported(study, tmp_path / "page.html")
    assert time.process_time() - started < 10
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
    assert "A study of 20 seeds" in found.text
    assert "reviewers say" in found.text
    assert "Not shown" not in found.text
    assert "No budget was given, so there is no verdict." in found.text


def test_reports_load_no_torch() -> None:
    probe = "import tinydigits.reports.html, tinydigits.reports.comparison, sys\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 20, [5, 10, 15, 20]), (-0.003, 0.004, [-0.002, 0, 0.002, 0.004])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_charts_of_equal_values_have_a_range() -> None:
    low, high = charts.zoom([1.0, 1.0])
    assert low < 1 < high
    assert charts.dots_chart([[0.5, 0.5]], charts.zoom([0.5]), "equal", target=0.5, x_axis="seeds")
    pair = PairedTest(only_first=0, only_second=0, p=1.0)
    none = Difference(difference=0.0, interval=(0.0, 0.0), p_seeds=None, seed_0=pair, seeds_needed=None)
    assert charts.interval_chart([none], "no difference")
    flat = charts.Frame((0.0, 1.0), (0.3, 0.3))
    assert charts.loss_chart([charts.Polyline([(0.0, 0.3), (1.0, 0.3)], "c0")], flat, "flat")


def test_a_heat_map_is_as_strong_as_its_values() -> None:
    weak, strong = (heat_picture(np.full((28, 28), value, np.float32)) for value in (0.0, 1.0))
    assert weak != strong


@pytest.fixture(autouse=True)
def _no_files_left_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
