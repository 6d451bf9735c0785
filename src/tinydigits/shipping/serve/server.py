"""Starting, stopping, and the connections themselves: uvicorn, with what it lacks."""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
from asyncio.events import TimerHandle
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tinydigits.errors import ServeError
from tinydigits.shipping.serve.app import create_app
from tinydigits.shipping.serve.guard import log
from tinydigits.shipping.serve.metrics import SHARED
from tinydigits.shipping.serve.networks import load_networks
from tinydigits.shipping.serve.options import Options
from tinydigits.shipping.serve.refusals import RefusedError
from tinydigits.shipping.serve.service import Service

HEAD_SECONDS = 10.0  # for the head of a request to arrive
IDLE_SECONDS = 30  # without a further request
MAX_HEAD = 64 << 10  # bytes
STOP_SECONDS = 8  # for what was accepted before the signal to be finished
LINGER_SECONDS = 0.5  # for requests that were on their way when the signal came

_CONTEXT = multiprocessing.get_context("spawn")


def serve(options: Options, started: Callable[[str, list[str]], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, finish what was accepted, and return.

    Args:
        options: What to serve, and where.
        started: Is told the address and the networks' names as soon as requests are taken.

    Raises:
        ServeError: the address is taken or not this machine's, or a worker process does not start.
        ModelError, WeightsError, ExportError: see `networks.load_networks`.
    """
    listener = _bind(options)
    address = _address(listener)
    if options.workers > 1:
        names = list(load_networks(options.model))  # what cannot be served is found here, once
        _supervise(options, listener, lambda: started(address, names))
    else:
        service = Service(options)
        _Server(service, lambda: started(address, list(service.networks))).run([listener])


def _bind(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Without it an answer's body waits until the client has acknowledged its head: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise ServeError(
            f"{options.host} port {options.port} cannot be listened on: {reason}. Choose another one with --port."
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _Connection(HttpToolsProtocol):
    """Bounds what uvicorn leaves open: the time and size of a request's head. Answers in our shape of errors."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_timer: TimerHandle | None = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD:
            self._refuse(RefusedError(431, "head_too_large", f"The head has more than {MAX_HEAD:,} bytes. Send less."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()
        if self.app_state.get("stopping"):
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        del msg
        self._refuse(RefusedError(400, "no_http", "This is no HTTP/1.1 that can be understood. Send a valid request."))

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if self._head_bytes == 0:
            self.transport.close()
        self._refuse(
            RefusedError(408, "too_slow", f"The head did not arrive within {HEAD_SECONDS:g} seconds. Send faster.")
        )

    def _refuse(self, refusal: RefusedError) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        unanswered = self.cycle is not None and not self.cycle.response_complete
        if not unanswered or (self.cycle.more_body and not self.cycle.response_started):  # not amidst another answer
            response = refusal.response()
            lines = [f"HTTP/1.1 {refusal.status} Refused".encode(), b"connection: close"]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()


class _Server(uvicorn.Server):
    """A server of one process that loses nothing when it is stopped, and then returns."""

    def __init__(self, service: Service, started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            create_app(service),
            loop="asyncio",  # uvloop takes in one new connection a turn, which is too few when there is much to do
            http=_Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        super().__init__(config)
        self._service = service
        self._tell = started
        _log_as_json()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what lives as long as the server need not be looked through again and again
        self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Uvicorn's would raise the signal again at the end, and the exit code then tell of a failure."""
        del frame
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = self._service.stopping = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening; answer what is on its way with `Connection: close`; then close what is idle."""
        for server in self.servers:
            server.close()
        self.lifespan.state["stopping"] = True
        connections = self.server_state.connections
        for connection in connections:
            if isinstance(connection, _Connection) and connection.cycle is not None:
                connection.cycle.keep_alive = False
        end = asyncio.get_running_loop().time() + LINGER_SECONDS
        while connections and not self.force_exit and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def _log_as_json() -> None:
    """What uvicorn and asyncio complain of, in the form of the access log."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
            log(
                level=record.levelname.lower(),
                message=record.getMessage().strip(),
                **({"trace": trace} if trace else {}),
            )

    for name, level in (("uvicorn.error", logging.ERROR), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [Handler()], False
        logger.setLevel(level)


def _supervise(options: Options, listener: socket.socket, started: Callable[[], None]) -> None:
    """Processes that share the listener; one that dies is replaced. SIGTERM and Ctrl-C stop them all."""
    with tempfile.TemporaryDirectory() as counters:
        os.environ[SHARED] = counters
        stopping = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stopping.set())
        processes = [_start(options, listener) for _ in range(options.workers)]
        try:
            for _, pipe in processes:
                _wait_until_started(pipe)
            started()
            while not stopping.wait(0.2):
                processes = [_alive(process, pipe, options, listener) for process, pipe in processes]
        finally:
            listener.close()
            for process, _ in processes:
                process.terminate()
            for process, _ in processes:
                process.join()


_Pipe = multiprocessing.connection.Connection


def _start(options: Options, listener: socket.socket) -> tuple[SpawnProcess, Any]:
    here, there = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_worker, args=(options, listener, there))
    process.start()
    there.close()
    return process, here


def _wait_until_started(pipe: Any) -> None:
    try:
        pipe.recv()
    except EOFError:
        raise ServeError("A worker process does not start; what stands above says why. Try --workers 1.") from None


def _alive(process: SpawnProcess, pipe: Any, options: Options, listener: socket.socket) -> tuple[SpawnProcess, Any]:
    if process.is_alive():
        return process, pipe
    log(level="error", message=f"worker {process.pid} ended with {process.exitcode}; another one is started")
    pipe.close()
    return _start(options, listener)


def _worker(options: Options, listener: socket.socket, pipe: Any) -> None:
    """One of several processes. Ctrl-C is left to the parent, which stops them; without it they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()  # the parent never sends: this ends with it
        os.kill(os.getpid(), signal.SIGTERM)

    server = _Server(Service(options), lambda: pipe.send(None))
    threading.Thread(target=watch, daemon=True).start()
    server.run([listener])
    sys.exit(0)
