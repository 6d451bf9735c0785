"""Requests and answers of the Open Inference Protocol, version 2: JSON, or JSON followed by binary tensors.

https://github.com/kserve/open-inference-protocol; binary tensors as Triton's extension of that name has them: a header
`Inference-Header-Content-Length` tells where JSON ends, and what follows are the tensors, little-endian, in order.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from tinydigits.shipping.serve.batching import Reading
from tinydigits.shipping.serve.refusals import MAX_PICTURES, RefusedError, too_many_pictures

INPUT = {"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}
OUTPUTS = [
    {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
    {"name": "digit", "datatype": "INT64", "shape": [-1]},
]
HEADER = "inference-header-content-length"
_TYPES: dict[str, type[np.generic]] = {"UINT8": np.uint8, "FP32": np.float32}


@dataclass(frozen=True, eq=False)
class InferRequest:
    """What was asked: `images` uint8 [N, 28, 28]; of the answer the tensors `outputs`, those in `binary` as bytes."""

    id: str | None
    images: NDArray[np.uint8]
    outputs: tuple[str, ...]
    binary: frozenset[str]


def parse_request(body: bytes, json_length: str | None) -> InferRequest:
    """Read and check a request.

    Args:
        body: All of it.
        json_length: The header that says where its JSON ends; None: nothing follows.

    Raises:
        RefusedError: it does not keep to the protocol, or its tensor is none that is read here.
    """
    text, tensors = _split(body, json_length)
    document = _object(_parsed(text), "the request")
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise _wrong("id", "it is a text")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise _wrong("inputs", 'there is one input, "images"')
    outputs, binary = _outputs(document)
    return InferRequest(identity, _images(_object(inputs[0], "inputs"), tensors), outputs, binary)


def write_answer(model: str, request: InferRequest, reading: Reading) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON if binary tensors follow that."""
    arrays = _answers(reading)
    described, tail = [], []
    for name in request.outputs:
        array = arrays[name]
        kind = next(str(output["datatype"]) for output in OUTPUTS if output["name"] == name)
        tensor: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        if name in request.binary:
            tail.append(array.tobytes())
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = array.ravel().tolist()
        described.append(tensor)
    document = {"model_name": model, "model_version": "1", "outputs": described}
    if request.id is not None:
        document["id"] = request.id
    text = json.dumps(document, allow_nan=False).encode()
    return b"".join([text, *tail]), len(text) if tail else None


def _answers(reading: Reading) -> dict[str, NDArray[Any]]:
    predictions = reading.predictions
    digit = np.where(predictions.rejected, -1, predictions.labels.astype(np.int64))
    probabilities = predictions.scores.astype("<f4")
    return {"logits": reading.logits.astype("<f4"), "probabilities": probabilities, "digit": digit.astype("<i8")}


def _wrong(place: str, rule: str) -> RefusedError:
    return RefusedError(400, "wrong_request", f"{place}: {rule}. See /openapi.json for the request that is expected.")


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 9 and int(json_length) <= len(body)):
        raise _wrong("Inference-Header-Content-Length", f"it is a number from 0 to the {len(body):,} bytes of the body")
    return body[: int(json_length)], body[int(json_length) :]


def _parsed(text: bytes) -> Any:
    try:
        return pydantic_core.from_json(text)
    except ValueError as error:
        raise RefusedError(400, "no_json", f"The request is no JSON: {error}. Send a JSON object.") from None


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(place, "it is a JSON object")
    return value


def _parameters(holder: dict[str, Any], place: str) -> dict[str, Any]:
    return _object(holder.get("parameters") or {}, f"{place}.parameters")


