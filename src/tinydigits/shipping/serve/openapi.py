"""What the OpenAPI document says beyond what FastAPI finds out by itself: bodies, answers, examples."""

from typing import Any

from tinydigits.shipping.serve.refusals import MAX_BODY, MAX_PICTURES, MAX_PIXELS
from tinydigits.shipping.serve.tensors import INPUT, OUTPUTS

Schema = dict[str, Any]

DESCRIPTION = f"""\
Reads handwritten digits. Refusals have one shape: `error`, a sentence, and `code`, a word. Limits: a body of \
{MAX_BODY:,} bytes, {MAX_PICTURES} pictures in a request, {MAX_PIXELS:,} pixels a picture, ten seconds for a body to \
arrive; the same body at a bad moment gets 503 and `Retry-After`."""

_ERROR: Schema = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {
        "error": {"type": "string", "description": "A sentence: what is wrong, the rule, the remedy."},
        "code": {"type": "string", "description": "A word for programs."},
    },
    "example": {
        "error": "picture: this is neither PNG nor JPEG. Send the bytes of a PNG or JPEG file.",
        "code": "unknown_format",
    },
}
_CAUSES = {
    400: "The request, its form, its tensor or its picture is broken",
    401: "The token is missing or wrong",
    404: "No such model",
    408: "The body took more than ten seconds to arrive",
    413: "The body, a picture or the number of pictures is too large",
    415: "Neither PNG nor JPEG, or a compressed body",
    503: "Overloaded or stopping; try again",
}

_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_PICTURE: Schema = {
    "type": "object",
    "required": ["path", "rejected", "labels", "reason", "error", "notice"],
    "properties": {
        "path": {"type": "string", "description": "The file's name in the form, or `picture`"},
        "rejected": {"type": ["boolean", "null"], "description": "It is no digit; null: it could not be read"},
        "labels": {
            "type": "array",
            "maxItems": 10,
            "description": "Best first; empty without ink",
            "items": {
                "type": "object",
                "required": ["label", "score"],
                "properties": {
                    "label": {"type": "integer", "minimum": 0, "maximum": 9},
                    "score": _PROBABILITY,
                },
            },
        },
        "reason": _TEXT_OR_NULL | {"description": "Why it is no digit"},
        "error": _TEXT_OR_NULL | {"description": "Why it could not be read"},
        "notice": _TEXT_OR_NULL | {"description": "What was left out, such as further frames"},
    },
}
_PREDICTION: Schema = {
    "type": "object",
    "required": ["model", "time_seconds", "pictures"],
    "properties": {
        "model": {"type": "string"},
        "time_seconds": {"type": "number", "minimum": 0, "description": "From the whole body to the answer"},
        "pictures": {"type": "array", "minItems": 1, "maxItems": MAX_PICTURES, "items": _PICTURE},
    },
    "example": {
        "model": "tiny-10k",
        "time_seconds": 0.0007,
        "pictures": [
            {
                "path": "picture",
                "rejected": False,
                "labels": [{"label": 7, "score": 0.9998}, {"label": 9, "score": 0.0002}],
                "reason": None,
                "error": None,
                "notice": None,
            }
        ],
    },
}
_NUMBER_OR_NULL = {"type": ["number", "null"]}
_MODEL: Schema = {
    "type": "object",
    "required": ["model", "parameters", "accuracy", "data", "study", "threshold", "weights_sha256", "engine"],
    "properties": {
        "model": {"type": "string"},
        "parameters": {"type": "integer"},
        "accuracy": _NUMBER_OR_NULL | {"description": "Of these weights, as their card says"},
        "data": {"type": "string", "description": "What they were trained on"},
        "study": {
            "type": ["object", "null"],
            "description": "What training with several seeds proved: mean, sd, one-sided 95 % lower bound",
            "properties": {
                "n": {"type": "integer"},
                "mean": {"type": "number"},
                "sd": _NUMBER_OR_NULL,
                "lower_bound": _NUMBER_OR_NULL,
            },
        },
        "temperature": _NUMBER_OR_NULL,
        "threshold": _NUMBER_OR_NULL,
        "weights_sha256": {"type": "string"},
        "engine": {"type": "string", "enum": ["onnxruntime", "numpy"]},
    },
}
_TENSOR_OF_METADATA: Schema = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
    },
}
_METADATA: Schema = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR_OF_METADATA},
        "outputs": {"type": "array", "items": _TENSOR_OF_METADATA},
    },
    "example": {
        "name": "tiny-10k",
        "versions": ["1"],
        "platform": "onnxruntime",
        "inputs": [INPUT],
        "outputs": OUTPUTS,
    },
}
_SERVER: Schema = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "extensions": {"type": "array", "items": {"type": "string"}},
    },
}
_STATUS: Schema = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string"}},
    "example": {"status": "ok"},
}
_LIVE = {"type": "object", "required": ["live"], "properties": {"live": {"type": "boolean"}}}
_READY = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
_MODEL_READY = {
    "type": "object",
    "required": ["name", "ready"],
    "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}},
}
_TENSOR: Schema = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string", "const": "images"},
        "datatype": {
            "type": "string",
            "enum": ["UINT8", "FP32"],
            "description": "UINT8: 0 to 255. FP32: 0 to 1, rounded to these 256 steps.",
        },
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 3,
            "maxItems": 4,
            "description": f"[N, 28, 28] or [N, 1, 28, 28], N up to {MAX_PICTURES}",
        },
        "data": {"type": "array", "description": "All values, flat or nested, unless they follow as bytes"},
        "parameters": {
            "type": "object",
            "properties": {"binary_data_size": {"type": "integer"}},
            "description": "binary_data_size: bytes of this tensor after the JSON",
        },
    },
}
_INFER: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _TENSOR},
        "outputs": {
            "type": "array",
            "maxItems": 3,
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "enum": [output["name"] for output in OUTPUTS]},
                    "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                },
            },
        },
        "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
    },
    "example": {
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}],
        "outputs": [{"name": "digit"}],
    },
}
_INFERRED: Schema = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR_OF_METADATA},
    },
    "example": {
        "model_name": "tiny-10k",
        "model_version": "1",
        "outputs": [{"name": "digit", "datatype": "INT64", "shape": [1], "data": [-1]}],
    },
}
_BYTES: Schema = {"type": "string", "format": "binary"}
_FORM: Schema = {
    "type": "object",
    "description": "Fields may have any names",
    "properties": {"picture": {"type": "array", "minItems": 1, "maxItems": MAX_PICTURES, "items": _BYTES}},
    "required": ["picture"],
}


