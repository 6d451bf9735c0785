"""`tinydigits export`: the files, parity.json beside them, and what can go wrong."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tinydigits.cli.main import main

EXPORT = ["export", "tiny-10k", "--data", "optdigits"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_c_is_written_and_proved(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXPORT, "--to", "c", "--int8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parity"]["verdict"] == "passed"
    assert document["parity"]["logits"]["bit_exact"] is True
    directory = here / "exports" / "tiny-10k-c-int8"
    assert {Path(file).parent for file in document["files"]} == {Path("exports/tiny-10k-c-int8")}
    assert json.loads((directory / "parity.json").read_text()) == document["parity"]
    assert document["parity"]["digits"]["data"] == "optdigits-test"


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
def test_the_summary_is_for_people(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXPORT, "--to", "html", "--out", "page"]) == 0
    shown = capsys.readouterr().out
    assert "page/tiny-10k.html" in shown
    assert "Parity: passed" in shown
    assert "Logits differ by at most" in shown
    assert "prepared to the same bytes" in shown


def test_without_a_compiler_nothing_is_claimed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty").mkdir()
    monkeypatch.setenv("PATH", str(here / "empty"))
    monkeypatch.setenv("CC", "")
    command = [*EXPORT, "--to", "c"]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "Parity: not run" in shown
    assert "No C compiler" in shown
    parity = json.loads((here / "exports" / "tiny-10k-c" / "parity.json").read_text())
    assert parity["verdict"] == "not run"
    assert main([*command, "--allow-unproven"]) == 0


def test_an_old_parity_does_not_outlive_its_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    (here / "out" / "parity.json").write_text("{}")
    (here / "out" / "tiny-10k.onnx").mkdir()  # in the way
    assert main([*EXPORT, "--to", "onnx", "--out", "out"]) == 2
    assert not (here / "out" / "parity.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export", "plain-11k", "--to", "c"], "is no model of the zoo"),
        (["export", "net.py:Net", "--to", "c"], "is a network without weights"),
        (["export", "plain-9k+padding=1", "--to", "c"], "no weights are shipped for it"),
        ([*EXPORT, "--to", "c", "--out", "file/below"], "cannot be written to"),
    ],
)
def test_bad_input_is_a_sentence(
    arguments: list[str], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(sentence, error), error


def test_a_format_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", "tiny-10k"])
    assert stop.value.code == 2
    assert "--to" in capsys.readouterr().err
