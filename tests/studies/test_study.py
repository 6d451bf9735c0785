"""Proofs and comparisons, on real processes and optdigits."""

import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.engines import inline
from tests.support.processes import children_of, needs_proc, obey_ctrl_c
from tinydigits.cli.main import main
from tinydigits.cli.prove import RunRow, StudyWatch, live_runs_table
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import RunError
from tinydigits.evaluation.rejection import nondigit_pictures
from tinydigits.inspection.budget import load_budget
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model
from tinydigits.records import Epoch
from tinydigits.studies.engines.jobs import Job, JobRepeated
from tinydigits.studies.prove import plan_study
from tinydigits.studies.study import collect, open_jobs, open_study, read_study, run_directory, write_verdict
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe

RECIPE = replace(get_recipe("fast"), epochs=2, batch_size=128)
CONFIG = RunConfig("plain-9k", RECIPE, data="optdigits", threads=1, device="cpu", backend="torch")
PROVE = ["prove", "plain-9k", "--data", "optdigits", "--epochs", "2", "--batch-size", "128", "--backend", "torch"]

FEW_NONDIGITS = partial(nondigit_pictures, count=20)  # all of them take seconds


def _timeless(document: dict[str, Any]) -> dict[str, Any]:
    """A study without times and host."""
    runs = [{key: value for key, value in run.items() if key != "time_seconds"} for run in document["runs"]]
    return {**document, "runs": runs, "environment": None}


