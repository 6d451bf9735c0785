"""Where output goes: results to stdout, progress and warnings to stderr."""

import contextlib
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from tinydigits.records import encodable, encode

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

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
    print(encode(value).decode(), end="", file=_stdout.get(sys.stdout))


def print_result(result: _Result, json: bool, show: "Callable[[_Result, Console], None]") -> None:
    """A command's result on stdout: as JSON, or as `show` prints it for a person."""
    if json:
        print_json(result)
    else:
        show(result, stdout_console())


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


def printable(text: str) -> str:
    r"""Text for a terminal: file names may hold bytes that are not UTF-8 (shown as `\udcff`) and control characters."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in encodable(text))


def print_warning(sentence: str | None) -> None:
    """What has to be known, on stderr, even with --quiet; None: nothing."""
    if sentence:
        print_plain(stderr_console(), sentence, "bold yellow")


def watched(parts: Iterable[_Part], what: str, total: int | None = None, *, hidden: bool = False) -> Iterable[_Part]:
    """The same, with a bar on stderr that says how long it still takes, where a person looks at it."""
    from rich.progress import track

    console = stderr_console()
    hidden = hidden or not console.is_terminal
    return track(parts, what, total, console=console, transient=True, disable=hidden)


def live_table(console: "Console", table: "RenderableType") -> "Live":
    """A table that can be updated while it is shown, on a terminal; elsewhere nothing of it is."""
    from rich.live import Live

    return Live(table, console=console, refresh_per_second=4, transient=True, auto_refresh=console.is_terminal)


@contextlib.contextmanager
def resumable(directory: Path) -> Iterator[None]:
    """Where Ctrl-C stops what the same command resumes, from what is in the directory; this says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = f"What is finished is kept in {shlex.quote(str(directory))}: rerun the same command to resume."
        raise KeyboardInterrupt(f"Interrupted. {kept}") from error
