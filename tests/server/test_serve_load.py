"""The server for minutes: slow clients, a fuzzer, good and bad traffic. Slow, but for some of the fuzzer's cases."""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from benchmarks.load import closed_loop, get, open_loop, post, probe
from tests.support.serving import Served, digits, encoded, form, serving

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
CHECKS += ",response_headers_conformance,unsupported_method"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve"), "--quiet") as running:
        yield running


def fuzz(served: Served, directory: Path, phases: str, examples: int) -> int:
    """Schemathesis on the OpenAPI document; the number of its cases."""
    program = shutil.which("schemathesis", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs schemathesis")
    address = f"http://127.0.0.1:{served.port}/openapi.json"
    options = ["--phases", phases, "--max-examples", str(examples), "--checks", CHECKS, "--no-color", "--seed", "1"]
    done = subprocess.run(
        [program, "run", address, *options], cwd=directory, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert served.get("/healthz").status == 200
    return int(done.stdout.rpartition(" generated")[0].split()[-1].replace(",", ""))


def test_hundreds_of_cases_find_no_fault_with_the_document(served: Served, tmp_path: Path) -> None:
    assert fuzz(served, tmp_path, "coverage,fuzzing", 5) >= 200


@pytest.mark.slow
def test_ten_thousand_cases_find_no_fault_with_the_document(served: Served, tmp_path: Path) -> None:
    assert fuzz(served, tmp_path, "coverage,fuzzing,stateful", 1_000) >= 10_000


@pytest.mark.slow
def test_slow_heads_and_bodies_are_closed_after_ten_seconds(served: Served) -> None:
    starts = {
        "head": b"POST /predict HTTP/1.1\r\nHost: x\r\nX: ",
        "body": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n\x89",
    }
    for start in starts.values():
        with served.connect() as connection:
            begin = time.monotonic()
            connection.sendall(start)
            connection.settimeout(1)
            received = b""
            while time.monotonic() < begin + 20:
                try:
                    if not (part := connection.recv(4096)):
                        break
                    received += part
                except TimeoutError:
                    connection.sendall(b"x")
                except OSError:
                    break
            assert 9 < time.monotonic() - begin < 14
            assert received.startswith(b"HTTP/1.1 408 ")
            assert b'"code": "too_slow"' in received


@pytest.mark.slow
def test_two_hundred_slow_connections_stop_nobody(served: Served) -> None:
    address, request = ("127.0.0.1", served.port), post("/predict", encoded(digits()[0]))
    alone = asyncio.run(closed_loop(address, [request], 4, 5)).rate()
    slow = [served.connect() for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n\x89")
        outcome = asyncio.run(closed_loop(address, [request], 4, 5))
        assert set(outcome.statuses) == {200}
        assert outcome.rate() > 0.5 * alone
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.slow
def test_under_overload_all_is_answered_or_refused_and_then_as_before(served: Served) -> None:
    address, request = ("127.0.0.1", served.port), post("/predict", encoded(digits()[0]))
    capacity = asyncio.run(closed_loop(address, [request], 8, 5)).rate()
    outcome, health = asyncio.run(
        probe(address, get("/healthz"), 0.02, lambda: open_loop(address, [request], 2 * capacity, 20))
    )
    counts = outcome.counts()
    assert set(counts) <= {0, 200, 503}
    assert counts.get(0, 0) <= 0.02 * len(outcome.statuses)  # this client keeps no more than so many connections
    assert counts[200] > 0.3 * capacity * 20
    assert set(health.statuses) == {200}
    assert asyncio.run(closed_loop(address, [request], 8, 5)).rate() > 0.5 * capacity


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_good_and_bad_traffic_leaves_nothing_behind(served: Served) -> None:
    whole = encoded(digits()[0])
    body, headers = form({f"{i}": whole for i in range(20)})
    requests = [
        post("/predict", whole),
        post("/predict", encoded(255 - digits()[1].repeat(20, 0).repeat(20, 1), "JPEG")),
        post("/predict", body, f"Content-Type: {headers['Content-Type']}"),
        post("/predict", whole[:60]),
        post("/predict", b"GIF89a"),
        post("/predict", bytes(2 << 20)),
        post("/v2/models/tiny-10k/infer", b'{"inputs": 1}'),
        post("/v2/models/tiny-10k/infer", b"[]", "Inference-Header-Content-Length: 9"),
        post("/nothing", b"x"),
        get("/"),
        get("/metrics"),
        b"NONSENSE\r\n\r\n",
    ]
    random.Random(0).shuffle(requests)
    address, process = ("127.0.0.1", served.port), Path("/proc") / str(served.process.pid)

    def taken() -> tuple[int, int]:
        resident = int((process / "status").read_text().partition("VmRSS:")[2].split()[0])
        return resident, len(list((process / "fd").iterdir()))

    asyncio.run(closed_loop(address, requests, 8, 20))
    time.sleep(0.5)
    memory, files = taken()
    outcome = asyncio.run(closed_loop(address, requests, 8, 90))
    time.sleep(0.5)
    after = taken()
    assert not [status for status in outcome.statuses if status >= 500 and status != 503]
    assert after[1] <= files
    assert after[0] < 1.05 * memory
