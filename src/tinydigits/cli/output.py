"""Where output goes: results to stdout, progress and notices to stderr."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def stdout_console() -> "Console":
    """For results that a person reads."""
    from rich.console import Console

    return Console(highlight=False)


def stderr_console(*, quiet: bool = False) -> "Console":
    """For progress and notices; silent when `quiet`."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=quiet)
