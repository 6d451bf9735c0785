"""Jobs on a Ray cluster, whose machines need none of the user's files or digits.

The digits are put into Ray's object store once, and each machine fetches them once. A run takes a free core (and a
fraction of a GPU, if wanted). Its files come back after every epoch, so that another worker can resume a run whose
process or machine has died. The results are those of local.py, to the bit.

Anyone who can talk to a Ray cluster can run code on it. So, unless an address is given, the cluster belongs to this
process alone: it listens on the loopback interface and wants a token that only this process knows.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError, RunError, ToolMissingError, one_line, reason_of
from tinydigits.studies.engines.jobs import Engine, Event, Job, JobEpoch, JobFailed, JobQueue
from tinydigits.studies.engines.local import default_workers
from tinydigits.studies.engines.ray_worker import keep_files, make_order

_SAME = ("tinydigits", "torch", "numpy")  # their versions decide about the bits of a result
_ANSWER_SECONDS = 5.0
_LOOK_SECONDS = 10.0  # between looks for machines that have joined, while nothing else happens
_FAREWELL_SECONDS = 5.0  # for runs that are stopped, to remove their files
_STORE_BYTES = 256 << 20  # of a cluster of our own: the digits, and the files of runs on their way
_TEMPORARY = "/tmp"  # for a cluster's files, some of which are sockets: their paths have at most 107 bytes
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default of later versions; without it Ray warns of the change
}
_OWN_SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # listen on the loopback interface, whatever the system
_JOINED_SETTINGS = {"RAY_gcs_server_port_wait_time_s": "1"}  # tries to connect; each takes half a minute


def ray_engine(address: str | None = None, gpu_fraction: float | None = None, workers: int | None = None) -> Engine:
    """The engine of a Ray cluster, which trains as many `workers` runs at once (None: as many as fit on the cluster).

    `address`: HOST:PORT of a cluster to which this machine belongs, or `auto` to find it; None: a cluster of its own on
    this machine. `gpu_fraction`: the fraction of a GPU, in (0, 1], that a run takes besides its core; None: none.

    Raises:
        ToolMissingError: Ray is not installed.
        ConfigError: the fraction is out of range, or nothing listens at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise ToolMissingError(
            "--engine ray needs Ray, which is not installed. Install it: pip install 'tinydigits[ray]'"
        )
    if gpu_fraction is not None and not 0 < gpu_fraction <= 1:
        raise ConfigError(f"--gpu-fraction {gpu_fraction:g}: must be greater than 0 and at most 1; try 0.25.")
    if address is not None and address != "auto":
        _check_address(address)
    run = functools.partial(run_ray, address=address, gpu_fraction=gpu_fraction)
    return Engine(run, workers, device="cuda" if gpu_fraction else "cpu", remote=address is not None)


def run_ray(
    jobs: Iterable[Job | None],
    workers: int | None = None,
    *,
    address: str | None = None,
    gpu_fraction: float | None = None,
) -> Iterator[Event]:
    """Train jobs on a Ray cluster, by default as many at once as fit on it; see `Engine` and `ray_engine`.

    Raises:
        ConfigError: the cluster cannot be reached, or runs another version.
        RunError: no run fits on it, a job fails, or its worker dies too often.
    """
    with _connected(address, workers, gpu_fraction) as (ray, temporary):
        work = ray.remote(num_cpus=1, num_gpus=gpu_fraction or 0, max_retries=0)(_travelling_work())
        versions = {package: version(package).partition("+")[0] for package in _SAME}  # of whatever build
        queue = JobQueue(jobs)
        running: dict[Any, int] = {}  # streams of reports

        @functools.cache
        def stored(data: str, data_dir: str | None) -> Any:
            """Digits in the object store, with their hashes, so that no worker calculates them again."""
            digits = load_dataset(data, data_dir)
            assert digits.train.sha256
            assert digits.test.sha256
            return ray.put(digits)

        def fill(most: int) -> None:
            while len(running) < most and (number := queue.take()) is not None:
                job = queue.taken[number]
                parts = [ray.put(make_order(number, job)), stored(job.config.data, job.config.data_dir)]
                running[work.remote(versions, temporary, parts)] = number

        try:
            most = workers or _capacity(ray, gpu_fraction)
            fill(most)
            while running:
                ready, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
                event = _receive(ray, ready[0], running, queue) if ready else None
                if event is not None:
                    yield event
                if not isinstance(event, JobEpoch) and not workers:
                    most = max(1, _capacity(ray, gpu_fraction))  # machines may have joined or left, and may return
                fill(most)
            assert queue.exhausted, "nothing runs, so there is no event to wait for"
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                for stream in running:
                    ray.cancel(stream)
                if ends := [stream.completed() for stream in running]:
                    ray.wait(ends, num_returns=len(ends), timeout=_FAREWELL_SECONDS)


