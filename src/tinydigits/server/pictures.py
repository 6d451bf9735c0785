"""`POST /predict`: bytes → pictures of 28×28. What is too large or of another kind is rejected before it is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from python_multipart import multipart

from tinydigits.inference.files import Picture, read_picture
from tinydigits.inference.predict import Classification, make_prediction
from tinydigits.records import Prediction
from tinydigits.server.errors import MAX_PICTURES, MAX_PIXELS, MAX_SCANS, RejectedError

LIGHT_BYTES, LIGHT_PIXELS = 8192, 64 * 64  # of a PNG, up to which it is prepared in less than a millisecond
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_SCAN = b"\xff\xda"  # begins a scan of a JPEG, and is nowhere in its data


class LabelScore(BaseModel):
    """A digit, and how probable it is."""

    label: int = Field(ge=0, le=9)
    score: float = Field(ge=0, le=1)


class PictureResult(BaseModel):
    """What a picture shows."""

    path: str = Field(description="The file's name in the form, or `picture`")
    rejected: bool | None = Field(description="Whether it is no digit; null if it could not be read")
    labels: list[LabelScore] = Field(max_length=10, description="Best first; empty without ink")
    reason: str | None = Field(None, description="Why it is no digit")
    error: str | None = Field(None, description="Why it could not be read")
    warning: str | None = Field(None, description="What was left out, such as further frames")


class PredictResponse(BaseModel):
    """What the pictures of a request show, in their order."""

    model: str
    time_seconds: float = Field(ge=0, description="From the whole body to the answer")
    pictures: list[PictureResult] = Field(min_length=1, max_length=MAX_PICTURES)


@dataclass(eq=False)
class Upload:
    """A picture as it was sent; once it is prepared, what became of it."""

    name: str
    content: bytes
    picture: Picture | None = None
    error: RejectedError | None = None

    def is_light(self) -> bool:
        """Whether preparing it takes less than a millisecond or so."""
        pixels = int.from_bytes(self.content[16:20], "big") * int.from_bytes(self.content[20:24], "big")
        return self.content.startswith(_PNG) and len(self.content) <= LIGHT_BYTES and pixels <= LIGHT_PIXELS


def prepare(uploads: Sequence[Upload]) -> NDArray[np.uint8]:
    """Decode and preprocess pictures, each once: those with ink as uint8 [n, 28, 28].

    Raises RejectedError, the error of the first, if none of them can be read.
    """
    for upload in uploads:
        if upload.picture is None:
            try:
                upload.picture = read_upload(upload.content, upload.name)
            except RejectedError as error:
                upload.error, upload.picture = error, Picture(upload.name, error=str(error))
    errors = [upload.error for upload in uploads if upload.error]
    if len(errors) == len(uploads):
        raise errors[0]
    images = [upload.picture.image for upload in uploads if upload.picture and upload.picture.image is not None]
    return np.array(images, np.uint8).reshape(-1, 28, 28)


def read_upload(content: bytes, name: str) -> Picture:
    """A PNG or JPEG picture, decoded and preprocessed; one without ink says so in `blank`.

    Raises RejectedError if it is of another kind (415), has over a million pixels (413), or is empty or damaged (400).
    """
    if not content:
        raise RejectedError("no_picture", name=name)
    if not content.startswith((_PNG, _JPEG)):
        raise RejectedError("unknown_format", name=name)
    if content.startswith(_JPEG) and content.count(_SCAN) > MAX_SCANS:
        raise RejectedError("unreadable_picture", reason=f"{name}: it has over {MAX_SCANS} scans. Save it again.")
    try:
        with Image.open(BytesIO(content), formats=("PNG", "JPEG")) as image:  # reads its header alone
            width, height = image.size
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
    except (OSError, ValueError):
        reason = f"{name}: its header is damaged or cut off. Send a whole PNG or JPEG file."
        raise RejectedError("unreadable_picture", reason=reason) from None
    if width * height > MAX_PIXELS:
        raise RejectedError("picture_too_large", name=name, size=f"{width:,}×{height:,}")
    picture = read_picture(content, name)
    if picture.error:
        raise RejectedError("unreadable_picture", reason=picture.error)
    return picture


def predictions(uploads: Sequence[Upload], found: Classification, top: int) -> list[Prediction]:
    """What each prepared picture shows, given what the network says of those with ink."""
    rows = zip(found.scores, found.rejected.tolist(), strict=True)
    pictures = [upload.picture for upload in uploads if upload.picture]
    return [make_prediction(p) if p.image is None else make_prediction(p, *next(rows), top) for p in pictures]


def find_uploads(content_type: str, body: bytes) -> list[Upload]:
    """The pictures of a request: its body, or all parts of a `multipart/form-data`, whatever their names.

    Raises RejectedError if the form is damaged or empty (400), or holds more than 256 parts (413).
    """
    if not content_type.lower().startswith("multipart/"):
        return [Upload("picture", body)]
    found: list[Upload] = []
    ends: list[None] = []

    def add(part: multipart.Field | multipart.File) -> None:
        if isinstance(part, multipart.File):
            part.file_object.seek(0)
            name, content = part.file_name, part.file_object.read()
        else:
            name, content = part.field_name, part.value or b""
        found.append(Upload(name.decode(errors="replace") if name else f"picture {len(found) + 1}", content))

    try:
        boundary = multipart.parse_options_header(content_type)[1].get(b"boundary")
        multipart.FormParser("multipart/form-data", add, add, lambda: ends.append(None), boundary).write(body)
    except ValueError as error:
        raise RejectedError("broken_form", reason=error) from None
    if not ends or not found:
        raise RejectedError("broken_form", reason="it holds no picture" if ends else "it is cut off")
    if len(found) > MAX_PICTURES:
        raise RejectedError("too_many_pictures", count=len(found))
    return found
