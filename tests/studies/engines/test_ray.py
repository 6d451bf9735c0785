"""Ray's engine on real clusters: several nodes, each with processes of its own, on the loopback interface."""

import contextlib
import importlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

TOKEN = secrets.token_hex(32)
os.environ.update(  # before Ray is imported
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=TOKEN,
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'tinydigits[ray]'")

from ray._common.utils import get_default_ray_temp_dir  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from tests.support.processes import needs_proc, obey_ctrl_c  # noqa: E402
from tinydigits.cli.main import main  # noqa: E402
from tinydigits.data.dataset import DigitData  # noqa: E402
from tinydigits.data.sources import load_dataset  # noqa: E402
from tinydigits.errors import ConfigError, RunError, StorageError, ToolMissingError  # noqa: E402
from tinydigits.studies.engines import ray as ray_engine  # noqa: E402
from tinydigits.studies.engines.jobs import Job, JobDone, JobEpoch, JobPaused, JobRepeated  # noqa: E402
from tinydigits.studies.engines.local import run_local  # noqa: E402
from tinydigits.studies.engines.ray import run_ray  # noqa: E402
from tinydigits.studies.engines.ray_worker import keep_files  # noqa: E402
from tinydigits.studies.study import collect, open_jobs, open_study, run_directory  # noqa: E402
from tinydigits.training.config import RunConfig  # noqa: E402
from tinydigits.training.recipes import get_recipe  # noqa: E402
from tinydigits.training.run import train  # noqa: E402

RECIPE = replace(get_recipe("fast"), epochs=4, batch_size=128)
CONFIG = RunConfig("plain-9k", RECIPE, data="optdigits", threads=1, device="cpu", backend="torch")
SEEDS = range(2)
WITHOUT_DATA = ["prove", "plain-9k", "--epochs", "4", "--batch-size", "128", "--seeds", "2"]
PROVE = [*WITHOUT_DATA, "--data", "optdigits"]

AddNode = Callable[..., Any]


def _study(path: Path) -> dict[str, Any]:
    """A study without times and host."""
    document = json.loads((path / "study.json").read_text())
    runs = [{key: value for key, value in run.items() if key != "time_seconds"} for run in document["runs"]]
    return {**document, "runs": runs, "environment": None}


def _weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study that processes of this machine make."""
    study = tmp_path_factory.mktemp("local") / "study"
    with open_study(study, CONFIG):
        for _ in run_local(open_jobs(study, CONFIG, SEEDS, calibrate=False), 2):
            pass
        collect(study, CONFIG, SEEDS)
    return study


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """A cluster whose first node takes no runs."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)  # Cluster notes its address there, for all its `temp_dir`
        cluster = Cluster(shutdown_at_exit=False)
        cluster.add_node(num_cpus=0, **_node(temporary))
        cluster.temporary = temporary
        yield cluster
        cluster.shutdown()


def _node(temporary: str) -> dict[str, Any]:
    return {
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "temp_dir": temporary,
        "object_store_memory": 80 << 20,
    }


@pytest.fixture
def add_node(head: Cluster) -> Iterator[AddNode]:
    """Nodes with a core each, which are gone after the test."""

    def add(**options: Any) -> Any:
        return head.add_node(**{"num_cpus": 1, **_node(head.temporary), **options})

    yield add
    ray.shutdown()
    for node in list(head.worker_nodes):
        head.remove_node(node)


def _busy_workers() -> list[int]:
    """The processes of this module's clusters that have a run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::"):
                title = (entry / "cmdline").read_bytes().rstrip(b"\0 ")
                if title.endswith(b"work") and TOKEN.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _killing(events: Iterator[Any]) -> Iterator[Any]:
    """Kill the process of a run after each epoch that it tells of."""
    for event in events:
        yield event
        if isinstance(event, JobEpoch):
            for process in _busy_workers():
                os.kill(process, signal.SIGKILL)


def test_a_study_on_ray_is_the_local_one(
    head: Cluster, add_node: AddNode, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_node(num_cpus=2)
    command = [*PROVE, "--out", str(tmp_path / "study"), "--engine", "ray", "--address", head.address]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["n"] == 2
    assert "% after 4 epochs, " in captured.err
    assert _study(tmp_path / "study") == _study(local)
    for seed in SEEDS:
        ours, theirs = run_directory(tmp_path / "study", seed), run_directory(local, seed)
        assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
        for name in ("model.safetensors", "predictions.safetensors", "batches.jsonl", "config.json"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
        assert json.loads((ours / "result.json").read_text())["run_dir"] == str(ours)


def test_a_node_that_is_killed_costs_no_result(
    head: Cluster, add_node: AddNode, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str, data_dir: str | None) -> DigitData:
        loaded.append(name)
        return load_dataset(name, data_dir)

    monkeypatch.setattr(ray_engine, "load_dataset", load)
    nodes = [add_node(), add_node()]
    study, repeated = tmp_path / "study", 0
    with open_study(study, CONFIG):
        jobs = open_jobs(study, CONFIG, SEEDS, calibrate=False)
        for event in run_ray(jobs, address=head.address):
            repeated += isinstance(event, JobRepeated)
            if isinstance(event, JobEpoch) and nodes:
                head.remove_node(nodes.pop(), allow_graceful=False)
                nodes.clear()
        collect(study, CONFIG, SEEDS)
    assert repeated == 1
    assert loaded == ["optdigits"]  # once for all runs
    assert _study(study) == _study(local)
    assert all(_weights(run_directory(study, seed)) == _weights(run_directory(local, seed)) for seed in SEEDS)


NET = """
import torch
from torch import nn

def net():
    print("not for the results")
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Dropout(0.1))
"""


def test_a_paused_run_of_an_own_network_travels_out_again(
    head: Cluster, add_node: AddNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    config = replace(CONFIG, model="net.py:net")
    add_node()
    seen: list[Any] = []

    def jobs() -> Iterator[Job | None]:
        yield Job(config, Path("run"), until=1)
        while not any(isinstance(event, JobPaused) for event in seen):
            yield None
        assert not Path("run/result.json").exists()
        yield Job(config, Path("run"), until=3)
        while sum(isinstance(event, JobPaused) for event in seen) < 2:
            yield None
        yield Job(config, Path("run"), until=9)

    for event in run_ray(jobs(), 1, address=head.address):
        seen.append(event)
    assert capfd.readouterr().out == ""
    assert [type(event) for event in seen] == [
        JobEpoch, JobPaused, JobEpoch, JobEpoch, JobPaused, JobEpoch, JobDone,
    ]  # fmt: skip
    assert [event.job for event in seen] == [0, 0, 1, 1, 1, 2, 2]
    train(config, Path("undisturbed"))
    assert _weights(Path("run")) == _weights(Path("undisturbed"))
    assert Path("run/batches.jsonl").read_text() == Path("undisturbed/batches.jsonl").read_text()


@pytest.mark.slow
@needs_proc
def test_a_run_that_loses_its_process_twice_is_reported(head: Cluster, add_node: AddNode, tmp_path: Path) -> None:
    add_node()
    job = Job(replace(CONFIG, recipe=replace(RECIPE, epochs=200)), tmp_path / "run")
    seen: list[Any] = []
    with pytest.raises(RunError, match=r"run lost its process 2 times \(.*died unexpectedly"):
        seen.extend(_killing(run_ray([job], address=head.address)))
    assert sum(isinstance(event, JobRepeated) for event in seen) == 1
    assert (tmp_path / "run" / "state.safetensors").exists()


def test_a_failed_run_is_reported_with_its_own_directory(head: Cluster, add_node: AddNode, tmp_path: Path) -> None:
    wild = replace(CONFIG, recipe=replace(RECIPE, optimizer=replace(RECIPE.optimizer, name="sgd", learning_rate=1e12)))
    add_node()
    with pytest.raises(RunError, match=r"wild failed\. The loss is nan"):
        list(run_ray([Job(wild, tmp_path / "wild")], address=head.address))
    (tmp_path / "wild" / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError) as caught:
        list(run_ray([Job(CONFIG, tmp_path / "wild")], address=head.address))
    assert f"{tmp_path / 'wild' / 'state.safetensors'} is no saved state" in str(caught.value)


def test_what_holds_no_unfinished_run_is_left_as_it_is(
    local: Path, head: Cluster, add_node: AddNode, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    add_node()
    for directory, sentence in ((run_directory(local, 0), "is finished"), (tmp_path / "thesis", "is no run directory")):
        with pytest.raises(RunError, match=sentence):
            list(run_ray([Job(CONFIG, directory)], address=head.address))


LACKING = """
import importlib.metadata

