"""The engine on real processes of this machine: workers that die, runs that pause, fail or do not fit on the disk."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import children_of, needs_proc
from tinydigits.errors import RunError
from tinydigits.studies.engines.jobs import Job, JobDone, JobEpoch, JobPaused, JobRepeated
from tinydigits.studies.engines.local import run_local
from tinydigits.studies.study import run_directory
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe
from tinydigits.training.run import train

RECIPE = replace(get_recipe("fast"), epochs=2, batch_size=128)
CONFIG = RunConfig("plain-9k", RECIPE, data="optdigits", threads=1, device="cpu", backend="torch")
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

    def forward(self, images):
        assert len(images) == 2, 'only two'
        return super().forward(images)
"""


@pytest.fixture(scope="module")
def undisturbed(few_digits: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this process."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    train(replace(CONFIG, data=few_digits), path)
    return path


def _jobs(path: Path, count: int, epochs: int, data: str) -> list[Job]:
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=epochs), data=data)
    return [Job(replace(config, seed=seed), run_directory(path, seed)) for seed in range(count)]


def _killing(events: Iterator[Any], times: int) -> Iterator[Any]:
    """Kill one worker after the first epoch it tells of, `times` times."""
    for event in events:
        yield event
        if isinstance(event, JobEpoch) and times:
            workers = [
                child
                for child in children_of(os.getpid())
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
            ]
            os.kill(workers[0], signal.SIGKILL)
            times -= 1


@needs_proc
def test_a_killed_worker_is_replaced_and_its_run_ends_the_same(
    undisturbed: Path, few_digits: str, tmp_path: Path
) -> None:
    job = Job(replace(CONFIG, data=few_digits), tmp_path / "run")
    events = list(_killing(run_local([job], 1), times=1))
    assert sum(isinstance(event, JobRepeated) for event in events) == 1
    done = next(event for event in events if isinstance(event, JobDone))
    assert done.result.accuracy == json.loads((undisturbed / "result.json").read_text())["accuracy"]
    weights = [path / "model.safetensors" for path in (job.directory, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@needs_proc
def test_a_run_that_loses_its_worker_twice_is_reported(few_digits: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="lost its process 2 times"):
        list(_killing(run_local(_jobs(tmp_path, 1, epochs=500, data=few_digits), 1), times=2))


def test_a_worker_that_dies_between_two_runs_is_replaced(few_digits: str, tmp_path: Path) -> None:
    done = []
    repeated = 0
    for event in run_local(_jobs(tmp_path, 2, epochs=1, data=few_digits), 1):
        repeated += isinstance(event, JobRepeated)
        if isinstance(event, JobDone):
            done.append(event.job)
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
    assert (done, repeated) == ([0, 1], 1)


def test_a_paused_run_resumes_to_the_same_bits(undisturbed: Path, few_digits: str, tmp_path: Path) -> None:
    config, run = replace(CONFIG, data=few_digits), tmp_path / "run"
    seen: list[Any] = []

    def jobs() -> Iterator[Job | None]:
        yield Job(config, run, until=1)
        while not isinstance(seen[-1] if seen else None, JobPaused):
            yield None
        assert (run / "state.safetensors").exists()
        assert not (run / "result.json").exists()
        yield Job(config, run, until=1)  # it is there already
        yield Job(config, tmp_path / "other", until=1)  # another may run meanwhile
        while sum(isinstance(event, JobPaused) for event in seen) < 3:
            yield None
        yield Job(config, run, until=5)  # there are only two

    for event in run_local(jobs(), 2):
        seen.append(event)
    assert [(event.job, type(event)) for event in seen if event.job != 2] == [
        (0, JobEpoch), (0, JobPaused), (1, JobPaused), (3, JobEpoch), (3, JobDone),
    ]  # fmt: skip
    weights = [path / "model.safetensors" for path in (run, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (run / "batches.jsonl").read_text() == (undisturbed / "batches.jsonl").read_text()


def test_a_job_is_taken_when_a_worker_is_free_and_not_before(few_digits: str, tmp_path: Path) -> None:
    taken: list[Job] = []

    def jobs() -> Iterator[Job]:
        for job in _jobs(tmp_path, 3, epochs=1, data=few_digits):
            taken.append(job)
            yield job

    ended = 0
    for event in run_local(jobs(), 1):
        assert len(taken) == ended + 1
        ended += isinstance(event, JobDone)
    assert (len(taken), ended) == (3, 3)


def test_whatever_a_users_network_raises_is_reported(few_digits: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    job = Job(replace(CONFIG, model=f"{tmp_path / 'net.py'}:Net", data=few_digits), tmp_path / "run")
    with pytest.raises(RunError, match=r"run failed\. AssertionError: only two\. Fix that"):
        list(run_local([job], 1))


def test_a_run_that_diverges_is_reported_and_the_others_stay(few_digits: str, tmp_path: Path) -> None:
    good = replace(CONFIG, data=few_digits)
    wild = replace(good, recipe=replace(RECIPE, optimizer=replace(RECIPE.optimizer, name="sgd", learning_rate=1e12)))
    jobs = [Job(good, tmp_path / "good"), Job(wild, tmp_path / "wild")]
    with pytest.raises(RunError, match=r"wild failed\. The loss is nan"):
        list(run_local(jobs, 1))
    assert (tmp_path / "good" / "result.json").exists()


def test_a_full_disk_is_reported_and_finished_runs_stay(few_digits: str, small_disk: Path) -> None:
    jobs = [
        Job(replace(CONFIG, data=few_digits, seed=seed), run_directory(small_disk / "s", seed)) for seed in range(3)
    ]
    with pytest.raises(RunError, match="the disk is full"):
        list(run_local(jobs, 1))
    assert (run_directory(small_disk / "s", 0) / "result.json").exists()
