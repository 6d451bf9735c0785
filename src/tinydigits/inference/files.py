"""Files, directories and other sources of pictures → 28×28 pictures, in order, on several processes if wanted.

`find_pictures` lists what the words of a command line name; `read_pictures` decodes and preprocesses it.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

from PIL import Image

from tinydigits.errors import BlankPictureError, PictureError, RunError, UnreadablePictureError, reason_of
from tinydigits.pictures.arithmetic import Gray
from tinydigits.pictures.decode import PictureLike, decode, picture_name
from tinydigits.pictures.preprocess import preprocess_gray

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".gif", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".ppm", ".pgm",
    ".pbm", ".pnm", ".tga", ".ico",
}  # fmt: skip
_LITTER = {"thumbs.db", "desktop.ini"}  # what file managers leave behind, besides hidden files
_CHUNK = 8  # pictures that a process prepares at a time
_AHEAD = 4  # chunks for each process that may wait to be read


@dataclass(frozen=True, eq=False)
class Picture:
    """A preprocessed picture: either `image`, what the network sees (uint8 [28, 28]), or why there is none.

    `path`: its file, `-` for standard input, or the kind of image or array. `blank`: why no ink was found. `error`: why
    it could not be read. `warning`: what was ignored, such as the other frames of an animation.
    """

    path: str
    image: Gray | None = None
    blank: str | None = None
    error: str | None = None
    warning: str | None = None


Source = PictureLike | Picture


def find_pictures(
    words: Iterable[PictureLike], standard_input: Callable[[], bytes] | None = None
) -> tuple[list[Source], list[str]]:
    """List the pictures that the words of a command line name.

    Args:
        words: Files, directories, `-`, or pictures in memory. Directories are walked in sorted order, without hidden
            files.
        standard_input: Returns the bytes of the picture that `-` names; None: `-` is a file like any other.

    Returns:
        The sources in order, with `-` and directories without pictures as a `Picture`; and the files that were skipped
        because they do not have the suffix of a picture (`SUFFIXES`).
    """
    found: list[Source] = []
    skipped: list[str] = []
    for word in words:
        if standard_input is not None and isinstance(word, str) and word == "-":
            found.append(read_picture(standard_input(), "-"))
        elif isinstance(word, str | os.PathLike) and Path(word).is_dir():
            found += _walk(os.fspath(word), skipped)
        else:
            found.append(word)
    return found, skipped


def _walk(directory: str, skipped: list[str]) -> list[Source]:
    found: list[Source] = []

    def report(error: OSError) -> None:
        path = str(error.filename)
        found.append(Picture(path, error=f"{path} cannot be read: {reason_of(error)}. Fix its permissions."))

    for parent, directories, files in os.walk(directory, onerror=report):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or name.lower() in _LITTER:
                continue
            path = Path(parent) / name
            (found if path.suffix.lower() in SUFFIXES else skipped).append(str(path))
    if not found:
        error = f"{directory} holds no pictures. Name a directory with PNG or JPEG files."
        found.append(Picture(directory, error=error))
    return found


def read_picture(source: PictureLike | bytes, path: str) -> Picture:
    """Decode and preprocess one picture, which the result calls `path`; an error becomes part of it."""
    warning = None
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            gray, frames = _decode(source, path)  # Pillow warns of large pictures; `decode` has a stricter limit
        warning = f"{path} has {frames} frames; the first one was read." if frames > 1 else None
        return Picture(path, image=preprocess_gray(gray), warning=warning)
    except BlankPictureError as error:
        return Picture(path, blank=str(error), warning=warning)
    except PictureError as error:
        return Picture(path, error=str(error))
    except MemoryError:
        return Picture(path, error=f"{path}: there is not enough memory to decode it. Make the picture smaller.")


def _decode(source: PictureLike | bytes, path: str) -> tuple[Gray, int]:
    """Grey levels [H, W], and the number of frames."""
    if isinstance(source, bytes):
        return _decode_bytes(source, "standard input" if path == "-" else path)
    if not isinstance(source, str | os.PathLike):
        return decode(source), _frames(source)
    if (link := Path(source)).is_symlink() and not link.exists():
        raise UnreadablePictureError(
            f"{link}: this link points to {link.readlink()}, where there is no file. Fix the link."
        )
    gray = decode(source)
    with contextlib.suppress(OSError), Image.open(source) as image:
        return gray, _frames(image)
    return gray, 1


def _decode_bytes(content: bytes, name: str) -> tuple[Gray, int]:
    try:
        with Image.open(BytesIO(content)) as image:
            image.filename = name  # for messages
            return decode(image), _frames(image)
    except Image.DecompressionBombError:
        fault = "its header promises more pixels than are decoded. Make the picture smaller, or cut out the digit."
    except (OSError, ValueError):
        fault = "this is not a picture in a known format. Give a PNG or JPEG file."
    raise UnreadablePictureError(f"{name}: {fault}")


def _frames(picture: object) -> int:
    """The number of frames of a picture that `decode` could read; a telephone's JPEG with a preview has one."""
    with contextlib.suppress(OSError, ValueError, EOFError, SyntaxError):
        return 1 if getattr(picture, "format", "") == "MPO" else int(getattr(picture, "n_frames", 1))
    return 1


def read_pictures(sources: Sequence[Source], workers: int = 1) -> Iterator[Picture]:
    """Decode and preprocess pictures, in order; one that cannot be read becomes a `Picture` with an error.

    A `Picture` is passed on as it is. Memory is bounded by the number of workers, not of pictures. Workers are
    processes: several pay off from some hundred files on, because each takes half a second to start. A script that uses
    them calls this under `if __name__ == "__main__":`.

    Raises:
        RunError: a process was killed.
    """
    if workers == 1:
        yield from map(_read, sources)
        return
    rest = iter(sources)
    pool = _start_pool(workers)
    try:
        waiting: deque[Future[list[Picture]]] = deque()
        while True:
            while len(waiting) < workers * _AHEAD and (chunk := list(islice(rest, _CHUNK))):
                waiting.append(pool.submit(_read_chunk, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise RunError(
            "A process that decoded pictures was killed, perhaps because memory ran out. Name fewer pictures at a time."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: Source) -> Picture:
    return source if isinstance(source, Picture) else read_picture(source, picture_name(source))


def _read_chunk(sources: list[Source]) -> list[Picture]:
    return [_read(source) for source in sources]


def _start_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that ignore Ctrl-C, which they inherit; their parent stops them."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_follow_parent)
    if threading.current_thread() is not threading.main_thread():  # the only one that may set signal handlers
        return pool
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for _ in range(workers):  # a task starts a process while none is idle yet
            pool.submit(_read_chunk, [])
    finally:
        signal.signal(signal.SIGINT, before)
    return pool


def _follow_parent() -> None:
    """Ignore Ctrl-C, also if a thread that could not set signal handlers started this process; exit with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
