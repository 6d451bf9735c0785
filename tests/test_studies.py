"""Runners, proofs and comparisons, on real processes and optdigits."""

import contextlib
import fcntl
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tinydigits.cli import prove
from tinydigits.cli.main import main
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import RunError
from tinydigits.models.budget import load_budget
from tinydigits.models.inspect import inspect_model
from tinydigits.models.registry import create_model
from tinydigits.studies.prove import collect, judge, open_jobs, open_study, run_directory
from tinydigits.studies.runners import Job, JobDone, JobEpoch, JobPaused, JobRepeated, run_local
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe

RECIPE = replace(get_recipe("fast"), epochs=2, batch_size=128)
CONFIG = RunConfig("plain-9k", RECIPE, data="optdigits", threads=1, device="cpu")
PROVE = ["prove", "plain-9k", "--data", "optdigits", "--epochs", "2", "--batch-size", "128"]


def _timeless(document: dict[str, Any]) -> dict[str, Any]:
    """A study without times and host."""
    runs = [{key: value for key, value in run.items() if key != "time_seconds"} for run in document["runs"]]
    return {**document, "runs": runs, "environment": None}


def _study(path: Path) -> dict[str, Any]:
    return _timeless(json.loads((path / "study.json").read_text()))


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three seeds and the tune twin, undisturbed, by two workers."""
    path = tmp_path_factory.mktemp("proved") / "study"
    assert main([*PROVE, "--seeds", "3", "--twin", "--out", str(path), "--workers", "2", "--quiet"]) == 0
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
    twin = json.loads((proved / "twin" / "result.json").read_text())
    assert curve["1.0"] == pytest.approx(twin["accuracy"])
    assert curve["0.95"] >= curve["1.0"]
    card = json.loads((proved / "model.json").read_text())
    assert card["study"]["n"] == 3
    assert card["seed"] == 0
    assert (proved / "badge.svg").read_text().startswith("<svg")


def test_without_a_budget_nothing_is_judged(proved: Path) -> None:
    verdict = json.loads((proved / "verdict.json").read_text())
    assert (verdict["budget"], verdict["verdict"], verdict["clauses"]) == (None, "not judged", [])
    assert (verdict["data"], verdict["protocol"], verdict["notice"]) == ("optdigits", "final", None)
    assert "on the test digits of optdigits (n = 3" in verdict["line"]


def test_the_interval_of_the_final_epochs_stands_beside_no_other_mean(proved: Path, tmp_path: Path) -> None:
    document = json.loads((proved / "study.json").read_text())
    budget = replace(load_budget("document-plain-9k"), max_epochs=3)
    inspection = inspect_model(create_model("plain-9k"))
    of_final = judge(tmp_path, document, replace(budget, accuracy_of="final"), inspection)
    of_last3 = judge(tmp_path, document, replace(budget, accuracy_of="last3"), inspection)
    assert (of_final["interval"], of_last3["interval"]) == (document["interval"], None)


def test_a_fallback_is_said_loudly_and_stands_in_the_result(
    proved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinydigits.data import sources

    monkeypatch.setattr(sources, "load_dataset", lambda *_: load_optdigits("MNIST cannot be had; these are optdigits."))
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    arguments = ["prove", "plain-9k", "--epochs", "2", "--batch-size", "128", "--seeds", "3", "--out", str(copy)]
    assert main([*arguments, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "MNIST cannot be had" in captured.err
    assert "Accuracy on the test digits of optdigits" in captured.out
    assert "On new digits of this kind: " in captured.out
    for name in ("study.json", "verdict.json"):
        assert json.loads((copy / name).read_text())["notice"] == "MNIST cannot be had; these are optdigits."


def test_one_worker_gives_the_same_study(proved: Path, tmp_path: Path) -> None:
    assert main([*PROVE, "--seeds", "3", "--twin", "--out", str(tmp_path / "study"), "--workers", "1", "--quiet"]) == 0
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
    assert "holds 3 finished runs, and all are judged" in captured.err  # n is not chosen by the result
    verdict = json.loads(captured.out)
    assert {"model", "budget", "n", "mean", "sd", "lower_bound", "verdict", "clauses", "study_dir"} <= verdict.keys()
    assert verdict["n"] == 3
    assert "0 runs to train" in captured.err
    assert (run_directory(copy, 0) / "model.safetensors").stat().st_mtime_ns == weights


def test_a_budget_for_mnist_is_not_judged_on_optdigits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        *PROVE[:4],
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--budget",
        "document-plain-9k",
        "--out",
        str(tmp_path / "s"),
    ]
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
        (["--seeds", "0"], "--seeds 0: it is at least 1"),
        (["--workers", "0"], "--workers 0: it is at least 1"),
        (["--learning-rate", "0.5"], "recipe.optimizer.learning_rate = 0.01 there, 0.5 wanted"),
        (["--protocol", "tune"], "protocol = 'final' there, 'tune' wanted"),
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
        open_jobs(copy, CONFIG, range(3), twin=False)


def test_a_twin_of_another_seed_is_refused(proved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    config = copy / "twin" / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match=r"twin does not belong to the study: seed = 1 there, 0 wanted"):
        open_jobs(copy, CONFIG, range(3), twin=True)


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
    with pytest.raises(RunError, match=r"result\.json cannot be read: it lacks .*Remove"):
        collect(copy, CONFIG, range(3))


@pytest.mark.parametrize("text", ["{}", "", '{"accuracy": 0.5}', "no json"])
def test_a_curve_that_lacks_something_is_a_sentence(proved: Path, tmp_path: Path, text: str) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    (run_directory(copy, 1) / "metrics.jsonl").write_text(text + "\n" if text else text)
    if not text:
        (run_directory(copy, 1) / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read: .*Remove"):
        collect(copy, CONFIG, range(3))


def test_runs_of_a_network_whose_file_has_changed_are_refused(proved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    result = run_directory(copy, 1) / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "code_sha256": "other"}))
    with pytest.raises(RunError, match="seed-001 differs from the other runs in its code_sha256"):
        collect(copy, CONFIG, range(3))
    with pytest.raises(RunError, match=r"seed-001: the file of plain-9k has changed since that run"):
        open_jobs(copy, CONFIG, range(3), twin=False)


def test_an_accuracy_that_is_no_number_is_a_sentence(proved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    result = run_directory(copy, 2) / "result.json"
    values = json.loads(result.read_text())
    result.write_text(json.dumps({**values, "accuracy": float("nan")}))
    with pytest.raises(RunError, match="not all numbers"):
        collect(copy, CONFIG, range(3))


@pytest.mark.parametrize("name", ["result.json", "environment.json"])
def test_a_damaged_file_of_a_run_is_named(proved: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "study"
    shutil.copytree(proved, copy)
    (run_directory(copy, 0) / name).write_text("{")
    with pytest.raises(RunError, match=rf"{name} cannot be read.*and prove again"):
        collect(copy, CONFIG, range(3))


@pytest.mark.parametrize("second", [CONFIG, replace(CONFIG, protocol="tune")], ids=["same", "other"])
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


def _children(process: int) -> list[int]:
    """The worker processes of a process, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == process:
                found.append(int(entry.name))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finding worker processes takes /proc")


