"""Runs trained at once against the same runs trained one by one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.test_loop import RECIPE, digits_to_learn
from tinydigits.cli.main import main
from tinydigits.errors import ConfigError, DivergedError, RunError
from tinydigits.models.layers import Dropout
from tinydigits.studies.runners import Job, JobDone, JobEpoch, JobPaused, run_local
from tinydigits.studies.stacked_engine import run_stacked
from tinydigits.training.config import Optimizer, Recipe, RunConfig, Schedule
from tinydigits.training.loop import Epoch, Step, TrainingState, fit, start_state
from tinydigits.training.stacked import fit_stacked

SEEDS = (0, 1, 5)
# 20 steps of 16 digits in 4 epochs; SGD, because AdamW makes much of a rounding where a gradient is nearly nothing
SLOW = replace(
    RECIPE,
    epochs=4,
    optimizer=Optimizer("sgd", learning_rate=0.02, momentum=0.9, nesterov=True, weight_decay=0.001),
    schedule=Schedule("one_cycle"),
    label_smoothing=0.1,
)


def _plain(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def _dropping(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), Dropout(0.2),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.1), nn.Flatten()), nn.Linear(4 * 36, 10),
    )  # fmt: skip


def _states(network: Callable[[int], nn.Module], recipe: Recipe) -> list[TrainingState]:
    models = [network(seed).to(memory_format=torch.channels_last) for seed in SEEDS]  # type: ignore[call-overload]
    return [start_state(model, recipe, digits_to_learn()) for model in models]


def _alone(network: Callable[[int], nn.Module], recipe: Recipe) -> tuple[list[TrainingState], list[list[Tensor]]]:
    """The states after training one by one, and the losses of every epoch."""
    states, losses = _states(network, recipe), []
    digits = digits_to_learn()
    for state, seed in zip(states, SEEDS, strict=True):
        curve = []
        for record in fit(state, digits, digits, recipe, 0.2, 0.3, seed):
            assert isinstance(record, Step | Epoch)
            if isinstance(record, Epoch):
                curve.append(state.losses.clone())
        losses.append(curve)
    return states, losses


def _together(states: list[TrainingState], recipe: Recipe) -> list[list[Tensor]]:
    digits = digits_to_learn()
    losses: list[list[Tensor]] = [[] for _ in states]
    for epochs in fit_stacked(states, digits, digits, recipe, 0.2, 0.3, SEEDS):
        for curve, state, epoch in zip(losses, states, epochs, strict=True):
            curve.append(state.losses.clone())
            assert epoch == state.epochs[-1]
    return losses


@pytest.mark.parametrize("network", [_plain, _dropping])
def test_each_run_is_the_one_that_it_is_alone(network: Callable[[int], nn.Module]) -> None:
    alone, wanted = _alone(network, SLOW)
    stacked = _states(network, SLOW)
    found = _together(stacked, SLOW)
    for own, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(torch.cat(other), torch.cat(own), rtol=0, atol=1e-5)
    assert not torch.allclose(found[0][-1], found[1][-1], atol=1e-2)  # seeds differ, or nothing was compared
    for one, stackmate in zip(alone, stacked, strict=True):
        assert one.step == stackmate.step == 20
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(stackmate.model.state_dict()[name], value, rtol=0, atol=1e-4)
        assert one.average is not None
        assert stackmate.average is not None
        for name, value in one.average.items():
            torch.testing.assert_close(stackmate.average[name], value, rtol=0, atol=1e-4)
        for mine, theirs in zip(one.epochs, stackmate.epochs, strict=True):
            assert theirs.accuracy == pytest.approx(mine.accuracy, abs=0.02)
            assert (theirs.epoch, theirs.learning_rate) == (mine.epoch, mine.learning_rate)


def test_adamw_begins_with_the_same_losses() -> None:
    _, wanted = _alone(_plain, RECIPE)
    found = _together(_states(_plain, RECIPE), RECIPE)
    for own, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other[0], own[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("optimizer", [SLOW.optimizer, RECIPE.optimizer])
def test_it_goes_on_from_where_the_runs_stand(optimizer: Optimizer) -> None:
    """With the optimisers' memory: two epochs and two more are four."""
    recipe = replace(SLOW, optimizer=optimizer)
    whole = _states(_plain, recipe)
    wanted = _together(whole, recipe)
    digits, states = digits_to_learn(), _states(_plain, recipe)
    for epochs in fit_stacked(states, digits, digits, recipe, 0.2, 0.3, SEEDS):
        if epochs[0].epoch == 2:
            break
    found = _together(states, recipe)
    assert [len(curve) for curve in found] == [2, 2, 2]
    for own, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(torch.cat(other), torch.cat(own[2:]), rtol=0, atol=1e-5)