own = importlib.metadata.version

def version(name):
    if name == "tinydigits":
        raise importlib.metadata.PackageNotFoundError(name)
    return own(name)

importlib.metadata.version = version
"""


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("sitecustomize.py", LACKING, "has no tinydigits, and this one tinydigits 0.1.0. Install the same"),
        ("torch-1.0.0.dist-info/METADATA", "Name: torch\nVersion: 1.0.0\n", "has torch 1.0.0, and this one torch 2"),
    ],
    ids=["without tinydigits", "another torch"],
)
def test_a_machine_with_other_packages_is_named(
    head: Cluster, add_node: AddNode, tmp_path: Path, file: str, text: str, sentence: str
) -> None:
    (tmp_path / "path" / file).parent.mkdir(parents=True)
    (tmp_path / "path" / file).write_text(text)
    add_node(env_vars={"PYTHONPATH": str(tmp_path / "path")})
    with pytest.raises(RunError, match=rf"run failed\. The Python of Ray's worker on 127\.0\.0\.1 {sentence}"):
        list(run_ray([Job(CONFIG, tmp_path / "run")], address=head.address))
    assert not (tmp_path / "run").exists()


def test_a_cluster_without_a_free_core_is_rejected(head: Cluster, add_node: AddNode, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no core, so no run fits on it"):
        list(run_ray([Job(CONFIG, tmp_path / "run")], address=head.address))
    add_node()
    with pytest.raises(RunError, match="has no core with a GPU"):
        list(run_ray([Job(CONFIG, tmp_path / "run")], address=head.address, gpu_fraction=0.5))


def test_a_run_takes_a_fraction_of_a_gpu() -> None:
    class Three:
        """A cluster that is not available here."""

        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 16.0, "GPU": 3.0}

    assert [ray_engine._capacity(Three, fraction) for fraction in (None, 1.0, 0.5, 0.3, 0.1)] == [16, 3, 6, 9, 16]


def test_another_version_of_ray_is_a_sentence(
    head: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray._private.utils.compute_version_info", lambda: ("2.1.0", "3.8.1"))
    command = [*PROVE, "--out", str(tmp_path / "study"), "--engine", "ray", "--address", head.address, "--quiet"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"--address {head.address}: Version mismatch: The cluster was started with: Ray: {ray.__version__}" in error
    assert "Ray: 2.1.0 Python: 3.8.1 Install the same Ray and the same Python on all machines." in error


def test_a_machine_outside_of_the_cluster_is_a_sentence(
    head: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = importlib.import_module("ray._private.services")
    monkeypatch.setattr(services, "find_node_ids", list)  # as on a machine where Ray was not started
    monkeypatch.setattr(services.get_node_to_connect_for_driver, "__defaults__", (None, None, None, 1))  # seconds
    with pytest.raises(ConfigError, match="this machine does not belong to the cluster. Start Ray on it"):
        list(run_ray([Job(CONFIG, tmp_path / "run")], address=head.address))


def test_a_cluster_wants_its_token(head: Cluster, few_digits: str, tmp_path: Path) -> None:
    words = [*WITHOUT_DATA, "--data", few_digits, "--out", str(tmp_path / "study"), "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "tinydigits", *words, "--engine", "ray", "--address", head.address],
        env={**os.environ, "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the cluster wants a token. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nothing listens, and nothing else will."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def test_an_address_where_nothing_listens_is_rejected_before_ray_tries_for_minutes(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[object] = []
    monkeypatch.setattr(ray, "init", lambda **settings: tried.append(settings))
    assert main([*PROVE, "--out", str(tmp_path / "study"), "--engine", "ray", "--address", closed]) == 2
    assert tried == []
    assert f"--address {closed}: nothing listens there (connection refused)" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine", "ray", "--address", "ray://10.0.0.1:10001"], "it is HOST:PORT"),
        (["--engine", "ray", "--address", "6379"], "it is HOST:PORT"),
        (["--engine", "ray", "--address", "127.0.0.1:99999"], "it is HOST:PORT"),
        (["--engine", "ray", "--gpu-fraction", "0"], "--gpu-fraction 0: must be greater than 0 and at most 1"),
        (["--engine", "ray", "--gpu-fraction", "nan"], "--gpu-fraction nan: must be greater than 0"),
        (["--engine", "ray", "--gpu-fraction", "1", "--backend", "native"], "it works on the CPU"),
        (["--engine", "ray", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--address", "auto"], "--address auto: it is for --engine ray"),
        (["--gpu-fraction", "0.5"], "--gpu-fraction 0.5: it is for --engine ray"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main([*PROVE, "--out", str(tmp_path / "study"), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ToolMissingError, match=r"pip install 'tinydigits\[ray\]'"):
        ray_engine.ray_engine()


def test_files_that_cannot_be_kept_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(StorageError, match="run could not be written: no such file"):
        keep_files(tmp_path / "run", {"batches.jsonl": (100, b"the end of a file that somebody has removed")})


def _marked(mark: str) -> list[Path]:
    """The processes, in /proc, that have inherited a mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(entry)
    return found


