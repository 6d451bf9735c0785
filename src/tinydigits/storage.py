"""Write to disk so that no reader, and no later start, sees half a file."""

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tinydigits.errors import StorageError, reason_of


def user_cache() -> Path:
    """The directory of this user's downloads and of what is made from them; it may not exist yet."""
    import platformdirs  # not needed just to write files

    return Path(platformdirs.user_cache_dir("tinydigits"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to the disk, and rename it to `path`.

    A crash, a kill or a full disk leaves either the old file or the new one.

    Raises:
        StorageError: the disk is full or the directory cannot be written to; `path` is as it was.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp creates 0600; the result should be like any new file
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _storage_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, with the guarantees of `write_bytes`. NaN is rejected."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def append_line(path: Path, line: str) -> None:
    """Append one line to a log file (JSON Lines).

    Raises:
        StorageError: the disk is full or the file cannot be written to.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise _storage_error(error, path) from error


def make_directory(path: Path) -> None:
    """Create a new directory and its parents.

    Raises:
        StorageError: it exists already, or cannot be created.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise StorageError(
            f"{path} exists already, and nothing is overwritten. Name another directory, or remove it."
        ) from error
    except OSError as error:
        raise _storage_error(error, path) from error


@contextlib.contextmanager
def staged_directory(parent: Path) -> Iterator[Path]:
    """A hidden new directory in `parent`, to be filled and then renamed; removed if it was not. `parent` is created.

    Raises:
        StorageError: it cannot be created.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=parent, prefix=".", suffix=".part"))
        staging.chmod(0o777 & ~_umask())
    except OSError as error:
        raise _storage_error(error, parent) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def file_stem(name: str) -> str:
    """A model's or data set's name as part of a directory's name: `dir/net.py:Net` becomes `net-py-Net`."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(name).name).strip("-")


def next_free(parent: Path, stem: str) -> Path:
    """The next of the numbered names `<stem>-001`, … in a directory, which need not exist yet."""
    pattern = re.compile(rf"{re.escape(stem)}-(\d+)")
    taken = [int(match[1]) for path in parent.glob("*") if (match := pattern.fullmatch(path.name))]
    return parent / f"{stem}-{max(taken, default=0) + 1:03d}"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; some file systems cannot sync a directory, which is ignored."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _storage_error(error: OSError, path: Path) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{path} could not be written: the disk is full. Free some space or write elsewhere with --out."
        )
    return StorageError(
        f"{path} could not be written: {reason_of(error)}. Write elsewhere with --out, or fix the permissions."
    )