def _outputs(document: dict[str, Any]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names that are asked for, and those wanted as bytes; all, if none is named."""
    known = [str(output["name"]) for output in OUTPUTS]
    all_binary = _flag(_parameters(document, "request"), "binary_data_output")
    asked = document.get("outputs")
    if asked is None or asked == []:
        return tuple(known), frozenset(known if all_binary else ())
    if not isinstance(asked, list) or len(asked) > len(known):
        raise _wrong("outputs", f"it is a list of at most {len(known)}")
    names, binary = [], set()
    for output in asked:
        output = _object(output, "outputs")
        name = output.get("name")
        if name not in known or name in names:
            raise _wrong("outputs", f"each is one of {', '.join(known)}, named once")
        parameters = _parameters(output, "outputs")
        if "classification" in parameters or "shared_memory_region" in parameters:
            raise _wrong("outputs.parameters", "classification and shared memory are not offered")
        names.append(name)
        if _flag(parameters, "binary_data", all_binary):
            binary.add(name)
    return tuple(names), frozenset(binary)


def _flag(parameters: dict[str, Any], key: str, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise _wrong(f"parameters.{key}", "it is true or false")
    return value


def _images(tensor: dict[str, Any], tail: bytes) -> NDArray[np.uint8]:
    if tensor.get("name") != INPUT["name"]:
        raise _wrong("inputs.name", 'it is "images"')
    kind = tensor.get("datatype")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _wrong("inputs.datatype", "it is UINT8 (0 to 255) or FP32 (0 to 1)")
    count = _count(tensor.get("shape"))
    parameters = _parameters(tensor, "inputs")
    if "shared_memory_region" in parameters:
        raise _wrong("inputs.parameters", "shared memory is not offered")
    size = parameters.get("binary_data_size")
    if size is None:
        if tail:
            raise _wrong("the body", "bytes follow its JSON, and inputs.parameters.binary_data_size does not say so")
        return _bytes(_from_json(tensor.get("data"), kind, count * 784), kind).reshape(count, 28, 28)
    expected = count * 784 * np.dtype(_TYPES[kind]).itemsize
    if isinstance(size, bool) or size != expected or len(tail) != expected or "data" in tensor:
        raise _wrong(
            "inputs.parameters.binary_data_size",
            f"a tensor of this shape and type has {expected:,} bytes, which follow the JSON, and nothing else does",
        )
    values = np.frombuffer(tail, np.dtype(_TYPES[kind]).newbyteorder("<"))
    return _bytes(values, kind).reshape(count, 28, 28)


def _count(shape: Any) -> int:
    """N of [N, 28, 28] or [N, 1, 28, 28]."""
    if not isinstance(shape, list) or not all(type(side) is int for side in shape):
        raise _wrong("inputs.shape", "it is a list of whole numbers")
    if shape[1:] not in ([28, 28], [1, 28, 28]) or shape[0] < 1:
        raise _wrong("inputs.shape", f"it is [N, 28, 28] with N from 1 to {MAX_PICTURES}, here it is {str(shape)[:60]}")
    count = int(shape[0])
    if count > MAX_PICTURES:
        raise too_many_pictures(count)
    return count


def _from_json(data: Any, kind: str, size: int) -> NDArray[Any]:
    """Numbers from a flat or a nested list."""
    values = _flat(data)
    if len(values) != size:
        raise _wrong("inputs.data", f"this shape has {size:,} values, here are {len(values):,}")
    allowed = {int} if kind == "UINT8" else {int, float}
    if not set(map(type, values)) <= allowed:
        raise _wrong("inputs.data", f"{kind} takes {'whole ' if kind == 'UINT8' else ''}numbers only")
    if kind == "UINT8" and not (min(values) >= 0 and max(values) <= 255):
        raise _wrong("inputs.data", "UINT8 takes whole numbers from 0 to 255")
    try:
        return np.array(values, _TYPES[kind])
    except OverflowError:
        raise _not_within_one(math.inf) from None


def _flat(data: Any) -> list[Any]:
    """The values of a list of lists of … of lists."""
    if not isinstance(data, list):
        raise _wrong("inputs.data", "it is a list of numbers, or binary_data_size says that they follow the JSON")
    for _ in range(3):  # at most [N, 1, 28, 28]
        if not data or not all(isinstance(part, list) for part in data):
            break
        data = [value for part in data for value in part]
    return list(data)


def _bytes(values: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    """uint8 as they are; floats from 0 to 1 rounded to 0 … 255, as `data.preprocess.decode` has it."""
    if kind == "UINT8":
        return values.astype(np.uint8, copy=False)
    if not np.isfinite(values).all():
        raise RefusedError(
            400, "not_finite", "inputs.data: a value is not finite. Send numbers from 0 (black) to 1 (white)."
        )
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise _not_within_one(low if low < 0 else high)
    return np.floor(values.astype(np.float64) * 255 + 0.5).astype(np.uint8)


def _not_within_one(value: float) -> RefusedError:
    message = f"inputs.data: FP32 takes numbers from 0 (black) to 1 (white), here is {value:g}. Divide bytes by 255."
    return RefusedError(400, "out_of_range", message)
