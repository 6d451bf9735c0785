"""MNIST: found on this machine, verified, or downloaded.

Y. LeCun, C. Cortes, C. Burges, CC BY-SA 3.0. Four IDX files; what counts is the exact size and the SHA-256
of their *decompressed* bytes, because every mirror packs them with another gzip.
"""

import hashlib
import io
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
HELD_OUT = 5_000

ANSWER_SECONDS = 4.0  # a mirror that has not answered by then is taken for dead
OFFLINE_SECONDS = 6.0  # all mirrors together: name lookups have no timeout of their own
STALL_SECONDS = 15.0  # silence in the middle of a download

REMEDY = "Delete it and run `tinydigits data --fetch`, or point --data-dir at a complete copy."


@dataclass(frozen=True)
class IdxFile:
    """One of the four files, by what it decompresses to."""

    name: str
    size_bytes: int
    sha256: str


FILES = (
    IdxFile(
        "train-images-idx3-ubyte",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    IdxFile(
        "train-labels-idx1-ubyte",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


@dataclass(frozen=True)
class Place:
    """A directory where MNIST may be: `files` are those of the four that are there, by name."""

    origin: Literal["--data-dir", "TINYDIGITS_DATA", "user cache"]
    directory: Path
    files: dict[str, Path]

    @property
    def complete(self) -> bool:
        """All four files are there; whether they are good is another question."""
        return len(self.files) == len(FILES)

    @property
    def contents(self) -> str:
        """Which of the files are there, as the end of a sentence."""
        if not self.files:
            return "holds none of MNIST's four files" if self.directory.is_dir() else "is no directory"
        missing = [file.name for file in FILES if file.name not in self.files]
        return f"lacks {' and '.join(missing)}" if missing else "holds MNIST's four files"


def user_cache() -> Path:
    """Where downloads go and are found again."""
    return storage.user_cache() / "mnist"


def places(data_dir: Path | None = None) -> list[Place]:
    """Where MNIST is looked for, in this order; a `data_dir` that is named is the only place.

    Raises:
        DamagedDataError: a directory cannot be looked into.
    """
    if data_dir is not None:
        return [Place("--data-dir", data_dir, _files_in(data_dir))]
    found = []
    if named := os.environ.get("TINYDIGITS_DATA"):
        found.append(Place("TINYDIGITS_DATA", Path(named), _files_in(Path(named))))
    return [*found, Place("user cache", user_cache(), _files_in(user_cache()))]


def load_mnist(data_dir: Path | None = None, *, download: bool = True) -> DigitData:
    """MNIST: 60,000 training digits, 5,000 of them held out by the fixed rule, and 10,000 test digits.

    Looks into `data_dir` if it is given, and nowhere else; otherwise into `$TINYDIGITS_DATA`, then the user
    cache, then downloads into that. `MNIST/raw` below a directory is found too (torchvision's layout).

    Raises:
        DataNotFoundError: it is in none of these places, and there is no network.
        DamagedDataError: files are there, but broken or not all of them.
    """
    absent = []
    for place in places(data_dir):
        arrays = verify(place)
        if place.complete:
            return _digit_data(*arrays.values())
        if data_dir is not None:
            raise not_found_in(data_dir, place.contents)
        absent.append(f"{place.directory} ({place.origin}) {place.contents}")
    looked = "; ".join(absent)
    if not download:
        raise DataNotFoundError(f"MNIST is not on this machine: {looked}. Run `tinydigits data --fetch`.")
    try:
        fetch_mnist(user_cache())
    except (DataNotFoundError, StorageError) as error:
        raise DataNotFoundError(f"MNIST is not on this machine: {looked}. {error}") from error
    return _digit_data(*verify(places()[-1]).values())


def verify(place: Place) -> dict[str, NDArray[np.uint8]]:
    """The arrays of the files in one place, by name, in the order of `FILES`.

    Raises:
        DamagedDataError: one of them is broken; or some are missing, except in the user cache, where that is
            a download that was interrupted.
    """
    if place.files and not place.complete and place.origin != "user cache":
        raise DamagedDataError(
            f"{place.directory} {place.contents}. Add what is missing with "
            f"`tinydigits data --fetch --data-dir {place.directory}`, or name a complete copy."
        )
    return {file.name: _read(file, place.files[file.name]) for file in FILES if file.name in place.files}


def not_found_in(data_dir: Path, contents: str) -> DataNotFoundError:
    """The error of a directory that was named and does not hold MNIST; `contents` as in `Place`."""
    return DataNotFoundError(
        f"{data_dir} {contents}. Name the directory of the four files, or download them there with "
        f"`tinydigits data --fetch --data-dir {data_dir}`."
    )


def fetch_mnist(directory: Path) -> None:
    """Download what `directory` lacks of the four files, verify it, and put each file there in one piece.

    Files that are there already are verified and kept. Two processes at once end with one good copy.

    Args:
        directory: made if it does not exist; `MNIST/raw` below it is completed if files are there.

    Raises:
        DamagedDataError: a file that is there is broken; it is left alone.
        DataNotFoundError: no mirror gave what is missing; without a network this takes at most 10 s.
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
    answering, refusals = _ask(MIRRORS)
    left = TimeRemainingColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), left)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for file in missing:
            content = _download(file, answering, refusals, progress)
            suffix = ".gz" if content.startswith(GZIP_MAGIC) else ""
            try:
                target.mkdir(parents=True, exist_ok=True)
                storage.write_bytes(target / f"{file.name}{suffix}", content)
            except (OSError, StorageError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                raise StorageError(
                    f"MNIST cannot be kept in {target}: {_reason(cause)}. Name another directory with "
                    f"`tinydigits data --fetch --data-dir DIR`, or make room or mend the permissions."
                ) from error


def _files_in(directory: Path) -> dict[str, Path]:
    """Those of the four files that are in `directory`, or else in its `MNIST/raw`; plain before packed."""
    for folder in (directory, directory / "MNIST" / "raw"):
        found: dict[str, Path] = {}
        for file in FILES:
            for path in (folder / file.name, folder / f"{file.name}.gz"):
                try:
                    if path.is_file():
                        found.setdefault(file.name, path)
                except OSError as error:  # a directory that may not be looked into
                    raise _unreadable(path, error) from error
        if found:
            return found
    return {}


def _digit_data(
    train_images: NDArray[np.uint8],
    train_labels: NDArray[np.uint8],
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.uint8],
) -> DigitData:
    train = Dataset(train_images, train_labels, "mnist-train")
    test = Dataset(test_images, test_labels, "mnist-test")
    return DigitData("mnist", train, test, stratified_indices(train, HELD_OUT))


def _read(file: IdxFile, path: Path) -> NDArray[np.uint8]:
    try:
        return _verified(file, path.read_bytes(), str(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    except DamagedDataError as error:
        raise DamagedDataError(f"{error}\n{REMEDY}") from error


def _verified(file: IdxFile, content: bytes, name: str) -> NDArray[np.uint8]:
    unpacked = unpack(content, name, file.size_bytes)
    # Parsed before it is hashed: "label 12" says more than "another hash".
    array = (parse_images if "images" in file.name else parse_labels)(unpacked, name)
    sha256 = hashlib.sha256(unpacked).hexdigest()
    if sha256 != file.sha256:
        raise DamagedDataError(
            f"{name}: SHA-256 {sha256[:12]}… of the decompressed bytes, {file.sha256[:12]}… expected: "
            f"its length is right, its content is not MNIST's."
        )
    return array


def _ask(mirrors: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The mirrors that answer, quickest first, and what is wrong with the others.

    All are asked at once, in threads that nobody waits for: a name lookup cannot be interrupted.
    """
    refusals = dict.fromkeys(mirrors, "no answer")
    answering: list[str] = []
    answers: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def ask(mirror: str) -> None:
        download = pooch.HTTPDownloader(timeout=ANSWER_SECONDS)
        try:
            there = download(f"{mirror}{FILES[-1].name}.gz", None, None, check_only=True)
            answers.put((mirror, "" if there else "does not have the files"))
        except OSError as error:  # every error of requests is one
            answers.put((mirror, _reason(error)))

    for mirror in mirrors:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    deadline = time.monotonic() + OFFLINE_SECONDS
    for _ in mirrors:
        try:
            mirror, refusal = answers.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            break
        refusals[mirror] = refusal
        if not refusal:
            answering.append(mirror)
            del refusals[mirror]
    return answering, refusals


def _download(file: IdxFile, answering: list[str], refusals: dict[str, str], progress: Progress) -> bytes:
    """The verified bytes of one file as they came; a mirror that fails is not asked again."""
    while answering:
        mirror, received, bar = answering[0], io.BytesIO(), _Bar(progress, file.name)
        download = pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=65_536,
            timeout=(ANSWER_SECONDS, STALL_SECONDS),
            headers={"Accept-Encoding": "identity"},
        )
        try:
            download(f"{mirror}{file.name}.gz", received, None)
            _verified(file, received.getvalue(), f"{file.name}.gz")
            return received.getvalue()
        except OSError as error:
            refusals[mirror] = _reason(error)
        except DamagedDataError as error:
            refusals[mirror] = f"sent a bad file: {error}".rstrip(".")
        progress.remove_task(bar.task)
        answering.pop(0)
    tried = "; ".join(f"{mirror}: {refusal}" for mirror, refusal in refusals.items())
    raise DataNotFoundError(
        f"MNIST could not be downloaded ({tried}). Connect to the network and run `tinydigits data --fetch`, "
        f"or point --data-dir at a copy."
    )


class _Bar:
    """One file's line of a rich progress display, with the methods that pooch calls."""

    def __init__(self, progress: Progress, description: str) -> None:
        self.task = progress.add_task(description, total=None)
        self.total = 0  # bytes to come; pooch sets it, to 0 where the mirror does not say
        self._progress = progress

    def update(self, size_bytes: int) -> None:
        self._progress.update(self.task, total=self.total or None, advance=size_bytes)

    def reset(self) -> None:
        self._progress.update(self.task, completed=0)

    def close(self) -> None:
        self._progress.stop_task(self.task)


def _unreadable(path: Path, error: OSError) -> DamagedDataError:
    return DamagedDataError(f"{path} cannot be read: {_reason(error)}. Mend its permissions or name another copy.")


def _reason(error: BaseException | None) -> str:
    """Why a file or a mirror fails, without the innards that requests puts into its messages."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"answered with status {status}"
    strerror = getattr(error, "strerror", None)
    if strerror:
        return str(strerror).lower()
    return "no answer in time" if "Timeout" in type(error).__name__ else "no connection"