def _travelling_work() -> Callable[..., Iterator[tuple[Any, Any]]]:
    """What runs on a worker. As a function that is defined in here, it travels as code and can say what is missing."""

    def work(versions: Mapping[str, str], temporary: str | None, parts: list[Any]) -> Iterator[tuple[Any, Any]]:
        from importlib.metadata import PackageNotFoundError, version

        import ray

        for package, ours in versions.items():
            try:
                theirs = version(package).partition("+")[0]
            except PackageNotFoundError:
                theirs = None
            if theirs != ours:
                there = f"{package} {theirs}" if theirs else f"no {package}"
                where = f"The Python of Ray's worker on {ray.util.get_node_ip_address()}"
                sentence = f"{where} has {there}, and this one {package} {ours}. Install the same on all machines."
                yield sentence, {}
                return
        from tinydigits.studies.engines.ray_worker import carry_out

        order, digits = ray.get(parts)
        yield from carry_out(order, digits, temporary)

    return work


def _capacity(ray: Any, gpu_fraction: float | None) -> int:
    """How many runs the whole cluster can train at once."""
    there = ray.cluster_resources()
    cores = int(there.get("CPU", 0))
    return min(cores, int(there.get("GPU", 0)) * int(1 / gpu_fraction)) if gpu_fraction else cores


def _receive(ray: Any, stream: Any, running: dict[Any, int], queue: JobQueue) -> Event:
    """The next event of a run, which may be the death of its worker. Its files are on disk by then."""
    number = running[stream]
    directory = queue.taken[number].directory
    errors = ray.exceptions
    try:
        report, files = ray.get(next(stream))
    except errors.RayTaskError as error:  # not from the run itself: `train_job` catches whatever that raises
        raise RunError(f"The run in {directory} failed on a worker. {one_line(error.cause)}") from error
    except errors.RayError as error:
        del running[stream]
        gone = isinstance(error, errors.NodeDiedError | errors.ObjectLostError)  # perhaps with a message on its way
        return queue.repeat(number, None if gone else one_line(error))
    if isinstance(report, str):  # from a worker that has no tinydigits, or another version
        report = JobFailed(number, report)
    keep_files(directory, files)
    del running[stream]
    if isinstance(report, JobEpoch):
        running[stream] = number  # behind the others, so that each has its turn
    return queue.event(report)


@contextlib.contextmanager
def _connected(
    address: str | None, workers: int | None, gpu_fraction: float | None
) -> Iterator[tuple[Any, str | None]]:
    """Ray itself, connected to a cluster on which a run fits; and the directory of its files, if it is our own."""
    for name, value in (_SETTINGS | (_OWN_SETTINGS if address is None else _JOINED_SETTINGS)).items():
        os.environ.setdefault(name, value)
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    ray = importlib.import_module("ray")
    worker = importlib.import_module("ray._private.worker")
    vars(worker)["_worker_logs_enabled"] = False  # else Ray prints pages when a machine dies, which events report
    options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    with contextlib.ExitStack() as stack:
        temporary = None
        if address is None:
            temporary = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir=_TEMPORARY, ignore_cleanup_errors=True)
            )
            options |= {"num_cpus": max(workers or 1, default_workers()), "object_store_memory": _STORE_BYTES}
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "_temp_dir": temporary}
        stack.callback(ray.shutdown)
        try:
            ray.init(address or "local", **options)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
            if address is None:
                raise
            raise ConfigError(_no_connection(address, error)) from error
        if not _capacity(ray, gpu_fraction):
            what = "core with a GPU" if gpu_fraction else "core"
            raise RunError(f"The Ray cluster has no {what}, so no run fits on it. Add a machine that has one.")
        yield ray, temporary


def _no_connection(address: str, error: BaseException) -> str:
    """Why a cluster cannot be joined, and what helps."""
    reasons = one_line(error) + (one_line(error.__cause__) if error.__cause__ else "")
    hint = "no Ray cluster is there. `ray start --head` starts one and prints its address."
    if "Version mismatch" in reasons:
        hint = f"{reasons} Install the same Ray and the same Python on all machines."
    elif "uthenticat" in reasons:
        hint = "the cluster wants a token. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that holds it."
    elif "No node info found" in reasons:
        hint = "this machine does not belong to the cluster. Start Ray on it: ray start --address=…"
    return f"--address {address}: {hint}"


def _check_address(address: str) -> None:
    """Check that something listens at an address; Ray itself would try for minutes.

    Raises:
        ConfigError: nothing does, or this is no address.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"--address {address}: it is HOST:PORT of the cluster that this machine belongs to, as `ray start` prints "
            "it (10.0.0.1:6379), or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--address {address}: nothing listens there ({reason_of(error)}). Run `ray status` "
            "on the cluster's first machine to see whether it is up."
        ) from error
