"""The HTTP server under load, good and bad: `make benchmark-serve`.

Writes results/serve.json. Needs MNIST and the extra `serve`. Takes 25 minutes; `--section NAME` measures only a part,
and leaves the other figures as they are. `--quick` takes a minute, and writes nothing.

The client and the server run on the same machine; the client takes a third of the server's time. The server is
started as a user would, one process, with its access log (into a file).
"""

import argparse
import asyncio
import contextlib
import io
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.load import Address, Connection, Outcome, closed_loop, get, open_loop, post, probe
from benchmarks.measure import figure, write_section
from tinydigits.data.sources import load_dataset

MODEL = "tiny-10k"
BATCH = 64
CONNECTIONS = 8  # of a client that asks as fast as it is answered
SLOW = 200
HALF_ROUNDS = 6  # of the real and of a bare server, in turns
SHARED = "client and server on the same cores"

Figures = list[dict[str, Any]]
Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Setting:
    """Seconds of each part, and how often the server is started."""

    speed: float
    half: float
    overload: float
    recovery: float
    slow: float
    mixed: float
    starts: int


FULL = Setting(speed=30, half=60, overload=120, recovery=6, slow=30, mixed=600, starts=5)
QUICK = Setting(speed=3, half=5, overload=8, recovery=4, slow=5, mixed=10, starts=2)


@dataclass(frozen=True)
class Running:
    """A server that was started for this."""

    process: subprocess.Popen[str]
    address: Address

    def memory(self) -> float:
        """Resident, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

    def files(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def main() -> None:
    """Measure all, then write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this (default: all)")
    parser.add_argument("--quick", action="store_true", help="a minute in all; nothing is written")
    arguments = parser.parse_args()
    for section in arguments.section or SECTIONS:
        figures = SECTIONS[section](QUICK if arguments.quick else FULL)
        if not arguments.quick:
            write_section("serve", "make benchmark-serve", section, figures, list(SECTIONS))


