"""The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol), in JSON or binary.

As in Triton's extension, a header says where the JSON ends; binary tensors follow it, little-endian, in order.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from tinydigits.server.errors import MAX_PICTURES, RejectedError
from tinydigits.server.queue import Reading

HEADER = "inference-header-content-length"
VERSION = "1"  # of every network


class TensorMetadata(BaseModel):
    """An input or output; -1 is the number of pictures."""

    name: str
    datatype: str
    shape: list[int]


INPUT = TensorMetadata(name="images", datatype="UINT8", shape=[-1, 28, 28])
OUTPUTS = [
    TensorMetadata(name="logits", datatype="FP32", shape=[-1, 10]),
    TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, 10]),
    TensorMetadata(name="digit", datatype="INT64", shape=[-1]),
]
_TYPES = {output.name: output.datatype for output in OUTPUTS}


class Parameters(BaseModel):
    """Parameters of a request or tensor; unknown ones are ignored."""

    binary_data: bool | None = Field(None, description="Of an output: whether it follows the JSON as bytes")
    binary_data_output: bool = Field(False, description="Of a request: the default of `binary_data`")
    binary_data_size: int | None = Field(None, description="Of an input: its bytes after the JSON")
    classification: None = Field(None, description="Not offered")
    shared_memory_region: None = Field(None, description="Not offered")


class InputTensor(BaseModel):
    """The pictures."""

    name: Literal["images"]
    datatype: Literal["UINT8", "FP32"] = Field(description="UINT8: 0 to 255. FP32: 0 to 1, rounded to these 256 steps")
    shape: list[Annotated[int, Field(lt=1 << 31)]] = Field(description="[N, 28, 28] or [N, 1, 28, 28]")
    data: list[Any] | None = Field(None, description="All values, flat or nested, unless they follow as bytes")
    parameters: Parameters | None = None


class OutputRequest(BaseModel):
    """An output that is wanted."""

    name: Literal["logits", "probabilities", "digit"]
    parameters: Parameters | None = None


class InferRequest(BaseModel):
    """A request; without `outputs` all are sent."""

    id: str | None = None
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[OutputRequest] | None = Field(None, max_length=3)
    parameters: Parameters | None = None


class InferResponse(BaseModel):
    """A response; each output has `data`, or bytes that follow the JSON."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[TensorMetadata]


@dataclass(frozen=True, eq=False)
class TensorRequest:
    """`images` uint8 [N, 28, 28], and for each output that is wanted whether it is sent as bytes."""

    id: str | None
    images: NDArray[np.uint8]
    outputs: dict[str, bool]


def parse_request(body: bytes, json_length: str | None) -> TensorRequest:
    """Read and check a request; the header `json_length` says where its JSON ends, None: nothing follows.

    Raises RejectedError if it breaks a rule, or its tensor is no batch of pictures.
    """
    length = str(len(body)) if json_length is None else json_length
    if not (length.isascii() and length.isdigit() and len(length) < 9 and int(length) <= len(body)):
        raise _wrong(HEADER, f"it is a number from 0 to the {len(body):,} bytes of the body")
    try:
        document = InferRequest.model_validate_json(body[: int(length)], strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RejectedError("no_json", reason=first["msg"]) from None
        raise _wrong(".".join(map(str, first["loc"])) or "the request", first["msg"]) from None
    default = document.parameters is not None and document.parameters.binary_data_output
    outputs = {} if document.outputs else dict.fromkeys(_TYPES, default)
    for output in document.outputs or []:
        if output.name in outputs:
            raise _wrong("outputs", "each is named once")
        binary = output.parameters.binary_data if output.parameters else None
        outputs[output.name] = default if binary is None else binary
    return TensorRequest(document.id, _images(document.inputs[0], body[int(length) :]), outputs)


def write_response(model: str, request: TensorRequest, reading: Reading) -> tuple[bytes, int | None]:
    """The body of the response, and the length of its JSON if binary tensors follow."""
    logits, found = reading
    digit = np.where(found.rejected, -1, found.labels.astype("<i8"))
    arrays = {"logits": logits.astype("<f4"), "probabilities": found.scores.astype("<f4"), "digit": digit}
    outputs, tail = [], []
    for name, binary in request.outputs.items():
        array: NDArray[Any] = arrays[name]
        tensor: dict[str, object] = {"name": name, "datatype": _TYPES[name], "shape": array.shape}
        if binary:
            tail.append(array.tobytes())
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = array.ravel().tolist()
        outputs.append(tensor)
    identity = {} if request.id is None else {"id": request.id}
    document = {"model_name": model, "model_version": VERSION, **identity, "outputs": outputs}
    text = json.dumps(document, allow_nan=False).encode()
    return b"".join([text, *tail]), len(text) if tail else None


def _wrong(where: str, rule: str) -> RejectedError:
    return RejectedError("wrong_request", where=where, rule=rule)


def _images(tensor: InputTensor, tail: bytes) -> NDArray[np.uint8]:
    count = tensor.shape[0] if tensor.shape else 0
    if tensor.shape[1:] not in ([28, 28], [1, 28, 28]) or count < 1:
        raise _wrong("inputs.shape", f"it is [N, 28, 28] with N from 1 to {MAX_PICTURES}, not {tensor.shape[:9]}")
    if count > MAX_PICTURES:
        raise RejectedError("too_many_pictures", count=count)
    kind = np.dtype("u1" if tensor.datatype == "UINT8" else "<f4")
    size, expected = tensor.parameters and tensor.parameters.binary_data_size, count * 784 * kind.itemsize
    if size is None and not tail:
        values = _from_json(tensor.data, kind, count * 784)
    elif size == expected == len(tail) and tensor.data is None:
        values = np.frombuffer(tail, kind)
    else:
        rule = f"a tensor of this shape and type has {expected:,} bytes, which follow the JSON, and nothing else does"
        raise _wrong("inputs.parameters.binary_data_size", rule)
    if tensor.datatype == "FP32":  # 0 to 1 → 0 … 255, rounded as `pictures` rounds it
        if not np.isfinite(values).all():
            raise RejectedError("not_finite")
        if values.min() < 0 or values.max() > 1:
            raise RejectedError("out_of_range", low=f"{values.min():g}", high=f"{values.max():g}")
        values = np.floor(values.astype(np.float64) * 255 + 0.5).astype(np.uint8)
    return values.reshape(count, 28, 28)


def _from_json(data: list[Any] | None, kind: np.dtype[Any], size: int) -> NDArray[Any]:
    """Numbers from a flat or a nested list."""
    values = np.array(data or [], object).ravel().tolist()
    if len(values) != size:
        raise _wrong("inputs.data", f"this shape has {size:,} values, here are {len(values):,}")
    types = set(map(type, values))
    if kind == np.uint8 and (types != {int} or min(values) < 0 or max(values) > 255):
        raise _wrong("inputs.data", "UINT8 takes whole numbers from 0 to 255")
    if not types <= {int, float}:
        raise _wrong("inputs.data", "FP32 takes numbers")
    try:
        return np.array(values, kind)
    except OverflowError:
        raise RejectedError("out_of_range", low="…", high="more than a float holds") from None