def _command(process: Path) -> str:
    """Its command line; nothing if it has ended meanwhile."""
    with contextlib.suppress(OSError):
        return os.fsdecode((process / "cmdline").read_bytes())
    return ""


def _listening(processes: list[Path]) -> set[str]:
    """The local addresses, in hexadecimal digits, at which the processes listen."""
    inodes = set()
    for process in processes:
        for file in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(file.readlink()))
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


@needs_proc
def test_a_cluster_of_its_own_listens_to_nobody_else_and_ends_with_ctrl_c(few_digits: str, tmp_path: Path) -> None:
    mark = f"TINYDIGITS_TEST={secrets.token_hex(8)}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= dict([mark.split("=")]) | {"TMPDIR": str(tmp_path / "temporary"), "HOME": str(tmp_path)}
    (tmp_path / "temporary").mkdir()
    words = [*WITHOUT_DATA, "--data", few_digits, "--seeds", "999", "--out", str(tmp_path / "study")]
    with subprocess.Popen(
        [sys.executable, "-m", "tinydigits", *words, "--engine", "ray", "--workers", "2"],
        env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=obey_ctrl_c,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        while "after 4 epochs" not in process.stderr.readline():
            assert process.poll() is None
        assert _listening(_marked(mark)) <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 in both
        cluster = re.escape(f"{ray_engine._TEMPORARY}/ray-") + r"\w+"
        directories = {name for entry in _marked(mark) for name in re.findall(cluster, _command(entry))}
        assert len(directories) == 1
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.endswith(f"kept in {tmp_path / 'study'}: rerun the same command to resume.\n")
    assert "Traceback" not in rest
    deadline = time.monotonic() + 10
    while left := _marked(mark):
        assert time.monotonic() < deadline, [_command(entry) for entry in left]
        time.sleep(0.1)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not Path(directories.pop()).exists()  # the runs' files were there
    assert not (tmp_path / ".ray").exists()  # where Ray would keep a token
