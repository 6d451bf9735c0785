"""What commands that take long, and can be resumed, show meanwhile."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


@contextlib.contextmanager
def resumable(directory: Path) -> Iterator[None]:
    """Where Ctrl-C stops what the same command resumes, from what is in the directory; this says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = f"What is finished is kept in {shlex.quote(str(directory))}: rerun the same command to resume."
        raise KeyboardInterrupt(f"Interrupted. {kept}") from error


def live_table(console: "Console", table: "RenderableType") -> "Live":
    """A table that can be updated while it is shown, on a terminal; elsewhere nothing of it is."""
    from rich.live import Live

    return Live(table, console=console, refresh_per_second=4, transient=True, auto_refresh=console.is_terminal)
