"""How the server is started: one immutable value, checked when it is made, that worker processes are given."""

import ipaddress
import socket
from dataclasses import dataclass

from tinydigits.errors import ServeError
from tinydigits.settings import check_between

WAITING = 24  # requests; at 1,000 a second they wait for 24 milliseconds


@dataclass(frozen=True)
class Options:
    """The options of `tinydigits serve`. Raises ConfigError or ServeError if one of them is not usable."""

    model: str  # reads the digits of requests that name none; see `networks.load_networks`
    host: str = "127.0.0.1"  # by name or number
    port: int = 8000  # 0: a free one is chosen
    workers: int = 1  # processes that share the port
    waiting: int = WAITING  # the bound of each process's queue; lower while it is slow (see `queue.Queue`)
    token: str | None = None  # which requests need in their `Authorization`
    origins: tuple[str, ...] = ()  # web sites whose scripts may read responses (CORS), such as `https://example.org`
    allow_remote: bool = False  # whether other machines may connect
    quiet: bool = False  # no access log

    def __post_init__(self) -> None:
        check_between("--port", self.port, 0, 65_535)
        check_between("--workers", self.workers, 1, 64)
        check_between("--waiting", self.waiting, 1, 10_000)
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ServeError("the token is empty or holds characters other than printable ASCII. Choose another one.")
        if not self.allow_remote and not _is_loopback(self.host):
            raise ServeError(f"--host {self.host}: others could connect. Add --allow-remote (see --token), or omit it.")


def _is_loopback(host: str) -> bool:
    """Whether every address of a name is this machine's alone."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServeError(f"--host {host}: this is no address ({error.strerror}). Fix it, or leave it out.") from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
