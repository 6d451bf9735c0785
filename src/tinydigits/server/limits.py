"""What surrounds every request: token, overload, security headers, access log, counters; `server` bounds its size."""

import base64
import binascii
import contextlib
import hmac
import json
import sys
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinydigits.server.errors import MAX_BODY, RejectedError
from tinydigits.server.metrics import Metrics
from tinydigits.server.options import Options
from tinydigits.server.queue import Queue

PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})  # open without a token
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
_HEADERS += [(b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-resource-policy", b"same-origin")]


def with_limits(app: ASGIApp, options: Options, queue: Queue, metrics: Metrics) -> ASGIApp:
    """The application, surrounded."""
    busy = RejectedError("overloaded").response()  # made once, because a busy server must reject fast

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        start, sent = time.perf_counter(), 0

        async def pass_on(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                scope.setdefault("status", message["status"])  # the connection may have set it
                route = getattr(scope.get("route"), "path", "none")
                metrics.requests.labels(route, scope["status"]).inc()
                metrics.seconds.labels(route).observe(time.perf_counter() - start)
                has_policy = any(name == _POLICY[0] for name, _ in message["headers"])
                headers = [*message["headers"], *_HEADERS, *([] if has_policy else [_POLICY])]
                message = {**message, "headers": headers}
            sent += len(message.get("body", b""))
            await send(message)

        try:
            _check_head(scope, options.token)
            full = scope["method"] == "POST" and queue.full  # routing takes longer than rejecting
            await (busy if full else app)(scope, receive, pass_on)
        except RejectedError as error:
            await error.response()(scope, receive, pass_on)
        finally:
            if not options.quiet:
                facts = {name: scope.get(name, 0) for name in ("method", "path", "status", "bytes_in")}
                facts["client"] = scope["client"] and scope["client"][0]
                milliseconds = round(1000 * (time.perf_counter() - start), 2)
                log(**facts, milliseconds=milliseconds, bytes_out=sent, **scope.get("log", {}))
        return None

    return limited


def log(**facts: object) -> None:
    """Write a line of JSON to stderr."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError, ValueError):  # stderr is closed
        sys.stderr.write(json.dumps({"time": moment, **facts}) + "\n")
        sys.stderr.flush()


def _check_head(scope: Scope, token: str | None) -> None:
    """Reject what can be rejected by the head alone."""
    headers = dict(scope["headers"])
    is_open = scope["path"] in PROBES or scope["method"] == "OPTIONS"  # CORS asks without a token
    if token is not None and not is_open and not _has_token(headers.get(b"authorization", b""), token):
        raise RejectedError("no_token")
    if int(headers.get(b"content-length", b"0")) > MAX_BODY:
        raise RejectedError("body_too_large")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise RejectedError("encoded_body")


def _has_token(authorization: bytes, token: str) -> bool:
    """By Bearer for programs, by Basic for browsers, which then ask their user."""
    scheme, _, given = (part.strip() for part in authorization.partition(b" "))
    if scheme.lower() == b"basic":
        with contextlib.suppress(binascii.Error):
            return hmac.compare_digest(base64.b64decode(given, validate=True).partition(b":")[2], token.encode())
    return scheme.lower() == b"bearer" and hmac.compare_digest(given, token.encode())
