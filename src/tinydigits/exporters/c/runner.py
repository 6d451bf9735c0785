"""Compile and run exported C: the very files that the user gets are compared with Python."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydigits.compiler import NATIVE, complaint, find_compiler
from tinydigits.errors import ExportError, reason_of
from tinydigits.exporters.c.generate import PREPROCESSOR

FLAGS = ("-O3", NATIVE)
_DONE, _BLANK = 0, 1  # what the preprocessor returns
_INCLUDE = re.compile(r'^#include "(\w+)\.h"', re.MULTILINE)


def run_c(
    directory: Path, images: NDArray[np.uint8], flags: Sequence[str] = FLAGS, compiler: str | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32] | NDArray[np.int32]]:
    """`Exporter.run` of the files that `write_c` put into a directory; the logits of int8 networks are int32.

    `-march=native` is left out of the `flags` where it fails. `compiler`: a command; None: `find_compiler` finds one.
    """
    model = _model(directory)
    names = [f'-DMODEL_HEADER="{model}.h"', f"-DARENA={model}_arena", f"-DLOGIT={model}_logit"]
    output = _run(directory, "run.c", f"{model}.c", [*flags, *names], images.tobytes(), compiler)
    logit = "<i4" if "typedef int32_t" in (directory / f"{model}.h").read_text(encoding="utf-8") else "<f4"
    rows = np.frombuffer(output, dtype=[("logits", logit, 10), ("label", "<i4")])
    return rows["label"], rows["logits"]


def preprocess_c(
    directory: Path,
    pictures: Sequence[NDArray[np.uint8]],
    flags: Sequence[str] = FLAGS,
    compiler: str | None = None,
) -> list[bytes | None]:
    """`PictureExporter.preprocess` of grey pictures; `flags` and `compiler` are as in `run_c`."""
    sizes = [np.array(picture.shape[::-1], dtype="<i4").tobytes() for picture in pictures]
    request = b"".join(size + picture.tobytes() for size, picture in zip(sizes, pictures, strict=True))
    output = _run(directory, "run_preprocess.c", f"{PREPROCESSOR}.c", flags, request, compiler)
    rows = np.frombuffer(output, dtype=[("status", "<i4"), ("image", "u1", 28 * 28)])
    assert np.isin(rows["status"], (_DONE, _BLANK)).all()
    return [None if status == _BLANK else image.tobytes() for status, image in rows]


def _model(directory: Path) -> str:
    """The name of the model that `main.c` includes."""
    main = directory / "main.c"
    text = main.read_text(encoding="utf-8") if main.exists() else ""
    for name in _INCLUDE.findall(text):
        if name != PREPROCESSOR:
            return str(name)
    raise ExportError(f"{main} is missing, or tinydigits did not write it. Export the network as C again.")


def _run(directory: Path, main: str, source: str, flags: Sequence[str], request: bytes, compiler: str | None) -> bytes:
    file = directory / source
    with (
        tempfile.TemporaryDirectory() as temporary,
        as_file(files("tinydigits.exporters.c") / "sources" / main) as driver,
    ):
        program = Path(temporary) / "program"
        command = [compiler] if compiler else find_compiler("exported C is checked")
        rest = [f"-I{directory}", "-o", str(program), str(driver), str(file)]
        compiled = _call([*command, *flags, *rest])
        if compiled.returncode and NATIVE in flags:
            compiled = _call([*command, *(flag for flag in flags if flag != NATIVE), *rest])
        if compiled.returncode:
            raise ExportError(f"{file} cannot be compiled: {complaint(command[0], compiled)}\nExport it again.")
        done = _call([str(program)], request)
        if done.returncode or done.stderr:
            raise ExportError(f"{file}: the compiled program failed: {complaint('it', done)}\nExport it again.")
        return done.stdout


def _call(command: Sequence[str], request: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=request, capture_output=True, check=False)
    except OSError as error:  # a damaged program, or one for another machine
        raise ExportError(
            f"{command[0]} cannot be run: {reason_of(error)}. Name a C compiler for this machine in CC."
        ) from error
