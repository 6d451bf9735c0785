"""Exported C, compiled and run: what is held against Python are the very files that ship."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydigits.compiler import NATIVE, complaint, find_compiler
from tinydigits.errors import ExportError
from tinydigits.shipping.c import PREPROCESSOR

FLAGS = ("-O3", NATIVE)
_DONE, _BLANK = 0, 1  # what the preprocessor returns
_DIGIT = 28 * 28
_INCLUDE = re.compile(r'^#include "(\w+)\.h"', re.MULTILINE)


def run_c(
    directory: Path, images: NDArray[np.uint8], flags: Sequence[str] = FLAGS, compiler: str | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32] | NDArray[np.int32]]:
    """What exported C makes of raw pictures uint8 [N, 28, 28].

    Args:
        directory: Where `write_c` has put its files.
        images: The pictures.
        flags: For the compiler; `-march=native` is left out where it fails.
        compiler: A command; None takes what `find_compiler` finds.

    Returns:
        Answers int32 [N], -1 for “no digit”, and logits [N, 10]; int32 if the network is int8.

    Raises:
        ToolMissingError: there is no C compiler.
        ExportError: what lies in `directory` cannot be compiled or run.
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
        ToolMissingError: there is no C compiler.
        ExportError: what lies in `directory` cannot be compiled or run.
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


def _model(directory: Path) -> str:
    """The model that the `main.c` there reads digits with."""
    main = directory / "main.c"
    text = main.read_text(encoding="utf-8") if main.exists() else ""
    for name in _INCLUDE.findall(text):
        if name != PREPROCESSOR:
            return str(name)
    raise ExportError(f"{main} is missing or none of ours. Export the network as C anew.")


def _run(directory: Path, main: str, source: str, flags: Sequence[str], request: bytes, compiler: str | None) -> bytes:
    file = directory / source
    with (
        tempfile.TemporaryDirectory() as temporary,
        as_file(files("tinydigits.shipping") / "c_sources" / main) as driver,
    ):
        program = Path(temporary) / "program"
        command = [compiler] if compiler else find_compiler("exported C is checked")
        rest = [f"-I{directory}", "-o", str(program), str(driver), str(file)]
        compiled = _call([*command, *flags, *rest])
        if compiled.returncode and NATIVE in flags:
            compiled = _call([*command, *(flag for flag in flags if flag != NATIVE), *rest])
        if compiled.returncode:
            raise ExportError(f"{file} cannot be compiled: {complaint(command[0], compiled)}\nExport it anew.")
        done = _call([str(program)], request)
        if done.returncode or done.stderr:
            raise ExportError(f"{file}: the compiled program failed: {complaint('it', done)}\nExport it anew.")
        return done.stdout


def _call(command: Sequence[str], request: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=request, capture_output=True, check=False)
    except OSError as error:  # a damaged program, or one for another machine
        reason = (error.strerror or str(error)).lower()
        raise ExportError(f"{command[0]} cannot be run: {reason}. Name a C compiler for this machine in CC.") from error
