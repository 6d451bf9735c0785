import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from tinydigits.cli import evaluate
from tinydigits.data.dataset import DigitData
from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError, RunError, StorageError, WeightsError
from tinydigits.models.factory import create_model
from tinydigits.models.weights import save_weights
from tinydigits.records import Card, Environment, RunResult, write_record

FILES = ["confusion.png", "evaluation.json", "mistakes.png"]


@pytest.fixture(scope="module")
def data() -> DigitData:
    return load_dataset("optdigits")


@pytest.fixture
def card(data: DigitData) -> Card:
    return Card(
        model="plain-9k",
        mean=0.1,
        std=0.3,
        data="optdigits",
        data_sha256=data.train.sha256,
        split="test",
        recipe_name="fast",
        recipe={},
        seed=0,
        epochs=3,
        accuracy=0.5,
        chosen="not trained at all",
        command="none",
        environment=Environment(python="3", packages={}, platform="", processor="", cores=1, threads=1),
    )


@pytest.fixture
def weights(tmp_path: Path, card: Card) -> Path:
    """An untrained network on disk: its answers are poor, but they are answers."""
    return save(tmp_path / "plain.safetensors", card)


@pytest.fixture
def run_directory(tmp_path: Path, card: Card) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    save(directory / "model.safetensors", card)
    result = RunResult(
        model="plain-9k",
        data="optdigits",
        data_sha256="",
        evaluation_sha256="",
        code_sha256=None,
        warning=None,
        split="test",
        backend="torch",
        recipe="fast",
        seed=0,
        epochs=3,
        accuracy=0.9811,
        interval=(0.97, 0.99),
        accuracy_last3=0.9722,
        accuracy_best=0.9933,
        parameters=9032,
        time_seconds=1.0,
        images_per_second=1000.0,
        run_dir=str(directory),
    )
    write_record(directory / "result.json", result)
    return directory


def save(path: Path, card: Card) -> Path:
    torch.manual_seed(0)
    save_weights(path, create_model(card.model), card)
    return path


def call(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return evaluate.run(parser.parse_args([str(word) for word in words]))


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    loaded = json.loads(capsys.readouterr().out)
    assert isinstance(loaded, dict)
    return loaded


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_json_is_one_document_with_the_stable_keys(
    weights: Path, data: DigitData, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(weights, "--data", "optdigits", "--json") == 0
    found = document(capsys)
    assert {"model", "data", "accuracy", "correct", "total", "interval", "confusion"} <= found.keys()
    assert {"split", "warning", "per_digit", "mistakes", "run"} <= found.keys()
    assert (found["model"], found["data"], found["split"]) == ("plain-9k", "optdigits", "test")
    assert (found["warning"], found["run"]) == (None, None)
    assert found["total"] == len(data.test)
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_digits_of_the_protocol_are_judged_with_the_normalisation_of_the_card(
    weights: Path, data: DigitData, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = create_model("plain-9k").eval()
    digits = data.test if split == "test" else data.train.take(data.validation, "validation")
    with torch.no_grad():
        predicted = model(Normalization(0.1, 0.3).array(digits.images)).argmax(dim=1).numpy()
    call(weights, "--data", "optdigits", "--split", split, "--json")
    found = document(capsys)
    assert found["correct"] == int((predicted == digits.labels).sum())
    assert found["total"] == len(digits)
    for mistake in found["mistakes"]:
        assert digits.labels[mistake["index"]] == mistake["label"] != mistake["predicted"]
        assert predicted[mistake["index"]] == mistake["predicted"]


def test_a_person_reads_accuracy_interval_digits_confusion_and_mistakes(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(weights, "--data", "optdigits")
    shown = capsys.readouterr().out
    for words in ("plain-9k on the test digits of optdigits", "95 % interval", "Per digit", "Confusion"):
        assert words in shown
    assert "Worst mistakes" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_a_file_of_weights_leaves_nothing_behind_unless_asked(weights: Path, tmp_path: Path) -> None:
    before = names(tmp_path)
    call(weights, "--data", "optdigits", "--json")
    assert names(tmp_path) == before


def test_out_gets_two_pictures_and_the_same_json(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "place"
    call(weights, "--data", "optdigits", "--json", "--out", out)
    assert names(out) == FILES
    assert json.loads((out / "evaluation.json").read_text()) == document(capsys)


def test_a_run_directory_gets_the_files_and_its_own_figures_stay_apart(
    run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(run_directory)
    call(run_directory, "--data", "optdigits")
    shown = capsys.readouterr().out
    for label, figure in (
        ("final epoch", "98.11 %"),
        ("mean of the last three epochs", "97.22 %"),
        ("best on test digits (optimistic)", "99.33 %"),
    ):
        line = next(line for line in shown.splitlines() if label in line)
        assert line.endswith(figure) or figure in line
    assert names(run_directory) == sorted([*before, *FILES])


def test_a_run_directory_stays_as_it_is_when_out_is_named(run_directory: Path, tmp_path: Path) -> None:
    before = names(run_directory)
    call(run_directory, "--data", "optdigits", "--json", "--out", tmp_path / "elsewhere")
    assert names(run_directory) == before
    assert names(tmp_path / "elsewhere") == FILES


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "is damaged, no valid JSON"),
        ("[]", "expected `object`, got `array`"),
        ('{"accuracy": 0.9}', "missing required field `model`"),
        ('{"accuracy": 1.5}', "missing required field|accuracy"),
    ],
)
def test_a_damaged_result_is_a_sentence(run_directory: Path, content: str, fault: str) -> None:
    (run_directory / "result.json").write_text(content)
    with pytest.raises(RunError, match=rf"result\.json.*({fault}).*or train again"):
        call(run_directory, "--data", "optdigits")


def test_a_fallback_is_said_loudly_and_stands_in_the_json(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TINYDIGITS_DATA", raising=False)
    call(weights, "--json")
    captured = capsys.readouterr()
    warning = json.loads(captured.out)["warning"]
    assert "MNIST" in warning
    assert "optdigits" in warning
    assert "Warning: " in captured.err


@pytest.mark.parametrize(
    ("change", "split", "words"),
    [
        ({"data": "mnist"}, "test", "trained on mnist, and are evaluated on optdigits"),
        ({"data_sha256": "0" * 64}, "test", "optdigits has changed since the training"),
        ({}, "val", "trained on the validation digits too"),
    ],
)
def test_what_makes_the_figure_mean_less_is_said(
    tmp_path: Path,
    card: Card,
    change: dict[str, str],
    split: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save(tmp_path / "other.safetensors", replace(card, **change))
    call(path, "--data", "optdigits", "--split", split, "--json")
    captured = capsys.readouterr()
    assert words in json.loads(captured.out)["warning"]
    assert words in captured.err


def test_bad_input_is_a_typed_error_and_leaves_nothing_behind(weights: Path, tmp_path: Path) -> None:
    before = names(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(WeightsError):
        call(tmp_path / "absent.safetensors", "--data", "optdigits", "--out", out)
    with pytest.raises(ConfigError, match="'fish'"):
        call(weights, "--data", "fish", "--out", out)
    with pytest.raises(ConfigError, match="--threads 0"):
        call(weights, "--data", "optdigits", "--threads", "0", "--out", out)
    with pytest.raises(StorageError, match=r"plain\.json exists already"):
        call(weights, "--data", "optdigits", "--out", weights.with_suffix(".json"))
    assert names(tmp_path) == before


def test_importing_the_command_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'rich', 'scipy', 'matplotlib'}"
    program = f"import sys, tinydigits.cli.evaluate; print({heavy} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"
