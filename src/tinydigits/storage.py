"""Writing to disk so that a reader, or the next start, never sees half a file."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinydigits.errors import StorageError


def user_cache() -> Path:
    """Where this user's downloads, and what is made from them, lie; it may not exist yet."""
    import platformdirs  # whoever only writes files does without it

    return Path(platformdirs.user_cache_dir("tinydigits"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to the disk, and rename it into place.

    A crash, a kill or a full disk at any moment leaves either the old file or the new one.

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
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes 0600; the result should be like any new file
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _storage_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, with the guarantees of `write_bytes`. NaN is refused."""
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


def read_lines(path: Path) -> list[Any]:
    """What stands in a log file (JSON Lines).

    Raises:
        OSError, ValueError: it cannot be read, or a line is no JSON.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_directory(path: Path) -> None:
    """Make a new directory and its parents.

    Raises:
        StorageError: it exists already, or cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise StorageError(
            f"{path} exists already, and nothing is overwritten. Name another directory or remove it."
        ) from error
    except OSError as error:
        raise _storage_error(error, path) from error


@contextlib.contextmanager
def staged_directory(parent: Path) -> Iterator[Path]:
    """A hidden new directory in `parent` (which is made), to be filled and then renamed; removed if it was not.

    Raises:
        StorageError: it cannot be made.
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


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; some file systems refuse to sync a directory, which is no reason to stop."""
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
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"{path} could not be written: {reason}. Write elsewhere with --out, or mend the permissions.")
