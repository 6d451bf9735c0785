"""Pictures → answers: any files, decoded, made 28×28 and read, with honest confidence and "no digit". Needs no torch.

`find_pictures` → `read_pictures` → `answer_pictures` leads from names on a command line to answers, in the order asked
for and a few pictures at a time. `predict` is for pictures that are 28×28 already.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tinydigits.data.preprocess import SIZE, decode, preprocess_gray
from tinydigits.errors import BlankPictureError, ModelError, PictureError, RunError, UnreadablePictureError
from tinydigits.evaluation.calibration import evidence
from tinydigits.shipping.graph import Graph, run
from tinydigits.shipping.store import load_graph, packaged_graph

Images = NDArray[np.uint8]

# fmt: off
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".gif", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".ppm", ".pgm",
    ".pbm", ".pnm", ".tga", ".ico",
}
# fmt: on
_LITTER = {"thumbs.db", "desktop.ini"}  # what file managers leave behind, besides hidden files
_BATCH = 64  # pictures that the network reads at a time
_CHUNK = 8  # pictures that a process prepares at a time
_AHEAD = 4  # chunks for each process that may wait to be read


@dataclass(frozen=True, eq=False)
class Predictions:
    """Answers to N pictures.

    `labels` uint8 [N]: the most probable digit; `scores` float64 [N, 10]: the probability of each, calibrated;
    `rejected` bool [N]: the picture is no digit, whatever the scores.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float64]
    rejected: NDArray[np.bool_]


Predictor = Callable[[Images], Predictions]


def predict(graph: Graph, images: Images) -> Predictions:
    """Read pictures that are 28×28 already: uint8 [N, 28, 28], light ink on black as in MNIST.

    On all cores: two read more than 5,000 pictures a second (`make benchmark-inference`).

    Raises:
        ModelError: the network gives values that are not finite.
    """
    assert images.dtype == np.uint8
    assert images.shape[1:] == (SIZE, SIZE)
    return judge_logits(images, run(graph, images), graph.temperature, graph.threshold)


def judge_logits(
    images: Images, logits: NDArray[np.floating], temperature: float | None, threshold: float | None
) -> Predictions:
    """Scores are softmax(logits / temperature); no ink, or a highest logit below the threshold, is no digit.

    Args:
        images: uint8 [N, 28, 28].
        logits: [N, 10], what the network says of them.
        temperature: As in the card; None: 1.
        threshold: As in the card; None: only what has no ink is rejected.

    Raises:
        ModelError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ModelError("The network gives values that are not finite numbers. Train it again.")
    scaled = logits.astype(np.float64) / (temperature or 1)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))  # SciPy's softmax would double the time of a cold start
    least = -np.inf if threshold is None else threshold
    return Predictions(
        labels=logits.argmax(axis=1).astype(np.uint8),
        scores=powers / powers.sum(axis=1, keepdims=True),
        rejected=(evidence(logits) < least) | (images.max(axis=(1, 2), initial=0) == 0),
    )


def load_predictor(source: str) -> Predictor:
    """What reads uint8 [N, 28, 28].

    Args:
        source: A model of the zoo with shipped weights: no torch is loaded. Or a run directory, or a .safetensors file
            with its card beside it: PyTorch runs it, and so also networks that cannot be exported.

    Raises:
        UnknownModelError, WeightsError, ModelError: see `models.weights.load_model`.
    """
    graph = None if _is_trained(Path(source)) else _shipped(source)
    if graph is None:
        return _torch_predictor(source)
    loaded = load_graph(graph)
    assert isinstance(loaded, Graph)
    return partial(predict, loaded)


def names_model(word: str) -> bool:
    """Whether a word before the pictures names a model.

    It does if it is a run directory, a .safetensors file or a model with a shipped graph, and also if there is no such
    file and it does not end like a picture.
    """
    path = Path(word)
    if _is_trained(path) or _shipped(word):
        return True
    return word != "-" and not os.path.lexists(path) and path.suffix.lower() not in SUFFIXES


def _is_trained(path: Path) -> bool:
    return path.suffix == ".safetensors" or any(
        (path / file).is_file() for file in ("model.safetensors", "config.json")
    )


def _shipped(source: str) -> Path | None:
    return packaged_graph(source.replace("_", "-")) if Path(source).name == source else None


def _torch_predictor(source: str) -> Predictor:
    import torch

    from tinydigits.data.normalise import normalise
    from tinydigits.evaluation.predictions import predict_logits
    from tinydigits.models.weights import load_model

    torch.set_num_threads(1)
    model, card = load_model(source)
    calibration = card.calibration or {}

    def predictor(images: Images) -> Predictions:
        logits = predict_logits(model, normalise(images, card.mean, card.deviation)).numpy()
        return judge_logits(images, logits, calibration.get("temperature"), calibration.get("threshold"))

    return predictor


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture from `path`, made `image` uint8 [28, 28], or why there is none.

    `blank` says why it holds no ink, `error` why it could not be read. `notice`: what was left out.
    """

    path: str
    image: Images | None = None
    blank: str | None = None
    error: str | None = None
    notice: str | None = None


