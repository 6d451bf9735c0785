"""The HTTP server from outside: a real process, asked over real sockets."""

import base64
import hashlib
import http.client
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra serve")

from tests.support.serving import Served, digits, encoded, form, serving
from tinydigits.errors import ConfigError, ServeError
from tinydigits.inference.files import read_picture
from tinydigits.inference.graph import Graph
from tinydigits.inference.predict import classify, load_classifier, predict_pictures
from tinydigits.inference.store import load_graph, packaged_graph
from tinydigits.models.factory import load_model
from tinydigits.models.weights import save_weights
from tinydigits.pictures.preprocess import preprocess
from tinydigits.server.errors import MAX_BODY
from tinydigits.server.options import Options
from tinydigits.server.server import MAX_ARRIVING, MAX_CONNECTIONS, _bind

INFER = "/v2/models/tiny-10k/infer"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


def graph_of(name: str) -> Graph:
    path = packaged_graph(name)
    assert path is not None
    graph = load_graph(path)
    assert isinstance(graph, Graph)
    return graph


def best(document: dict[str, Any]) -> list[int | None]:
    """The digit of each picture; None for what is none."""
    return [None if p["rejected"] is not False else p["labels"][0]["label"] for p in document["pictures"]]


def assert_like_predict(answered: dict[str, Any], content: bytes, model: str = "tiny-10k") -> None:
    """The same JSON as `tinydigits predict --json` prints, scores but for rounding."""
    ((_, expected),) = predict_pictures([read_picture(content, "picture")], load_classifier(model))
    wanted: dict[str, Any] = expected.as_dict()
    (found,) = answered["pictures"]
    scores = [{row["label"]: row["score"] for row in rows} for rows in (found.pop("labels"), wanted.pop("labels"))]
    assert found == wanted
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


# Pictures


@pytest.mark.parametrize("model", ["tiny-10k", "era-8k", "layered_19k"])
def test_a_picture_gets_the_answer_of_predict(served: Served, model: str) -> None:
    content = encoded(digits()[3])
    answer = served.post(f"/predict?model={model}", content)
    assert answer.status == 200
    assert answer.json["model"] == model.replace("_", "-")
    assert 0 < answer.json["time_seconds"] < 60
    assert_like_predict(answer.json, content, model)


