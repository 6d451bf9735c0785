"""What a report shows beside the figures of a run or a study: its predictions, its network, its digits.

Each part is optional: if it is unavailable, a sentence says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from tinydigits.data.augment import Variants, augmented_variants
from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.data.mnist import load_mnist
from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ModelError, TinydigitsError
from tinydigits.evaluation.label_errors import label_errors
from tinydigits.evaluation.saliency import grad_cam
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import Inspection
from tinydigits.models.factory import create_model, load_model
from tinydigits.models.user_model import code_sha256
from tinydigits.records import MissingPart, ReportPart
from tinydigits.studies.predictions import SeedPredictions, read_predictions
from tinydigits.studies.results import Source

Part = TypeVar("Part")
_MISTAKES = 8  # that are explained
_VARIANTS = 7  # of each augmented digit


@dataclass(frozen=True, eq=False)
class Explained:
    """A digit as seed 0 classifies it, `image` uint8 [28, 28], with a heat map [28, 28] for each digit in `heats`."""

    index: int
    image: NDArray[np.uint8]
    label: int
    predicted: int
    confidence: float
    heats: tuple[tuple[int, NDArray[np.float32]], ...]


@dataclass(frozen=True, eq=False)
class Explanations:
    """Grad-CAM of the first correct digit of each class, and of the most confident mistakes of the first seed."""

    seed: int
    layer: str
    map_size: tuple[int, int]
    correct: tuple[Explained, ...]
    mistakes: tuple[Explained, ...]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Each part, or the sentence that says why it is missing.

    `label_errors` holds, by index, what reviewers say of evaluation digits. `explanations` and `augmentation` are None
    if they were not requested; `augmentation` also if nothing is augmented.
    """

    predictions: SeedPredictions | str
    network: Inspection | str
    digits: Dataset | str
    label_errors: Mapping[int, str]
    explanations: Explanations | str | None
    augmentation: Variants | str | None

    def missing(self, source: str) -> list[MissingPart]:
        """The parts that are missing; `source` is the path of the run or the study."""
        parts = [(part, getattr(self, part)) for part in get_args(ReportPart)]
        return [MissingPart(source=source, part=part, reason=why) for part, why in parts if isinstance(why, str)]


def gather_report_data(source: Source, data_dir: Path | None = None, *, explain: bool = True) -> ReportData:
    """Collect all parts, Grad-CAM and augmentation if `explain`; nothing is downloaded, and nothing is written.

    `data_dir`: where MNIST lies, if not where the run found it, nor in one of the usual directories.
    """
    predictions = _or_reason(lambda: read_predictions(source))
    data = _or_reason(lambda: _data(source, data_dir))
    digits = _evaluation_digits(source, data, predictions) if isinstance(data, DigitData) else data
    known = {}
    if isinstance(data, DigitData) and isinstance(digits, Dataset):
        known = {index: error.words for index, error in label_errors(data, source.config.split).items()}
    return ReportData(
        predictions=predictions,
        network=_or_reason(lambda: _network(source)),
        digits=digits,
        label_errors=known,
        explanations=_or_reason(lambda: _explanations(source, predictions, digits)) if explain else None,
        augmentation=_augmentation(source, data) if explain else None,
    )


def _or_reason(find: Callable[[], Part]) -> Part | str:
    """What is found, or the sentence that says why it is not."""
    try:
        return find()
    except (TinydigitsError, OSError) as error:
        return str(error)


def _network(source: Source) -> Inspection:
    """The inspection of the very network that was trained."""
    name, trained = source.config.model, source.result.parameters
    if "model" in source.custom:
        raise ModelError(f"{name} is a network from Python code that is not recorded, so its layers are not shown.")
    if source.code_sha256 != code_sha256(name) and source.directory is not None:
        raise ModelError(f"The file of {name} has changed since this training, so its layers are not shown.")
    inspection = inspect_model(create_model(name), name=name)
    if inspection.parameters != trained:
        raise ModelError(
            f"{name} now has {inspection.parameters:,} parameters, and had {trained:,} in this training, so its layers "
            "are not shown."
        )
    return inspection


def _data(source: Source, data_dir: Path | None) -> DigitData:
    if source.result.data != "mnist":
        return load_dataset(source.result.data)
    recorded = source.config.data_dir
    if data_dir is None and recorded is not None and Path(recorded).is_dir():
        data_dir = Path(recorded)
    return load_mnist(data_dir, download=False)


def _evaluation_digits(source: Source, data: DigitData, predictions: SeedPredictions | str) -> Dataset | str:
    _, digits = data.split(source.config.split)
    labels = digits.labels if isinstance(predictions, str) else predictions.labels
    if digits.sha256 == source.result.evaluation_sha256 and np.array_equal(digits.labels, labels):
        return digits
    return f"The available digits of {source.result.data} are not those it was evaluated on, so none are shown."


def _explanations(source: Source, predictions: SeedPredictions | str, digits: Dataset | str) -> Explanations | str:
    if isinstance(predictions, str):
        return predictions
    if isinstance(digits, str):
        return digits
    assert source.directory is not None  # the predictions were read from it
    labels, predicted, right = predictions.labels, predictions.predictions[0], predictions.correct[0]
    # of each class, the first: not picked by how they look
    correct = np.concatenate([np.flatnonzero(right & (labels == digit))[:1] for digit in range(10)])
    mistakes = np.flatnonzero(~right)
    mistakes = mistakes[np.argsort(-predictions.confidences[0][mistakes], kind="stable")][:_MISTAKES]
    images = digits.images[np.concatenate([correct, mistakes, mistakes])]
    classes = np.concatenate([predicted[correct], predicted[mistakes], labels[mistakes]])
    model, card = load_model(str(source.directory))
    normalized = Normalization(card.mean, card.std).array(images)
    saliency = grad_cam(model, normalized, torch.from_numpy(classes.astype(np.int64)))
    heats = [(int(digit), heat) for digit, heat in zip(classes, saliency.heat, strict=True)]

    def explained(index: int, *which: int) -> Explained:
        figures = int(labels[index]), int(predicted[index]), float(predictions.confidences[0, index])
        return Explained(index, digits.images[index], *figures, tuple(heats[i] for i in which))

    start, count = len(correct), len(mistakes)
    return Explanations(
        seed=source.result.seeds[0],
        layer=saliency.layer,
        map_size=saliency.map_size,
        correct=tuple(explained(index, i) for i, index in enumerate(correct.tolist())),
        mistakes=tuple(explained(index, start + i, start + count + i) for i, index in enumerate(mistakes.tolist())),
    )


def _augmentation(source: Source, data: DigitData | str) -> Variants | str | None:
    """The first training digit of each class, and how training changes it; None if it changes nothing."""
    recipe = source.config.recipe
    if "augment" in source.custom:
        return "The augmentation is Python code that is not recorded."
    if not recipe.augmented_epochs:
        return None
    if isinstance(data, str):
        return data
    images, labels = data.train.images, data.train.labels
    return augmented_variants(images, labels, recipe.augmentation, source.result.seeds[0], _VARIANTS)