def _study(path: Path) -> dict[str, Any]:
    return _timeless(json.loads((path / "study.json").read_text()))


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three seeds and the calibration run, undisturbed, by two workers."""
    path = tmp_path_factory.mktemp("proved") / "study"
    assert main([*PROVE, "--seeds", "3", "--calibrate", "--out", str(path), "--workers", "2", "--quiet"]) == 0
    return path


def test_a_study_leaves_its_evidence(proved: Path) -> None:
    study = json.loads((proved / "study.json").read_text())
    assert study["n"] == 3
    assert study["seeds"] == [0, 1, 2]
    assert [run["seed"] for run in study["runs"]] == [0, 1, 2]
    accuracies = [run["accuracy"] for run in study["runs"]]
    assert [run["accuracy_by_epoch"][-1] for run in study["runs"]] == accuracies
    assert study["final"]["mean"] == pytest.approx(sum(accuracies) / 3)
    assert study["final"]["lower_bound"] < study["final"]["mean"]
    assert study["interval"][0] < study["final"]["mean"] < study["interval"][1]
    assert study["calibration"]["temperature"] > 0
    assert study["calibration"]["rejected"]["blank"] == 1
    curve = study["calibration"]["coverage_accuracy"]
    assert list(curve) == ["1.0", "0.999", "0.995", "0.99", "0.98", "0.95"]
    calibration_run = json.loads((proved / "calibration_run" / "result.json").read_text())
    assert curve["1.0"] == pytest.approx(calibration_run["accuracy"])
    assert curve["0.95"] >= curve["1.0"]
    card = json.loads((proved / "model.json").read_text())
    assert card["study"]["n"] == 3
    assert card["seed"] == 0


@pytest.fixture(scope="module")
def undisturbed(few_digits: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a study of few digits, trained in this process."""
    path = tmp_path_factory.mktemp("undisturbed") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinydigits.studies.engines.local.run_local", inline)
        patch.setattr("tinydigits.studies.study.nondigit_pictures", FEW_NONDIGITS)
        assert main([*PROVE, "--data", few_digits, "--seeds", "3", "--calibrate", "--out", str(path), "--quiet"]) == 0
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three seeds and a single epoch."""
    path = tmp_path_factory.mktemp("short") / "study"
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=1))
    with open_study(path, config):
        for _ in inline(open_jobs(path, config, range(3), calibrate=False)):
            pass
        collect(path, config, range(3))
    return path


def test_without_a_budget_nothing_is_judged(proved: Path) -> None:
    verdict = json.loads((proved / "verdict.json").read_text())
    assert (verdict["budget"], verdict["verdict"], verdict["clauses"]) == (None, "not judged", [])
    assert (verdict["data"], verdict["split"], verdict["warning"]) == ("optdigits", "test", None)
    assert "on the test digits of optdigits (n = 3" in verdict["line"]


def test_the_interval_of_the_final_epochs_stands_beside_no_other_mean(proved: Path, tmp_path: Path) -> None:
    result = read_study(proved)
    budget = replace(load_budget("document-plain-9k"), max_epochs=3)
    inspection = inspect_model(create_model("plain-9k"))
    of_final = write_verdict(tmp_path, result, replace(budget, accuracy_of="final"), inspection)
    of_last3 = write_verdict(tmp_path, result, replace(budget, accuracy_of="last3"), inspection)
    assert (of_final.interval, of_last3.interval) == (result.interval, None)


def test_a_fallback_is_said_loudly_and_stands_in_the_result(
    proved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinydigits.studies import prove

    fallback = load_optdigits("MNIST is unavailable; these are optdigits.")
    monkeypatch.setattr(prove, "load_dataset", lambda *_: fallback)
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    arguments = ["prove", "plain-9k", "--epochs", "2", "--batch-size", "128", "--seeds", "3", "--out", str(copy)]
    assert main([*arguments, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "MNIST is unavailable" in captured.err
    assert "Accuracy on the test digits of optdigits" in captured.out
    assert "On new digits of this kind: " in captured.out
    for name in ("study.json", "verdict.json"):
        assert json.loads((copy / name).read_text())["warning"] == "MNIST is unavailable; these are optdigits."


@pytest.mark.slow
def test_one_worker_gives_the_same_study(proved: Path, tmp_path: Path) -> None:
    assert (
        main([*PROVE, "--seeds", "3", "--calibrate", "--out", str(tmp_path / "study"), "--workers", "1", "--quiet"])
        == 0
    )
    assert _study(tmp_path / "study") == _study(proved)


def test_a_finished_study_is_judged_again_without_training(
    proved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    weights = (run_directory(copy, 0) / "model.safetensors").stat().st_mtime_ns
    code = main(
        [*PROVE, "--seeds", "3", "--out", str(copy), "--budget", "document-plain-9k", "--json", "--epochs", "2"]
    )
    captured = capsys.readouterr()
    assert code == 1
    assert "epochs" in captured.err  # 2 epochs are over that budget, so it is refused
    assert main([*PROVE, "--seeds", "2", "--out", str(copy), "--json"]) == 0
    captured = capsys.readouterr()
    assert "holds 3 finished runs, and all of them count" in captured.err  # n is not chosen by the result
    verdict = json.loads(captured.out)
    assert {"model", "budget", "n", "mean", "sd", "lower_bound", "verdict", "clauses", "study_dir"} <= verdict.keys()
    assert verdict["n"] == 3
    assert "0 runs to train" in captured.err
    assert (run_directory(copy, 0) / "model.safetensors").stat().st_mtime_ns == weights


def test_a_budget_for_mnist_is_not_judged_on_optdigits(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(short, tmp_path / "s")
    command = [*PROVE, "--epochs", "1", "--seeds", "1", "--budget", "document-plain-9k", "--out", str(tmp_path / "s")]
    assert main([*command, "--json", "--quiet"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["verdict"] == "not judged"
    assert "document-plain-9k: not judged: accuracy" in verdict["line"]
    assert "is about test digits of MNIST" in verdict["line"]


def test_what_breaks_the_budget_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prove", "plain-9k", "--budget", "era-s6", "--seeds", "3", "--out", str(tmp_path / "s")]) == 1
    captured = capsys.readouterr()
    assert "batch norm" in captured.err
    assert "dropout" in captured.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seeds", "0"], "seeds = 0: must be at least 1"),
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--learning-rate", "0.5"], "recipe.optimizer.learning_rate = 0.01 there, 0.5 wanted"),
        (["--split", "val"], "split = 'test' there, 'val' wanted"),
        (["--budget", "era-s8"], "era-s7"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_bad_input_is_a_sentence(
    proved: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main([*PROVE, "--out", str(proved), *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_of_another_study_is_named_and_refused(proved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    config = run_directory(copy, 1) / "config.json"
    config.write_text(config.read_text().replace('"batch_size": 128', '"batch_size": 64'))
    with pytest.raises(
        RunError, match=r"seed-001 does not belong to the study: recipe.batch_size = 64 there, 128 wanted"
    ):
        open_jobs(copy, CONFIG, range(3), calibrate=False)


def test_a_twin_of_another_seed_is_refused(proved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    config = copy / "calibration_run" / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match=r"calibration_run does not belong to the study: seed = 1 there, 0 wanted"):
        open_jobs(copy, CONFIG, range(3), calibrate=True)


def test_a_run_directory_or_any_other_is_not_taken_for_a_study(proved: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(run_directory(proved, 0), run)
    other.mkdir()
    (other / "thesis.tex").touch()
    for path in (run, other):
        before = sorted(path.iterdir())
        with pytest.raises(RunError, match="is not empty, and no study"), open_study(path, CONFIG):
            pass
        assert sorted(path.iterdir()) == before


@pytest.mark.parametrize("text", ["{}", "[]", '{"accuracy": 0.5}'])
def test_a_result_that_lacks_something_is_a_sentence(proved: Path, tmp_path: Path, text: str) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    (run_directory(copy, 1) / "result.json").write_text(text)
    with pytest.raises(RunError, match=r"result\.json: (object missing required field|expected `object`).*Remove"):
        collect(copy, CONFIG, range(3))


@pytest.mark.parametrize("text", ["{}", "", '{"accuracy": 0.5}', "no json"])
def test_a_curve_that_lacks_something_is_a_sentence(proved: Path, tmp_path: Path, text: str) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    (run_directory(copy, 1) / "metrics.jsonl").write_text(text + "\n" if text else text)
    if not text:
        (run_directory(copy, 1) / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl(, line 1: | cannot be read).*Remove"):
        collect(copy, CONFIG, range(3))


def test_runs_of_a_network_whose_file_has_changed_are_refused(proved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    result = run_directory(copy, 1) / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "code_sha256": "other"}))
    with pytest.raises(RunError, match="seed-001 differs from the other runs in its code_sha256"):
        collect(copy, CONFIG, range(3))
    with pytest.raises(RunError, match=r"seed-001: the file of plain-9k has changed since that run"):
        open_jobs(copy, CONFIG, range(3), calibrate=False)


def test_an_accuracy_that_is_no_number_is_a_sentence(proved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    result = run_directory(copy, 2) / "result.json"
    values = json.loads(result.read_text())
    result.write_text(json.dumps({**values, "accuracy": float("nan")}))
    with pytest.raises(RunError, match="no valid JSON.*Remove"):
        collect(copy, CONFIG, range(3))


@pytest.mark.parametrize("name", ["result.json", "environment.json"])
def test_a_damaged_file_of_a_run_is_named(proved: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    (run_directory(copy, 0) / name).write_text("{")
    with pytest.raises(RunError, match=rf"{name} is damaged.*and prove again"):
        collect(copy, CONFIG, range(3))


@pytest.mark.parametrize("second", [CONFIG, replace(CONFIG, split="val")], ids=["same", "other"])
def test_two_processes_do_not_share_a_study(tmp_path: Path, second: RunConfig) -> None:
    with (
        open_study(tmp_path / "s", CONFIG),
        pytest.raises(RunError, match="another process"),
        open_study(tmp_path / "s", second),
    ):
        pass


def test_a_study_is_locked_before_its_config_is_written(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"), open_study(tmp_path / "s", CONFIG):
            pass
    assert not (tmp_path / "s" / "config.json").exists()


def test_a_repeated_run_is_told_of_without_a_terminal(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=80)
    watch = StudyWatch(plan_study(CONFIG, out=tmp_path), 1, screen)
    list(watch([Job(CONFIG, run_directory(tmp_path, 0))], iter([JobRepeated(0)])))
    assert isinstance(screen.file, io.StringIO)
    assert "seed-000: its process died; another one resumes it" in screen.file.getvalue()


def test_the_table_of_runs_keeps_its_width_whatever_their_state() -> None:
    epoch = Epoch(
        epoch=10,
        train_loss=0.5,
        train_accuracy=0.99,
        accuracy=0.994,
        learning_rate=0.01,
        images_per_second=1000.0,
        time_seconds=100.0,
    )
    screen = Console(width=80)
    rows = [RunRow("seed-000", 100, state, epoch) for state in ("training", "died, resumed")]
    assert len({screen.measure(live_runs_table([row])).maximum for row in rows}) == 1


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

    def forward(self, images):
        print('forward', flush=True)
        return super().forward(images)
"""