def odd_pictures() -> dict[str, bytes]:
    ink = np.asarray(Image.fromarray(digits()[5]).resize((120, 120), Image.Resampling.BICUBIC))
    colour = np.stack([255 - ink, 255 - ink // 2, 255 - ink], axis=2)
    strokes = np.dstack([np.zeros((120, 120, 3), np.uint8), ink])
    wide = Image.fromarray((255 - ink).astype(np.uint16) * 257)
    palette = Image.fromarray(colour).quantize(16)
    return {
        "jpeg": encoded(255 - ink, "JPEG"),
        "progressive jpeg": encoded(colour, "JPEG", progressive=True),
        "palette": encoded(palette),
        "palette with transparency": encoded(palette, transparency=0),
        "16 bits": encoded(wide),
        "alpha": encoded(strokes),
        "one bit": encoded(Image.fromarray(ink).convert("1")),
        "a million pixels": encoded(Image.fromarray(255 - ink).resize((1000, 1000))),
        "large jpeg": encoded(Image.fromarray(255 - ink).resize((999, 1001)), "JPEG"),
        "1×1": encoded(np.full((1, 1), 7, np.uint8)),
        "16,000×1": encoded(np.full((1, 16_000), 7, np.uint8)),
        "blank": encoded(np.zeros((28, 28), np.uint8)),
        "frames": encoded(digits()[0], save_all=True, append_images=[Image.fromarray(digits()[1])]),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures_get_the_answer_of_predict(served: Served, name: str) -> None:
    content = odd_pictures()[name]
    answer = served.post("/predict", content)
    assert answer.status == 200
    assert_like_predict(answer.json, content)


def test_what_has_no_ink_is_no_digit(served: Served) -> None:
    (picture,) = served.post("/predict", encoded(np.full((30, 30), 255, np.uint8))).json["pictures"]
    assert (picture["rejected"], picture["labels"]) == (True, [])
    assert "no ink was found" in picture["reason"]


def test_a_form_holds_several_and_what_cannot_be_read_says_so(served: Served) -> None:
    images = digits()[:30]
    files = {f"{i}.png": encoded(image) for i, image in enumerate(images)}
    files = {"Größe.gif": b"GIF89a", "cut.png": files["0.png"][:50], **files}
    answer = served.post("/predict?top=1", *form(files))
    assert answer.status == 200
    pictures = answer.json["pictures"]
    assert [p["path"] for p in pictures] == list(files)
    assert [p["rejected"] for p in pictures[:2]] == [None, None]
    assert "neither PNG nor JPEG" in pictures[0]["error"]
    assert "damaged" in pictures[1]["error"] or "cut off" in pictures[1]["error"]
    expected = classify(graph_of("tiny-10k"), np.stack([preprocess(image) for image in images]))
    labels = [None if no else int(label) for label, no in zip(expected.labels, expected.rejected, strict=True)]
    assert best(answer.json)[2:] == labels
    assert all(len(p["labels"]) <= 1 for p in pictures)


def test_256_pictures_are_read_and_257_are_not(served: Served) -> None:
    content = encoded(digits()[0])
    answer = served.post("/predict?top=1", *form({f"{i}": content for i in range(256)}))
    assert len(set(best(answer.json))) == 1
    assert len(answer.json["pictures"]) == 256
    refused = served.post("/predict", *form({f"{i}": content for i in range(257)}))
    assert (refused.status, refused.code) == (413, "too_many_pictures")


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises a lot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1 << 20))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


WHOLE = encoded(np.zeros((28, 28), np.uint8))
JPEG = encoded(np.zeros((40, 40), np.uint8), "JPEG")
REFUSED: dict[str, tuple[str, bytes, dict[str, str], int, str]] = {
    "nothing": ("/predict", b"", {}, 400, "no_picture"),
    "gif": ("/predict", encoded(np.zeros((9, 9), np.uint8), "GIF"), {}, 415, "unknown_format"),
    "text": ("/predict", b"seven", {}, 415, "unknown_format"),
    "bomb": ("/predict", bomb(50_000, 50_000), {}, 413, "picture_too_large"),
    "small bomb": ("/predict", bomb(1_001, 1_000), {}, 413, "picture_too_large"),
    "no pixels": ("/predict", bomb(0, 5), {}, 400, "unreadable_picture"),
    "cut png": ("/predict", WHOLE[:50], {}, 400, "unreadable_picture"),
    "cut header": ("/predict", WHOLE[:20], {}, 400, "unreadable_picture"),
    "cut jpeg": ("/predict", JPEG[: len(JPEG) // 2], {}, 400, "unreadable_picture"),
    "many scans": ("/predict", JPEG + b"\xff\xda" * 101, {}, 400, "unreadable_picture"),
    "large body": ("/predict", bytes((1 << 20) + 1), {}, 413, "body_too_large"),
    "unknown model": ("/predict?model=nine", WHOLE, {}, 404, "unknown_model"),
    "odd top": ("/predict?top=11", WHOLE, {}, 400, "wrong_parameter"),
    "compressed": ("/predict", WHOLE, {"Content-Encoding": "gzip"}, 415, "encoded_body"),
    "form without end": ("/predict", form({"a": WHOLE})[0][:-4], form({})[1], 400, "broken_form"),
    "form of nothing": ("/predict", *form({}), 400, "broken_form"),
    "form without boundary": ("/predict", WHOLE, {"Content-Type": "multipart/form-data"}, 400, "broken_form"),
    "form of one gif": ("/predict", *form({"a.gif": b"GIF89a"}), 415, "unknown_format"),
    "nowhere": ("/nowhere", WHOLE, {}, 404, "not_found"),
    "unknown model, tensor": ("/v2/models/nine/infer", b"{}", {}, 404, "unknown_model"),
    "unknown version": ("/v2/models/tiny-10k/versions/2/infer", b"{}", {}, 404, "unknown_version"),
    "no json": (INFER, b"{", {}, 400, "no_json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_limit_has_its_status_and_all_have_one_shape(served: Served, name: str) -> None:
    path, body, headers, status, code = REFUSED[name]
    answer = served.post(path, body, headers)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["error"].endswith(".")


def test_methods_that_are_not_taken_are_told_which_are(served: Served) -> None:
    answer = served.get("/predict")
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "wrong_method", "POST")


def test_a_body_is_counted_while_it_comes(served: Served) -> None:
    """Chunked, so that nothing was promised; the client sends on, and yet gets to see the answer."""
    with served.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert json.loads(answer.read())["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: five\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 40_000, 431),
    ],
)
def test_what_is_no_http_is_refused_in_the_same_shape(served: Served, sent: bytes, status: int) -> None:
    with served.connect() as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == status
        assert set(json.loads(answer.read())) == {"error", "code"}
        assert answer.headers["connection"] == "close"
    assert served.get("/healthz").status == 200


@pytest.mark.parametrize("host", ["[", "<script>", "a b", "x:y", "[::1]:80", "example.org"])
@pytest.mark.parametrize("path", ["/", "/predict/", "/nowhere", "//example.org/.."])
def test_odd_hosts_and_paths_do_no_harm(served: Served, host: str, path: str) -> None:
    answer = served.get(path, {"Host": host})
    assert answer.status == (200 if path == "/" else 404)
    assert b"<script>/predict" not in answer.body
    assert "location" not in answer.headers


def test_requests_in_a_row_on_one_connection(served: Served) -> None:
    """Also after refusals, and sent before the answers are there."""
    content = encoded(digits()[0])
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with served.connect() as connection:
        connection.sendall((head % len(content) + content) + (head % 3 + b"bad") + (head % len(content) + content))
        received = b""
        while received.count(b"HTTP/1.1 ") < 3 or not received.endswith(b"}"):
            received += connection.recv(1 << 16)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"415", b"200"]


# What it says of itself


def test_health_readiness_and_models(served: Served) -> None:
    assert served.get("/healthz").json == {"status": "ok"}
    assert served.get("/readyz").json == {"status": "ready"}
    models = served.get("/models").json
    assert models[0]["model"] == "tiny-10k"
    assert models[0]["parameters"] == 9_426
    assert models[0]["study"]["n"] >= 3
    assert {m["engine"] for m in models} == {"onnxruntime"}
    for name in (model["model"] for model in models):
        assert packaged_graph(name) is not None
        assert served.get(f"/models/{name}/network").json["weights_sha256"] == graph_of(name).weights_sha256
    assert served.get("/models/nine/network").code == "unknown_model"


def test_metrics_count_requests_and_batches(served: Served) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", served.get("/metrics").body.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    counted = 'tinydigits_requests_total{route="/predict",status="200"}'
    pictures = 'tinydigits_batch_pictures_sum{model="tiny-10k"}'
    before = value(counted), value(pictures)
    served.post("/predict", *form({f"{i}": encoded(digits()[0]) for i in range(9)}))
    assert (value(counted), value(pictures)) == (before[0] + 1, before[1] + 9)


def test_the_log_has_a_line_a_request_and_nothing_of_what_was_sent(served: Served) -> None:
    content = encoded(digits()[7])
    served.post("/predict?top=3&secret=query", content, {"Authorization": "Bearer secret-token"})
    time.sleep(0.05)
    last = served.logged()[-1]
    assert last | {"time": "", "milliseconds": 0} == {
        "time": "",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "milliseconds": 0,
        "bytes_in": len(content),
        "bytes_out": last["bytes_out"],
        "client": "127.0.0.1",
        "model": "tiny-10k",
        "pictures": 1,
    }
    text = served.log.read_text(encoding="utf-8")
    assert "secret" not in text
    assert "PNG" not in text


def test_every_answer_has_its_security_headers(served: Served) -> None:
    for answer in (served.get("/"), served.get("/models"), served.get("/nowhere"), served.post("/predict", b"")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    assert served.get("/redoc").status == 404


def test_the_api_is_shown_without_another_host(served: Served) -> None:
    answer = served.get("/docs")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'")
    assert "unsafe" not in policy
    text = answer.body.decode()
    assert not re.findall(r"https?://|//cdn|<script src|<link[^>]+stylesheet", text)
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_openapi_document_has_examples_and_names_every_refusal(served: Served) -> None:
    document = served.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    predict_route = document["paths"]["/predict"]["post"]
    assert set(predict_route["requestBody"]["content"]) == {"image/png", "image/jpeg", "multipart/form-data"}
    statuses = {"200", "400", "401", "404", "408", "413", "415", "503", "default"}
    assert set(predict_route["responses"]) == statuses
    assert "example" in predict_route["responses"]["200"]["content"]["application/json"]
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    example = infer["requestBody"]["content"]["application/json"]["example"]
    answer = served.post(INFER, json.dumps(example))
    assert answer.json["outputs"] == [{"name": "digit", "datatype": "INT64", "shape": [1], "data": [-1]}]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_it_is_small_and_holds_no_torch(served: Served) -> None:
    process = Path("/proc") / str(served.process.pid)
    assert "torch" not in (process / "maps").read_text()
    resident = int((process / "status").read_text().partition("VmRSS:")[2].split()[0])
    assert resident * 1024 < 250e6


# Who may come


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, environment={"TINYDIGITS_TOKEN": "s3cret"}) as served:
        assert served.get("/healthz").status == served.get("/readyz").status == 200
        assert served.get("/v2/health/ready").status == 200
        for path in ("/", "/models", "/metrics", "/openapi.json", "/nowhere"):
            assert (served.get(path).status, served.get(path).code) == (401, "no_token")
        assert "Basic" in served.get("/").headers["www-authenticate"]
        basic = base64.b64encode(b"anybody:s3cret").decode()
        for good in ("Bearer s3cret", f"Basic {basic}", "bearer  s3cret "):
            assert served.get("/models", {"Authorization": good}).status == 200
            assert served.post("/predict", WHOLE, {"Authorization": good}).status == 200
        for bad in ("Bearer", "Bearer s3cre", "s3cret", "Basic s3cret", "Basic ====", "Digest s3cret"):
            assert served.get("/models", {"Authorization": bad}).status == 401
        refused = served.post("/predict", bytes(2 << 20))
        assert refused.status == 401
        assert "s3cret" not in served.log.read_text()


def test_other_sites_may_read_only_if_asked_for(tmp_path: Path) -> None:
    site = {"Origin": "https://example.org"}
    with serving(tmp_path, "--cors", "https://example.org", "--token", "t", "--quiet") as served:
        preflight = {**site, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        answer = served.ask("OPTIONS", "/predict", headers=preflight)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://example.org")
        with_token = {**site, "Authorization": "Bearer t"}
        allowed = served.post("/predict", WHOLE, with_token).headers
        assert allowed["access-control-allow-origin"] == "https://example.org"
        other = served.post("/predict", WHOLE, with_token | {"Origin": "https://example.com"}).headers
        assert "access-control-allow-origin" not in other
        assert served.log.read_text() == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])
def test_public_addresses_are_refused_unless_allowed(host: str) -> None:
    with pytest.raises(ServeError, match="Add --allow-remote"):
        Options(model="tiny-10k", host=host)
    assert Options(model="tiny-10k", host=host, allow_remote=True).host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_addresses_of_this_machine_alone_are_welcome(host: str) -> None:
    assert Options(model="tiny-10k", host=host).host == host


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"port": 70_000}, ConfigError),
        ({"workers": 0}, ConfigError),
        ({"waiting": 0}, ConfigError),
        ({"token": ""}, ServeError),
        ({"token": "schlüssel"}, ServeError),
        ({"host": "no.such.host.invalid"}, ServeError),
    ],
)
def test_odd_options_are_refused(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Options(model="tiny-10k", **values)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "tinydigits", "serve", *words]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)


