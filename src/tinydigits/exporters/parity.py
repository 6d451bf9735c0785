"""Do exported files compute what the trained network computes? The files themselves are run, and the result is kept.

Float32 files must predict as PyTorch does, except in ties. Int8 files must give the integers of the reference bit for
bit (ONNX, which computes QDQ in real numbers: the same prediction for 99.9 % of digits), and lose at most 0.10 points
of accuracy. Their labels, “no digit” included, must follow from their logits, and their preprocessor must give the same
bytes as Python's.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logsumexp

from tinydigits.data.dataset import Dataset
from tinydigits.errors import BlankPictureError, ExportError, ToolMissingError
from tinydigits.exporters.formats import Exporter, Images, PictureExporter, TrainedNetwork
from tinydigits.inference import graph as float32
from tinydigits.inference import int8
from tinydigits.inference.graph import Conv, Graph, describe, output_shapes
from tinydigits.inference.int8 import Int8Conv, Int8Graph, Requantise
from tinydigits.pictures.decode import decode
from tinydigits.pictures.preprocess import preprocess_gray
from tinydigits.records import LogitParity, Parity, ParityDigits, PictureParity

TOLERANCE = 1e-4  # between logits of one network, computed in another order
MAX_ACCURACY_LOST = 0.001  # at most, by int8
MAX_DIGITS_LOST = 3  # digits that may be lost if that fraction is less than one digit
MIN_SAME_PREDICTIONS = 0.999  # at least, if int8 is computed in real numbers
_ROUNDING = 0.02  # of the largest number, if int8 is computed in real numbers, which are rounded now and then
_PROBES = 8  # digits that locate the operation that diverges
_PART = 500  # digits between two reports of progress of the integer reference
_PICTURES = 40  # digits that are made into pictures of every kind

WatchParts = Callable[[Sequence[Any], str], Iterable[Any]]
"""Iterates over parts of the digits, and may show the progress of what the text names."""


@dataclass(frozen=True, eq=False)
class PyTorchLogits:
    """Labelled digits, and the logits [N, 10] that PyTorch gives for them."""

    digits: Dataset
    logits: NDArray[np.float32]


def unwatched(parts: Sequence[Any], _: str, /) -> Iterable[Any]:
    """The parts, without any progress."""
    return parts


def check_parity(
    exporter: Exporter,
    network: TrainedNetwork,
    files: list[Path],
    pytorch: PyTorchLogits,
    watch: WatchParts = unwatched,
) -> Parity:
    """Run the files that `exporter.write` returned for a network, and compare them with PyTorch.

    The verdict is `passed`; `failed`, with the `faults`; or `not run`, with the `reason`.
    """
    graph, digits = network.graph, pytorch.digits
    parity = Parity(
        model=network.name,
        format=exporter.name + ("-int8" if isinstance(graph, Int8Graph) else ""),
        files=tuple(path.name for path in files),
        weights_sha256=network.card.weights_sha256,
        digits=ParityDigits(data=digits.name, n=len(digits.labels), sha256=digits.sha256),
        verdict="not run",
    )
    try:
        logits, faults = _compare_logits(exporter, network, files, pytorch, watch)
        pictures, more = _compare_preprocessing(exporter, files, digits.images)
        if faults and graph is not None:
            diverges_at = _diverging_operation(exporter, network, digits.images[:_PROBES])
            logits = msgspec.structs.replace(logits, diverges_at=diverges_at)
    except ToolMissingError as error:
        return msgspec.structs.replace(parity, reason=str(error))
    return msgspec.structs.replace(
        parity,
        verdict="failed" if faults + more else "passed",
        logits=logits,
        preprocessing=pictures,
        faults=(*faults, *more),
    )


def _compare_logits(
    exporter: Exporter, network: TrainedNetwork, files: list[Path], pytorch: PyTorchLogits, watch: WatchParts
) -> tuple[LogitParity, list[str]]:
    digits, graph = pytorch.digits, network.graph
    ((labels, found),) = (exporter.run(files, images) for images in watch([digits.images], "the exported files"))
    predictions, torch_predictions = found.argmax(axis=1), pytorch.logits.argmax(axis=1)
    correct, torch_correct = (int((p == digits.labels).sum()) for p in (predictions, torch_predictions))
    total = len(digits.labels)
    parity = LogitParity(
        accuracy=correct / total,
        accuracy_pytorch=torch_correct / total,
        accuracy_lost=(torch_correct - correct) / total,
        disagreements_with_pytorch=int((predictions != torch_predictions).sum()),
        rejected=int((labels == -1).sum()),
    )
    if isinstance(graph, Int8Graph):
        parts = [digits.images[start : start + _PART] for start in range(0, total, _PART)]
        expected = np.concatenate([int8.run(graph, part) for part in watch(parts, "the integer reference")])
        parity, faults = _compare_int8(parity, found, expected, exporter.integers)
        if torch_correct - correct > max(MAX_ACCURACY_LOST * total, MAX_DIGITS_LOST):
            lost = torch_correct - correct
            faults.append(f"{lost} fewer digits are correct than with PyTorch: int8 does not suit this network.")
    else:
        parity, faults = _compare_float32(parity, found, pytorch.logits)
    return parity, faults + _compare_labels(network, labels, found)


def _compare_float32(
    parity: LogitParity, found: NDArray[Any], expected: NDArray[np.float32]
) -> tuple[LogitParity, list[str]]:
    if np.abs(logsumexp(expected, axis=1)).max() < TOLERANCE:  # PyTorch gives log-probabilities, the export logits
        found = found - logsumexp(found, axis=1, keepdims=True)
    largest = float(np.abs(found - expected).max())
    first, second = np.partition(expected, -2, axis=1)[:, [-1, -2]].T
    different = np.flatnonzero(found.argmax(axis=1) != expected.argmax(axis=1))
    ties = tuple(int(i) for i in different if first[i] - second[i] < TOLERANCE)
    faults = []
    if not largest <= TOLERANCE:
        faults.append(f"A logit differs by {largest:.2g} from PyTorch's.")
    if len(different) > len(ties):
        faults.append(f"{len(different) - len(ties)} predictions differ from PyTorch's, and are not ties.")
    finite = largest if math.isfinite(largest) else None
    return msgspec.structs.replace(parity, largest_difference=finite, ties=ties), faults


def _compare_int8(
    parity: LogitParity, found: NDArray[Any], expected: NDArray[np.int32], in_integers: bool
) -> tuple[LogitParity, list[str]]:
    same = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
    parity = msgspec.structs.replace(parity, same_predictions=same)
    if not in_integers:
        few = [f"Only {100 * same:.2f} % of the predictions are those of the reference."]
        return parity, few if same < MIN_SAME_PREDICTIONS else []
    different = int((found != expected).any(axis=1).sum())
    faults = [f"The integers of {different} digits differ from the reference's."] if different else []
    return msgspec.structs.replace(parity, bit_exact=not different), faults


def _compare_labels(network: TrainedNetwork, labels: NDArray[Any], found: NDArray[Any]) -> list[str]:
    """Whether each label is that of the largest logit, or -1 if that logit is below the threshold."""
    largest = found.max(axis=1)
    threshold = _threshold(network, in_integers=largest.dtype != np.float32)
    expected = np.where(largest >= threshold, found.argmax(axis=1), -1)
    near = np.abs(largest - threshold) < TOLERANCE  # so close to the threshold that rounding decides
    wrong = int(((labels != expected) & ~near).sum())
    return [f"{wrong} labels do not follow from their own logits and the threshold."] if wrong else []


def _threshold(network: TrainedNetwork, *, in_integers: bool) -> float:
    """The threshold in units of the logits; `in_integers`: of an int8 network, its integers. -inf: there is none."""
    graph, calibration = network.graph, network.card.calibration
    if isinstance(graph, Int8Graph):
        found, unit = graph.integer_threshold, 1 if in_integers else graph.logit_scale
        return -math.inf if found is None else found * unit
    fitted = calibration if graph is None else graph
    return -math.inf if fitted is None or fitted.threshold is None else fitted.threshold


def _compare_preprocessing(
    exporter: Exporter, files: list[Path], images: Images
) -> tuple[PictureParity | None, list[str]]:
    """Whether the exported preprocessor makes the same 28×28 bytes of all kinds of pictures as Python's."""
    if not isinstance(exporter, PictureExporter):
        return None, []
    pictures = pictures_of_digits(images[:_PICTURES])
    shown = [picture if exporter.takes_colour else decode(picture) for _, picture in pictures]
    different: Counter[str] = Counter()
    for (kind, picture), found in zip(pictures, exporter.preprocess(files, shown), strict=True):
        different[kind] += found != _preprocessed(picture)
    identical = len(pictures) - different.total()
    faults = [f"{count} pictures ({kind}) are prepared differently." for kind, count in different.items() if count]
    return PictureParity(pictures=len(pictures), identical=identical, kinds=tuple(different)), faults


