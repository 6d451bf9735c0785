"""How the server is started: one immutable value, checked when it is made, that other processes can be handed."""

import ipaddress
import socket
from dataclasses import dataclass

from tinydigits.errors import ServeError
from tinydigits.settings import between

WAITING = 24  # requests; at 1,000 a second they wait for 24 milliseconds


@dataclass(frozen=True)
class Options:
    """What `tinydigits serve` was asked for.

    Attributes:
        model: The network that answers where a request names none; see `networks.load_networks`.
        host: An address of this machine, by name or number.
        port: 0: a free one is taken.
        workers: Processes that share the port.
        waiting: Requests that may be in work at a time, at most, in each process; fewer while they are answered late
            (see `service.Capacity`). What comes beyond is refused at once.
        token: Without it in their `Authorization`, requests are refused; None: all are welcome.
        origins: Web sites whose scripts may read answers (CORS), such as `https://example.org`.
        allow_remote: Whether others than this machine may connect.
        quiet: No access log.

    Raises:
        ConfigError: a number is out of its range.
        ServeError: the address is open to others, and that is not allowed, or it is no address.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    waiting: int = WAITING
    token: str | None = None
    origins: tuple[str, ...] = ()
    allow_remote: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        between("--port", self.port, 0, 65_535)
        between("--workers", self.workers, 1, 64)
        between("--waiting", self.waiting, 1, 10_000)
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ServeError("the token is empty or holds characters other than printable ASCII. Choose another one.")
        if not self.allow_remote and not _is_loopback(self.host):
            raise ServeError(
                f"--host {self.host}: at this address other machines could connect. Add --allow-remote if they "
                f"should (and think of --token), or leave --host out."
            )


def _is_loopback(host: str) -> bool:
    """Whether every address that a name stands for is this machine's alone."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServeError(f"--host {host}: this is no address ({error.strerror}). Leave it out, or mend it.") from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