def test_what_a_users_network_prints_is_no_part_of_the_results(
    few_digits: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(NET)
    command = ["prove", f"{tmp_path / 'net.py'}:Net", "--data", few_digits, "--epochs", "1", "--seeds", "1", "--json"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["n"] == 1
    assert "forward" in captured.err
    assert "1 run to train" in captured.err
    assert "% after 1 epoch, " in captured.err


@pytest.mark.parametrize("line", ["to train", "after 2 epochs"], ids=["while workers start", "between runs"])
def test_ctrl_c_says_how_to_resume(few_digits: str, tmp_path: Path, line: str) -> None:
    words = [*PROVE, "--data", few_digits, "--seeds", "999", "--out", str(tmp_path / "a study")]
    command = [sys.executable, "-m", "tinydigits", *words]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=obey_ctrl_c
    ) as process:
        assert process.stderr is not None
        while line not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        rest = process.stderr.read()
    assert process.returncode == 130
    kept = f"Interrupted. What is finished is kept in '{tmp_path / 'a study'}': rerun the same command to resume.\n"
    assert rest.endswith(kept)
    assert "Traceback" not in rest


@needs_proc
@pytest.mark.parametrize(
    "moments", [["metrics.jsonl"], pytest.param([2.0, 4.5, 5.0, 5.5, 6.0, 7.0], marks=pytest.mark.slow)]
)
def test_a_study_killed_whole_and_started_again_with_one_worker_is_the_same_study(
    undisturbed: Path, few_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: list[float | str]
) -> None:
    """Killed after so many seconds, or when the first run has that file."""
    study = tmp_path / "study"
    command = [*PROVE, "--data", few_digits, "--seeds", "3", "--calibrate", "--out", str(study), "--quiet"]
    for moment in moments:
        with subprocess.Popen([sys.executable, "-m", "tinydigits", *command, "--workers", "2"]) as process:
            end = time.monotonic() + (moment if isinstance(moment, float) else 300)
            while time.monotonic() < end and process.poll() is None:
                if isinstance(moment, str) and (run_directory(study, 0) / moment).exists():
                    break
                time.sleep(0.01)
            assert isinstance(moment, float) or (run_directory(study, 0) / moment).exists()
            workers = children_of(process.pid)
            process.kill()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "a worker outlives its parent"
            time.sleep(0.05)
    monkeypatch.setattr("tinydigits.studies.study.nondigit_pictures", FEW_NONDIGITS)
    assert main([*command, "--workers", "1"]) == 0
    assert _study(study) == _study(undisturbed)


def test_studies_are_compared_on_the_same_digits(proved: Path, short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(short), str(proved), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    means = [json.loads((path / "study.json").read_text())["final"]["mean"] for path in (short, proved)]
    assert document["difference"] == pytest.approx(means[0] - means[1])
    assert document["interval"][0] <= document["difference"] <= document["interval"][1]
    assert main(["compare", str(short), str(proved)]) == 0
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: (path / "study.json").unlink(), "no finished study"),
        (lambda path: (path / "study.json").write_text("{"), "is damaged, no valid JSON"),
        (lambda path: (path / "study.json").write_text('{"schema": 1}'), "missing required field `model`"),
        (lambda path: _rewrite(path, evaluation_sha256="other", data="mnist"), "these are different digits"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    proved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], sentence: str
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    damage(copy)
    assert main(["compare", str(proved), str(copy)]) == 2
    assert sentence in capsys.readouterr().err


def _rewrite(path: Path, **changes: str) -> None:
    file = path / "study.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