def test_an_answer_never_waits_for_an_acknowledgement() -> None:
    with _bind(Options("tiny-10k", port=0)) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_cannot_be_served_is_said_in_a_sentence(served: Served) -> None:
    taken = command("--port", str(served.port))
    assert taken.returncode == 2
    assert "Choose another one with --port." in taken.stderr
    unknown = command("nine")
    assert unknown.returncode == 2
    assert "there is no network of that name" in unknown.stderr
    assert "tiny-10k" in unknown.stderr
    for done in (taken, unknown):
        assert "Traceback" not in done.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    hide = "import sys; sys.modules['fastapi'] = None\nfrom tinydigits.cli.main import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert 'pip install "tinydigits[serve]"' in done.stderr


def test_ones_own_network_is_served_beside_the_zoo(tmp_path: Path) -> None:
    model, card = load_model("era-8k")
    run = tmp_path / "runs" / "mine-001"
    run.mkdir(parents=True)
    save_weights(run / "model.safetensors", model, card)
    with serving(tmp_path, str(run)) as served:
        models = served.get("/models").json
        assert models[0]["model"] == "mine-001"
        assert {"tiny-10k", "era-8k"} < {m["model"] for m in models}
        content = encoded(digits()[2])
        answer = served.post("/predict", content)
        assert answer.json["model"] == "mine-001"
        assert_like_predict(answer.json, content, "era-8k")
        assert "torch" not in Path(f"/proc/{served.process.pid}/maps").read_text()


