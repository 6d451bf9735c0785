"""`tinydigits audit`: a student's own report, a study, what is printed, and all that can be wrong with the input."""

import json
from pathlib import Path
from typing import Any

import pytest

import tinydigits
from tinydigits.cli.main import main
from tinydigits.records import encode

REPOSITORY = Path(__file__).parents[2]
NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8), nn.MaxPool2d(2, 2),
            nn.Conv2d(8, 16, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Conv2d(16, 10, 1), nn.AvgPool2d(4), nn.Flatten(),
        )
"""
REPORT = """
source = "report.pdf, page 3"
parameters = 1_418
receptive_field = 22
batch_norm = true
global_pooling = true

[[layer]]
number = 4
output = "14×14"
receptive_field = 5
jump = 2

[[layer]]
number = 5
output = [16, 12, 12]
parameters = 1_168
"""


@pytest.fixture(autouse=True)
def _students_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("net.py").write_text(NET)
    Path("reported.toml").write_text(REPORT)


def audited(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["audit", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["audit", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def write_study(directory: str, **changes: Any) -> None:
    """The real study of plain-9k that is kept with the project, changed where a test needs another."""
    study = json.loads((REPOSITORY / "results/proofs/plain-9k-documented-plain-9k.json").read_text())["study"]
    Path(directory).mkdir()
    Path(directory, "study.json").write_text(json.dumps(study | changes))


def test_json_has_the_agreed_keys_and_a_student_sees_right_from_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = audited(capsys, "net.py:Net", "--reported", "reported.toml")
    assert code == 1
    assert list(document) == [
        "model", "source", "wording", "lines", "findings", "notes", "agreeing", "contradicted", "not_checked",
    ]  # fmt: skip
    assert (document["model"], document["source"]) == ("net.py:Net", "report.pdf, page 3")
    assert all(list(line) == ["what", "reported", "measured", "verdict", "why"] for line in document["lines"])
    assert [line["what"] for line in document["lines"] if line["verdict"] == "contradicted"] == [
        "global pooling", "layer 4 MaxPool2d, receptive field", "layer 5 Conv2d, parameters",
    ]  # fmt: skip
    field = next(line for line in document["lines"] if line["what"] == "layer 4 MaxPool2d, receptive field")
    assert (field["reported"], field["measured"]) == ("5", "4")
    assert field["why"] == "3 + (2 − 1) × 1 = 4; the jump entering the layer is 1, and 2 only after it"
    assert (document["agreeing"], document["contradicted"], document["not_checked"]) == (6, 3, 0)
    assert document["findings"] == ["Layer 9: AvgPool2d(4) sees 16 of 36 positions: it is not a global pool."]
    assert document["notes"] == []


def test_the_function_returns_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    write_study("study")
    for words in (["plain-9k"], ["net.py:Net", "--reported", "reported.toml"], ["plain-9k", "--study", "study"]):
        options = {words[i].removeprefix("--"): words[i + 1] for i in range(1, len(words), 2)}
        assert audited(capsys, *words)[1] == json.loads(encode(tinydigits.audit(words[0], **options)))
        assert not capsys.readouterr().out


def test_the_exit_code_is_0_where_nothing_is_contradicted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("reported.toml").write_text("parameters = 1_418\naccuracy = 0.98\nepochs = 5\n")
    code, document = audited(capsys, "net.py:Net", "--reported", "reported.toml")
    assert (code, document["contradicted"], document["not_checked"]) == (0, 0, 2)
    assert document["source"] == "reported.toml"
    assert "`tinydigits prove net.py:Net --epochs 5`, then --study DIR" in document["lines"][0]["why"]
    assert (
        audited(capsys, "layered-19k", "--reported", "reported.toml")[0] == 1
    )  # what the file reports, not the document


@pytest.mark.parametrize(
    ("model", "structural"),
    [("pooled-16k", 1), ("blocks_19k", 1), ("layered-19k", 0), ("bottleneck-9k", 15), ("plain-9k", 6)],
)
def test_documents_exit_alike(model: str, structural: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = audited(capsys, model)
    accuracy = sum(x["what"] == "accuracy" and x["verdict"] == "contradicted" for x in document["lines"])
    assert document["contradicted"] == structural + accuracy  # shipped weights bring a study
    assert code == bool(document["contradicted"])


@pytest.mark.parametrize(
    ("model", "interval", "needed"),
    [
        ("blocks-19k", "99.23–99.53 %", "9,953"),
        ("layered-19k", "99.28–99.58 %", "9,958"),
        ("bottleneck-9k", "99.23–99.53 %", "9,953"),
        ("plain-9k", "97.14–97.76 %", "9,773"),
    ],
)
def test_what_a_test_set_can_carry_is_said(
    model: str, interval: str, needed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = audited(capsys, model)[1]["findings"][-1]
    assert f"95 % interval of {interval} (Wilson)" in sentence
    assert sentence.endswith(f"one-sided confidence takes at least {needed} correct.")


@pytest.mark.parametrize(
    ("accuracy", "sentence"),
    [("1", "No number of correct digits among 10,000 shows a true accuracy"), ("0", "takes at least 0 correct.")],
)
def test_the_ends_of_the_scale_are_told_too(accuracy: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("reported.toml").write_text(f"accuracy = {accuracy}\n")
    assert sentence in audited(capsys, "net.py:Net", "--reported", "reported.toml")[1]["findings"][-1]


def test_the_example_in_the_docs_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = audited(capsys, "pyramid-9k", "--reported", str(REPOSITORY / "docs" / "reported.toml"))
    assert (code, document["agreeing"]) == (0, len(document["lines"]))
    accuracy = document["lines"][0]
    assert accuracy["why"].startswith("study of the shipped weights, recipe fast: accuracy 99.")


def test_a_variant_has_no_document_and_takes_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no document describes it" in refusal(capsys, "plain-9k+batch-norm")
    Path("reported.toml").write_text("batch_norm = true\n")
    assert audited(capsys, "plain-9k+batch-norm", "--reported", "reported.toml")[0] == 0


def test_a_study_contradicts_a_lucky_seed(capsys: pytest.CaptureFixture[str]) -> None:
    write_study("study")
    accuracy, epochs = audited(capsys, "plain-9k", "--study", "study")[1]["lines"][:2]
    mean = f"{100 * json.loads(Path('study/study.json').read_text())['final']['mean']:.3f}".removesuffix("0") + " %"
    assert (accuracy["reported"], accuracy["measured"]) == ("at least 97.47 %", mean)
    assert accuracy["verdict"] == "contradicted"
    assert accuracy["why"].startswith(f"study, recipe documented-plain-9k: accuracy {mean}, mean of 8 runs")
    assert (epochs["measured"], epochs["verdict"]) == ("1", "agrees")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "tiny-10k"}, "study is a study of tiny-10k, not of plain-9k. Name one of plain-9k, or make it"),
        ({"parameters": 9_031}, "plain-9k has changed since that study"),
        ({"final": {"mean": None, "lower_bound": None}}, "study/study.json: final.mean: expected `float`, got `null`"),
        ({"final": []}, "study/study.json: final: expected `object`, got `array`. Run `tinydigits prove` again."),
        ({"final": {"mean": 97.1, "lower_bound": None}}, "study/study.json: final.mean: expected `float` <= 1.0"),
        ({"epochs": None}, "study/study.json: epochs: expected `int`, got `null`"),
        ({"schema": 0}, "its schema is 0, and this version reads 1"),
    ],
)
def test_a_study_that_does_not_fit_is_a_sentence(
    changes: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study("study", **changes)
    assert sentence in refusal(capsys, "plain-9k", "--study", "study")


def test_a_study_of_code_that_has_changed_since_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("reported.toml").write_text("accuracy = 0.5\n")
    write_study("study", model="net.py:Net", parameters=1_418, data="optdigits")
    words = ["net.py:Net", "--reported", "reported.toml", "--study", "study"]
    assert "study/runs/seed-000/result.json cannot be read" in refusal(capsys, *words)
    run = ["--data", "optdigits", "--epochs", "1", "--threads", "1", "--out", "study/runs/seed-000", "--quiet"]
    assert main(["train", "net.py:Net", *run]) == 0
    capsys.readouterr()
    accuracy = audited(capsys, *words)[1]["lines"][0]
    assert accuracy["verdict"] == "not checked"
    assert "digits of optdigits" in accuracy["why"]
    Path("net.py").write_text(NET.replace("nn.ReLU()", "nn.Tanh()"))  # the same parameters
    assert "net.py:Net has changed since that study" in refusal(capsys, *words)


def test_no_study_there_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent is no finished study" in refusal(capsys, "plain-9k", "--study", "absent")


@pytest.mark.parametrize("model", ["tiny-10k", "net.py:Net"])
def test_without_document_and_report_there_is_nothing_to_audit(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{model}: no document describes it. Name a file of your own: --reported" in refusal(capsys, model)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "reported.toml reports nothing. Add a line"),
        ('source = "report.pdf"', "reports nothing"),
        ("parameter = 7", "parameter is no setting. Did you mean parameters"),
        ('parameters = "many"', "parameters = 'many': must be a whole number"),
        ("parameters = 1.5", "parameters = 1.5: must be a whole number"),
        ("parameters = true", "parameters = True: must be a whole number"),
        ("parameters = -1", "parameters = -1: must be at least 1"),
        ("epochs = 0", "epochs = 0: must be at least 1"),
        ("total_mb = nan", "total_mb = nan: must be at least 0"),
        ("total_mb = inf", "total_mb = inf: must be at least 0"),
        ("dropout = 1", "dropout = 1: must be true or false"),
        ("accuracy = 99.4", "accuracy = 99.4: this is a fraction; write 0.994."),
        ("accuracy = -0.1", "accuracy = -0.1: must be from 0 to 1.\n"),
        ("accuracy = nan", "accuracy = nan: must be from 0 to 1.\n"),
        ("parameters = ", "reported.toml is not valid TOML"),
        ("layer = 3", "layer must be a list of tables"),
        ("[layer]\nnumber = 1", "layer must be a list of tables"),
        ("layer = [1]", "layer must be a list of tables"),
        ("[[layer]]\nparameters = 80", "layer[1].number is missing"),
        ("[[layer]]\nnumber = 1", "layer[1] says nothing about layer 1"),
        ("[[layer]]\nnumber = 0\njump = 1", "layer[1].number = 0: must be at least 1"),
        ("[[layer]]\nnumber = 1\njump = 0", "layer[1].jump = 0: must be at least 1"),
        ("[[layer]]\nnumber = 1\nparameters = -8", "layer[1].parameters = -8: must be at least 0"),
        ("[[layer]]\nnumber = 11\njump = 1", "reported.toml: layer 11: net.py:Net has 10 layers. Number them as"),
        ("[[layer]]\nnumber = 1\nfield = 3", "layer[1].field is no setting. Did you mean"),
        ("[[layer]]\nnumber = 1\njump = 1\n[[layer]]\nnumber = 1\nparameters = 80", "layer 1 is described twice"),
        ('[[layer]]\nnumber = 1\noutput = "big"', "layer 1: output = 'big': must be the map's size"),
        ('[[layer]]\nnumber = 1\noutput = "1×2×3×4"', "output = '1×2×3×4': must be the map's size"),
        ("[[layer]]\nnumber = 1\noutput = []", "output = '': must be the map's size"),
        ("[[layer]]\nnumber = 1\noutput = [-12, 12]", "output = '-12×12': must be the map's size"),
        ("[[layer]]\nnumber = 1\noutput = [1.5, 2]", "layer[1].output = [1.5, 2]: must be a string"),
    ],
)
def test_a_wrong_report_is_a_sentence(text: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("reported.toml").write_text(text + "\n")
    assert sentence in refusal(capsys, "net.py:Net", "--reported", "reported.toml")


def test_a_report_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.toml cannot be read" in refusal(capsys, "net.py:Net", "--reported", "absent.toml")
    assert "net.py cannot be read" not in refusal(capsys, "net.py:Net", "--reported", "net.py")


@pytest.mark.parametrize(
    ("model", "columns"),
    [("pooled-16k", 80), ("blocks-19k", 80), ("layered-19k", 80), ("bottleneck-9k", 80), ("plain-9k", 120)],
)
def test_lines_keep_to_the_screen_and_their_figures_whole(
    model: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["audit", model])
    shown = capsys.readouterr().out
    table = shown.split("─\n", 1)[1]
    assert all(len(line) <= columns for line in table.splitlines())
    assert "…" not in shown
    assert "contradicted, " in shown
    for line in audited(capsys, model)[1]["lines"]:
        row = next(text for text in table.splitlines() if line["what"][:12] in text and line["reported"] in text)
        assert row.split()[-1] in line["verdict"]


def test_a_reported_name_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Path("reported.toml").write_text('source = "[bold]report[/bold] [3]"\nparameters = 1_418\n')
    assert main(["audit", "net.py:Net", "--reported", "reported.toml"]) == 0
    assert "as reported by [bold]report[/bold] [3]" in capsys.readouterr().out