def _content(schema: Schema, kind: str = "application/json") -> Schema:
    return {kind: {"schema": schema}}


def _route(schema: Schema, causes: tuple[int, ...] = (), **others: Any) -> Schema:
    """What a route's decorator takes."""
    refusals: dict[int | str, Schema] = {
        cause: {"description": _CAUSES[cause], "content": _content(_ERROR)} for cause in sorted({401, 503, *causes})
    }
    answers: dict[int | str, Schema] = {200: {"description": "Answered", "content": _content(schema)}, **refusals}
    answers["default"] = {"description": "Refused", "content": _content(_ERROR)}
    return {"responses": answers, **others}


def _body(content: Schema) -> Schema:
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


MODELS = _route({"type": "array", "items": _MODEL, "minItems": 1})
NETWORK = _route({"type": "object", "description": "The folded graph, as the page reads it"}, (404,))
PREDICT = _route(
    _PREDICTION,
    (400, 404, 408, 413, 415),
    **_body(
        {
            "image/png": {"schema": _BYTES},
            "image/jpeg": {"schema": _BYTES},
            "multipart/form-data": {"schema": _FORM},
        }
    ),
)
STATUS = _route(_STATUS)
SERVER = _route(_SERVER)
LIVE = _route(_LIVE)
READY = _route(_READY)
METADATA = _route(_METADATA, (404,))
MODEL_READY = _route(_MODEL_READY, (404,))
INFER = _route(
    _INFERRED,
    (400, 404, 408, 413, 415),
    **_body({"application/json": {"schema": _INFER}, "application/octet-stream": {"schema": _BYTES}}),
)
INFER["responses"][200]["content"]["application/octet-stream"] = {"schema": _BYTES}
INFER["responses"][200]["headers"] = {
    "Inference-Header-Content-Length": {
        "description": "Where JSON ends and binary tensors begin",
        "schema": {"type": "integer"},
    }
}