# Load and end


def test_what_is_too_much_is_refused_at_once(tmp_path: Path) -> None:
    large = encoded(Image.fromarray(255 - digits()[0]).resize((1000, 1000)), "JPEG")
    with serving(tmp_path, "--waiting", "1") as served, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: served.post("/predict", large), range(36)))
        assert served.post("/predict", large).status == 200  # and all is as before
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    assert len(refused) < 36
    for answer in refused:
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")


def status_of(connection: socket.socket) -> tuple[int, str | None]:
    """The status and `Retry-After` of the answer on a connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers["retry-after"]


def test_connections_are_bounded(tmp_path: Path) -> None:
    """The test itself needs as many files as the server."""
    with serving(tmp_path) as served, ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(served.connect())
        with served.connect() as one_more:
            assert status_of(one_more) == (503, "1")
        stack.close()
        time.sleep(0.2)
        assert served.get("/healthz").status == 200


def test_arriving_bodies_are_bounded_together(tmp_path: Path) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAX_BODY
    with serving(tmp_path) as served, ExitStack() as stack:
        connections = [stack.enter_context(served.connect()) for _ in range(MAX_ARRIVING // MAX_BODY + 1)]
        for connection in connections:
            connection.sendall(head + bytes(MAX_BODY - 1))
        time.sleep(0.5)
        answered = select.select(connections, [], [], 0)[0]
        assert answered
        assert len(answered) < 5
        for connection in answered:
            assert status_of(connection) == (503, "1")
        (waiting, *_) = [connection for connection in connections if connection not in answered]
        waiting.sendall(b"x")
        assert status_of(waiting)[0] == 415


def test_clients_that_leave_do_no_harm(served: Served) -> None:
    before = len(served.logged())
    for _ in range(20):
        with served.connect() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n\x89PNG")
    with served.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE)
    assert served.post("/predict", WHOLE).status == 200
    deadline = time.monotonic() + 10
    while len(served.logged()) < before + 22 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {line["status"] for line in served.logged()[before:]} == {200, 499}
    assert not any("trace" in line for line in served.logged())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_loses_nothing_that_was_accepted(tmp_path: Path, number: signal.Signals) -> None:
    """Clients ask without a break on connections that they keep; none is cut off with a request on its way."""
    content = encoded(digits()[0])
    ends: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        while True:
            connection.request("POST", "/predict", content)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status not in (200, 503) or not body:
                ends.append(f"status {answer.status}")
                return
            if answer.headers["connection"] == "close":
                ends.append("told")
                return

    with serving(tmp_path) as running:
        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        begin = time.monotonic()
        os.kill(running.process.pid, number)
        for thread in threads:
            thread.join()
        assert running.process.wait(15) == 0
        assert time.monotonic() - begin < 10
    assert ends == ["told"] * 8
    assert not any("trace" in line for line in running.logged())


def test_a_request_in_work_and_a_body_on_its_way_are_finished(tmp_path: Path) -> None:
    content = encoded(digits()[0])
    with serving(tmp_path) as served, served.connect() as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
        connection.sendall(head + content[:20])
        time.sleep(0.3)
        served.process.terminate()
        time.sleep(0.7)
        with pytest.raises(OSError, match="refused"):
            served.get("/readyz")  # nobody new is let in
        connection.sendall(content[20:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert served.process.wait(15) == 0


def test_several_processes_share_port_and_counters(tmp_path: Path) -> None:
    content = encoded(digits()[0])
    with serving(tmp_path, "--workers", "2") as served:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: served.post("/predict", content), range(60)))
        assert {answer.status for answer in answers} <= {200, 503}
        good = sum(answer.status == 200 for answer in answers)
        assert (
            f'tinydigits_requests_total{{route="/predict",status="200"}} {good}.0'
            in served.get("/metrics").body.decode()
        )
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
        workers = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        assert len(workers) == 2
        os.kill(int(workers[0]), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while not any(line.get("level") == "error" for line in served.logged()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "another one is started" in served.logged()[-1]["message"]
        assert served.post("/predict", content).status == 200
        served.process.terminate()
        assert served.process.wait(20) == 0
    for worker in workers:
        assert not Path(f"/proc/{worker}").exists()
