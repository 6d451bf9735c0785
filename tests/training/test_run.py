import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinydigits.errors import ConfigError, RunError, StorageError, UnknownModelError
from tinydigits.records import Epoch
from tinydigits.training.config import Recipe, RunConfig
from tinydigits.training.device import choose_device
from tinydigits.training.loop import Step
from tinydigits.training.recipes import get_recipe
from tinydigits.training.run import (
    _command,
    finish_run,
    resume_run,
    run_epochs,
    save_run,
    start_run,
    train,
)
from tinydigits.training.rundir import load_predictions

RECIPE = replace(get_recipe("fast"), epochs=3, batch_size=256, ema_decay=0.9)
# dropout and batch norm: all that has state
CONFIG = RunConfig("era-8k", RECIPE, data="optdigits", threads=1, backend="torch")
FILES = {
    "batches.jsonl", "config.json", "environment.json", "metrics.jsonl", "model.json", "model.safetensors",
    "predictions.safetensors", "result.json", "state.safetensors",
}  # fmt: skip


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def _same_outcome(one: Path, other: Path) -> bool:
    def history(path: Path) -> list[tuple[float, ...]]:
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [(line["epoch"], line["train_loss"], line["train_accuracy"], line["accuracy"]) for line in lines]

    first, second = _weights(one), _weights(other)
    return (
        all(torch.equal(first[name], second[name]) for name in first)
        and history(one) == history(other)
        and (one / "batches.jsonl").read_text() == (other / "batches.jsonl").read_text()
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    train(CONFIG, path)
    return path


NET = """
from torch import nn

def net():
    stem = nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*stem, nn.Dropout(0.1), nn.Flatten(), nn.Linear(256, 10))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The same for a small network with dropout and batch norm, which trains faster."""
    file = tmp_path_factory.mktemp("small") / "net.py"
    file.write_text(NET)
    return replace(CONFIG, model=f"{file}:net")


@pytest.fixture(scope="module")
def small_undisturbed(small: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    train(small, path)
    return path


def test_a_run_leaves_what_the_design_says(undisturbed: Path) -> None:
    assert {file.name for file in undisturbed.iterdir()} == FILES
    result = json.loads((undisturbed / "result.json").read_text())
    metrics = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    batches = [json.loads(line) for line in (undisturbed / "batches.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert [line["step"] for line in batches] == list(range(1, len(batches) + 1))
    assert len(batches) == 3 * 6  # 1,438 training digits in batches of 256
    assert result["accuracy"] == metrics[-1]["accuracy"]
    assert result["accuracy_best"] == max(line["accuracy"] for line in metrics)
    assert result["accuracy_last3"] == pytest.approx(sum(line["accuracy"] for line in metrics) / 3)
    assert metrics[0]["train_loss"] == pytest.approx(sum(line["loss"] for line in batches[:6]) / 6)
    assert result["interval"][0] < result["accuracy"] < result["interval"][1]
    assert result["parameters"] == 7_872
    logits, labels = load_predictions(undisturbed)
    assert (logits.argmax(axis=1) == labels).mean() == result["accuracy"]
    assert result["data"] == "optdigits"


def test_the_claim_about_mnist_is_not_judged_on_other_digits(undisturbed: Path) -> None:
    verdict = json.loads((undisturbed / "result.json").read_text())["verdict"]
    assert verdict["verdict"] == "not judged"
    assert "optdigits" in verdict["reason"]
    assert {clause["clause"]: clause["verdict"] for clause in verdict["clauses"]} == {
        "parameters": "met",
        "epochs": "met",
        "accuracy": "not judged",
    }


def test_the_same_config_gives_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    train(CONFIG, str(tmp_path / "again"))  # a path in whatever form
    assert _same_outcome(undisturbed, tmp_path / "again")


@pytest.mark.parametrize("stop_at", [1, 5, 6, 9, 17], ids=lambda s: f"step {s}")
def test_a_run_stopped_after_any_step_resumes_to_the_same_bits(
    small: RunConfig, small_undisturbed: Path, tmp_path: Path, stop_at: int
) -> None:
    _check_resume(small, small_undisturbed, tmp_path, stop_at)


def test_a_run_of_the_zoo_stopped_within_an_epoch_resumes_to_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    _check_resume(CONFIG, undisturbed, tmp_path, 9)


def _check_resume(config: RunConfig, undisturbed: Path, tmp_path: Path, stop_at: int) -> None:
    run = start_run(config, tmp_path / "run")
    for _ in run_epochs(run):
        if run.state.steps_done == stop_at:
            save_run(run)
            break
    torch.manual_seed(999)  # nothing may hang on what happened in between
    resumed = resume_run(tmp_path / "run")
    assert resumed.state.steps_done == stop_at
    for _ in run_epochs(resumed):
        pass
    finish_run(resumed)
    assert _same_outcome(undisturbed, tmp_path / "run")


def test_batches_logged_after_the_last_save_are_not_logged_twice(
    small: RunConfig, small_undisturbed: Path, tmp_path: Path
) -> None:
    run = start_run(small, tmp_path / "run")
    older = None
    for record in run_epochs(run):
        if isinstance(record, Epoch) and record.epoch == 1:
            older = (run.directory / "state.safetensors").read_bytes()
        if isinstance(record, Epoch) and record.epoch == 2:
            break
    assert older is not None
    (run.directory / "state.safetensors").write_bytes(older)  # as if killed between the log and the state of epoch 2
    resumed = resume_run(tmp_path / "run")
    for _ in run_epochs(resumed):
        pass
    finish_run(resumed)
    assert _same_outcome(small_undisturbed, tmp_path / "run")


def test_a_finished_run_is_not_resumed(undisturbed: Path) -> None:
    with pytest.raises(RunError, match="is finished"):
        resume_run(undisturbed)


@pytest.fixture
def unfinished(undisturbed: Path, tmp_path: Path) -> Path:
    path = tmp_path / "unfinished"
    shutil.copytree(undisturbed, path)
    (path / "result.json").unlink()
    return path


@pytest.mark.parametrize(
    ("file", "damage", "sentence"),
    [
        ("config.json", lambda _: b"{", "no run directory"),
        ("config.json", lambda b: b.replace(b'"schema": 1', b'"schema": 99'), "schema 99"),
        ("config.json", lambda b: b.replace(b'"seed"', b'"sead"'), "sead is no setting. Did you mean seed"),
        ("config.json", lambda b: b.replace(b"era-8k", b"plain-9k"), "belongs to another run"),
        ("config.json", lambda b: b.replace(b'"batch_size": 256', b'"batch_size": 128'), "belongs to another run"),
        ("state.safetensors", lambda b: b[: len(b) // 2], "no saved state"),
        ("state.safetensors", lambda _: b"text", "no saved state"),
        ("state.safetensors", lambda b: b.replace(b"identity", b"identify"), "no saved state"),
    ],
)
def test_a_damaged_run_is_a_sentence(unfinished: Path, file: str, damage: object, sentence: str) -> None:
    assert callable(damage)
    (unfinished / file).write_bytes(damage((unfinished / file).read_bytes()))
    with pytest.raises((RunError, ConfigError), match=sentence):
        resume_run(unfinished)


def test_other_digits_than_at_the_start_are_refused(unfinished: Path) -> None:
    state = unfinished / "state.safetensors"
    raw = state.read_bytes()
    known = json.loads((unfinished / "model.json").read_text())["data_sha256"].encode()
    state.write_bytes(raw.replace(known, b"0" * 64))
    with pytest.raises(RunError, match="saved with other digits than found now"):
        resume_run(unfinished)


def test_an_existing_directory_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        start_run(CONFIG, tmp_path / "taken")
    assert list((tmp_path / "taken").iterdir()) == []


def test_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "era-8k-007").mkdir(parents=True)
    (tmp_path / "runs" / "era-8k-old").mkdir()
    assert start_run(CONFIG).directory == Path("runs/era-8k-008")
    assert start_run(CONFIG).directory == Path("runs/era-8k-009")


def test_a_bad_model_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="no model of the zoo"):
        start_run(replace(CONFIG, model="plain-99k"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, so asking for one is no error")
def test_a_device_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="'cuda' is not available"):
        choose_device("cuda")


def test_a_full_disk_is_a_sentence_and_the_last_state_stays(small_disk: Path) -> None:
    run = start_run(CONFIG, small_disk / "run")
    epochs = run_epochs(run)
    while not isinstance(next(epochs), Epoch):
        pass
    room = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"x" * (room - 8192))
    with pytest.raises(StorageError, match="the disk is full"):
        for _ in epochs:
            pass
    assert not list((small_disk / "run").glob(".*"))  # nothing half-written
    (small_disk / "filler").unlink()
    assert resume_run(small_disk / "run").state.steps_done == 6


def test_a_disk_too_full_to_begin_leaves_nothing(small_disk: Path) -> None:
    room = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"x" * room)
    with pytest.raises(StorageError, match="the disk is full"):
        start_run(CONFIG, small_disk / "run")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_network_of_ones_own_trains(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    recipe = Recipe("mine", epochs=1, batch_size=64)
    result = train(RunConfig(f"{file}:Net", recipe, data="optdigits", threads=1), tmp_path / "run")
    assert result.parameters == 7_850
    assert result.verdict is None


@pytest.mark.parametrize(("kills", "seed"), [(8, 0), pytest.param(200, 1, marks=pytest.mark.slow)])
def test_no_kill_loses_a_finished_epoch(tmp_path: Path, kills: int, seed: int) -> None:
    """SIGKILL at random moments, the save included; see tests/support/killing.py. Each kill is followed by a resume."""
    script = Path(__file__).parents[1] / "support" / "killing.py"
    command = [sys.executable, str(script), str(tmp_path), str(kills), str(seed)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == kills
    assert report["epochs_lost"] == 0
    assert report["same_bits"]
    assert report["kills_during_save"] > 0


def test_steps_are_yielded_between_epochs(small: RunConfig, tmp_path: Path) -> None:
    kinds = [type(record) for record in run_epochs(start_run(small, tmp_path / "run"))]
    assert kinds.count(Epoch) == 3
    assert kinds.count(Step) == 15


def _own_network(path: Path, lines: str) -> RunConfig:
    path.write_text(
        f"from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{lines}"
    )
    return RunConfig(f"{path}:Net", Recipe("mine", epochs=2, batch_size=512), data="optdigits")


LINEAR = """\
        self.a = nn.Linear(784, 10)
    def forward(self, x):
        return self.a(x.flatten(1))
"""
TIED = """\
        self.a = nn.Linear(784, 784)
        self.b = self.a
        self.c = nn.Linear(784, 10)
    def forward(self, x):
        return self.c(self.b(self.a(x.flatten(1))))
"""


def test_layers_that_share_weights_are_saved_and_resumed(tmp_path: Path) -> None:
    config = _own_network(tmp_path / "net.py", TIED)
    whole = train(config, tmp_path / "whole")
    run = start_run(config, tmp_path / "run")
    for record in run_epochs(run):
        if isinstance(record, Epoch):
            break
    resumed = resume_run(tmp_path / "run")
    for _ in run_epochs(resumed):
        pass
    finish_run(resumed)
    assert whole.epochs == 2
    assert _same_outcome(tmp_path / "whole", tmp_path / "run")


def test_a_run_does_not_go_on_with_changed_code(tmp_path: Path) -> None:
    config = _own_network(tmp_path / "net.py", LINEAR)
    run = start_run(config, tmp_path / "run")
    next(run_epochs(run))
    save_run(run)
    _own_network(tmp_path / "net.py", LINEAR.replace("self.a(x", "self.a(-x"))
    with pytest.raises(RunError, match="other network's code than found now"):
        resume_run(tmp_path / "run")


def test_an_epoch_saved_twice_is_logged_once(small: RunConfig, tmp_path: Path) -> None:
    run = start_run(small, tmp_path / "run")
    for record in run_epochs(run):
        if isinstance(record, Epoch):
            save_run(run)  # Ctrl-C that comes while the epoch is scored
    steps = [json.loads(line)["step"] for line in (run.directory / "batches.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 19))


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        start_run(CONFIG, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        (get_recipe("fast"), "--recipe fast --epochs 10"),
        (replace(get_recipe("fast"), epochs=3), "--recipe fast --epochs 3"),
        (replace(get_recipe("fast"), batch_size=64), "with the recipe as it stands in this card"),
        (replace(get_recipe("fast"), name="mine"), "with the recipe as it stands in this card"),
    ],
)
def test_the_command_in_a_card_gives_the_same_weights_or_says_what_it_lacks(recipe: Recipe, command: str) -> None:
    assert command in _command(RunConfig("plain-9k", recipe))
    assert "--threads 1" in _command(RunConfig("plain-9k", recipe))