def _jobs(path: Path, count: int, epochs: int) -> list[Job]:
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=epochs))
    return [Job(replace(config, seed=seed), run_directory(path, seed)) for seed in range(count)]


def _killing(events: Iterator[Any], times: int) -> Iterator[Any]:
    """Kill one worker after the first epoch it tells of, `times` times."""
    for event in events:
        yield event
        if isinstance(event, JobEpoch) and times:
            workers = [
                child
                for child in _children(os.getpid())
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
            ]
            os.kill(workers[0], signal.SIGKILL)
            times -= 1


@needs_proc
def test_a_killed_worker_is_replaced_and_its_run_ends_the_same(proved: Path, tmp_path: Path) -> None:
    jobs = open_jobs(tmp_path / "s", CONFIG, range(1), twin=False)
    with open_study(tmp_path / "s", CONFIG):
        events = list(_killing(run_local(jobs, 1), times=1))
    assert sum(isinstance(event, JobRepeated) for event in events) == 1
    done = next(event for event in events if isinstance(event, JobDone))
    assert done.result["accuracy"] == _study(proved)["runs"][0]["accuracy"]


@needs_proc
def test_a_run_that_loses_its_worker_twice_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="lost its process 2 times"):
        list(_killing(run_local(_jobs(tmp_path, 1, epochs=50), 1), times=2))


