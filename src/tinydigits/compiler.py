"""The C compiler of this machine: it checks exported C, and makes the training kernels."""

import os
import shlex
import shutil
import subprocess

from tinydigits.errors import ToolMissingError

NATIVE = "-march=native"  # all that this processor can do; not every compiler knows the flag


def find_compiler(purpose: str) -> list[str]:
    """The words that call a C compiler: those of $CC (as `ccache gcc`) if it is set, else cc, gcc or clang.

    Args:
        purpose: What it is needed for, as the beginning of a sentence: `exported C is checked`.

    Raises:
        ToolMissingError: there is none, or CC names none.
    """
    if named := os.environ.get("CC", "").strip():
        return _named_compiler(named, purpose)
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise ToolMissingError(
        f"No C compiler is on the PATH (cc, gcc, clang), and {purpose} with one. Install gcc, or name yours in CC."
    )


def complaint(program: str, done: subprocess.CompletedProcess[bytes]) -> str:
    """What a program that failed has said, or that it said nothing."""
    said = (done.stderr or done.stdout).decode(errors="replace").strip()
    return said or f"{program} ended with status {done.returncode} and said nothing."


def _named_compiler(named: str, purpose: str) -> list[str]:
    try:
        words = shlex.split(named)
    except ValueError:  # a quotation that does not end
        words = []
    if not words or shutil.which(words[0]) is None:
        raise ToolMissingError(
            f"CC is set to {named!r}, and there is no such command, but {purpose} with it. "
            "Name a C compiler in CC, or unset it."
        )
    return words
