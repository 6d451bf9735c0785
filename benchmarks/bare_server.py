"""A server that only calculates for a while, then responds: what machine and client add to a request's time.

    python -m benchmarks.bare_server SECONDS

Prints its port. `benchmarks/serve.py` asks it and the real one in turns, at the same rate.
"""

import asyncio
import sys
import time
from typing import cast

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class _Bare(asyncio.Protocol):
    """A request, however long, comes in one piece here."""

    seconds = 0.0  # of processor time that a request takes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        del data
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        self._transport.write(_ANSWER)


async def main() -> None:
    """Serve until the process is killed."""
    _Bare.seconds = float(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(_Bare, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
