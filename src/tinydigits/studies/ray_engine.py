"""Jobs on a Ray cluster: as many machines as the user has, none of which needs their files or their digits.

The digits are put into Ray's object store once, and each machine fetches them once. A run takes a free core (and a
share of a GPU, if asked for). Its files come back after every epoch, so that a run whose process or machine dies goes
on elsewhere from its last epoch. Results are those of `runners.run_local`, to the bit.

Whoever can talk to a Ray cluster can run code on it. So, unless an address is given, the cluster is one of this process
alone, which listens on the loopback interface and asks for a token that only this process knows.
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
from tinydigits.errors import ConfigError, RunError, ToolMissingError, one_line
from tinydigits.studies.ray_worker import keep_files, make_order
from tinydigits.studies.runners import Engine, Event, Job, JobEpoch, JobQueue, default_workers

_SAME = ("tinydigits", "torch", "numpy")  # their versions decide about the bits of a result
_ANSWER_SECONDS = 5.0
_LOOK_SECONDS = 10.0  # between looks for machines that have joined, while nothing else happens
_FAREWELL_SECONDS = 5.0  # for runs that are stopped, to remove their files
_STORE_BYTES = 256 << 20  # of a cluster of our own: the digits, and the files of runs on their way
_PLACE = "/tmp"  # of its files, some of which are sockets: their paths have at most 107 bytes
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as it will be in later versions; without it Ray warns of that
}
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # on every system: only the loopback interface is listened on
_ELSEWHERE = {"RAY_gcs_server_port_wait_time_s": "1"}  # tries to connect; each takes half a minute


def ray_engine(address: str | None = None, gpu_share: float | None = None) -> Engine:
    """The engine of a Ray cluster.

    Args:
        address: HOST:PORT of a cluster to which this machine belongs, or `auto` to find it; None: a cluster of its own
            on this machine.
        gpu_share: the share of a GPU that a run takes besides its core; None: none.

    Raises:
        ToolMissingError: Ray is not installed.
        ConfigError: the share is out of range, or nothing listens at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise ToolMissingError(
            "--engine ray needs Ray, which is not installed. Install it: pip install 'tinydigits[ray]'"
        )
    if gpu_share is not None and not 0 < gpu_share <= 1:
        raise ConfigError(f"--gpu-share {gpu_share:g}: it is greater than 0 and at most 1; try 0.25.")
    if address is not None and address != "auto":
        _knock(address)
    return functools.partial(run_ray, address=address, gpu_share=gpu_share)


def run_ray(
    jobs: Iterable[Job | None],
    workers: int | None = None,
    *,
    address: str | None = None,
    gpu_share: float | None = None,
) -> Iterator[Event]:
    """The engine of a Ray cluster; see `Engine` and `ray_engine`. By default as many runs at once as it has room for.

    Raises:
        ConfigError: the cluster cannot be reached, or is of another version.
        RunError: it has no room for a run, a job fails, or its worker dies too often.
    """
    with _connected(address, workers, gpu_share) as (ray, place):
        work = ray.remote(num_cpus=1, num_gpus=gpu_share or 0, max_retries=0)(_travelling_work())
        versions = {package: _public(version(package)) for package in _SAME}
        stored = functools.cache(functools.partial(_store, ray))
        queue = JobQueue(jobs)
        running: dict[Any, int] = {}  # streams of messages

        def fill(places: int) -> None:
            while len(running) < places and (number := queue.take()) is not None:
                job = queue.taken[number]
                parts = [ray.put(make_order(job)), stored(job.config.data, job.config.data_dir)]
                running[work.remote(versions, place, parts)] = number

        try:
            places = workers or _room(ray, gpu_share)
            fill(places)
            while running:
                ready, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
                event = _hear(ray, ready[0], running, queue) if ready else None
                if event is not None:
                    yield event
                if not isinstance(event, JobEpoch) and not workers:
                    places = max(1, _room(ray, gpu_share))  # machines may have joined or gone; one may come again
                fill(places)
            assert queue.exhausted, "nothing runs, so there is no event to wait for"
        finally:
            _stop(ray, running)


def _travelling_work() -> Callable[..., Iterator[dict[str, Any]]]:
    """What is run on a worker. Made in here, it travels as code, and so can say what the worker lacks."""

    def work(versions: Mapping[str, str], place: str | None, parts: list[Any]) -> Iterator[dict[str, Any]]:
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
                yield {"kind": "failed", "sentence": sentence, "files": {}}
                return
        from tinydigits.studies.ray_worker import carry_out

        order, digits = ray.get(parts)
        yield from carry_out(order, digits, place)

    return work


