"""`tinydigits studies`: what it prints, what it leaves out, and what it says of that."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import proof, result, study, write_run, write_study
from tinydigits.cli import studies
from tinydigits.cli.main import main
from tinydigits.studies.ranking import SORT_KEYS


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three studies and two runs in the usual directories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    write_study(tmp_path / "studies" / "plain-9k-fast", study(0.98), runs=3)
    era: dict[str, Any] = {"model": "era-8k", "parameters": 7_872, "epochs": 15, "recipe": "era"}
    met = write_study(tmp_path / "studies" / "era-8k-era", study(0.9955, **era))
    (met / "verdict.json").write_text(json.dumps(proof("era-s7", "met")))
    write_study(tmp_path / "studies" / "era-8k-short", study(0.9905, **era))
    write_run(tmp_path / "runs" / "tiny-10k-001", result(accuracy=0.999, model="tiny-10k", parameters=9_550))
    own: dict[str, Any] = {"model": "net.py:Net_2", "data": "folder:my-digits", "parameters": 500, "split": "val"}
    write_run(tmp_path / "runs" / "net-py-Net-2-001", result(accuracy=0.7, **own))


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The names that are listed, in order."""
    assert main(["studies", *arguments, "--json"]) == 0
    return [Path(row["path"]).name for row in json.loads(capsys.readouterr().out)]


def test_the_table_holds_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studies"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [line.split() for line in captured.out.splitlines() if "/" in line]
    assert [line[0] for line in lines] == [
        "runs/net-py-Net-2-001", "runs/tiny-10k-001", "studies/era-8k-era", "studies/era-8k-short",
        "studies/plain-9k-fast",
    ]  # fmt: skip
    text = " ".join(" ".join(line) for line in lines)
    for part in (
        "99.550 % ± 0.050",
        "met (era-s7)",
        "99.450 %",
        "7,872",
        "mnist, test",
        "folder:my-digits, validation",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--model", "*-8k"], ["era-8k-era", "era-8k-short"]),
        (["--model", "tiny_10k"], ["tiny-10k-001"]),
        (["--model", "net.py:Net_2"], ["net-py-Net-2-001"]),
        (["--recipe", "era"], ["era-8k-era", "era-8k-short"]),
        (["--data", "folder:*"], ["net-py-Net-2-001"]),
        (["--split", "val"], ["net-py-Net-2-001"]),
        (["--verdict", "met"], ["era-8k-era"]),
        (["--sort", "parameters", "--best", "2"], ["net-py-Net-2-001", "era-8k-era"]),
        (["--best", "3", "--split", "test"], ["era-8k-era", "era-8k-short", "plain-9k-fast"]),
        (["--budget", "era-s7"], ["era-8k-era", "era-8k-short"]),
        (["--budget", "era-s7", "--verdict", "failed"], ["era-8k-short"]),
        (["--model", "nothing"], []),
        (["runs"], ["net-py-Net-2-001", "tiny-10k-001"]),
        (["--runs", "studies"], ["seed-000", "seed-001", "seed-002"]),
    ],
)
def test_filters_and_order(arguments: list[str], names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, *arguments) == names


def test_the_best_under_a_budget_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.toml").write_text("max_parameters = 9_500\nmax_macs = 700_000\nmin_accuracy = 0.97\n")
    assert main(["studies", "--budget", "small.toml", "--best", "1", "--json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    assert row["model"] == "era-8k"
    assert [(found["budget"], found["verdict"]) for found in row["verdicts"]] == [("small", "met")]
    assert "left out, because not everything that small limits is recorded: net.py:Net_2" in captured.err
    assert "`tinydigits inspect net.py:Net_2 --budget small.toml` shows" in captured.err


def test_figures_of_other_digits_are_ranked_together_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studies", "--sort", "accuracy"]) == 0
    assert "evaluated on different digits" in capsys.readouterr().err
    assert main(["studies", "--sort", "accuracy", "--data", "mnist"]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_left_out_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(7):
        write_run(tmp_path / "runs" / f"bad\n-{number}", {"schema": 9})
    write_study(tmp_path / "studies" / "begun", runs=1)
    assert main(["studies", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 5
    first, second = captured.err.splitlines()
    assert first.startswith(
        "Warning: left out: runs/bad\\n-0/result.json: its schema is 9, and this version reads 1; runs/"
    )
    assert first.endswith(", and 2 more")
    assert second == "Warning: not finished (--runs lists the runs that are): studies/begun"


def test_many_are_cut_short_and_the_last_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(120):
        write_run(tmp_path / "many" / f"run-{number:03d}", result())
    assert main(["studies", "many"]) == 0
    out = capsys.readouterr().out
    assert out.count("many/run-") == 100
    assert "The first 100 of 120. --best N shows more, --json all." in out
    assert main(["studies", "many", "--best", "110"]) == 0
    assert capsys.readouterr().out.count("many/run-") == 110


def test_a_narrow_screen_shows_the_end_of_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write_study(tmp_path / "long" / ("x" * 90 + "-end"), study())
    assert main(["studies", "long"]) == 0
    out = capsys.readouterr().out
    assert "-end" in out
    assert "99.500 % ± 0.050" in out
    assert max(map(len, out.splitlines())) <= 80


def test_nothing_found_is_said_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["studies", "empty"]) == 0
    assert "No such study or run in empty: nothing is recorded." in capsys.readouterr().err
    assert main(["studies", "--model", "nothing"]) == 0
    assert "5 recorded." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is no directory"),
        (["studies/plain-9k-fast/study.json"], "study.json is no directory"),
        (["--best", "0"], "--best 0: must be at least 1"),
        (["--budget", "era-s9"], "budget 'era-s9' is unknown"),
    ],
)
def test_wrong_usage_is_a_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studies", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_where_there_is_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    assert main(["studies"]) == 2
    assert "There is neither studies nor runs here." in capsys.readouterr().err


def test_the_sort_keys_are_those_of_the_library() -> None:
    assert tuple(SORT_KEYS) == studies._SORT_KEYS


def test_no_torch_is_loaded_but_for_a_budget() -> None:
    probe = (
        "from tinydigits.cli.main import main; import sys\n"
        "assert main(['studies']) == 0\nassert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)
