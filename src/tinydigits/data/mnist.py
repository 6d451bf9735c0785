"""MNIST: found on this machine, verified, or downloaded.

Y. LeCun, C. Cortes, C. Burges, CC BY-SA 3.0. Four IDX files, verified by the size and the SHA-256 of their
*decompressed* bytes, because every mirror compresses them differently.
"""

import contextlib
import hashlib
import io
import os
import queue
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pooch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tinydigits import storage
from tinydigits.data.dataset import Dataset, DigitData, stratified_indices
from tinydigits.data.idx import GZIP_MAGIC, parse_images, parse_labels, unpack
from tinydigits.errors import DamagedDataError, DataNotFoundError, StorageError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",  # PyTorch's
    "https://storage.googleapis.com/cvdf-datasets/mnist/",  # the Common Visual Data Foundation's
    "https://raw.githubusercontent.com/fgnt/mnist/master/",  # Paderborn University's
)
VALIDATION_DIGITS = 5_000

ANSWER_SECONDS = 4.0  # after that, a mirror counts as dead
OFFLINE_SECONDS = 6.0  # all mirrors together: name lookups have no timeout of their own
STALL_SECONDS = 15.0  # silence in the middle of a download

HINT = "Delete it and run `tinydigits data --fetch`, or point --data-dir at a complete copy."


class IdxFile(NamedTuple):
    """One of the four files, and what it decompresses to."""

    name: str
    size_bytes: int
    sha256: str


