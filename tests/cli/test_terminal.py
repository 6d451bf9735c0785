"""What people see in a terminal: narrow ones, those without colour, progress bars, shell completion."""

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from rich.console import Console

from tests.support.records import result, study
from tinydigits.cli.completion import SHELLS
from tinydigits.cli.main import main
from tinydigits.models.registry import list_models
from tinydigits.models.weights import load_card
from tinydigits.records import DigitResult, Mistake, RunResult, StudyResult
from tinydigits.reports import tables
from tinydigits.studies.catalog import list_studies

ROOT = Path(__file__).parents[2]
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
SMALL = ["--data", "optdigits", "--epochs", "1"]
PER_DIGIT = [DigitResult(digit=d, total=1000, correct=990, accuracy=0.99, precision=0.991) for d in range(10)]
CONFUSION = (np.eye(10, dtype=int) * 1001 + 7 * np.eye(10, k=3, dtype=int)).tolist()
MISTAKES = [Mistake(index=9729, label=5, predicted=6, confidence=0.99, label_error="reviewers disagree")]
CARD = load_card(ROOT / "src/tinydigits/weights/tiny-10k.safetensors")
RESULT = replace(msgspec.convert(result(accuracy=0.99), RunResult), time_seconds=9000.0)
STUDY = msgspec.convert(study(0.99), StudyResult)
ROWS = [replace(row, path="studies/a") for row in list_studies([ROOT / "results" / "proofs"]).rows]
ALL: dict[str, Callable[[], Any]] = {
    "per digit": lambda: tables.per_digit_table(PER_DIGIT),
    "confusion": lambda: tables.confusion_table(CONFUSION),
    "mistakes": lambda: tables.mistakes_table(MISTAKES),
    "study": lambda: tables.study_table(STUDY),
    "run": lambda: tables.run_table(RESULT),
    "calibration": lambda: tables.calibration_table(CARD.calibration or pytest.fail("it has none")),
    "studies": lambda: tables.studies_table(ROWS),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("name", sorted(ALL))
def test_no_table_is_cut_off(name: str, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(ALL[name]())
    shown = console.export_text()
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown


def _models(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["models"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(len(line) <= columns for line in shown)
    assert not any("…" in line for line in shown)
    for name in list_models():
        assert any(line.split()[:1] == [name] for line in shown)
    return shown


@pytest.mark.parametrize(
    ("columns", "there", "missing"),
    [
        (40, ["params", "MACs", "proven"], ["interval", "bytes", "target"]),
        (60, ["params", "MACs", "proven", "interval"], ["bytes", "target"]),
        (80, ["params", "MACs", "bytes", "target", "proven", "interval"], []),
    ],
)
def test_models_on_screens_of_all_widths(
    columns: int,
    there: list[str],
    missing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = _models(columns, monkeypatch, capsys)
    table = "\n".join(shown[: shown.index(next(line for line in shown if "era-8k" in line)) + 1])
    assert all(heading in table for heading in there)
    assert not any(heading in table for heading in missing)
    note = " ".join(shown).partition("Too narrow for: ")[2]
    assert all(heading in note for heading in missing)
    assert "99.62 %" in table  # proven
    assert columns < 60 or "99.52–99.72 %" in table


def test_models_json_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "tiny-10k", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["int8_bytes"] == 10_536
    assert row["proven"]["n"] == 10
    assert row["proven"]["mean"] == pytest.approx(0.9962, abs=1e-4)
    assert row["proven"]["interval"][0] < row["proven"]["mean"] < row["proven"]["interval"][1]


def _in_terminal(arguments: list[str], **environment: str) -> str:
    """What `tinydigits` shows in a real terminal, of 80 columns."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "tinydigits", *arguments]
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=variables) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                part = os.read(parent, 4096)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not part:
                break
            shown += part
        os.close(parent)
        assert process.wait() in (0, 1)
    return shown.decode()


def test_no_color_is_respected() -> None:
    arguments = ["inspect", "plain-9k", "--budget", "era-s6"]
    assert COLOUR.search(_in_terminal(arguments))
    assert not COLOUR.search(_in_terminal(arguments, NO_COLOR="1"))


def test_output_that_is_no_terminal_has_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "plain-9k", "--budget", "era-s6"]) == 1
    assert "\x1b" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "run"
    assert main(["train", "plain-9k", *SMALL, "--quiet", "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    ("arguments", "bar"),
    [
        (["train", "plain-9k", *SMALL], "training"),
        (["train", "plain-9k", *SMALL, "--find-lr", "--batch-size", "16"], "learning rates"),
        (["evaluate", "tiny-10k", "--data", "optdigits"], "classifying digits"),
        (["export", "tiny-10k", "--data", "optdigits", "--to", "hub"], "the exported files"),
        (["predict", "pictures", "--json"], "pictures"),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)
def test_what_takes_long_has_a_bar_with_the_time_left(
    arguments: list[str], bar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(tmp_path / "pictures" / f"{i}.png")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.setenv("COLUMNS", "100")
    assert main(arguments) == 0
    shown = capsys.readouterr().err
    assert re.search(rf"{bar}.*[━╸].*(\d:\d\d:\d\d|-:--:--)", shown)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_good_in_its_shell(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "tiny-10k" in script
    assert "era-s6" in script
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"needs {shell}")
    (tmp_path / "script").write_text(script)
    done = subprocess.run([program, "-n", "script"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BASH = """
source ./script
complete_() { COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=(); _shtab_tinydigits; echo "${COMPREPLY[*]}"; }
complete_ tinydigits tr
complete_ tinydigits train pl
complete_ tinydigits train mi
complete_ tinydigits train --recipe fa
complete_ tinydigits export --to h
complete_ tinydigits prove --budget mcu
complete_ tinydigits train --find
complete_ tinydigits evaluate --data o
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_names_paths_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "mine.py").write_text("")
    done = subprocess.run(["bash", "-c", BASH], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "train", "plain-9k", "mine.py", "fast", "html hub", "mcu-tiny", "--find-lr", "optdigits",
    ]  # fmt: skip


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_completes_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    code = "source ./script; complete -C 'tinydigits train pl'; complete -C 'tinydigits export --to o'"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["plain-9k", "onnx"]


def test_an_unknown_shell_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["completion", "tcsh"])
    assert stop.value.code == 2
