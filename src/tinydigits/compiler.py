"""The C compiler of this machine: it checks exported C, and compiles the native training backend."""

import contextlib
import os
import shlex
import shutil
import subprocess

from tinydigits.errors import ToolMissingError

NATIVE = "-march=native"  # all instructions of this processor; not every compiler knows the flag


def find_compiler(purpose: str) -> list[str]:
    """The command of a C compiler: $CC (such as `ccache gcc`) if it is set, else cc, gcc or clang.

    `purpose` is what needs it, as a clause that “with one” can follow: “exported C is checked”.

    Raises:
        ToolMissingError: there is none, or CC does not name one.
    """
    if named := os.environ.get("CC", "").strip():
        words = []
        with contextlib.suppress(ValueError):  # an unclosed quotation
            words = shlex.split(named)
        if words and shutil.which(words[0]):
            return words
        raise ToolMissingError(
            f"CC is set to {named!r}, which is no command, but {purpose} with it. Name a C compiler in CC, or unset it."
        )
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise ToolMissingError(
        f"No C compiler is on the PATH (cc, gcc, clang), and {purpose} with one. Install gcc, or name yours in CC."
    )


def complaint(program: str, done: subprocess.CompletedProcess[bytes]) -> str:
    """What a failed program printed, or that it printed nothing."""
    said = (done.stderr or done.stdout).decode(errors="replace").strip()
    return said or f"{program} ended with status {done.returncode} and said nothing."
