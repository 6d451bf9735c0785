"""What surrounds every request, as plain ASGI: token, limits, headers, the access log, and what is counted."""

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinydigits.shipping.serve.refusals import MAX_BODY, RefusedError, body_too_large, overloaded, too_slow
from tinydigits.shipping.serve.service import Capacity, Service

BODY_SECONDS = 10.0  # for a body to arrive
MAX_DRAINED = 8 << 20  # bytes of a refused body that are still taken in …
DRAIN_SECONDS = 2.0  # … in this time, because clients that are cut off while they send never see the answer
PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})  # open without a token
_CLIENT_GONE = 499  # in the log, as nginx has it

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_OVERLOADED = overloaded().response()  # made once: whoever has no time says so in a hurry


def guarded(app: ASGIApp, service: Service) -> ASGIApp:
    """The application with all that surrounds it."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        start = time.perf_counter()
        try:
            try:
                _check_head(exchange, service)
                scope["body"] = await _read_body(exchange, service.capacity)
            except RefusedError as refusal:
                answer: ASGIApp = refusal.response()
            else:
                # here already, because routing takes longer than refusing
                answer = _OVERLOADED if scope["method"] == "POST" and service.capacity.full else app
            await answer(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = _CLIENT_GONE
        finally:
            _note(exchange, time.perf_counter() - start, service)

    return guard


def body_of(request: Request) -> bytes:
    """All of it; it has been read before the request came here."""
    body: bytes = request.scope["body"]
    return body


async def _read_body(exchange: "_Exchange", capacity: Capacity) -> bytes:
    """All of a request's body.

    Raises:
        RefusedError: it has more than 1 MiB (413), takes over 10 seconds (408), or too much else is on its way (503).
        ClientDisconnect: there is nobody any more.
    """
    chunks: list[bytes] = []
    held = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while not exchange.complete:
                message = await exchange.receive()
                if message["type"] != "http.request":
                    raise ClientDisconnect
                chunk = message["body"]
                if held + len(chunk) > MAX_BODY:
                    raise body_too_large()
                capacity.hold(len(chunk))
                held += len(chunk)
                chunks.append(chunk)
    except TimeoutError:
        raise too_slow(BODY_SECONDS) from None
    finally:
        capacity.hold(-held)
    return b"".join(chunks)


class _Exchange:
    """A request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.status = 0
        self.bytes_in = self.bytes_out = 0
        self.headers = dict(scope["headers"])
        length = self.headers.get(b"content-length", b"0")
        self.length = int(length) if length.isdigit() else 0
        self.complete = self.length == 0 and b"transfer-encoding" not in self.headers  # all of the body is in

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message.get("more_body", False) or self.complete:
            self.bytes_out += len(message.get("body", b""))
            await self._send(message)
        else:
            self.bytes_out += len(message.get("body", b""))
            await self._send({**message, "more_body": True})
            await self._drain()
            await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        headers = [*message.get("headers", []), *_HEADERS]
        if not any(name == _POLICY[0] for name, _ in headers):
            headers.append(_POLICY)
        if not self.complete:
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})

    async def _drain(self) -> None:
        """Take in a body that nobody wants. Who waits to be asked for it (`Expect`) is not asked."""
        if b"expect" in self.headers:
            return
        end = self.bytes_in + MAX_DRAINED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.complete and self.bytes_in < end:
                    if (await self.receive())["type"] != "http.request":
                        return


def _check_head(exchange: _Exchange, service: Service) -> None:
    """Refuse what can be refused by the head alone."""
    scope = exchange.scope
    token = service.options.token
    open_to_all = scope["path"] in PROBES or scope["method"] == "OPTIONS"  # browsers ask without it what they may do
    if token is not None and not open_to_all and not _knows(exchange.headers, token):
        message = (
            "This server asks for a token. Send it as `Authorization: Bearer TOKEN`, or as the password of any user."
        )
        challenge = {"www-authenticate": 'Basic realm="tinydigits", charset="UTF-8"'}
        raise RefusedError(401, "no_token", message, challenge)
    if exchange.length > MAX_BODY:
        raise body_too_large()
    if exchange.headers.get(b"content-encoding", b"identity") != b"identity":
        raise RefusedError(415, "encoded_body", "Compressed bodies are not taken. Send it without Content-Encoding.")


def _knows(headers: dict[bytes, bytes], token: str) -> bool:
    """By Bearer for programs, and by Basic for browsers, which then ask their user."""
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    given = given.strip()
    if scheme.lower() == b"basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != b"bearer":
        return False
    return hmac.compare_digest(given, token.encode())


def _note(exchange: _Exchange, seconds: float, service: Service) -> None:
    """Count, and write the access log: a line of JSON, without any content and without the query."""
    scope = exchange.scope
    route = getattr(scope.get("route"), "path", "none")
    service.metrics.requests.labels(route, exchange.status).inc()
    service.metrics.seconds.labels(route).observe(seconds)
    if service.options.quiet:
        return
    client = scope.get("client")
    log(
        method=scope["method"],
        path=scope["path"],
        status=exchange.status,
        milliseconds=round(1000 * seconds, 2),
        bytes_in=exchange.bytes_in,
        bytes_out=exchange.bytes_out,
        client=client and client[0],
        **scope.get("noted", {}),
    )


def note(request: Request, **facts: Any) -> None:
    """Have something written into the access log, too."""
    request.scope["noted"] = facts


def log(**facts: Any) -> None:
    """A line of JSON on stderr."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.write(json.dumps({"time": moment, **facts}) + "\n")
        sys.stderr.flush()


def allowed(origins: Iterable[str]) -> dict[str, Any]:
    """What sites that may read answers (CORS) may do."""
    exposed = ["Inference-Header-Content-Length", "Retry-After"]
    return {"allow_origins": list(origins), "allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": exposed}