def _preprocessed(picture: Images) -> bytes | None:
    try:
        return preprocess_gray(decode(picture)).tobytes()
    except BlankPictureError:
        return None


def pictures_of_digits(images: Images) -> list[tuple[str, Images]]:
    """Digits [N, 28, 28] as pictures of the kinds that people use: (kind, picture), grey [H, W] or RGBA [H, W, 4]."""
    kinds: list[tuple[str, Images]] = []
    for i, image in enumerate(images):
        ink = np.asarray(Image.fromarray(image).resize((280, 280), Image.Resampling.BICUBIC))
        paper = (255 - ink).astype(np.uint8)
        corner = np.full((400, 340), 255, np.uint8)
        corner[10:290, 50:330] = paper
        shade = np.linspace(90, 0, 280)[:, None] + np.linspace(0, 40, 280)
        colour = np.stack([255 - ink // (1 + i % 3), 255 - ink // 2, paper, np.full_like(ink, 255)], axis=2)
        strokes = np.stack([np.zeros_like(ink)] * 3 + [ink], axis=2)
        kinds += [
            ("as it is", image),
            ("enlarged, light on dark", image.repeat(10, axis=0).repeat(10, axis=1)),
            ("enlarged, dark on light", paper),
            ("in a corner", corner),
            ("on shaded paper", np.clip(paper * 0.6 + shade, 0, 255).astype(np.uint8)),
            ("in colour", colour.astype(np.uint8)),
            ("strokes on nothing", strokes),
        ]
    return [*kinds, ("blank", np.full((90, 120), 200, np.uint8))]


def _diverging_operation(exporter: Exporter, network: TrainedNetwork, images: Images) -> str:
    """The first operation after which the export differs, found by exporting longer and longer beginnings."""
    graph = network.folded
    for count in range(1, len(graph.ops) + 1):
        part = _beginning(graph, count)
        expected = float32.run(part, images) if isinstance(part, Graph) else int8.run(part, images)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                files = exporter.write(replace(network, graph=part), Path(scratch))
            except ExportError:  # with the projection it is too large for an HTML page
                continue
            _, found = exporter.run(files, images)
        if isinstance(part, Int8Graph) and not exporter.integers:
            found = found / part.logit_scale
            limit = _ROUNDING * float(np.abs(expected).max())
        else:
            limit = 0 if isinstance(part, Int8Graph) else TOLERANCE
        if float(np.abs(found.astype(np.float64) - expected).max()) > limit:
            return f"operation {count} of {len(graph.ops)}, {describe(graph.ops[count - 1])}"
    return "no single operation: the whole differs by more than its parts"


def _beginning(graph: Graph | Int8Graph, count: int) -> Graph | Int8Graph:
    """The first `count` operations and a random projection of their map to ten numbers."""
    random = np.random.default_rng(count)
    shape = output_shapes(graph.ops[:count])[-1]
    if isinstance(graph, Graph):
        weight = random.normal(0, 1 / np.sqrt(np.prod(shape)), (10, *shape)).astype(np.float32)
        ops = (*graph.ops[:count], Conv(weight, np.zeros(10, np.float32)))
        return Graph(graph.model, ops, graph.weights_sha256)
    if count == len(graph.ops):
        return graph
    plain = Requantise(np.full(10, 1, np.int32), np.zeros(10, np.int64), 0, None, None)
    probe = Int8Conv(random.integers(-9, 10, (10, *shape)).astype(np.int8), np.zeros(10, np.int32), plain, zero_point=0)
    return Int8Graph(graph.model, (*graph.ops[:count], probe), 1.0, graph.weights_sha256)
