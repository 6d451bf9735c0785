"""The search: who is trained further, what is kept, how it resumes, what is chosen; real trainings on optdigits."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace as with_values
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from tests.support.engines import inline
from tests.support.processes import obey_ctrl_c
from tinydigits.cli.main import main
from tinydigits.data.dataset import DigitData
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import ConfigError, RunError
from tinydigits.inspection.budget import Budget
from tinydigits.models.design import Block, Design, design_toml, load_design
from tinydigits.records import SearchResult, TrialCounts, read_record
from tinydigits.reports.plots import front_picture
from tinydigits.reports.tables import front_table
from tinydigits.studies.engines.jobs import (
    Engine,
    Event,
    Job,
    JobDivergedError,
    JobDone,
    JobPaused,
    RunJobs,
)
from tinydigits.studies.engines.local import LOCAL
from tinydigits.studies.prove import Study, Watch
from tinydigits.studies.search.front import Finding, margin, pareto, preference, sketch
from tinydigits.studies.search.halving import Trial, best_paused, expected_errors, promotion, rungs, shape_losses
from tinydigits.studies.search.plan import Limits, SearchPlan, plan_search
from tinydigits.studies.search.race import Search, open_search
from tinydigits.studies.search.search import TrialEvents, search
from tinydigits.studies.search.space import START
from tinydigits.training.backends.native.library import load_kernels
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe
from tinydigits.training.run import train

pytest.importorskip("optuna", reason="a search takes the extra `search`")

BUDGET = Budget("small", dataset="optdigits", max_parameters=1_200, max_epochs=3, min_accuracy=0.3)
FILE = """
dataset = "optdigits"
max_parameters = 1_200
max_epochs = 3
min_accuracy = 0.3
require = ["batch_norm", "dropout"]
"""
STEPS = (1, 3)
ROOT = Path(__file__).parents[3]
BATCHES = 10  # an epoch of optdigits
FEW_BATCHES = 2  # one of few digits


def trial(number: int, parameters: int, *accuracies: float, until: int | None = None, seed: int = 0) -> Trial:
    design = Design((Block(1 + number),))
    return Trial(number, START, design, parameters, 0, seed, until or len(accuracies), accuracies)


def torch_engine(run: RunJobs = inline) -> Engine:
    """PyTorch trains where other machines may take part; compiling takes longer than all that is trained here."""
    return Engine(run, 1, remote=True)


@pytest.fixture(scope="module")
def data() -> DigitData:
    return load_optdigits()


def plan_for(
    path: Path, budget: Budget = BUDGET, minutes: float = 10.0, trials: int | None = None, data: str = "optdigits"
) -> SearchPlan:
    return plan_search(budget, Limits(minutes, trials), data=data, engine=torch_engine(), out=path)


@contextlib.contextmanager
def opened(path: Path, trials: int | None = 5, budget: Budget = BUDGET, data: str = "optdigits") -> Iterator[Search]:
    with open_search(plan_for(path, budget, trials=trials, data=data)) as race:
        yield race


def searched(path: Path, trials: int = 5, data: str = "optdigits") -> SearchResult:
    with opened(path, trials, data=data) as race:
        for _ in race.events(torch_engine()):
            pass
        return race.conclude()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchResult]:
    """A search of five networks, undisturbed."""
    path = tmp_path_factory.mktemp("search") / "s"
    return path, searched(path)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_nothing_was_trained_twice(path: Path, batches: int = BATCHES) -> None:
    """Every run logged each of its steps once, and has as many epochs as the journal knows of."""
    runs = [run for run in (path / "trials").glob("trial-*") if run.is_dir()]
    assert runs
    for run in runs:
        steps = [line["step"] for line in lines(run / "batches.jsonl")]
        assert steps == list(range(1, batches * len(lines(run / "metrics.jsonl")) + 1))


# Successive halving


@pytest.mark.parametrize(
    ("epochs", "steps"), [(15, (2, 5, 15)), (10, (2, 4, 10)), (3, (1, 3)), (2, (1, 2)), (1, (1,)), (19, (3, 7, 19))]
)
def test_rungs(epochs: int, steps: tuple[int, ...]) -> None:
    assert rungs(epochs) == steps


def promoted(trials: Sequence[Trial]) -> list[int]:
    """The numbers of those that are trained further, one after the other."""
    numbers = []
    while (found := promotion(trials, STEPS)) is not None:
        numbers.append(found[0].number)
        trials = [replace(each, until=found[1]) if each.number == found[0].number else each for each in trials]
    return numbers


def test_the_best_third_is_promoted() -> None:
    assert promoted([trial(number, 1000, 0.9 + number / 100) for number in range(6)]) == [5, 4]
    assert promoted([trial(number, 1000, 0.9) for number in range(6)]) == [0, 1]  # a tie goes to the smaller, the first
    assert promoted([trial(number, 1000, 0.9) for number in range(2)]) == []


def test_a_small_network_is_held_against_those_of_its_size() -> None:
    large = [trial(number, 2_000, 0.9 + number / 100) for number in range(3, 9)]
    small = [trial(number, 500 + number, 0.8 + number / 100) for number in range(3)]
    assert promoted([*small, *large]) == [8, 7, 2]
    slightly_larger = trial(9, 551, 0.9)  # than 1.1 times trial 0 and 1
    assert promoted([*small, slightly_larger]) == [9]


def test_a_large_network_has_to_beat_the_small_ones_too() -> None:
    small = [trial(number, 500 + number, 0.95 - number / 1000) for number in range(3)]
    large = [trial(number, 4_000, 0.9 + number / 1000) for number in range(3, 6)]
    assert promoted([*small, *large]) == [0]
    assert promoted([*small, *large[:2], trial(5, 4_000, 0.96)]) == [5, 0]


def test_the_furthest_is_promoted_first_and_a_failed_trial_never() -> None:
    first, second = trial(0, 1000, 0.9), trial(1, 1000, 0.95, 0.97, 0.98)
    others = [trial(number, 1000, 0.8, 0.8, 0.8, until=9) for number in range(2, 7)]
    assert promotion([first, second, *others], (1, 3, 9)) == (second, 9)
    assert promotion([first, replace(second, failed="why"), *others], (1, 3, 9)) == (first, 3)
    assert promotion([first, replace(second, seed=1), *others], (1, 3, 9)) == (first, 3)
    assert best_paused([first, second], 9) == second
    assert best_paused([first, second], 3) == first
    assert best_paused([replace(first, until=3)], 3) is None  # under way


def test_errors_are_expected_to_shrink_as_others_have() -> None:
    trials = [trial(0, 9, 0.90, 0.95, 0.98), trial(1, 9, 0.80, 0.9, 0.96), trial(2, 9, 0.85), trial(3, 9, until=1)]
    expected = expected_errors(trials, STEPS)
    assert expected[0] == pytest.approx(0.02, abs=1e-3)
    assert expected[2] == pytest.approx(0.15 * 0.2, abs=1e-3)
    assert 3 not in expected
    assert expected_errors([trial(0, 9, 0.9)], STEPS)[0] == pytest.approx(0.1, abs=1e-3)


def test_a_shape_is_rated_whatever_its_size() -> None:
    sizes = [500, 1_000, 2_000, 4_000, 8_000] * 2
    errors = [0.2 * (500 / size) ** 0.5 * (1.3 if number < 5 else 1.0) for number, size in enumerate(sizes)]
    losses = shape_losses([trial(n, size, 1 - e) for n, (size, e) in enumerate(zip(sizes, errors, strict=True))], (1,))
    assert max(losses[number] for number in range(5, 10)) < min(losses[number] for number in range(5))
    assert losses[0] == pytest.approx(losses[4], abs=0.01)
    alike = [trial(number, 900, 0.9 + number / 100) for number in range(9)]
    ranked = shape_losses(alike, (1,))
    assert sorted(ranked, key=ranked.__getitem__) == list(range(8, -1, -1))


# The choice


def finding(number: int, parameters: int, accuracy: float, doubt: float = 0.0) -> Finding:
    return Finding((trial(number, parameters, accuracy),), (accuracy,), doubt)


def test_the_front_has_what_no_other_beats() -> None:
    found = [finding(0, 900, 0.99), finding(1, 500, 0.98), finding(2, 700, 0.97), finding(3, 900, 0.985)]
    assert [f.parameters for f in pareto(found)] == [500, 900]
    assert pareto(found)[1].accuracy == 0.99


def test_the_smallest_that_clears_the_target_by_its_margin_is_chosen() -> None:
    found = [finding(0, 900, 0.995, 0.001), finding(1, 700, 0.992, 0.001), finding(2, 500, 0.9905, 0.001)]
    assert [f.parameters for f in preference(found, 0.99)] == [700, 900, 500]
    assert [f.parameters for f in preference(found, 0.999)] == [900, 700, 500]
    assert [f.parameters for f in preference(found, None)] == [900, 700, 500]


def test_the_margin_is_what_two_samples_of_digits_differ_by() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(200_000) < 0.03  # digits that a third of the seeds classify correctly; all classify the others so
    correct = [~hard | (rng.random(200_000) < 1 / 3) for _ in range(3)]
    means = np.mean(correct, axis=0)
    differences = []
    for _ in range(2000):
        validation, test = rng.choice(means, 500), rng.choice(means, 1000)
        differences.append(validation.mean() - test.mean())
    wanted = margin([side[:100_000] for side in correct], 200_000) / np.sqrt(1 / 100_000 + 1 / 200_000)
    assert np.mean(np.array(differences) > wanted * np.sqrt(1 / 500 + 1 / 1000)) == pytest.approx(0.05, abs=0.012)
    assert margin([np.ones(9, dtype=bool)], 9) == 0


def test_a_network_in_one_line() -> None:
    blocks = (
        Block(8),
        Block(8, times=2, pool="max"),
        Block(12, kernel=5, separable=True, padding=True, pool="average"),
    )
    assert sketch(Design(blocks, head="flatten")) == "8 8·2 | s12p(5) ¦, flatten"


# The search as a whole


def test_what_a_search_leaves(done: tuple[Path, SearchResult], data: DigitData) -> None:
    path, result = done
    assert result == read_record(path / "front.json", SearchResult, "")
    assert result.trials.begun == 5
    assert result.trials.complete >= 1
    assert result.trials.pruned == 5 - result.trials.complete
    assert result.over_budget_built == 0
    assert result.candidates.costed > 25
    assert (result.candidates.per_second or 0) > 0
    assert (result.split, result.validation, result.epochs) == ("val", len(data.validation), 3)
    front = result.front
    assert [row.parameters for row in front] == sorted(row.parameters for row in front)
    assert [row.accuracy for row in front] == sorted(row.accuracy for row in front)
    assert all(row.parameters <= 1_200 and row.epochs == 3 for row in front)
    assert len(result.chosen.seeds) == 3
    assert load_design(path / "net.toml") == load_design(path / "trials" / f"trial-{result.chosen.trial:04d}.toml")
    network = next(row for row in result.networks if row.trial == result.chosen.trial)
    assert result.chosen.network == network.network
    check_nothing_was_trained_twice(path)
    epochs = sum(len(lines(run / "metrics.jsonl")) for run in (path / "trials").glob("trial-*") if run.is_dir())
    assert result.epochs_trained == epochs


def test_a_network_that_was_paused_ends_as_if_it_never_was(done: tuple[Path, SearchResult], tmp_path: Path) -> None:
    path, result = done
    number = next(row.trial for row in result.networks if row.epochs == 3 and row.seed == 0)
    run = path / "trials" / f"trial-{number:04d}"
    model, recipe = f"{run}.toml", replace(get_recipe("era"), epochs=3)
    train(RunConfig(model, recipe, data="optdigits", split="val", device="cpu", backend="torch"), tmp_path / "straight")
    paused, straight = (load_file(path / "model.safetensors") for path in (run, tmp_path / "straight"))
    assert paused.keys() == straight.keys()
    assert all(torch.equal(paused[name], straight[name]) for name in paused)


def test_a_search_that_has_ended_trains_nothing_more(done: tuple[Path, SearchResult]) -> None:
    path, result = done
    with opened(path) as race:
        assert list(race.events(torch_engine())) == []
        again = race.conclude()
    for key in ("front", "chosen", "trials", "networks", "candidates"):
        assert getattr(again, key) == getattr(result, key)


def test_a_search_that_has_ended_can_be_given_more(done: tuple[Path, SearchResult], tmp_path: Path) -> None:
    path, result = done
    shutil.copytree(path, tmp_path / "s")
    more = searched(tmp_path / "s", trials=7)
    assert more.trials.begun == 7
    before = {row.trial: row for row in result.networks}
    for row in more.networks:
        if row.trial in before:
            assert row.epochs >= before[row.trial].epochs
            assert row.network == before[row.trial].network


class Killed(BaseException):
    """The process has gone, in the middle of anything."""


def dying(moment: int) -> Callable[..., Iterator[Event]]:
    """The engine of a process that dies when it is to hear of its n-th event: what the event says has happened."""

    def engine(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
        for number, event in enumerate(inline(jobs, workers), start=1):
            if number == moment:
                raise Killed
            yield event

    return engine


def test_a_search_that_is_killed_again_and_again_is_the_same_search(
    done: tuple[Path, SearchResult], tmp_path: Path
) -> None:
    path, rng, kills = tmp_path / "s", random.Random(0), 0
    while True:
        with opened(path) as race:
            try:
                for _ in race.events(torch_engine(dying(rng.randint(1, 5)))):
                    pass
            except Killed:
                kills += 1
                continue
            result = race.conclude()
            break
    assert kills >= 4
    check_nothing_was_trained_twice(path)
    assert result.trials.begun == 5
    undisturbed = {row.trial: row.network for row in done[1].networks}
    assert {row.trial: row.network for row in result.networks} == undisturbed
    assert [row.accuracies for row in result.front] == [row.accuracies for row in done[1].front]


def test_a_kill_before_a_run_that_is_done_could_say_so(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def engine(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
        for event in inline(jobs, workers):
            if isinstance(event, JobDone):
                raise Killed
            yield event

    with opened(path, trials=1) as race, pytest.raises(Killed):
        list(race.events(torch_engine(engine)))
    assert (path / "trials" / "trial-0000" / "result.json").exists()
    assert searched(path, trials=1).trials.complete == 1
    check_nothing_was_trained_twice(path)


def test_a_line_torn_by_a_kill_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path) as race, pytest.raises(Killed):
        list(race.events(torch_engine(dying(3))))
    journal = path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])
    result = searched(path, trials=2)
    assert result.trials.begun == 2
    assert json.loads(journal.read_bytes().splitlines()[-1])


def test_a_damaged_definition_is_restored_from_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path) as race, pytest.raises(Killed):
        list(race.events(torch_engine(dying(2))))
    file = path / "trials" / "trial-0000.toml"
    text = file.read_text()
    file.write_text("[[blocks]]\nchannels = ")
    searched(path, trials=2)
    assert file.read_text() == text


def test_the_time_ends_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with open_search(plan_for(tmp_path / "s")) as race:
        begun = 0
        for shown, event in race.events(torch_engine()):
            now += 60.0 * isinstance(event, JobPaused | JobDone)
            begun = max(begun, shown.number + 1)
        result = race.conclude()
        assert race.over
    retests = result.trials.retests
    assert 3 <= begun - retests <= 8  # new ones in three quarters of ten minutes, a minute a job
    assert retests >= 1
    assert now - 1000 <= 660


@pytest.mark.parametrize(("minutes", "late"), [(1e-6, 0.0), (10.0, 300.0)], ids=["none", "up after the first pause"])
def test_a_search_without_time_still_ends_with_a_network(tmp_path: Path, minutes: float, late: float) -> None:
    with open_search(plan_for(tmp_path / "s", minutes=minutes)) as race:
        for _ in race.events(torch_engine()):
            race._begun -= 2 * late
        result = race.conclude()
    assert result.trials == TrialCounts(begun=1, complete=1, pruned=0, failed=0, retests=0)


def test_a_search_of_which_nothing_is_left_says_so(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "s") as race,
        pytest.raises(RunError, match="none of 0 trials was trained to its last epoch"),
    ):
        race.conclude()


def test_a_training_that_diverges_is_one_network_less(tmp_path: Path) -> None:
    starts = 0

    def engine(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
        nonlocal starts
        starts += 1
        if starts == 1:
            job = next(iter(jobs))
            assert job is not None
            raise JobDivergedError(0, f"The run in {job.directory} failed. The loss is nan: the training has diverged.")
        yield from inline(jobs, workers)

    with opened(tmp_path / "s", trials=3) as race:
        list(race.events(torch_engine(engine)))
        result = race.conclude()
    assert result.trials.failed == 1
    assert "diverged" in (result.networks[0].failed or "")
    assert result.trials.complete >= 1
    assert result.trials.begun == 3


def test_another_failure_ends_the_search(tmp_path: Path) -> None:
    def engine(jobs: Iterable[Job | None], workers: int | None = None) -> Iterator[Event]:
        job = next(iter(jobs))
        assert job is not None
        raise RunError(f"The run in {job.directory} failed. The disk is full.")
        yield

    with opened(tmp_path / "s") as race, pytest.raises(RunError, match="disk is full"):
        list(race.events(torch_engine(engine)))


def test_what_the_budget_asks_for_of_the_last_three_epochs(tmp_path: Path) -> None:
    budget = replace(BUDGET, max_epochs=4, accuracy_of="last3")
    with opened(tmp_path / "s", trials=1, budget=budget) as race:
        list(race.events(torch_engine()))
        chosen = race.conclude().chosen
    epochs = [line["accuracy"] for line in lines(tmp_path / "s" / "trials" / "trial-0000" / "metrics.jsonl")]
    assert len(epochs) == 4
    assert chosen.accuracies[0] == pytest.approx(sum(epochs[1:]) / 3)


def test_a_plan_is_as_long_and_as_large_as_the_time_allows(tmp_path: Path) -> None:
    budget = Budget("b", max_parameters=8_000, max_epochs=12)
    long, short = (plan_for(tmp_path, budget, minutes) for minutes in (60.0, 0.2))
    assert long.epochs == 12
    assert 1 <= short.epochs < 12
    assert short.max_macs < long.max_macs
    assert plan_for(tmp_path, replace(budget, max_macs=90_000)).trial_budget.max_macs == 90_000
    last3 = replace(budget, min_accuracy=0.5, accuracy_of="last3")
    assert plan_for(tmp_path, last3, 0.01).epochs == 3


# Bad directories and journals


def test_another_search_is_rejected(done: tuple[Path, SearchResult]) -> None:
    other = replace(BUDGET, max_parameters=900)
    with (
        pytest.raises(RunError, match=r"holds another search: budget.max_parameters = 1200 there, 900 wanted"),
        opened(done[0], budget=other),
    ):
        pass


def test_a_journal_of_another_search_is_rejected(done: tuple[Path, SearchResult], tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path, budget=replace(BUDGET, max_parameters=900)):
        pass
    shutil.copy(done[0] / "journal.log", path / "journal.log")
    with (
        pytest.raises(RunError, match=r"journal\.log is the journal of another search"),
        opened(path, budget=replace(BUDGET, max_parameters=900)),
    ):
        pass


@pytest.mark.parametrize(
    "content", [b"no json\nno json\n", b"\xff\xfe\n\n", b"[]\n", b'{"op_code": 4}\n', b'{"op_code": 99}\n']
)
def test_an_unreadable_journal_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    with opened(tmp_path / "s"):
        pass
    journal = tmp_path / "s" / "journal.log"
    journal.write_bytes(journal.read_bytes() + content)
    with pytest.raises(RunError, match=r"journal\.log cannot be read \(.*new search"), opened(tmp_path / "s"):
        pass


def test_trials_without_their_journal_are_rejected(done: tuple[Path, SearchResult], tmp_path: Path) -> None:
    shutil.copytree(done[0], tmp_path / "s")
    (tmp_path / "s" / "journal.log").unlink()
    with pytest.raises(RunError, match=r"has trials, but no journal\.log"), opened(tmp_path / "s"):
        pass


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "search"}', "[]"])
def test_a_damaged_config_is_a_sentence(tmp_path: Path, content: str) -> None:
    with opened(tmp_path / "s"):
        pass
    (tmp_path / "s" / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json: .*missing|no search"), opened(tmp_path / "s"):
        pass


def test_a_directory_that_holds_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not empty, and no search"), opened(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# The command


@pytest.fixture
def budget_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "no-such-compiler")  # compiling takes longer than all that is trained here
    load_kernels.cache_clear()  # another test in this process may have compiled them: a search would then ask for them
    file = tmp_path / "small.toml"
    file.write_text(FILE)
    return file


SEARCH = ["search", "--budget", "small.toml", "--data", "optdigits", "--seeds", "1"]


def test_the_command_ends_with_a_proof(
    budget_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinydigits.studies.engines.local.run_local", inline)
    command = [*SEARCH, "--trials", "2", "--workers", "1"]
    code = main([*command, "--json"])
    captured = capsys.readouterr()
    assert code in (0, 1), captured.err
    document = json.loads(captured.out)
    assert document["verdict"]["budget"] == "small"
    assert code == (0 if document["verdict"]["verdict"] == "met" else 1)
    assert "Its proof: 1 seed, 3 epochs" in captured.err
    path = Path("studies/search-small-optdigits")
    assert document == json.loads((path / "front.json").read_text())
    assert (path / f"proof-{document['chosen']['trial']:04d}" / "study.json").exists()
    with Image.open(path / "front.png") as picture:
        assert picture.width > 1000
    assert main(["inspect", str(path / "net.toml"), "--budget", "small.toml"]) == 0
    capsys.readouterr()
    assert main(command) == code  # the same, as tables; nothing is trained
    shown = capsys.readouterr().out
    for text in ("Pareto front", "→", "0 built over the budget", "Chosen: ", "Study: ", "net.toml"):
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--minutes", "0"], "minutes = 0: must be greater than 0"),
        (["--minutes", "nan"], "minutes = nan: must be greater than 0"),
        (["--trials", "0"], "trials = 0: must be at least 1"),
        (["--seeds", "0"], "seeds = 0: must be at least 1"),
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--budget", "absent.toml"], "absent.toml cannot be read"),
        (["--budget", "era-s8"], "era-s7"),
        (["--data", "nowhere"], "data 'nowhere' is unknown"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_bad_input_is_a_sentence(
    budget_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main([*SEARCH, *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("studies").exists()


def test_a_search_needs_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["search"])
    assert "the following arguments are required: --budget" in capsys.readouterr().err


def test_an_impossible_budget_is_rejected_before_anything_is_made(
    budget_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget_file.write_text("max_parameters = 30")
    assert main(SEARCH) == 1
    assert "The nearest that can be met: max_parameters = 42." in capsys.readouterr().err
    assert not Path("studies").exists()


def test_without_the_extra_it_says_how_to_get_it(
    budget_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("race", "journal"):
        monkeypatch.delitem(sys.modules, f"tinydigits.studies.search.{name}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(SEARCH) == 2
    assert 'pip install "tinydigits[search]"' in capsys.readouterr().err


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler")
def test_the_native_backend_is_used_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def backend(engine: Engine) -> str:
        return plan_search(BUDGET, Limits(10), data="optdigits", engine=engine, out=tmp_path).config.backend

    assert backend(LOCAL) == "native"
    assert backend(Engine(inline, remote=True)) == "torch"
    assert backend(Engine(inline, device="cuda")) == "torch"
    load_kernels.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert backend(LOCAL) == "torch"


class Seen:
    """What a watch is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.chosen: SearchResult | None = None

    def trials(self, search: Search, events: TrialEvents) -> TrialEvents:
        for trial, event in events:
            assert search.journal.trials()[trial.number].design == trial.design
            self.events.append(event)
            yield trial, event

    def proof(self, result: SearchResult, study: Study, seconds: float) -> Watch:
        assert seconds > 0
        assert result.verdict is None
        assert study.directory.parent == Path(result.search_dir)
        self.chosen = result
        return self.proof_events

    def proof_events(self, jobs: Sequence[Job], events: Iterator[Event]) -> Iterator[Event]:
        assert len(jobs) == 1
        yield from events