def _public(release: str) -> str:
    """A version without what tells builds apart, such as PyTorch's for one CUDA or another."""
    return release.partition("+")[0]


def _store(ray: Any, data: str, data_dir: str | None) -> Any:
    """Put digits into the object store; their hashes go with them, so that no worker calculates them again."""
    digits = load_dataset(data, data_dir)
    assert digits.train.sha256
    assert digits.test.sha256
    return ray.put(digits)


def _room(ray: Any, gpu_share: float | None) -> int:
    """How many runs the whole cluster can take at once."""
    there = ray.cluster_resources()
    cores = int(there.get("CPU", 0))
    return min(cores, int(there.get("GPU", 0)) * int(1 / gpu_share)) if gpu_share else cores


def _hear(ray: Any, stream: Any, running: dict[Any, int], queue: JobQueue) -> Event:
    """The next event of a run, which may be the death of its worker. Its files are on disk by then."""
    number = running[stream]
    directory = queue.taken[number].directory
    errors = ray.exceptions
    try:
        message = ray.get(next(stream))
    except errors.RayTaskError as error:  # nothing that a run raises comes this way
        raise RunError(f"The run in {directory} failed on a worker. {one_line(error.cause)}") from error
    except (errors.NodeDiedError, errors.ObjectLostError):  # a machine has gone, perhaps with a message on its way
        del running[stream]
        return queue.repeat(number, None)
    except errors.RayError as error:
        del running[stream]
        return queue.repeat(number, one_line(error))
    keep_files(directory, message["files"])
    del running[stream]
    if message["kind"] == "epoch":
        running[stream] = number  # behind the others, so that each has its turn
    return queue.event(number, message)


def _stop(ray: Any, running: Mapping[Any, int]) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        for stream in running:
            ray.cancel(stream)
        if running:
            ends = [stream.completed() for stream in running]
            ray.wait(ends, num_returns=len(ends), timeout=_FAREWELL_SECONDS)


@contextlib.contextmanager
def _connected(address: str | None, workers: int | None, gpu_share: float | None) -> Iterator[tuple[Any, str | None]]:
    """Ray itself, within a cluster that has room for a run; and the directory, if it has one, that goes with it."""
    for name, value in (_SETTINGS | (_ALONE if address is None else _ELSEWHERE)).items():
        os.environ.setdefault(name, value)
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    ray = importlib.import_module("ray")
    worker = importlib.import_module("ray._private.worker")
    vars(worker)["_worker_logs_enabled"] = False  # pages of Ray's own logs when a machine dies; `Event`s tell of that
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    with contextlib.ExitStack() as stack:
        place = None
        if address is None:
            place = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir=_PLACE, ignore_cleanup_errors=True)
            )
            stack.callback(ray.shutdown)
            ray.init(
                "local",
                num_cpus=max(workers or 1, default_workers()),
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=place,
                **quiet,
            )
        else:
            stack.callback(ray.shutdown)
            try:
                ray.init(address, **quiet)
            except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigError(_no_connection(address, error)) from error
        if not _room(ray, gpu_share):
            what = "core" if not gpu_share else "core with a GPU"
            raise RunError(f"The Ray cluster has no {what}, so no run has room in it. Add a machine that has one.")
        yield ray, place


def _no_connection(address: str, error: BaseException) -> str:
    """Why a cluster cannot be joined, and what helps."""
    reasons = one_line(error) + (one_line(error.__cause__) if error.__cause__ else "")
    if "Version mismatch" in reasons:
        return f"--address {address}: {reasons} Install the same Ray and the same Python on all machines."
    if "uthenticat" in reasons:
        return (
            f"--address {address}: the cluster wants a token. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
            "file that holds it."
        )
    if "No node info found" in reasons:
        return (
            f"--address {address}: this machine does not belong to the cluster. Start Ray on it: ray start --address=…"
        )
    return f"--address {address}: no Ray cluster is there. `ray start --head` starts one, and says its address."


def _knock(address: str) -> None:
    """See that something listens at an address; Ray itself would try for minutes.

    Raises:
        ConfigError: nothing does, or this is no address.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"--address {address}: it is HOST:PORT of the cluster that this machine belongs to, as `ray start` says it "
            "(10.0.0.1:6379), or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--address {address}: nothing answers there ({(error.strerror or str(error)).lower()}). `ray status` on "
            "the cluster's first machine says whether it runs."
        ) from error
