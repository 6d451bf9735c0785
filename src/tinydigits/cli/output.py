"""Where output goes: results to stdout, progress and notices to stderr."""

import contextlib
import json
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


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


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False), file=_stdout.get(sys.stdout))


def stdout_console() -> "Console":
    """For results that a person reads."""
    from rich.console import Console

    return Console(file=_stdout.get(sys.stdout), highlight=False)


def stderr_console(*, quiet: bool = False) -> "Console":
    """For progress and notices; silent when `quiet`."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=quiet)
