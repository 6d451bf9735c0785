"""`tinydigits train --tensorboard`: what TensorBoard itself finds in the files."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tinydigits.cli.main import main
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe
from tinydigits.training.run import resume_run, run_epochs, save_run, start_run
from tinydigits.training.tensorboard import open_board

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")

TRAIN = ["train", "plain-9k", "--data", "optdigits", "--epochs", "2", "--quiet"]


def _read(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensorboard") / "run"
    assert main([*TRAIN, "--recipe", "era", "--tensorboard", "--out", str(path)]) == 0
    return path


def test_scalars_are_those_of_the_run(run: Path) -> None:
    events = _read(run / "tensorboard")
    batches = [json.loads(line) for line in (run / "batches.jsonl").read_text().splitlines()]
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = events.Scalars("batch/loss")
    assert [event.step for event in losses] == [batch["step"] for batch in batches]
    assert [event.value for event in losses] == pytest.approx([batch["loss"] for batch in batches])
    assert [event.value for event in events.Scalars("epoch/test accuracy")] == pytest.approx(
        [epoch["accuracy"] for epoch in epochs]
    )
    rates = events.Scalars("batch/learning rate")
    assert rates[-1].value == pytest.approx(epochs[-1]["learning_rate"])
    assert events.Tags()["graph"]


def test_pictures_are_there(run: Path) -> None:
    events = _read(run / "tensorboard")
    assert set(events.Tags()["images"]) >= {"confusion", "curve", "mistakes"}
    for tag in events.Tags()["images"]:
        assert events.Images(tag)[0].encoded_image_string.startswith(b"\x89PNG")


def test_it_changes_no_bit_of_the_training(run: Path, tmp_path: Path) -> None:
    assert main([*TRAIN, "--recipe", "era", "--out", str(tmp_path / "plain")]) == 0
    one, other = (load_file(path / "model.safetensors") for path in (run, tmp_path / "plain"))
    assert all((one[name] == other[name]).all() for name in one)
    assert not (tmp_path / "plain" / "tensorboard").exists()


def test_a_run_that_goes_on_is_shown_whole_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "run"
    started = start_run(RunConfig("plain-9k", get_recipe("fast"), data="optdigits"), path)
    for _ in run_epochs(started):
        if started.state.steps_done == 15:  # in the second epoch of 12 steps
            save_run(started)
            break
    resumed = resume_run(path)
    for _ in range(2):
        board = open_board(resumed)
        board.close()
    events = _read(path / "tensorboard")
    assert [event.step for event in events.Scalars("epoch/train loss")] == [1]
    assert [event.step for event in events.Scalars("batch/loss")] == list(range(1, 13))


def test_resume_takes_it_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(tmp_path), "--tensorboard"]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_without_the_extra_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main([*TRAIN, "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'tinydigits[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
