"""Pictures → labels with calibrated scores, or "no digit". Networks that ship with tinydigits need no torch.

`predict` takes pictures of any kind. `classify` takes pictures that are 28×28 already.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinydigits.errors import ConfigError, ModelError
from tinydigits.inference.files import SUFFIXES, Picture, find_pictures, read_pictures
from tinydigits.inference.graph import Graph, max_logit, run
from tinydigits.inference.store import load_graph, packaged_graph
from tinydigits.pictures.decode import PictureLike
from tinydigits.pictures.fit import SIZE
from tinydigits.records import Label, Prediction, encodable
from tinydigits.settings import DEFAULT_MODEL

Images = NDArray[np.uint8]

_BATCH = 64  # pictures that the network reads at a time
_NO_DIGIT = "the network finds too little that looks like a digit"


@dataclass(frozen=True, eq=False)
class Classification:
    """What a network makes of N pictures.

    `labels` uint8 [N]: the most probable digits. `scores` float64 [N, 10]: the calibrated probability of each digit.
    `rejected` bool [N]: the picture is no digit, whatever the scores.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float64]
    rejected: NDArray[np.bool_]


Classifier = Callable[[Images], Classification]


def predict(
    pictures: PictureLike | Iterable[PictureLike], model: str | os.PathLike[str] = DEFAULT_MODEL, top: int = 10
) -> list[Prediction]:
    """Read the digit in each picture.

    Args:
        pictures: One or several, as `tinydigits.preprocess` takes them: files, Pillow images or arrays. The pictures
            in a directory are read in sorted order.
        model: A zoo model with shipped weights, which needs no torch; a run directory; or a .safetensors file with its
            card beside it.
        top: Number of labels in each prediction, 1 to 10, best first.

    Returns:
        A prediction for each picture, in order. One that cannot be read has an `error`.

    Raises:
        ConfigError: `top` is out of range.
        UnknownModelError, WeightsError, ModelError: see `models.factory.load_model`.
    """
    if not 1 <= top <= 10:
        raise ConfigError(f"top = {top}: must be from 1 to 10.")
    classifier = load_classifier(os.fspath(model))
    sources, _ = find_pictures(_several(pictures))
    return [prediction for _, prediction in predict_pictures(read_pictures(sources), classifier, top)]


def _several(pictures: PictureLike | Iterable[PictureLike]) -> Iterable[PictureLike]:
    """The pictures; an array [H, W], [H, W, 3] or [H, W, 4] is one picture, any other array is several."""
    if isinstance(pictures, np.ndarray):
        one = pictures.ndim < 3 or (pictures.ndim == 3 and pictures.shape[2] in (3, 4))
        return [pictures] if one else list(pictures)
    return [pictures] if isinstance(pictures, str | os.PathLike | Image.Image) else pictures


def predict_pictures(
    pictures: Iterable[Picture], classifier: Classifier, top: int = 10
) -> Iterator[tuple[Picture, Prediction]]:
    """Each picture with its prediction, in order; the network reads up to 64 pictures at a time."""
    rest = iter(pictures)
    while batch := list(islice(rest, _BATCH)):
        images = [picture.image for picture in batch if picture.image is not None]
        found = classifier(np.stack(images)) if images else None
        rows = zip(found.scores, found.rejected.tolist(), strict=True) if found else iter(())
        for picture in batch:
            scores, rejected = (None, True) if picture.image is None else next(rows)
            yield picture, make_prediction(picture, scores, rejected, top)


def make_prediction(
    picture: Picture, scores: NDArray[np.float64] | None = None, rejected: bool = True, top: int = 10
) -> Prediction:
    """The record of a picture, with its `top` labels.

    `scores`, float64 [10], are None if the network did not see it, because it is blank or could not be read.
    """
    scores = np.empty(0) if scores is None else scores
    ranking = np.argsort(-scores, kind="stable")[:top].tolist()
    return Prediction(
        path=encodable(picture.path),
        rejected=None if picture.error else rejected,
        labels=tuple(Label(label=digit, score=float(scores[digit])) for digit in ranking),
        reason=picture.blank or _NO_DIGIT if rejected and not picture.error else None,
        error=picture.error and encodable(picture.error),
        warning=picture.warning and encodable(picture.warning),
    )


def classify(graph: Graph, images: Images) -> Classification:
    """Classify pictures that are 28×28 already: uint8 [N, 28, 28], light ink on black as in MNIST.

    Uses all cores: two classify more than 5,000 pictures a second (`make benchmark-inference`).

    Raises:
        ModelError: the network gives values that are not finite.
    """
    assert images.dtype == np.uint8
    assert images.shape[1:] == (SIZE, SIZE)
    return classify_logits(images, run(graph, images), graph.temperature, graph.threshold)


def classify_logits(
    images: Images, logits: NDArray[np.floating], temperature: float | None, threshold: float | None
) -> Classification:
    """Scores are softmax(logits / temperature); no ink, or a largest logit below the threshold, is no digit.

    The logits [N, 10] are those of the images uint8 [N, 28, 28]. The temperature is 1 if it is None.

    Raises:
        ModelError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ModelError("The network gives values that are not finite numbers. Train it again.")
    scaled = logits.astype(np.float64) / (temperature or 1)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))  # SciPy's softmax would double the time of a cold start
    scores = powers / powers.sum(axis=1, keepdims=True)
    below = max_logit(logits) < (-np.inf if threshold is None else threshold)
    blank = images.max(axis=(1, 2), initial=0) == 0
    return Classification(logits.argmax(axis=1).astype(np.uint8), scores, rejected=below | blank)


def load_classifier(source: str) -> Classifier:
    """Load a network that classifies uint8 [N, 28, 28].

    `source`: a zoo model with shipped weights, which needs no torch; or a run directory, or a .safetensors file with
    its card beside it, which PyTorch runs, even if the network cannot be exported.

    Raises:
        UnknownModelError, WeightsError, ModelError: see `models.factory.load_model`.
    """
    if not _is_trained(Path(source)) and (path := _shipped(source)):
        graph = load_graph(path)
        assert isinstance(graph, Graph)
        return partial(classify, graph)
    import torch

    from tinydigits.data.normalize import Normalization
    from tinydigits.models.factory import load_model

    torch.set_num_threads(1)
    model, card = load_model(source)
    normalization, fitted = Normalization(card.mean, card.std), card.calibration
    calibration = (fitted.temperature, fitted.threshold) if fitted else (None, None)

    def classifier(images: Images) -> Classification:
        with torch.inference_mode():
            logits = torch.cat([model(part) for part in normalization.array(images).split(1000)]).numpy()
        return classify_logits(images, logits, *calibration)

    return classifier


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
    files = path / "model.safetensors", path / "config.json"
    return path.suffix == ".safetensors" or any(file.is_file() for file in files)


def _shipped(source: str) -> Path | None:
    return packaged_graph(source.replace("_", "-")) if Path(source).name == source else None
