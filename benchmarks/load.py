"""Load for an HTTP server, from one process: as many requests as it can answer, or a given number a second.

The client writes ready-made bytes and reads no more of a response than status, length and bytes, because it runs on
the server's machine.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import cast

import numpy as np

Address = tuple[str, int]

LOST = 0  # the "status" of a request whose connection ended or could not be made
_MOST_CONNECTIONS = 512


@dataclass
class Outcome:
    """What became of requests: their status and seconds, in the order of their ends; and how long it all took."""

    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    duration: float = 0.0

    def counts(self) -> dict[int, int]:
        """How many of each status."""
        return dict(sorted(Counter(self.statuses).items()))

    def rate(self, status: int = 200) -> float:
        """Requests a second that got this status."""
        return self.statuses.count(status) / self.duration

    def quantile(self, fraction: float, status: int = 200) -> float:
        """Milliseconds below which this fraction of the requests with this status stayed."""
        chosen = [s for s, got in zip(self.seconds, self.statuses, strict=True) if got == status]
        return round(1000 * float(np.quantile(chosen, fraction)), 2) if chosen else float("nan")


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request, ready to be sent."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str) -> bytes:
    """A request, ready to be sent."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Connection(asyncio.Protocol):
    """A connection that is kept: a request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None
        self.open = True

    @classmethod
    async def to(cls, address: Address) -> "Connection":
        """Connect."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, *address)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        del exc
        self.open = False
        self._end(LOST)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        if len(self._received) < end + 4 + length:
            return
        status = int(head[9:12])
        self._received.clear()
        if b"connection: close" in head:
            self.open = False
            self.close()
        self._end(status)

    def _end(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    async def ask(self, request: bytes) -> int:
        """The status of the answer; `LOST` too if the connection has ended before."""
        if not self.open:
            return LOST
        self._answer = asyncio.get_running_loop().create_future()
        self.send(request)
        return await self._answer

    def send(self, data: bytes) -> None:
        """Part of a request."""
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()


async def closed_loop(address: Address, requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
    """Each connection sends the next request when it has the answer to the last one."""
    outcome, ready = Outcome(), cycle(requests)
    start = time.perf_counter()

    async def client() -> None:
        connection = await Connection.to(address)
        while time.perf_counter() < start + seconds:
            if not connection.open:
                connection = await Connection.to(address)
            begin = time.perf_counter()
            outcome.statuses.append(await connection.ask(next(ready)))
            outcome.seconds.append(time.perf_counter() - begin)
        connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    outcome.duration = time.perf_counter() - start
    return outcome


async def open_loop(address: Address, requests: Sequence[bytes], rate: float, seconds: float) -> Outcome:
    """A request every 1 / rate seconds, answered or not; each is timed from when it was due."""
    outcome, idle, asking = Outcome(), list[Connection](), set[asyncio.Task[None]]()
    start = time.perf_counter()

    async def ask(request: bytes, due: float) -> None:
        status = LOST
        try:
            while idle and not idle[-1].open:  # the server may have closed it since it was last used
                idle.pop()
            connection = idle.pop() if idle else await Connection.to(address)
            status = await connection.ask(request)
            if connection.open:
                idle.append(connection)
        except OSError:
            pass
        outcome.statuses.append(status)
        outcome.seconds.append(time.perf_counter() - due)

    for due, request in zip(_times(start, rate, seconds), cycle(requests), strict=False):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))  # when late too, so that answers are taken in
        if len(asking) < _MOST_CONNECTIONS:
            task = asyncio.create_task(ask(request, due))
            asking.add(task)
            task.add_done_callback(asking.discard)
        else:
            outcome.statuses.append(LOST)
            outcome.seconds.append(0.0)
    await asyncio.gather(*asking)
    outcome.duration = time.perf_counter() - start
    for connection in idle:
        connection.close()
    return outcome


def _times(start: float, rate: float, seconds: float) -> Iterator[float]:
    return (start + i / rate for i in range(round(rate * seconds)))


async def probe(
    address: Address, request: bytes, every: float, work: Callable[[], Awaitable[Outcome]]
) -> list[Outcome]:
    """Do `work`, and ask something small meanwhile, on a connection of its own: [the work's outcome, the probes']."""
    done = asyncio.ensure_future(work())
    probes = Outcome()
    connection = await Connection.to(address)
    while not done.done():
        if not connection.open:
            connection = await Connection.to(address)
        begin = time.perf_counter()
        probes.statuses.append(await connection.ask(request))
        probes.seconds.append(time.perf_counter() - begin)
        await asyncio.sleep(every)
    connection.close()
    return [await done, probes]
