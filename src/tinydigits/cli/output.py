"""Where output goes: results to stdout, progress and warnings to stderr."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

_Part = TypeVar("_Part")

_stdout: ContextVar[TextIO] = ContextVar("stdout")


@contextlib.contextmanager
def results_alone_on_stdout() -> Iterator[None]:
    """Whatever prints in here goes to stderr, such as a user's forward(); `print_json` and `stdout_console` do not."""
    token = _stdout.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.reset(token)


def print_json(value: object) -> None:
    """One JSON document on stdout: a record, a list of records, or plain data."""
    from tinydigits.records import encode

    print(encode(value).decode(), end="", file=_stdout.get(sys.stdout))


def stdout_console() -> "Console":
    """For results that a person reads."""
    from rich.console import Console

    return Console(file=_stdout.get(sys.stdout), highlight=False)


def stderr_console(*, quiet: bool = False) -> "Console":
    """For progress and warnings; silent when `quiet`."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=quiet)


def print_plain(console: "Console", text: str, style: str = "") -> None:
    """Text in which nothing is taken for markup, and whose lines only the terminal breaks."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def print_warning(sentence: str | None) -> None:
    """What has to be known, on stderr, even with --quiet; None: nothing."""
    if sentence:
        print_plain(stderr_console(), sentence, "bold yellow")


def watched(parts: Sequence[_Part], what: str) -> Iterable[_Part]:
    """The same, with a bar on stderr that says how long it still takes, where a person looks at it."""
    from rich.progress import track

    console = stderr_console()
    return track(parts, what, console=console, transient=True, disable=not console.is_terminal)
