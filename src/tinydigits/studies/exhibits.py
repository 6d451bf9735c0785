"""What is shown beside the figures of a run or a study: its answers, its network, its digits.

Each is optional: where it cannot be had, the reason stands in its place as a sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinydigits.data.augment import Variants, augmented_variants
from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.data.mnist import load_mnist
from tinydigits.data.normalise import normalise
from tinydigits.data.sources import load_dataset
from tinydigits.errors import DataError, ModelError, RunError, TinydigitsError
from tinydigits.evaluation.disputed import disputed_labels
from tinydigits.evaluation.saliency import grad_cam
from tinydigits.models.inspect import inspect_model
from tinydigits.models.registry import code_sha256, create_model
from tinydigits.models.weights import load_model
from tinydigits.studies.answers import Answers, read_answers
from tinydigits.studies.evidence import Evidence

_WRONG = 8  # mistakes that are looked into
_VARIANTS = 7  # of each augmented digit


@dataclass(frozen=True, eq=False)
class Explained:
    """A digit that seed 0 read, `image` uint8 [28, 28], and for some digits what speaks for each: (digit, heat)."""

    index: int
    image: NDArray[np.uint8]
    label: int
    predicted: int
    confidence: float
    heats: tuple[tuple[int, NDArray[np.float32]], ...]


@dataclass(frozen=True, eq=False)
class Explanations:
    """Grad-CAM of the first right digit of each class, and of the most confident mistakes of the first seed."""

    seed: int
    layer: str
    map_size: tuple[int, int]
    right: tuple[Explained, ...]
    wrong: tuple[Explained, ...]


@dataclass(frozen=True, eq=False)
class Exhibits:
    """Each is there, or is the sentence that says why it is not. `network` is an inspection as plain data.

    `disputed` holds, by index, what reviewers say of judging digits. `explanations` is None where it was not asked for,
    and `augmentation` is None there too, and where nothing is augmented.
    """

    answers: Answers | str
    network: dict[str, Any] | str
    digits: Dataset | str
    disputed: Mapping[int, str]
    explanations: Explanations | str | None
    augmentation: Variants | str | None


def gather(evidence: Evidence, data_dir: Path | None = None, *, explain: bool = True) -> Exhibits:
    """Look for all of it; nothing is downloaded, and nothing is written.

    Args:
        evidence: the run or the study.
        data_dir: where MNIST lies, if not where the run found it, nor in one of the usual places.
        explain: whether Grad-CAM and augmentation are wanted too.
    """
    answers = _answers(evidence)
    data = _data(evidence, data_dir)
    digits = _judging_digits(evidence, data, answers) if isinstance(data, DigitData) else data
    disputed = (
        disputed_labels(data, evidence.config.protocol)
        if isinstance(data, DigitData) and isinstance(digits, Dataset)
        else {}
    )
    return Exhibits(
        answers=answers,
        network=_network(evidence),
        digits=digits,
        disputed={index: dispute.words for index, dispute in disputed.items()},
        explanations=_explanations(evidence, answers, digits) if explain else None,
        augmentation=_augmentation(evidence, data) if explain else None,
    )


def _answers(evidence: Evidence) -> Answers | str:
    try:
        return read_answers(evidence)
    except RunError as error:
        return str(error)


def _network(evidence: Evidence) -> dict[str, Any] | str:
    """The layer table, of the very network that was trained."""
    name = evidence.config.model
    try:
        if evidence.code_sha256 != code_sha256(name) and evidence.directory is not None:
            return f"The file of {name} has changed since this training, so its layers are not shown."
        inspection = inspect_model(create_model(name), name=name)
    except (ModelError, OSError) as error:
        return str(error)
    if inspection.parameters != evidence.parameters:
        return (
            f"{name} has {inspection.parameters:,} parameters by now, and had {evidence.parameters:,} in this "
            "training, so its layers are not shown."
        )
    return inspection.as_dict()


def _data(evidence: Evidence, data_dir: Path | None) -> DigitData | str:
    try:
        if evidence.data != "mnist":
            return load_dataset(evidence.data)
        recorded = evidence.config.data_dir
        if data_dir is None and recorded is not None and Path(recorded).is_dir():
            data_dir = Path(recorded)
        return load_mnist(data_dir, download=False)
    except TinydigitsError as error:
        return str(error)


def _judging_digits(evidence: Evidence, data: DigitData, answers: Answers | str) -> Dataset | str:
    _, digits = data.split(evidence.config.protocol)
    same = digits.sha256 == evidence.judge_sha256
    if same and not isinstance(answers, str):
        same = np.array_equal(digits.labels, answers.labels)
    return digits if same else f"The digits of {evidence.data} at hand are not those that judged, so none are shown."


def _explanations(evidence: Evidence, answers: Answers | str, digits: Dataset | str) -> Explanations | str:
    if isinstance(answers, str):
        return answers
    if isinstance(digits, str):
        return digits
    assert evidence.directory is not None  # where the answers are from
    try:
        model, card = load_model(str(evidence.directory))
        right, wrong = _first_right(answers), _worst(answers)
        asked = np.concatenate([right, wrong, wrong])
        classes = np.concatenate([answers.predictions[0][right], answers.predictions[0][wrong], answers.labels[wrong]])
        images = normalise(digits.images[asked], card.mean, card.deviation)
        saliency = grad_cam(model, images, torch.from_numpy(classes.astype(np.int64)))
    except TinydigitsError as error:
        return str(error)
    heats = [(int(digit), heat) for digit, heat in zip(classes, saliency.heat, strict=True)]
    count, mistakes = len(right), len(wrong)

    def explained(index: int, *which: int) -> Explained:
        return Explained(
            index=index,
            image=digits.images[index],
            label=int(answers.labels[index]),
            predicted=int(answers.predictions[0, index]),
            confidence=float(answers.confidences[0, index]),
            heats=tuple(heats[i] for i in which),
        )

    return Explanations(
        seed=evidence.runs[0].seed,
        layer=saliency.layer,
        map_size=saliency.map_size,
        right=tuple(explained(index, i) for i, index in enumerate(right.tolist())),
        wrong=tuple(explained(index, count + i, count + mistakes + i) for i, index in enumerate(wrong.tolist())),
    )


def _first_right(answers: Answers) -> NDArray[np.intp]:
    """The first digit of each class that the first seed read: not picked by how they look."""
    found = [np.flatnonzero(answers.right[0] & (answers.labels == digit))[:1] for digit in range(10)]
    return np.concatenate(found)


def _worst(answers: Answers) -> NDArray[np.intp]:
    """The most confident mistakes of the first seed."""
    wrong = np.flatnonzero(~answers.right[0])
    return wrong[np.argsort(-answers.confidences[0][wrong], kind="stable")][:_WRONG]


def _augmentation(evidence: Evidence, data: DigitData | str) -> Variants | str | None:
    """The first training digit of each class, and how training changes it; None where it changes nothing."""
    recipe = evidence.config.recipe
    if not recipe.augmented_epochs:
        return None
    if isinstance(data, str):
        return data
    images, labels = data.train.images, data.train.labels
    return augmented_variants(images, labels, recipe.augmentation, evidence.runs[0].seed, _VARIANTS)


def same_digits(first: Evidence, other: Evidence) -> None:
    """Check that two were judged by the same digits.

    Raises:
        DataError: they were not.
    """
    if first.judge_sha256 != other.judge_sha256:
        sides = ", ".join(f"{e.name} was judged by {e.data} ({e.config.protocol})" for e in (first, other))
        raise DataError(
            f"{sides}: these are different digits, and accuracies on them cannot be compared. Name runs or studies "
            "that were judged by the same."
        )