def test_weights_that_two_layers_share_stay_shared() -> None:
    def shared(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        twice = nn.Conv2d(3, 3, 3, padding=1)
        return nn.Sequential(nn.Conv2d(1, 3, 5, stride=4), twice, nn.ReLU(), twice, nn.Flatten(), nn.Linear(3 * 36, 10))

    _, wanted = _alone(shared, SLOW)
    states = _states(shared, SLOW)
    found = _together(states, SLOW)
    for own, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(torch.cat(other), torch.cat(own), rtol=0, atol=1e-5)
    for state in states:
        assert state.model.get_parameter("1.weight") is state.model.get_parameter("3.weight")


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_other_random_numbers_are_refused() -> None:
    def noisy(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(_Noise(), nn.Flatten(), nn.Linear(784, 10))

    with pytest.raises(ConfigError, match="draws nothing at random but dropout.*one by one"):
        _together(_states(noisy, RECIPE), RECIPE)


def test_a_dropout_that_is_used_twice_is_refused() -> None:
    def twice(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        dropout = Dropout(0.1)
        return nn.Sequential(nn.Flatten(), dropout, nn.Linear(784, 10), dropout)

    with pytest.raises(ConfigError, match="each dropout layer of a network is used once.*one by one"):
        _together(_states(twice, RECIPE), RECIPE)


def test_one_run_that_diverges_stops_all() -> None:
    states = _states(_plain, RECIPE)
    with torch.no_grad():
        states[1].model.get_parameter("0.weight").fill_(torch.nan)
    with pytest.raises(DivergedError, match="loss is nan at step 1 of epoch 1"):
        _together(states, RECIPE)


RUN = RunConfig("plain-9k", replace(SLOW, epochs=2, batch_size=359), data="optdigits", device="cpu")


def _jobs(study: Path, *, until: int | None = None) -> list[Job]:
    return [Job(replace(RUN, seed=seed), study / f"seed-{seed}", until) for seed in SEEDS]


def _losses(study: Path) -> list[list[float]]:
    runs = [(study / f"seed-{seed}" / "batches.jsonl").read_text(encoding="utf-8") for seed in SEEDS]
    return [[json.loads(line)["loss"] for line in run.splitlines()] for run in runs]


def test_the_engine_leaves_what_the_local_one_leaves(tmp_path: Path) -> None:
    """The runs' directories, files and figures, but for rounding and what tells the time."""
    local, stacked = tmp_path / "local", tmp_path / "stacked"
    wanted = [event.result for event in run_local(_jobs(local), 1) if isinstance(event, JobDone)]
    events = list(run_stacked(_jobs(stacked)))
    found = [event.result for event in events if isinstance(event, JobDone)]
    assert [event.job for event in events if isinstance(event, JobEpoch)] == [0, 1, 2, 0, 1, 2]
    assert [result["seed"] for result in found] == list(SEEDS)
    for own, other in zip(wanted, found, strict=True):
        different = {key for key in own if own[key] != other[key]}
        assert different <= {"accuracy", "accuracy_best", "accuracy_last3", "interval", "run_dir", "time_seconds",
                             "images_per_second"}  # fmt: skip
        assert other["accuracy"] == pytest.approx(own["accuracy"], abs=0.01)
    for losses, curve in zip(_losses(local), _losses(stacked), strict=True):
        assert len(losses) == 10
        assert curve == pytest.approx(losses, abs=1e-4)
    for file in sorted(path.relative_to(local) for path in local.rglob("*") if path.is_file()):
        assert (stacked / file).exists(), file


def test_the_engine_pauses_goes_on_and_takes_turns(tmp_path: Path) -> None:
    """Two at once, stopped after an epoch; then all at once to the end, which is where one go would have led."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for _ in run_stacked(_jobs(whole)):
        pass
    paused = list(run_stacked(_jobs(parts, until=1), workers=2))
    assert [event.job for event in paused if isinstance(event, JobPaused)] == [0, 1, 2]
    assert not list(parts.rglob("result.json"))

    def in_two_goes() -> Iterator[Job | None]:
        first, *others = _jobs(parts)
        yield first
        yield None  # nothing more for now
        yield from others

    done = [event for event in run_stacked(in_two_goes()) if isinstance(event, JobDone)]
    assert [event.job for event in done] == [0, 1, 2]
    for own, other in zip(_losses(whole), _losses(parts), strict=True):
        assert other == pytest.approx(own, abs=1e-4)


def test_native_kernels_are_not_stacked(tmp_path: Path) -> None:
    jobs = [replace(job, config=replace(job.config, kernels="native")) for job in _jobs(tmp_path)]
    with pytest.raises(ConfigError, match="not with native kernels: leave them out"):
        list(run_stacked(jobs))
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_stacked_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(784, 10)\n"
        "    def forward(self, x):\n        y = self.layer(x.flatten(1))\n"
        "        return y if y.sum() > 0 else 2 * y\n",
        encoding="utf-8",
    )
    jobs = [replace(job, config=replace(job.config, model=f"{file}:Net")) for job in _jobs(tmp_path / "study")]
    with pytest.raises(RunError, match="cannot be trained at once: .*Choose another engine"):
        list(run_stacked(jobs))


def test_prove_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "study"), "--quiet", "--json"]
    command = ["prove", "plain-9k", "--data", "optdigits", "--epochs", "1", "--seeds", "3", "--engine", "stacked"]
    assert main([*command, *out]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["n"] == 3
    assert main([*command, *out, "--kernels", "native"]) == 2
