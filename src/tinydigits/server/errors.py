"""Why a request is rejected: a code for programs, with its status and its sentence. All have one JSON shape."""

import json
from collections.abc import Mapping

from pydantic import BaseModel, Field
from starlette.responses import Response

from tinydigits.errors import TinydigitsError

MAX_HEAD = 64 << 10  # bytes
MAX_BODY = 1 << 20  # bytes
MAX_PICTURES = 256  # in a request
MAX_PIXELS = 1_000_000  # of a picture, by its header
MAX_SCANS = 100  # of a JPEG; each may take as long as a whole picture
SECONDS = 10  # for the head of a request to arrive, and for its body

_REASONS = {
    "body_too_large": (413, f"The body has more than {MAX_BODY:,} bytes. Send less at a time."),
    "broken_form": (400, "This multipart form cannot be read: {reason}. Send it as browsers do."),
    "encoded_body": (415, "Compressed bodies are not accepted. Send it without Content-Encoding."),
    "client_left": (499, "The client has left."),
    "head_too_large": (431, f"The head has more than {MAX_HEAD:,} bytes. Send less."),
    "internal": (500, "The server failed; its log says why. Please report it."),
    "no_http": (400, "This is not valid HTTP/1.1. Send a valid request."),
    "no_json": (400, "The request is not valid JSON: {reason}. Send a JSON object."),
    "no_picture": (400, "{name}: it is empty. Send the bytes of a PNG or JPEG file."),
    "no_token": (401, "This server needs a token. Send `Authorization: Bearer TOKEN`, or it as any user's password."),
    "not_finite": (400, "inputs.data: a value is not finite. Send numbers from 0 (black) to 1 (white)."),
    "not_found": (404, "{path}: there is nothing here. See /docs."),
    "out_of_range": (400, "inputs.data: FP32 takes numbers from 0 (black) to 1 (white), not {low} to {high}."),
    "overloaded": (503, "The server is busy: its queue is full. Try again in a second."),
    "picture_too_large": (413, f"{{name}}: {{size}} pixels are more than {MAX_PIXELS:,}. Scale it down, or crop it."),
    "stopping": (503, "The server is stopping. Send the request to another one."),
    "too_many_pictures": (413, f"{{count:,}} pictures: a request holds at most {MAX_PICTURES}. Send fewer at a time."),
    "too_slow": (408, f"The {{part}} did not arrive within {SECONDS} seconds. Send it faster, or send less."),
    "unknown_format": (415, "{name}: this is neither PNG nor JPEG. Send the bytes of a PNG or JPEG file."),
    "unknown_model": (404, "No model {name!r} is served here. Choose one of {known}."),
    "unknown_version": (404, "Version {version!r} is not served: networks have version 1. Leave it out."),
    "unreadable_picture": (400, "{reason}"),
    "wrong_method": (405, "{path} does not take {method}. See /docs for what it takes."),
    "wrong_parameter": (400, "{where}: {rule}. See /docs for the rule."),
    "wrong_request": (400, "{where}: {rule}. See /docs for the rule."),
}
_CHALLENGE = 'Basic realm="tinydigits", charset="UTF-8"'
_HEADERS = {"overloaded": {"retry-after": "1"}, "no_token": {"www-authenticate": _CHALLENGE}}


class RejectedError(TinydigitsError):
    """A request is rejected for the reason `code`; the message is its sentence, with `values` filled in."""

    def __init__(self, code: str, **values: object) -> None:
        self.code = code
        self.status, sentence = _REASONS[code]
        super().__init__(sentence.format(**values))

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """`{"error": sentence, "code": word}`: clients of the Open Inference Protocol read `error`, too."""
        content = json.dumps({"error": str(self), "code": self.code}).encode()
        headers = {**(headers or {}), **_HEADERS.get(self.code, {})}
        return Response(content, self.status, headers, media_type="application/json")


class ErrorBody(BaseModel):
    """A rejected request."""

    error: str = Field(description="What is wrong, the rule and the hint, in a sentence")
    code: str = Field(description="The reason in a word, for programs")


def rejections(*statuses: int) -> dict[int | str, dict[str, object]]:
    """What the `responses` of a route say of rejected requests, with the codes of each status."""
    found: dict[int | str, dict[str, object]] = {"default": {"model": ErrorBody, "description": "Rejected"}}
    for status in statuses:
        codes = ", ".join(code for code, (its, _) in _REASONS.items() if its == status)
        found[status] = {"model": ErrorBody, "description": f"Rejected: {codes}"}
    return found
