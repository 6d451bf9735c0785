"""`kernels.c`, compiled for this machine and loaded."""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tinydigits.compiler import NATIVE, complaint, find_compiler
from tinydigits.errors import StorageError, ToolMissingError, reason_of
from tinydigits.storage import user_cache

_PURPOSE = "the native backend is compiled"
_HINT = "Name gcc or clang in CC, or leave --backend out."
FLAGS = ("-O3", "-fPIC", "-shared", NATIVE)

_POINTER, _INT, _FLOAT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_ssize_t


class ConvolutionShape(ctypes.Structure):
    """The C structure `shape`: sizes of a convolution with stride 1."""

    _fields_ = [(name, _INT) for name in (
        "in_channels", "height", "width", "out_channels", "out_height", "out_width", "kernel_height", "kernel_width",
        "top", "in_step", "out_step",
    )]  # fmt: skip


_SHAPE = ctypes.POINTER(ConvolutionShape)
_SIGNATURES: dict[str, Sequence[Any]] = {
    "convolve": [_POINTER, _POINTER, _LONG * 4, _POINTER, _POINTER, _INT, _SHAPE, _POINTER],
    "convolve_weight_gradient": [_POINTER, _POINTER, _POINTER, _LONG * 4, _INT, _SHAPE, _POINTER],
    "sum_positions": [_POINTER, _POINTER, _INT, _INT, _INT],
    "pad_columns": [_POINTER, _POINTER, _INT, _INT, _INT],
    "batch_norm": [_POINTER] * 7 + [_FLOAT] * 2 + [_INT] * 3,
    "batch_norm_backward": [_POINTER] * 9 + [_INT] * 3,
    "relu": [_POINTER, _POINTER, _LONG],
    "relu_backward": [_POINTER, _POINTER, _POINTER, _LONG],
    "max_pool": [_POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _INT],
    "max_pool_backward": [_POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _INT],
    "average_pool": [_POINTER, _POINTER, _INT, _INT, _INT, _INT, _INT],
    "average_pool_backward": [_POINTER, _POINTER, _INT, _INT, _INT, _INT, _INT],
    "drop": [_POINTER, _POINTER, _POINTER, _INT, _FLOAT, _LONG],
    "load_pictures": [_POINTER, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT],
}


@functools.cache
def load_kernels(flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """The functions of `kernels.c`; compiled on first use, which takes seconds.

    The file in the user cache is named after the source, the flags and all that the compiler says of itself and of the
    processor, so that none is ever used elsewhere.

    Raises:
        ToolMissingError: there is no C compiler, or it cannot compile the kernels.
        StorageError: the user cache cannot be written.
    """
    compiler = find_compiler(_PURPOSE)
    source = (files("tinydigits.training.backends.native") / "kernels.c").read_bytes()
    try:
        macros = _compile([*compiler, *flags, "-dM", "-E", "-"], b"")
    except ToolMissingError:  # a compiler that does not know -march=native
        flags = tuple(flag for flag in flags if flag != NATIVE)
        macros = _compile([*compiler, *flags, "-dM", "-E", "-"], b"")
    key = hashlib.sha256(b"\0".join([source, " ".join(flags).encode(), macros])).hexdigest()
    library = user_cache() / "backend" / f"{key[:16]}.so"
    if not library.exists():
        _make(library, [*compiler, *flags], source)
    return _declared(ctypes.CDLL(str(library)))


def compiler_version() -> str:
    """What the compiler calls itself: `gcc (Debian 12.2.0-14) 12.2.0`.

    Raises:
        ToolMissingError: there is none.
    """
    return _compile([*find_compiler(_PURPOSE), "--version"], b"").decode(errors="replace").splitlines()[0]


def _make(library: Path, command: Sequence[str], source: bytes) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
            made = Path(temporary) / library.name
            _compile([*command, "-x", "c", "-", "-o", str(made), "-lm"], source)
            made.replace(library)  # whole or not at all, whoever makes it at the same time
    except OSError as error:
        raise StorageError(
            f"{library}: cannot be written ({os.strerror(error.errno or 0)}), and the native backend is kept there. "
            "Set XDG_CACHE_HOME to a directory of yours."
        ) from error


def _compile(command: Sequence[str], source: bytes) -> bytes:
    try:
        done = subprocess.run(command, input=source, capture_output=True, check=False)
    except OSError as error:  # a damaged program, or one for another machine
        raise ToolMissingError(f"{command[0]} cannot be run: {reason_of(error)}. {_HINT}") from error
    if done.returncode:
        said = complaint(command[0], done)
        raise ToolMissingError(f"{command[0]} cannot compile the native backend: {said}\n{_HINT}")
    return done.stdout


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library
