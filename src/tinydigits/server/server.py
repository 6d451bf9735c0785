"""Starting, stopping, and the connections themselves: uvicorn, and what it lacks."""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from asyncio.events import TimerHandle
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tinydigits.errors import ServeError, reason_of
from tinydigits.server.app import Service, create_app
from tinydigits.server.errors import MAX_BODY, MAX_HEAD, SECONDS, RejectedError
from tinydigits.server.limits import log
from tinydigits.server.metrics import SHARED
from tinydigits.server.networks import load_networks
from tinydigits.server.options import Options

MAX_CONNECTIONS = 900  # of a process, which may usually open 1,024 files
MAX_ARRIVING = 64 << 20  # bytes of all bodies that are arriving
DRAIN_SECONDS = 2  # for a rejected body to be read, because clients that are cut off never see the answer
LINGER_SECONDS = 0.5  # for requests that were on their way when the signal came


def serve(options: Options, started: Callable[[str, list[str]], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, finish what was accepted, and return.

    `started` is told the address and the networks' names as soon as requests are accepted.

    Raises ServeError if the address is in use or not this machine's, or a worker does not start; and what
    `networks.load_networks` raises.
    """
    listener = _bind(options)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if options.workers > 1:
        started(address, list(load_networks(options.model)))  # finds what cannot be served, once
        _supervise(options, listener)  # until its processes are ready, connections wait
    else:
        service = Service(options)
        _run(service, listener, lambda: started(address, list(service.networks)))


def _bind(options: Options) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Without it an answer's body waits until the client has acknowledged its head: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        where = f"{options.host} port {options.port}"
        raise ServeError(f"{where} is not available: {reason_of(error)}. Choose another one with --port.") from error
    return listener


class _Connection(HttpToolsProtocol):
    """Limits what uvicorn leaves open: connections, time and size of heads and bodies, the end of kept connections."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._rejected = False
        self._timer: TimerHandle | None = None
        self._expect("head")
        if len(self.connections) > MAX_CONNECTIONS:
            self._reject(RejectedError("overloaded"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect("")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._rejected:
            return
        super().data_received(data)
        if self._part == "head":
            self.arrived += len(data)
            if self.arrived > MAX_HEAD:
                self._reject(RejectedError("head_too_large"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect("head")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._expect("body")
        if self.app_state.get("stopping"):
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.arrived += len(body)
        self.scope["bytes_in"] = self.arrived  # type: ignore[typeddict-unknown-key]
        if self.arrived > MAX_BODY:
            self._reject(RejectedError("body_too_large"))
        elif self.arrived > MAX_HEAD:  # small ones are bounded by the number of connections
            arriving = (other.arrived for other in self.connections if isinstance(other, _Connection))
            if sum(arriving) > MAX_ARRIVING:
                self._reject(RejectedError("overloaded"))

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._expect("")

    def send_400_response(self, msg: str) -> None:
        del msg
        self._reject(RejectedError("no_http"))

    def shutdown(self) -> None:
        """Answer what is on its way with `Connection: close`, and close what stays idle."""
        self.app_state["stopping"] = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _expect(self, part: str) -> None:
        """This part of a request is to arrive in time; "": none."""
        self._part, self.arrived = part, 0
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(SECONDS, self._late) if part else None

    def _late(self) -> None:
        if self._part == "head" and not self.arrived:
            self.transport.close()
        else:
            self._reject(RejectedError("too_slow", part=self._part))

    def _reject(self, error: RejectedError) -> None:
        """Answer, unless another answer is due or this one is given; read on for a while; then close."""
        if self._rejected or self.transport.is_closing():
            return
        cycle, waits = self.cycle, self._part == "body"  # the application waits for it
        if not self.pipeline and (not cycle.response_started if waits else cycle is None or cycle.response_complete):
            if waits:
                cycle.scope["status"] = error.status  # type: ignore[typeddict-unknown-key]
                cycle.disconnected = True
                cycle.message_event.set()
            response = error.response()
            lines = [b"HTTP/1.1 %d Rejected" % error.status, b"connection: close"]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self._rejected = True
        self._expect("")
        self.flow.resume_reading()
        self.loop.call_later(DRAIN_SECONDS, self.transport.close)


class _JsonHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        trace = {"trace": logging.Formatter().formatException(record.exc_info)} if record.exc_info else {}
        log(level=record.levelname.lower(), message=record.getMessage().strip(), **trace)


def _run(service: Service, listener: socket.socket, started: Callable[[], object]) -> None:
    config = uvicorn.Config(
        create_app(service, started),
        loop="asyncio",  # uvloop accepts one new connection a turn, which is too few under load
        http=_Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=8,
    )
    for name, level in (("uvicorn.error", "ERROR"), ("asyncio", "WARNING"), ("python_multipart", "CRITICAL")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_JsonHandler()], False
        logger.setLevel(level)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn handles them, and raises them again at the end
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run([listener])


def _supervise(options: Options, listener: socket.socket) -> None:
    """Processes that share the listener; one that dies is replaced. SIGTERM and Ctrl-C stop them all."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    def start() -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(options, listener))
        process.start()
        return process

    with tempfile.TemporaryDirectory() as counters:
        os.environ[SHARED] = counters
        processes = [start() for _ in range(options.workers)]
        try:
            while not stopping.wait(0.2):
                for index, process in enumerate(processes):
                    if process.exitcode is None:
                        continue
                    if process.exitcode > 0:  # by an error, not by a signal
                        raise ServeError("A worker process does not start; see the message above. Try --workers 1.")
                    message = f"worker {process.pid} ended with {process.exitcode}; another one is started"
                    log(level="error", message=message)
                    processes[index] = start()
        finally:
            listener.close()
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()


def _work(options: Options, listener: socket.socket) -> None:
    """One of several processes. Ctrl-C is left to the parent, which stops them; without it they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    service = Service(options)
    threading.Thread(target=watch, daemon=True).start()
    _run(service, listener, lambda: None)
