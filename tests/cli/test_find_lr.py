"""`tinydigits train --find-lr`: the range test, how it is read, and what it leaves."""

import json
import math
import re
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from tinydigits.cli.main import main
from tinydigits.data.sources import load_dataset
from tinydigits.errors import RunError
from tinydigits.records import LearningRateResult, RateTrial
from tinydigits.reports.plots import learning_rate_curve
from tinydigits.training.config import RunConfig
from tinydigits.training.loop import start_state
from tinydigits.training.lr_finder import HIGHEST, LOWEST, STEPS, learning_rate_trials, suggest
from tinydigits.training.prepare import build_network, prepare_task
from tinydigits.training.recipes import get_recipe

FIND = ["train", "plain-9k", "--data", "optdigits", "--batch-size", "16", "--find-lr"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _trials(losses: list[float]) -> list[RateTrial]:
    factor = (HIGHEST / LOWEST) ** (1 / (len(losses) - 1))
    return [RateTrial(learning_rate=LOWEST * factor**i, loss=loss, smoothed=loss) for i, loss in enumerate(losses)]


def _suggested(trials: list[RateTrial]) -> LearningRateResult:
    return suggest(RunConfig("plain-9k", get_recipe("fast")), load_dataset("optdigits"), trials, "here")


def _tried(config: RunConfig) -> list[RateTrial]:
    network = build_network(config)
    task, _ = prepare_task(network)
    return list(learning_rate_trials(task, start_state(network.model, task)))


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_lowest_loss() -> None:
    suggestion = _suggested(_trials([2.3, 2.3, 2.2, 1.9, 1.0, 0.3, 9.0]))  # rates 1e-5, 1e-4, …, 10
    assert suggestion.at_lowest == pytest.approx(1.0)
    assert suggestion.learning_rate == 0.1
    assert suggestion.reading.startswith("a tenth of 1, where the smoothed loss was lowest (0.300)")


def test_where_nothing_is_learned_nothing_is_suggested() -> None:
    for losses in ([2.3] * 7, [2.3, 2.4, 2.5, 2.6]):
        with pytest.raises(RunError, match="did not fall at any learning rate"):
            _suggested(_trials(losses))
    with pytest.raises(RunError, match="did not fall"):
        _suggested([])


def test_the_trials_are_of_growing_rates_and_repeat_themselves() -> None:
    recipe = replace(get_recipe("fast"), batch_size=16)
    config = RunConfig("plain-9k", recipe, data="optdigits")
    first, second = (_tried(config) for _ in range(2))
    assert first == second
    rates = [trial.learning_rate for trial in first]
    assert rates[0] == LOWEST
    assert all(b / a == pytest.approx((HIGHEST / LOWEST) ** (1 / (STEPS - 1))) for a, b in pairwise(rates))
    assert first[0].smoothed == pytest.approx(first[0].loss)
    assert 0.0005 < _suggested(first).learning_rate < 0.05


def test_a_loss_that_is_no_number_ends_the_test() -> None:
    config = RunConfig("plain-9k", get_recipe("documented-plain-9k"), data="optdigits")
    trials = _tried(config)
    assert len(trials) <= STEPS
    assert all(math.isfinite(trial.smoothed) for trial in trials)


def test_the_command_leaves_a_picture_and_figures_and_names_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIND, "--seed", "3"]) == 0
    shown = capsys.readouterr()
    directory = tmp_path / "runs" / "plain-9k-learning-rate-001"
    assert {file.name for file in directory.iterdir()} == {"learning_rate.json", "learning_rate.png"}
    document = json.loads((directory / "learning_rate.json").read_text())
    assert (document["model"], document["data"], document["seed"], document["batch_size"]) == (
        "plain-9k",
        "optdigits",
        3,
        16,
    )
    rate = document["learning_rate"]
    assert f"Learning rate {rate:g}: a tenth of" in shown.out
    command = re.search("To train with it: (.*)", shown.out)
    assert command
    expected = f"tinydigits train plain-9k --batch-size 16 --data optdigits --seed 3 --learning-rate {rate:g}"
    assert shlex.split(command[1]) == expected.split()
    with Image.open(directory / "learning_rate.png") as picture:
        assert picture.size == (1200, 690)


def test_json_is_one_document_and_the_directory_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIND, "--json", "--quiet", "--out", "here"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert shown.err == ""
    assert document["run_dir"] == "here"
    assert len(document["trials"]) > 50
    assert document == json.loads(Path("here/learning_rate.json").read_text())
    assert main([*FIND, "--out", "here"]) == 2
    assert "here exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "beside", [["--resume", "run"], ["--budget", "era-s6"], ["--tensorboard"], ["--learning-rate", "1"]]
)
def test_what_has_no_use_beside_it_is_refused(beside: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIND, *beside]) == 2
    assert f"{beside[0]} has no effect" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_same_trials_draw_the_same_bytes(tmp_path: Path) -> None:
    result = _suggested(_trials([2.3, 2.2, 2.0, 1.0, 0.5, 0.4, 3.0]))
    for name in ("a.png", "b.png"):
        learning_rate_curve(result, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_network_that_does_not_learn_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dead.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(784, 10)\n"
        "    def forward(self, x): return super().forward(x.flatten(1) * 0) * 1e-9\n"
    )
    assert main(["train", "dead.py:Net", "--data", "optdigits", "--find-lr"]) == 2
    assert "did not fall at any learning rate" in capsys.readouterr().err
    assert not Path("runs").exists()
