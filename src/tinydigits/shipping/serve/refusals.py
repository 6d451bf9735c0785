"""Why a request is refused: a status, a word for programs, a sentence for people. One JSON shape for all of them."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from tinydigits.errors import TinydigitsError

MAX_BODY = 1 << 20  # bytes
MAX_PICTURES = 256  # in a request
MAX_PIXELS = 1_000_000  # of a picture, by its header


class RefusedError(TinydigitsError):
    """A request is refused with this status; the message is a sentence for whoever sent it."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers

    def response(self) -> Response:
        """`{"error": sentence, "code": word}`: clients of the Open Inference Protocol look for `error`, too."""
        return json_response({"error": str(self), "code": self.code}, self.status, self.headers)


def json_response(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON; text that is no UTF-8 (file names may hold such) and control characters are escaped."""
    content = json.dumps(document, allow_nan=False).encode()
    return Response(content, status, headers, media_type="application/json")


def body_too_large() -> RefusedError:
    """More than 1 MiB."""
    return RefusedError(413, "body_too_large", f"The body has more than {MAX_BODY:,} bytes. Send less at a time.")


def too_many_pictures(count: int) -> RefusedError:
    """More than 256."""
    message = f"{count:,} pictures are more than the {MAX_PICTURES} that are read at a time. Send fewer in a request."
    return RefusedError(413, "too_many_pictures", message)


def overloaded() -> RefusedError:
    """More is waiting than can be answered in good time."""
    message = "The server has all the work that it can do in good time. Try again in a second."
    return RefusedError(503, "overloaded", message, {"retry-after": "1"})


def too_slow(seconds: float) -> RefusedError:
    """The body did not come in time."""
    return RefusedError(
        408, "too_slow", f"The body did not arrive within {seconds:g} seconds. Send it faster, or less of it."
    )


def unknown_model(name: str, known: list[str]) -> RefusedError:
    """No network of that name is served."""
    return RefusedError(404, "unknown_model", f"No model {name!r} is served here. There are {', '.join(known)}.")