def find_pictures(words: Iterable[str], standard_input: Callable[[], bytes]) -> tuple[list[str | Picture], list[str]]:
    """What the words of a command line name.

    Args:
        words: Files, directories, or `-`. Directories are walked in sorted order, without hidden files; of their files
            those count that end like a picture (`SUFFIXES`).
        standard_input: Gives the bytes of the picture that `-` names.

    Returns:
        Files in order, `-` and directories without pictures as a `Picture`; and the files that do not end like
        one.
    """
    found: list[str | Picture] = []
    skipped: list[str] = []
    for word in words:
        if word == "-":
            found.append(read_picture(standard_input(), word))
        elif Path(word).is_dir():
            found += _walk(word, skipped)
        else:
            found.append(word)
    return found, skipped


def _walk(directory: str, skipped: list[str]) -> list[str | Picture]:
    found: list[str | Picture] = []

    def report(error: OSError) -> None:
        place = str(error.filename)
        reason = (error.strerror or str(error)).lower()
        found.append(Picture(place, error=f"{place} cannot be read: {reason}. Mend its permissions."))

    for place, directories, files in os.walk(directory, onerror=report):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or name.lower() in _LITTER:
                continue
            path = Path(place) / name
            if path.suffix.lower() in SUFFIXES:
                found.append(str(path))
            else:
                skipped.append(str(path))
    if not found:
        error = f"{directory} holds no pictures. Name a directory with PNG or JPEG files."
        found.append(Picture(directory, error=error))
    return found


def read_picture(source: str | bytes, path: str) -> Picture:
    """Decode and preprocess one picture; what is wrong with it stands in the answer.

    Args:
        source: Its file, or the bytes of one.
        path: What it is called in the answer, and for bytes in messages.
    """
    notice = None
    try:
        with warnings.catch_warnings():  # Pillow warns of large pictures; `decode` has its own, stricter limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if isinstance(source, bytes):
                gray, frames = _decode_bytes(source, "standard input" if path == "-" else path)
            else:
                gray, frames = _decode_file(source)
        if frames > 1:
            notice = f"{path} has {frames} frames; the first one was read."
        return Picture(path, image=preprocess_gray(gray), notice=notice)
    except BlankPictureError as error:
        return Picture(path, blank=str(error), notice=notice)
    except PictureError as error:
        return Picture(path, error=str(error))
    except MemoryError:
        return Picture(path, error=f"{path}: there is not enough memory to decode it. Make the picture smaller.")


def _decode_file(source: str) -> tuple[Images, int]:
    """Grey levels, and how many frames the picture has."""
    path = Path(source)
    if path.is_symlink() and not path.exists():
        raise UnreadablePictureError(
            f"{path}: this link points to {path.readlink()}, where there is no file. Mend the link."
        )
    gray = decode(source)
    with contextlib.suppress(OSError), Image.open(source) as image:
        return gray, _frames(image)
    return gray, 1


