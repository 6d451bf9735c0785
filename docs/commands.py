"""`docs/reference/commands.md`, made from what `--help` says: part of `make docs`."""

import argparse
import os
from pathlib import Path
from unittest.mock import patch

from tinydigits.cli.main import COMMANDS, build_parser
from tinydigits.storage import write_bytes

PAGE = Path(__file__).parent / "reference" / "commands.md"
_HEAD = """<!-- made by `make docs` from --help: change src/tinydigits/cli, not this file -->

# Commands

What `tinydigits COMMAND --help` says. Where there is a `--json`, it prints one JSON document on stdout and nothing else there;
progress and warnings go to stderr.
"""


def main() -> None:
    """Write the page."""
    write_bytes(PAGE, page().encode())


def page() -> str:
    """The whole page in Markdown, 80 columns wide whatever the terminal is."""
    with patch.dict(os.environ, {"COLUMNS": "80"}):
        parser = build_parser()
        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        helps = {"tinydigits": parser.format_help()}
        helps |= {f"tinydigits {name}": commands.choices[name].format_help() for name in COMMANDS}
    return _HEAD + "".join(f"\n## {name}\n\n```text\n{text.rstrip()}\n```\n" for name, text in helps.items())


if __name__ == "__main__":
    main()