def test_a_repeated_run_is_told_of_without_a_terminal(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=80)
    prove._watch(_jobs(tmp_path, 1, epochs=1), lambda *_: iter([JobRepeated(0)]), None, screen)
    assert isinstance(screen.file, io.StringIO)
    assert "seed-000: its process died; it goes on in another" in screen.file.getvalue()


def test_the_table_of_runs_keeps_its_width_whatever_their_state() -> None:
    row = {"run": "seed-000", "epoch": 10, "epochs": 100, "train_loss": 0.5, "accuracy": 0.994, "time_seconds": 100}
    screen = Console(width=80)
    states = ("training", "died, once more")
    assert len({screen.measure(prove._table([{**row, "state": state}])).maximum for state in states}) == 1


def test_a_worker_that_dies_between_two_runs_is_replaced(tmp_path: Path) -> None:
    done = []
    repeated = 0
    for event in run_local(_jobs(tmp_path, 2, epochs=1), 1):
        repeated += isinstance(event, JobRepeated)
        if isinstance(event, JobDone):
            done.append(event.job)
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
    assert (done, repeated) == ([0, 1], 1)


def test_a_paused_run_goes_on_to_the_same_bits(proved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    seen: list[Any] = []

    def jobs() -> Iterator[Job | None]:
        yield Job(CONFIG, run, until=1)
        while not isinstance(seen[-1] if seen else None, JobPaused):
            yield None
        assert (run / "state.safetensors").exists()
        assert not (run / "result.json").exists()
        yield Job(CONFIG, run, until=1)  # it is there already
        yield Job(CONFIG, tmp_path / "other", until=1)  # another may run meanwhile
        while sum(isinstance(event, JobPaused) for event in seen) < 3:
            yield None
        yield Job(CONFIG, run, until=5)  # there are only two

    for event in run_local(jobs(), 2):
        seen.append(event)
    assert [(event.job, type(event)) for event in seen if event.job != 2] == [
        (0, JobEpoch), (0, JobPaused), (1, JobPaused), (3, JobEpoch), (3, JobDone),
    ]  # fmt: skip
    weights = [path / "model.safetensors" for path in (run, run_directory(proved, 0))]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (run / "batches.jsonl").read_text() == (run_directory(proved, 0) / "batches.jsonl").read_text()


def test_a_job_is_taken_when_there_is_room_and_not_before(tmp_path: Path) -> None:
    taken: list[Job] = []

    def jobs() -> Iterator[Job]:
        for job in _jobs(tmp_path, 3, epochs=1):
            taken.append(job)
            yield job

    ended = 0
    for event in run_local(jobs(), 1):
        assert len(taken) == ended + 1
        ended += isinstance(event, JobDone)
    assert (len(taken), ended) == (3, 3)


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

    def forward(self, images):
        {line}
        return super().forward(images)
"""


def test_whatever_a_users_network_raises_is_reported(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET.format(line="assert len(images) == 2, 'only two'"))
    job = Job(replace(CONFIG, model=f"{tmp_path / 'net.py'}:Net"), tmp_path / "run")
    with pytest.raises(RunError, match=r"run failed\. AssertionError: only two\. Mend that"):
        list(run_local([job], 1))


def test_what_a_users_network_prints_is_no_part_of_the_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(NET.format(line="print('forward', flush=True)"))
    command = ["prove", f"{tmp_path / 'net.py'}:Net", *PROVE[2:4], "--epochs", "1", "--seeds", "1", "--json"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["n"] == 1
    assert "forward" in captured.err
    assert "1 run to train" in captured.err
    assert "% after 1 epoch, " in captured.err


def _obey_ctrl_c() -> None:
    """A process that was started in the background ignores Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("line", ["to train", "after 2 epochs"], ids=["while workers start", "between runs"])
def test_ctrl_c_says_how_to_go_on(tmp_path: Path, line: str) -> None:
    command = [sys.executable, "-m", "tinydigits", *PROVE, "--seeds", "9", "--out", str(tmp_path / "a study")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_obey_ctrl_c
    ) as process:
        assert process.stderr is not None
        while line not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        rest = process.stderr.read()
    assert process.returncode == 130
    kept = f"Interrupted. What is finished is kept in '{tmp_path / 'a study'}', and the same command goes on.\n"
    assert rest.endswith(kept)
    assert "Traceback" not in rest


def test_a_run_that_diverges_is_reported_and_the_others_stay(tmp_path: Path) -> None:
    wild = replace(CONFIG, recipe=replace(RECIPE, optimizer=replace(RECIPE.optimizer, name="sgd", learning_rate=1e12)))
    jobs = [Job(CONFIG, tmp_path / "good"), Job(wild, tmp_path / "wild")]
    with pytest.raises(RunError, match=r"wild failed\. The loss is nan"):
        list(run_local(jobs, 1))
    assert (tmp_path / "good" / "result.json").exists()


def test_a_full_disk_is_reported_and_finished_runs_stay(small_disk: Path) -> None:
    jobs = [Job(replace(CONFIG, seed=seed), run_directory(small_disk / "s", seed)) for seed in range(3)]
    with pytest.raises(RunError, match="the disk is full"):
        list(run_local(jobs, 1))
    assert (run_directory(small_disk / "s", 0) / "result.json").exists()


@needs_proc
@pytest.mark.parametrize("moments", [[3.0, 6.0], pytest.param([2.0, 4.5, 5.0, 5.5, 6.0, 7.0], marks=pytest.mark.slow)])
def test_a_study_killed_whole_and_started_again_is_the_same_study(
    proved: Path, tmp_path: Path, moments: list[float]
) -> None:
    command = [sys.executable, "-m", "tinydigits", *PROVE, "--seeds", "3", "--twin", "--out", str(tmp_path / "study")]
    for seconds in moments:
        with subprocess.Popen([*command, "--quiet"]) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=seconds)
            workers = _children(process.pid)
            process.kill()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "a worker outlives its parent"
            time.sleep(0.05)
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    assert _study(tmp_path / "study") == _study(proved)


def test_studies_are_compared_on_the_same_digits(
    proved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main([*PROVE[:4], "--epochs", "1", "--seeds", "3", "--out", str(other), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["compare", str(other), str(proved), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    means = [json.loads((path / "study.json").read_text())["final"]["mean"] for path in (other, proved)]
    assert document["difference"] == pytest.approx(means[0] - means[1])
    assert document["interval"][0] <= document["difference"] <= document["interval"][1]
    assert main(["compare", str(other), str(proved)]) == 0
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: (path / "study.json").unlink(), "no finished study"),
        (lambda path: (path / "study.json").write_text("{"), "no finished study"),
        (lambda path: (path / "study.json").write_text('{"schema": 1}'), "no finished study"),
        (lambda path: _rewrite(path, judge_sha256="other", data="mnist"), "these are different digits"),
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