@contextlib.contextmanager
def server() -> Iterator[Running]:
    """A server on a free port, its access log in a file."""
    with tempfile.TemporaryFile("w") as log:
        command = [sys.executable, "-m", "tinydigits", "serve", MODEL, "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()[0]
            host, _, port = line.removeprefix("http://").rpartition(":")
            yield Running(process, (host, int(port)))
        finally:
            process.kill()
            process.communicate()


def start_figures(setting: Setting) -> Figures:
    """From the command to the line that says that requests are taken."""
    seconds = []
    for _ in range(setting.starts):
        begin = time.perf_counter()
        with server():
            seconds.append(time.perf_counter() - begin)
    value = round(float(np.median(seconds)), 2)
    return [figure(f"start, command to first request, median of {len(seconds)}", value, "s", "< 2", value < 2)]


def load_figures(setting: Setting) -> Figures:
    """As much as it can take, half of that, and twice."""
    with server() as running:
        return asyncio.run(measure(running, load_dataset("mnist").test.images, setting))


def traffic_figures(setting: Setting) -> Figures:
    """All kinds of requests for long, and the end."""
    with server() as running:
        return [
            *asyncio.run(mixed_figures(running, load_dataset("mnist").test.images, setting)),
            *stop_figures(running),
        ]


SECTIONS = {"start": start_figures, "load": load_figures, "traffic": traffic_figures}


def single_requests(digits: Pictures) -> list[bytes]:
    """A digit each."""
    return [post("/predict", png(digit), "Content-Type: image/png") for digit in digits[:1000]]


async def measure(running: Running, digits: Pictures, setting: Setting) -> Figures:
    """The speed of one running server."""
    singles = single_requests(digits)
    await closed_loop(running.address, singles, CONNECTIONS, 1)  # warms up
    speed = await closed_loop(running.address, singles, CONNECTIONS, setting.speed)
    capacity = speed.rate()
    return [
        single_figure(speed),
        await batch_figure(running, digits, setting),
        *await half_figures(running, singles, capacity, setting),
        *await overload_figures(running, singles, capacity, setting),
        await slow_figure(running, singles, capacity, setting),
    ]


def png(digit: Pictures) -> bytes:
    """A file of 28×28 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(digit).save(buffer, "PNG")
    return buffer.getvalue()


def single_figure(speed: Outcome) -> dict[str, Any]:
    """As many as one client gets."""
    value = round(speed.rate())
    title = f"POST /predict, PNG of 28×28, {CONNECTIONS} connections"
    details = {"p50_ms": speed.quantile(0.5), "p99_ms": speed.quantile(0.99), "statuses": speed.counts()}
    return figure(title, value, "requests/s", ">= 600", value >= 600, note=SHARED, **details)


async def batch_figure(running: Running, digits: Pictures, setting: Setting) -> dict[str, Any]:
    """Binary tensors by the Open Inference Protocol."""
    requests = [tensor_request(digits[first : first + BATCH]) for first in range(0, 64 * BATCH, BATCH)]
    outcome = await closed_loop(running.address, requests, 3, setting.speed)
    value = round(BATCH * outcome.rate())
    title = f"Open Inference Protocol, batches of {BATCH}, binary, 3 connections"
    details = {"p99_ms": outcome.quantile(0.99), "statuses": outcome.counts()}
    return figure(title, value, "digits/s", ">= 12000", value >= 12_000, note=SHARED, **details)


def tensor_request(digits: Pictures) -> bytes:
    """A request of the Open Inference Protocol."""
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": list(digits.shape)}
    tensor["parameters"] = {"binary_data_size": digits.nbytes}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    header = f"Inference-Header-Content-Length: {len(text)}"
    return post(f"/v2/models/{MODEL}/infer", text + digits.tobytes(), header)


async def half_figures(running: Running, singles: list[bytes], capacity: float, setting: Setting) -> Figures:
    """Open loop at half of what the closed loop reached; in turns with a server that only calculates for as long."""
    ours, bare = list[Outcome](), list[Outcome]()
    with bare_server(1 / capacity) as address:
        for _ in range(HALF_ROUNDS):
            for outcomes, where in ((ours, running.address), (bare, address)):
                outcomes.append(await open_loop(where, singles, capacity / 2, setting.half / HALF_ROUNDS))
    title = f"at half of capacity ({capacity / 2:.0f}/s, open loop), p99, median of {HALF_ROUNDS} rounds"
    found = []
    for who, outcomes in (("POST /predict", ours), ("a bare server in turns with it,", bare)):
        values = [outcome.quantile(0.99) for outcome in outcomes]
        value = round(statistics.median(values), 2)
        goal, reached = ("< 15", value < 15) if outcomes is ours else (None, None)
        found.append(figure(f"{who} {title}", value, "ms", goal, reached, values=values))
    return found


@contextlib.contextmanager
def bare_server(seconds: float) -> Iterator[Address]:
    """See bare_server.py."""
    command = [sys.executable, "-m", "benchmarks.bare_server", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield "127.0.0.1", int(process.stdout.readline())
        process.kill()


async def overload_figures(running: Running, singles: list[bytes], capacity: float, setting: Setting) -> Figures:
    """Open loop at twice the capacity, and what follows."""
    before, rate = running.memory(), 2 * capacity
    outcome, health = await probe(
        running.address, get("/healthz"), 0.02, lambda: open_loop(running.address, singles, rate, setting.overload)
    )
    growth = round(100 * (running.memory() / before - 1), 1)
    accepted, other = outcome.quantile(0.99), sum(status not in (200, 503) for status in outcome.statuses)
    title = f"twice the capacity ({rate:.0f}/s, open loop, {setting.overload:g} s)"
    details = {"statuses": outcome.counts(), "p99_of_rejections_ms": outcome.quantile(0.99, 503)}
    probed = health.quantile(0.99)
    recovered = await recovery(running, singles, capacity, setting)
    return [
        figure(f"{title}: p99 of accepted requests", accepted, "ms", "< 60", accepted < 60, **details),
        figure(f"{title}: neither answered nor 503", other, "requests", "0", other == 0),
        figure(f"{title}: /healthz, p99", probed, "ms", "< 50", probed < 50, n=len(health.seconds)),
        figure(f"{title}: memory growth", growth, "%", "< 5", growth < 5),
        figure("full speed (90 %) again after", recovered, "s", "<= 2", recovered <= 2),
    ]


async def recovery(running: Running, singles: list[bytes], capacity: float, setting: Setting) -> float:
    """Seconds until half a second passes at full speed."""
    begin = time.perf_counter()
    while time.perf_counter() < begin + setting.recovery:
        start = time.perf_counter() - begin
        outcome = await closed_loop(running.address, singles, CONNECTIONS, 0.5)
        if outcome.rate() >= 0.9 * capacity:
            return round(start, 1)
    return setting.recovery


async def slow_figure(running: Running, singles: list[bytes], capacity: float, setting: Setting) -> dict[str, Any]:
    """Connections that send a byte a second, beside usual requests."""
    stop = asyncio.Event()
    slow = [asyncio.create_task(dawdle(running.address, stop)) for _ in range(SLOW)]
    await asyncio.sleep(1.5)
    outcome = await open_loop(running.address, singles, capacity / 2, setting.slow)
    stop.set()
    await asyncio.gather(*slow)
    value = outcome.quantile(0.99)
    title = f"beside {SLOW} slow connections, at half of capacity: p99"
    reached = value < 15 and set(outcome.statuses) == {200}
    return figure(title, value, "ms", "< 15, all answered", reached, statuses=outcome.counts())


async def dawdle(address: Address, stop: asyncio.Event) -> None:
    """A body that comes byte by byte, over and again as the server closes."""
    await asyncio.sleep(random.random())  # or all would send at once, and the client itself would be late
    while not stop.is_set():
        connection = await Connection.to(address)
        connection.send(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n")
        while connection.open and not stop.is_set():
            connection.send(b"\x89")
            await asyncio.sleep(1)
        connection.close()


async def mixed_figures(running: Running, digits: Pictures, setting: Setting) -> Figures:
    """Good and bad traffic, in random order; what it leaves behind."""
    requests = [*single_requests(digits[:60]), *good_requests(digits), *bad_requests(digits)]
    random.Random(0).shuffle(requests)
    await closed_loop(running.address, requests, CONNECTIONS, setting.mixed / 2)  # it grows for 35,000 requests
    await asyncio.sleep(0.5)
    memory, files = running.memory(), running.files()
    outcome = await closed_loop(running.address, requests, CONNECTIONS, setting.mixed)
    await asyncio.sleep(0.5)
    growth, more = round(100 * (running.memory() / memory - 1), 1), running.files() - files
    failures = sum(status >= 500 and status != 503 for status in outcome.statuses)
    title = f"good and bad traffic, {setting.mixed:g} s"
    peak = round(running.memory())
    return [
        figure(f"{title}: 5xx other than 503", failures, "requests", "0", failures == 0, statuses=outcome.counts()),
        figure(f"{title}: open files more than before", more, "files", "0", more <= 0),
        figure(f"{title}: memory growth", growth, "%", "< 5", growth < 5),
        figure("resident memory after all that", peak, "MB", "< 250", peak < 250),
    ]


def good_requests(digits: Pictures) -> list[bytes]:
    """Other kinds that are answered."""
    large = Image.fromarray(255 - digits[0]).resize((1000, 1000), Image.Resampling.BICUBIC)
    photo = io.BytesIO()
    large.save(photo, "JPEG")
    form = b"".join(part(f"{i}.png", png(digit)) for i, digit in enumerate(digits[:20])) + b"--x--\r\n"
    return [
        *(tensor_request(digits[first : first + 16]) for first in range(10)),
        post("/predict", photo.getvalue()),
        post("/predict", form, "Content-Type: multipart/form-data; boundary=x"),
        get("/"),
        get("/models"),
        get("/metrics"),
    ]


def part(name: str, content: bytes) -> bytes:
    """One file of a form."""
    head = f'--x\r\nContent-Disposition: form-data; name="p"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def bad_requests(digits: Pictures) -> list[bytes]:
    """Requests that must be rejected."""
    whole = png(digits[0])
    infer = f"/v2/models/{MODEL}/infer"
    return [
        post("/predict", b""),
        post("/predict", b"GIF89a" + bytes(100)),
        post("/predict", whole[:60]),
        post("/predict", whole[:16] + b"\xff" * 8 + whole[24:]),
        post("/predict?model=nothing", whole),
        post("/predict?top=99", whole),
        post("/predict", bytes(2 << 20)),
        post("/predict", whole, "Content-Type: multipart/form-data; boundary=x"),
        post(infer, b"{"),
        post(infer, b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 28, 28], "data": [NaN]}]}'),
        post(infer, b"[]", "Inference-Header-Content-Length: 900"),
        post("/nothing", b"x"),
        get("/v2/models/nothing"),
        b"NONSENSE\r\n\r\n",
    ]


def stop_figures(running: Running) -> Figures:
    """SIGTERM, with connections that wait."""
    with socket.create_connection(running.address):
        begin = time.perf_counter()
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(20)
        seconds = round(time.perf_counter() - begin, 2)
    reached = code == 0 and seconds < 10
    return [figure("SIGTERM to exit", seconds, "s", "< 10, exit code 0", reached, exit_code=code)]


if __name__ == "__main__":
    main()
