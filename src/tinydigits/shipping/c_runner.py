"""Exported C, compiled and run: what is held against Python are the very files that ship."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ExportError, ToolMissingError
from tinydigits.shipping.c import PREPROCESSOR

FLAGS = ("-O3", "-march=native")
_DONE, _BLANK = 0, 1  # what the preprocessor returns
_DIGIT = 28 * 28
_INCLUDE = re.compile(r'^#include "(\w+)\.h"', re.MULTILINE)


def run_c(directory: Path, images: NDArray[np.uint8]) -> NDArray[np.float32] | NDArray[np.int32]:
    """Logits [N, 10] of raw pictures uint8 [N, 28, 28]; int32 if the network is int8.

    Raises:
        ExportError: there is no C compiler, or what lies in `directory` cannot be compiled.
    """
    return predict_c(directory, images)[1]


def predict_c(
    directory: Path, images: NDArray[np.uint8], flags: Sequence[str] = FLAGS, compiler: str | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32] | NDArray[np.int32]]:
    """Answers [N], -1 for “no digit”, and logits [N, 10] of raw pictures uint8 [N, 28, 28].

    Raises:
        ExportError: there is no C compiler, or what lies in `directory` cannot be compiled.
    """
    model = _model(directory)
    names = [f'-DMODEL_HEADER="{model}.h"', f"-DARENA={model}_arena", f"-DLOGIT={model}_logit"]
    answer = _run(directory, "run.c", f"{model}.c", [*flags, *names], images.tobytes(), compiler)
    logit = "<i4" if "typedef int32_t" in (directory / f"{model}.h").read_text(encoding="utf-8") else "<f4"
    records = np.frombuffer(answer, dtype=[("logits", logit, 10), ("answer", "<i4")])
    return records["answer"], records["logits"]


def preprocess_c(
    directory: Path,
    pictures: Sequence[NDArray[np.uint8]],
    flags: Sequence[str] = FLAGS,
    compiler: str | None = None,
) -> list[bytes | None]:
    """Each grey picture [H, W] as the 784 bytes that the network sees; None: it holds no ink.

    Raises:
        ExportError: there is no C compiler, or what lies in `directory` cannot be compiled.
    """
    sizes = [np.array(picture.shape[::-1], dtype="<i4").tobytes() for picture in pictures]
    request = b"".join(size + picture.tobytes() for size, picture in zip(sizes, pictures, strict=True))
    answer = _run(directory, "run_preprocess.c", f"{PREPROCESSOR}.c", flags, request, compiler)
    results: list[bytes | None] = []
    for start in range(0, len(answer), 4 + _DIGIT):
        status = int.from_bytes(answer[start : start + 4], "little")
        assert status in (_DONE, _BLANK)
        results.append(None if status == _BLANK else answer[start + 4 : start + 4 + _DIGIT])
    return results


def find_compiler() -> str:
    """The path of a C compiler: $CC, cc, gcc or clang.

    Raises:
        ExportError: there is none.
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise ToolMissingError(
        "No C compiler is on the PATH (cc, gcc, clang), and exported C is checked with one. "
        "Install gcc, or name yours in CC."
    )


def _model(directory: Path) -> str:
    """The model that the `main.c` there reads digits with."""
    main = directory / "main.c"
    text = main.read_text(encoding="utf-8") if main.exists() else ""
    for name in _INCLUDE.findall(text):
        if name != PREPROCESSOR:
            return str(name)
    raise ExportError(f"{main} is missing or none of ours. Export the network as C anew.")


def _run(directory: Path, main: str, source: str, flags: Sequence[str], request: bytes, compiler: str | None) -> bytes:
    with (
        tempfile.TemporaryDirectory() as temporary,
        as_file(files("tinydigits.shipping") / "c_sources" / main) as driver,
    ):
        program = Path(temporary) / "program"
        sources = [str(driver), str(directory / source)]
        command = [compiler or find_compiler(), *flags, f"-I{directory}", "-o", str(program), *sources]
        compiled = subprocess.run(command, capture_output=True, check=False)
        if compiled.returncode:
            reason = compiled.stderr.decode(errors="replace").strip()
            raise ExportError(f"{directory / source} cannot be compiled: {reason}\nExport it anew.")
        done = subprocess.run([str(program)], input=request, capture_output=True, check=False)
        if done.returncode or done.stderr:
            reason = done.stderr.decode(errors="replace").strip()
            raise ExportError(f"{directory / source}: the compiled program failed: {reason}\nExport it anew.")
        return done.stdout
