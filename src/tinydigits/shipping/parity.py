"""Does the exported form do what the trained network does? Measured on the files themselves, and kept beside them.

A float form must answer as PyTorch does, but for ties; an int8 form must give the reference's integers bit for bit (as
QDQ in ONNX, which calculates with real numbers: the same answer on 99.9 % of digits), and lose at most 0.10 points of
accuracy. What it answers, “no digit” included, must follow from its logits, and its preprocessor give the same bytes
as Python's.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logsumexp

from tinydigits.data.dataset import Dataset
from tinydigits.data.preprocess import decode, preprocess_gray
from tinydigits.errors import BlankPictureError, ToolMissingError
from tinydigits.shipping import graph as floats
from tinydigits.shipping import int8
from tinydigits.shipping.export import Form
from tinydigits.shipping.graph import Conv, Graph
from tinydigits.shipping.int8 import Int8Conv, Int8Graph, Requantise

SCHEMA = 1
TOLERANCE = 1e-4  # between logits of one network, calculated in another order
ACCURACY_LOST = 0.001  # at most, by int8
FEW = 3  # digits that may be lost where the share would be less than one
SHARE_EQUAL = 0.999  # of answers, where int8 is calculated with real numbers
_ROUNDING = 0.02  # of the largest number, where int8 is calculated with real numbers and rounds here and there
_PROBES = 8  # digits by which the operation that diverges is looked for
_PART = 500  # digits between two looks at how far the reference has come
_PICTURES = 40  # digits that are made into pictures, each in every way

Images = NDArray[np.uint8]
Watch = Callable[[Sequence[Images], str], Iterable[Images]]


@dataclass(frozen=True)
class Judged:
    """Digits with their labels, and the logits [N, 10] that PyTorch gives for them."""

    digits: Dataset
    logits: NDArray[np.float32]


def _unwatched(parts: Sequence[Images], _: str) -> Iterable[Images]:
    return parts


def prove_parity(
    form: Form, graph: Graph | Int8Graph, files: list[Path], judged: Judged, watch: Watch = _unwatched
) -> dict[str, Any]:
    """Run the exported files, and compare.

    Args:
        form: What the files are.
        graph: What they were made from.
        files: As `form.write` returned them.
        judged: The digits, and what PyTorch makes of them.
        watch: Goes through parts of the digits, and may show how far it has come with what.

    Returns:
        What stands in `parity.json`: `verdict` is `passed`, `failed` or `not run`, with `faults` or the `reason`.
    """
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "model": graph.model,
        "form": form.name + ("-int8" if isinstance(graph, Int8Graph) else ""),
        "files": [path.name for path in files],
        "weights_sha256": graph.weights_sha256,
        "digits": {"data": judged.digits.name, "n": len(judged.digits.labels), "sha256": judged.digits.sha256},
    }
    try:
        logits, faults = _compare_logits(form, graph, files, judged, watch)
        preprocessing, more = _compare_preprocessing(form, files, judged.digits.images)
        if faults:
            logits["diverges_at"] = _diverging_operation(form, graph, judged.digits.images[:_PROBES])
    except ToolMissingError as error:
        return {**record, "verdict": "not run", "reason": str(error)}
    faults += more
    return {
        **record,
        "logits": logits,
        "preprocessing": preprocessing,
        "verdict": "failed" if faults else "passed",
        "faults": faults,
    }


def _compare_logits(
    form: Form, graph: Graph | Int8Graph, files: list[Path], judged: Judged, watch: Watch
) -> tuple[dict[str, Any], list[str]]:
    ((answers, found),) = (form.run(files, images) for images in watch([judged.digits.images], "the exported files"))
    labels, torch_answers = judged.digits.labels, judged.logits.argmax(axis=1)
    right, torch_right = (int((a == labels).sum()) for a in (found.argmax(axis=1), torch_answers))
    document = {
        "accuracy": right / len(labels),
        "accuracy_pytorch": torch_right / len(labels),
        "accuracy_lost": (torch_right - right) / len(labels),
        "disagreements_with_pytorch": int((found.argmax(axis=1) != torch_answers).sum()),
        "rejected": int((answers == -1).sum()),
    }
    if isinstance(graph, Int8Graph):
        more, faults = _compare_integers(form, graph, found, judged.digits.images, watch)
        if torch_right - right > max(ACCURACY_LOST * len(labels), FEW):
            faults.append(
                f"{torch_right - right} digits fewer are right than with PyTorch: int8 does not fit this network."
            )
    else:
        more, faults = _compare_reals(found, judged.logits)
    return {**document, **more}, faults + _compare_answers(graph, answers, found)


def _compare_reals(found: NDArray[Any], wanted: NDArray[np.float32]) -> tuple[dict[str, Any], list[str]]:
    if np.abs(logsumexp(wanted, axis=1)).max() < TOLERANCE:  # PyTorch gives log-probabilities, the form logits
        found = found - logsumexp(found, axis=1, keepdims=True)
    largest = float(np.abs(found - wanted).max())
    first, second = np.partition(wanted, -2, axis=1)[:, [-1, -2]].T
    odd = np.flatnonzero(found.argmax(axis=1) != wanted.argmax(axis=1))
    ties = [int(i) for i in odd if first[i] - second[i] < TOLERANCE]
    faults = []
    if not largest <= TOLERANCE:
        faults.append(f"A logit differs by {largest:.2g} from PyTorch's.")
    if len(odd) > len(ties):
        faults.append(f"{len(odd) - len(ties)} digits are answered otherwise than by PyTorch, and are no ties.")
    return {"largest_difference": largest, "ties": ties}, faults


def _compare_integers(
    form: Form, graph: Int8Graph, found: NDArray[Any], images: Images, watch: Watch
) -> tuple[dict[str, Any], list[str]]:
    parts = [images[start : start + _PART] for start in range(0, len(images), _PART)]
    wanted = np.concatenate([int8.run(graph, part) for part in watch(parts, "the integer reference")])
    equal = float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    if not form.integers:
        faults = [f"Only {100 * equal:.2f} % of the answers are the reference's."] if equal < SHARE_EQUAL else []
        return {"bit_exact": None, "same_answers": equal}, faults
    different = int((found != wanted).any(axis=1).sum())
    faults = [f"The integers of {different} digits differ from the reference's."] if different else []
    return {"bit_exact": not different, "same_answers": equal}, faults


def _compare_answers(graph: Graph | Int8Graph, answers: NDArray[Any], found: NDArray[Any]) -> list[str]:
    """Whether each answer is the largest of its own logits, or -1 where that lies below the threshold."""
    threshold: float | None = graph.integer_threshold if isinstance(graph, Int8Graph) else graph.threshold
    largest = found.max(axis=1)
    wanted = found.argmax(axis=1)
    near = np.zeros(len(found), dtype=bool)  # so near to the threshold that rounding decides
    if threshold is not None:
        if isinstance(graph, Int8Graph) and largest.dtype == np.float32:  # real logits of an int8 network
            threshold *= graph.logit_scale
        wanted = np.where(largest >= threshold, wanted, -1)
        near = np.abs(largest - threshold) < TOLERANCE
    wrong = int(((answers != wanted) & ~near).sum())
    return [f"{wrong} answers do not follow from their own logits and the threshold."] if wrong else []


def _compare_preprocessing(form: Form, files: list[Path], images: Images) -> tuple[dict[str, Any] | None, list[str]]:
    """Whether the form makes the same 28×28 bytes of all sorts of pictures as Python does."""
    if form.preprocess is None:
        return None, []
    kinds = list(pictures_of_digits(images[:_PICTURES]))
    shown = [picture if form.takes_colour else decode(picture) for _, picture in kinds]
    found = form.preprocess(files, shown)
    different: dict[str, int] = {}
    for (kind, picture), answer in zip(kinds, found, strict=True):
        different[kind] = different.get(kind, 0) + (answer != _seen(picture))
    faults = [f"{count} pictures ({kind}) are prepared otherwise." for kind, count in different.items() if count]
    return {"pictures": len(kinds), "identical": len(kinds) - sum(different.values()), "kinds": list(different)}, faults


def _seen(picture: Images) -> bytes | None:
    try:
        return preprocess_gray(decode(picture)).tobytes()
    except BlankPictureError:
        return None


def pictures_of_digits(images: Images) -> list[tuple[str, Images]]:
    """Digits [N, 28, 28] as people hand them in: (kind, picture), grey uint8 [H, W] or RGBA [H, W, 4]."""
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


def _diverging_operation(form: Form, graph: Graph | Int8Graph, images: Images) -> str:
    """The first operation after which the form gives something else, found by exporting ever more of the network."""
    for count in range(1, len(graph.ops) + 1):
        part, wanted = _beginning(graph, count, images)
        with tempfile.TemporaryDirectory() as scratch:
            _, found = form.run(form.write(part, Path(scratch), {}), images)
        if isinstance(part, Int8Graph) and not form.integers:
            found = found / part.logit_scale
            limit = _ROUNDING * float(np.abs(wanted).max())
        else:
            limit = 0 if isinstance(part, Int8Graph) else TOLERANCE
        if float(np.abs(found.astype(np.float64) - wanted).max()) > limit:
            return f"operation {count} of {len(graph.ops)}, {floats.describe(graph.ops[count - 1])}"
    return "no single operation: the whole differs by more than its parts"


def _beginning(graph: Graph | Int8Graph, count: int, images: Images) -> tuple[Graph | Int8Graph, NDArray[Any]]:
    """The first operations and a random projection of their map to ten numbers; and what that should give."""
    random = np.random.default_rng(count)
    if isinstance(graph, Graph):
        shape = floats.output_shapes(graph.ops[:count])[-1]
        weight = random.normal(0, 1 / np.sqrt(np.prod(shape)), (10, *shape)).astype(np.float32)
        ops = (*graph.ops[:count], Conv(weight, np.zeros(10, np.float32)))
        part = Graph(graph.model, ops, graph.weights_sha256)
        return part, floats.run(part, images)
    integer_ops = graph.ops[:count]
    if count == len(graph.ops):
        return graph, int8.run(graph, images)
    shape = floats.output_shapes(integer_ops)[-1]
    plain = Requantise(np.full(10, 1, np.int32), np.zeros(10, np.int64), 0, None, None)
    probe = Int8Conv(random.integers(-9, 10, (10, *shape)).astype(np.int8), np.zeros(10, np.int32), plain, zero_point=0)
    integer_part = Int8Graph(graph.model, (*integer_ops, probe), 1.0, graph.weights_sha256)
    return integer_part, int8.run(integer_part, images)