def test_the_library_searches_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine, seen = torch_engine(), Seen()
    result = search(
        BUDGET, minutes=10, trials=1, seeds=1, data="optdigits", engine=engine, out=tmp_path / "s", watch=seen
    )
    assert capfd.readouterr() == ("", "")
    assert any(isinstance(event, JobDone) for event in seen.events)
    assert seen.chosen is not None
    assert result.chosen == seen.chosen.chosen
    assert result.verdict is not None
    assert result.verdict.n == 1
    assert result == read_record(tmp_path / "s" / "front.json", SearchResult, "")
    again = search(BUDGET, trials=1, seeds=1, data="optdigits", engine=engine, out=tmp_path / "s")
    assert again.verdict == result.verdict
    with pytest.raises(ConfigError, match="seeds = 0: must be at least 1"):
        search(BUDGET, seeds=0, data="optdigits", engine=engine, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def share(path: str, data: str) -> None:
    """A process of a search: it takes part, waits for the others, and prints the result."""
    with opened(Path(path), trials=6, data=data) as race:
        trained = sum(isinstance(event, JobPaused | JobDone) for _, event in race.events(torch_engine()))
        race.wait_for_others()
        result = race.conclude()
    sys.stdout.write(json.dumps({"trained": trained, **result.as_dict()}))


def _sharing(path: Path, data: str) -> "subprocess.Popen[bytes]":
    code = f"from tests.studies.search.test_search import share; share({str(path)!r}, {data!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)


def test_two_processes_share_a_search(few_digits: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with _sharing(path, few_digits) as one, _sharing(path, few_digits) as other:
        documents = [json.loads(process.communicate()[0]) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    for key in ("front", "chosen", "networks", "trials"):
        assert documents[0][key] == documents[1][key]
    assert documents[0]["trials"]["begun"] == 6
    jobs = sum(2 if row["epochs"] == 3 and row["seed"] == 0 else 1 for row in documents[0]["networks"])
    assert sum(document["trained"] for document in documents) == jobs
    check_nothing_was_trained_twice(path, FEW_BATCHES)


def test_a_search_whose_process_is_killed_resumes(few_digits: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with _sharing(path, few_digits) as process:
        deadline = time.monotonic() + 300
        while not (path / "trials" / "trial-0001" / "state.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    result = searched(path, trials=6, data=few_digits)
    assert result.trials.begun == 6
    check_nothing_was_trained_twice(path, FEW_BATCHES)


def test_whoever_comes_while_the_choice_is_proved_is_told_so(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as race:
        with opened(tmp_path / "s"):
            pass
        race.wait_for_others()
        with pytest.raises(RunError, match="another process has ended the trials"), opened(tmp_path / "s"):
            pass


def test_ctrl_c_says_how_to_resume(budget_file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tinydigits", *SEARCH],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=obey_ctrl_c,
    ) as process:
        assert process.stderr is not None
        while "compared at epochs" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.endswith("is kept in studies/search-small-optdigits: rerun the same command to resume.\n")
    assert "Traceback" not in rest


# What is shown


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_front_fits_the_screen(done: tuple[Path, SearchResult], width: int) -> None:
    console = Console(width=width, record=True)
    console.print(front_table(done[1].front, done[1].chosen.trial))
    shown = console.export_text()
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    if done[1].chosen.trial in [row.trial for row in done[1].front]:
        assert "→" in shown


def test_the_picture_of_a_search(done: tuple[Path, SearchResult], tmp_path: Path) -> None:
    result = done[1]
    variants = [result, with_values(result, target=None), with_values(result, networks=result.networks[:1])]
    for number, variant in enumerate(variants):
        front_picture(variant, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as picture:
            assert len(set(np.asarray(picture.convert("RGB")).reshape(-1, 3).view("V3").ravel().tolist())) > 20


def _designs(path: Path) -> Sequence[str]:
    return [file.read_text() for file in sorted((path / "trials").glob("*.toml"))]


def test_the_definitions_are_those_of_the_journal(done: tuple[Path, SearchResult]) -> None:
    with opened(done[0]) as race:
        designs = [design_toml(trial.design) for trial in race.journal.trials()]
    assert _designs(done[0]) == designs


def test_trials_are_not_listed_as_studies(done: tuple[Path, SearchResult], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studies", str(done[0]), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == []
    assert "left out" not in captured.err
    assert main(["studies", str(done[0]), "--runs", "--json"]) == 0
    complete = [row for row in done[1].networks if row.epochs == 3]
    assert len(json.loads(capsys.readouterr().out)) == len(complete)


@pytest.mark.slow
def test_a_search_on_mnist_finds_a_network_that_keeps_a_courses_budget(
    mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["search", "--budget", "era-s7", "--minutes", "6", "--seeds", "3", "--data", "mnist", "--json"]
    assert main(command) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    verdicts = {clause["clause"]: clause["verdict"] for clause in document["verdict"]["clauses"]}
    assert all(verdict == "met" for clause, verdict in verdicts.items() if clause != "accuracy")
    assert document["verdict"]["mean"] > 0.985  # with as few epochs as six minutes allow
    assert document["over_budget_built"] == 0
    assert document["busy_fraction"] > 0.7
    assert document["candidates"]["per_second"] > 1000