def _decode_bytes(content: bytes, name: str) -> tuple[Images, int]:
    """Grey levels, and how many frames the picture has."""
    try:
        with Image.open(BytesIO(content)) as image:
            image.filename = name  # for messages
            return decode(image), _frames(image)
    except Image.DecompressionBombError:
        raise UnreadablePictureError(
            f"{name}: its header promises more pixels than are decoded. Make the picture smaller, or cut out the digit."
        ) from None
    except (UnidentifiedImageError, OSError, ValueError):
        raise UnreadablePictureError(
            f"{name}: this is no picture in a known format. Give a PNG or JPEG file."
        ) from None


def _frames(image: Image.Image) -> int:
    """How many frames a picture that `decode` could read has; a telephone's JPEG with a preview has one."""
    with contextlib.suppress(OSError, ValueError, EOFError, SyntaxError):
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    return 1


def read_pictures(sources: Sequence[str | Picture], workers: int = 1) -> Iterator[Picture]:
    """Decode and preprocess files, in order; a bad one is a `Picture` with an error.

    Memory is bounded by the number of workers, not of pictures.

    Args:
        sources: Files; what is a `Picture` already comes through.
        workers: Processes. More than one pay from some hundred files on, as each takes half a second to start; a script
            that asks for them does so under `if __name__ == "__main__":`.

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
            "A process that decoded pictures was killed, perhaps for lack of memory. Name fewer pictures at a time."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: str | Picture) -> Picture:
    return source if isinstance(source, Picture) else read_picture(source, source)


def _read_chunk(sources: list[str | Picture]) -> list[Picture]:
    return [_read(source) for source in sources]


def _start_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that leave Ctrl-C to their parent, which stops them; they inherit that it is ignored."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_obey_parent)
    if threading.current_thread() is not threading.main_thread():  # the only one that may set signal handlers
        return pool
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for _ in range(workers):  # a task starts a process while none has answered yet
            pool.submit(_read_chunk, [])
    finally:
        signal.signal(signal.SIGINT, before)
    return pool


def _obey_parent() -> None:
    """Leave Ctrl-C to the parent, also when another of its threads has started this process, and die with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True, eq=False)
class Answer:
    """What a picture shows.

    `rejected`: it is no digit; None if it could not be read. `scores` float64 [10]; None if the network was not asked.
    """

    picture: Picture
    rejected: bool | None
    scores: NDArray[np.float64] | None = None

    @property
    def ranking(self) -> list[tuple[int, float]]:
        """Digits with their scores, best first."""
        if self.scores is None:
            return []
        return [(int(digit), float(self.scores[digit])) for digit in np.argsort(-self.scores, kind="stable")]

    @property
    def reason(self) -> str | None:
        """Why the picture is rejected; None if it is not."""
        if not self.rejected:
            return None
        return self.picture.blank or "the network finds too little that looks like a digit"

    def as_dict(self, top: int = 10) -> dict[str, Any]:
        """Plain data: `path, rejected, labels: [{label, score}, …]`, best first, and `reason, error, notice` or None.

        Without ink `rejected` is true and `labels` empty; of a picture that cannot be read `rejected` is None.
        """
        return {
            "path": _encodable(self.picture.path),
            "rejected": self.rejected,
            "labels": [{"label": digit, "score": score} for digit, score in self.ranking[:top]],
            "reason": self.reason,
            "error": self.picture.error and _encodable(self.picture.error),
            "notice": self.picture.notice and _encodable(self.picture.notice),
        }


def answer_pictures(pictures: Iterable[Picture], predictor: Predictor) -> Iterator[Answer]:
    """The answers, in order; the network reads up to 64 pictures at a time."""
    rest = iter(pictures)
    while batch := list(islice(rest, _BATCH)):
        images = [picture.image for picture in batch if picture.image is not None]
        answers = predictor(np.stack(images)) if images else None
        row = 0
        for picture in batch:
            if picture.image is None:
                yield Answer(picture, rejected=None if picture.error else True)
                continue
            assert answers is not None
            yield Answer(picture, bool(answers.rejected[row]), answers.scores[row])
            row += 1


def printable(text: str) -> str:
    r"""For terminals: names of files may hold bytes that are no UTF-8 (shown `\udcff`) and control characters."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in _encodable(text))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