FILES = (
    IdxFile("train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    IdxFile("train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    IdxFile("t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    IdxFile("t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)


class Location(NamedTuple):
    """A directory where MNIST may be; `files`: those of the four that it contains, by name."""

    origin: Literal["--data-dir", "TINYDIGITS_DATA", "user cache"]
    directory: Path
    files: dict[str, Path]

    @property
    def complete(self) -> bool:
        """All four files are there; they may still be damaged."""
        return len(self.files) == len(FILES)

    @property
    def contents(self) -> str:
        """Which files it contains, as the end of a sentence."""
        if not self.files:
            return "holds none of MNIST's four files" if self.directory.is_dir() else "is not a directory"
        missing = [file.name for file in FILES if file.name not in self.files]
        return f"lacks {' and '.join(missing)}" if missing else "holds MNIST's four files"


def user_cache() -> Path:
    """The directory of downloads."""
    return storage.user_cache() / "mnist"


def locations(data_dir: Path | None = None) -> list[Location]:
    """Where to look for MNIST, in this order; a `data_dir` is the only one.

    Raises:
        DamagedDataError: a directory cannot be read.
    """
    if data_dir is not None:
        return [Location("--data-dir", data_dir, _files_in(data_dir))]
    cache = Location("user cache", user_cache(), _files_in(user_cache()))
    if named := os.environ.get("TINYDIGITS_DATA"):
        return [Location("TINYDIGITS_DATA", Path(named), _files_in(Path(named))), cache]
    return [cache]


def load_mnist(data_dir: Path | None = None, *, download: bool = True) -> DigitData:
    """MNIST: 60,000 training digits, 5,000 of them for validation by the fixed rule, and 10,000 test digits.

    Looks in `data_dir` alone if it is given; otherwise in `$TINYDIGITS_DATA`, then in the user cache, then downloads
    into that. `MNIST/raw` below a directory is found too (torchvision's layout), and so are the files' other names.

    Raises:
        DataNotFoundError: it is not in these directories, and there is no network.
        DamagedDataError: files are damaged, or some are missing.
    """
    looked = []
    for location in locations(data_dir):
        arrays = read_verified(location)
        if location.complete:
            return _digit_data(arrays)
        if data_dir is not None:
            raise not_found_in(data_dir, location.contents)
        looked.append(f"{location.directory} ({location.origin}) {location.contents}")
    absent = f"MNIST is not on this machine: {'; '.join(looked)}."
    if not download:
        raise DataNotFoundError(f"{absent} Run `tinydigits data --fetch`.")
    try:
        fetch_mnist(user_cache())
    except (DataNotFoundError, StorageError) as error:
        raise DataNotFoundError(f"{absent} {error}") from error
    return _digit_data(read_verified(locations()[-1]))


def read_verified(location: Location) -> dict[str, NDArray[np.uint8]]:
    """The arrays of the files in one directory, by name, in the order of `FILES`.

    Raises:
        DamagedDataError: one of them is damaged; or some are missing, except in the user cache, where a download may
            have been interrupted.
    """
    where = location.directory
    if location.files and not location.complete and location.origin != "user cache":
        fix = f"Add the missing files with `tinydigits data --fetch --data-dir {where}`, or name a complete copy."
        raise DamagedDataError(f"{where} {location.contents}. {fix}")
    return {file.name: _read(file, location.files[file.name]) for file in FILES if file.name in location.files}


def not_found_in(data_dir: Path, contents: str) -> DataNotFoundError:
    """The error for a named directory without MNIST; `contents` as in `Location`."""
    return DataNotFoundError(
        f"{data_dir} {contents}. Name the directory of the four files, or download them there with "
        f"`tinydigits data --fetch --data-dir {data_dir}`."
    )


def fetch_mnist(directory: Path) -> None:
    """Download the files that `directory`, which need not exist, lacks, verify them, and write each atomically.

    Existing files are verified and kept; if they are in `MNIST/raw`, that is completed. Two processes at once end with
    one good copy.

    Raises:
        DamagedDataError: an existing file is damaged; it is left alone.
        DataNotFoundError: no mirror has the missing files; without a network this takes at most 10 s.
        StorageError: the directory cannot be written to.
    """
    present = _files_in(directory)
    for file in FILES:
        if file.name in present:
            _read(file, present[file.name])
    missing = [file for file in FILES if file.name not in present]
    if not missing:
        return
    target = next(iter(present.values())).parent if present else directory
    answering, failures = _ask(MIRRORS)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as progress:
        for file in missing:
            content = _download(file, answering, failures, progress)
            name = f"{file.name}.gz" if content.startswith(GZIP_MAGIC) else file.name
            try:
                target.mkdir(parents=True, exist_ok=True)
                storage.write_bytes(target / name, content)
            except (OSError, StorageError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                raise StorageError(
                    f"MNIST cannot be saved in {target}: {_reason(cause)}. Name another directory with "
                    f"`tinydigits data --fetch --data-dir DIR`, free some space, or fix the permissions."
                ) from error


def _files_in(directory: Path) -> dict[str, Path]:
    """Those of the four files that are in `directory`, or else in a directory below it where programs put them.

    A name in use decides, then the content. Plain files come before compressed ones.
    """
    for folder in (directory, *(directory / name for name in ("MNIST/raw", "MNIST", "mnist", "raw"))):
        try:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            # Kaggle's archive has each file in a directory of the same name.
            paths = [inner if (inner := path / path.name).is_file() else path for path in paths]
            paths = [path for path in paths if path.is_file()]
            found = {file.name: path for path in reversed(paths) for file in FILES if _is_called(path.name, file)}
            for path in paths if len(found) < len(FILES) else []:
                for file in FILES:
                    if file.name not in found and _contains(path, file):
                        found[file.name] = path
        except OSError as error:  # a directory that may not be read
            raise _unreadable(folder, error) from error
        if found:
            return found
    return {}


def _is_called(name: str, file: IdxFile) -> bool:
    """Whether a name in use is that of the file: `train-images.idx3-ubyte`, `test_labels-idx1-ubyte.gz`."""
    plain = re.sub(r"[._]", "-", name.lower().removesuffix(".gz"))
    return re.sub(r"^test-", "t10k-", plain) == file.name


def _contains(path: Path, file: IdxFile) -> bool:
    """Whether the content is that of the file; read only if its length is, which gzip keeps in the last four bytes."""
    with contextlib.suppress(OSError, DamagedDataError):  # whatever cannot be read is another file
        with path.open("rb") as content:
            packed = content.read(2) == GZIP_MAGIC
            size_bytes = content.seek(0, os.SEEK_END)
            if packed:
                content.seek(max(0, size_bytes - 4))
                size_bytes = int.from_bytes(content.read(), "little")
        return size_bytes == file.size_bytes and len(_verified(file, path.read_bytes(), str(path))) > 0
    return False


def _digit_data(arrays: dict[str, NDArray[np.uint8]]) -> DigitData:
    train_images, train_labels, test_images, test_labels = arrays.values()
    train, test = Dataset(train_images, train_labels, "mnist-train"), Dataset(test_images, test_labels, "mnist-test")
    return DigitData("mnist", train, test, stratified_indices(train, VALIDATION_DIGITS))


def _read(file: IdxFile, path: Path) -> NDArray[np.uint8]:
    try:
        return _verified(file, path.read_bytes(), str(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    except DamagedDataError as error:
        raise DamagedDataError(f"{error}\n{HINT}") from error


def _verified(file: IdxFile, content: bytes, name: str) -> NDArray[np.uint8]:
    unpacked = unpack(content, name, file.size_bytes)
    # Parsed before it is hashed: "label 12" says more than "wrong hash".
    array = (parse_images if "images" in file.name else parse_labels)(unpacked, name)
    if (sha256 := hashlib.sha256(unpacked).hexdigest()) != file.sha256:
        raise DamagedDataError(
            f"{name}: SHA-256 {sha256[:12]}… of the decompressed bytes, {file.sha256[:12]}… expected: "
            f"its length is right, its content is not MNIST's."
        )
    return array


def _ask(mirrors: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The mirrors that answer, fastest first, and what is wrong with the others.

    All are contacted at once, in threads that are not waited for: a name lookup cannot be interrupted.
    """
    failures, answering = dict.fromkeys(mirrors, "no answer"), []
    results: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def ask(mirror: str) -> None:
        download = pooch.HTTPDownloader(timeout=ANSWER_SECONDS)
        try:
            there = download(f"{mirror}{FILES[-1].name}.gz", None, None, check_only=True)
            results.put((mirror, "" if there else "does not have the files"))
        except OSError as error:  # every error of requests is one
            results.put((mirror, _reason(error)))

    for mirror in mirrors:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    deadline = time.monotonic() + OFFLINE_SECONDS
    for _ in mirrors:
        try:
            mirror, failure = results.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            break
        failures[mirror] = failure
        if not failure:
            answering.append(mirror)
    return answering, {mirror: failure for mirror, failure in failures.items() if failure}


def _download(file: IdxFile, answering: list[str], failures: dict[str, str], progress: Progress) -> bytes:
    """The verified bytes of one file as they came; a mirror that fails is not used again."""
    while answering:
        mirror, received, bar = answering[0], io.BytesIO(), _Bar(progress, file.name)
        timeout, headers = (ANSWER_SECONDS, STALL_SECONDS), {"Accept-Encoding": "identity"}
        download = pooch.HTTPDownloader(progressbar=bar, chunk_size=65_536, timeout=timeout, headers=headers)
        try:
            download(f"{mirror}{file.name}.gz", received, None)
            _verified(file, received.getvalue(), f"{file.name}.gz")
            return received.getvalue()
        except OSError as error:
            failures[mirror] = _reason(error)
        except DamagedDataError as error:
            failures[mirror] = f"sent a bad file: {error}".rstrip(".")
        progress.remove_task(bar.task)
        answering.pop(0)
    tried = "; ".join(f"{mirror}: {failure}" for mirror, failure in failures.items())
    raise DataNotFoundError(
        f"MNIST could not be downloaded ({tried}). Connect to the network and run `tinydigits data --fetch`, "
        f"or point --data-dir at a copy."
    )


class _Bar:
    """One file's line in a rich progress display, with the methods that pooch calls."""

    def __init__(self, progress: Progress, description: str) -> None:
        self.task = progress.add_task(description, total=None)
        self.total = 0  # bytes; set by pooch, to 0 if the mirror does not say
        self._progress = progress

    def update(self, size_bytes: int) -> None:
        self._progress.update(self.task, total=self.total or None, advance=size_bytes)

    def reset(self) -> None:
        self._progress.update(self.task, completed=0)

    def close(self) -> None:
        self._progress.stop_task(self.task)


def _unreadable(path: Path, error: OSError) -> DamagedDataError:
    return DamagedDataError(f"{path} cannot be read: {_reason(error)}. Fix its permissions, or name another copy.")


def _reason(error: BaseException | None) -> str:
    """Why a file or a mirror fails, without the internals that requests puts into its messages."""
    if (response := getattr(error, "response", None)) is not None:
        return f"answered with status {response.status_code}"
    if strerror := getattr(error, "strerror", None):
        return str(strerror).lower()
    return "no answer in time" if "Timeout" in type(error).__name__ else "no connection"
