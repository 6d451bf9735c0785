"""Bytes of a request → pictures of 28×28. What is too large or of another kind is refused before it is decoded."""

import email.message
import email.parser
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinydigits.shipping.predict import Picture, read_picture
from tinydigits.shipping.serve.refusals import MAX_PICTURES, MAX_PIXELS, RefusedError, too_many_pictures

LIGHT_BYTES = 8192  # of a PNG …
LIGHT_PIXELS = 64 * 64  # … and its pixels, up to which it is prepared in less than a millisecond
MAX_SCANS = 100  # of a JPEG; each may take as long as a whole picture

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"  # begins a scan, and stands nowhere in its data


class Upload:
    """A picture as it was sent. `picture` is what became of it, once it is prepared."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content
        self.picture: Picture | None = None

    def is_light(self) -> bool:
        """Whether preparing it takes less than a millisecond or so."""
        if len(self.content) > LIGHT_BYTES or not self.content.startswith(_PNG):
            return False
        width, height = (int.from_bytes(self.content[start : start + 4], "big") for start in (16, 20))
        return width * height <= LIGHT_PIXELS

    def prepare(self) -> Picture:
        """Decode and preprocess it, the first time.

        Raises:
            RefusedError: see `read_upload`.
        """
        if self.picture is None:
            self.picture = read_upload(self.content, self.name)
        return self.picture

    def images(self) -> NDArray[np.uint8]:
        """What the network is to read: uint8 [1, 28, 28], or [0, 28, 28] without ink. Errors as of `prepare`."""
        image = self.prepare().image
        return np.empty((0, 28, 28), np.uint8) if image is None else image[None]


def read_upload(content: bytes, name: str) -> Picture:
    """A PNG or JPEG picture, decoded and preprocessed; one without ink says so in `blank`.

    Raises:
        RefusedError: it is of another kind (415), has more than a million pixels (413), or is empty or damaged (400).
    """
    if not content:
        raise RefusedError(400, "no_picture", f"{name}: it is empty. Send the bytes of a PNG or JPEG file.")
    if not content.startswith((_PNG, _JPEG)):
        message = f"{name}: this is neither PNG nor JPEG. Send the bytes of a PNG or JPEG file."
        raise RefusedError(415, "unknown_format", message)
    if content.startswith(_JPEG) and content.count(_SCAN) > MAX_SCANS:
        raise _unreadable(f"{name}: it has more than {MAX_SCANS} scans. Save it anew.")
    width, height = _size(content, name)
    if width * height > MAX_PIXELS:
        message = f"{name}: {width:,}×{height:,} pixels are more than {MAX_PIXELS:,}. Make it smaller, or cut it out."
        raise RefusedError(413, "picture_too_large", message)
    picture = read_picture(content, name)
    if picture.error:
        raise _unreadable(picture.error)
    return picture


def _size(content: bytes, name: str) -> tuple[int, int]:
    """By the header. To name the formats keeps Pillow from trying all it knows."""
    try:
        with Image.open(BytesIO(content), formats=("PNG", "JPEG")) as image:
            return image.size
    except Image.DecompressionBombError:
        return MAX_PIXELS, MAX_PIXELS
    except (OSError, ValueError):
        raise _unreadable(f"{name}: its header is damaged or cut off. Send a whole PNG or JPEG file.") from None


def _unreadable(message: str) -> RefusedError:
    return RefusedError(400, "unreadable_picture", message)


def uploads(content_type: str, body: bytes) -> list[Upload]:
    """The pictures of a request: its body, or the parts of a `multipart/form-data`, whatever their fields are called.

    Raises:
        RefusedError: the form is damaged or empty (400), or holds more than 256 parts (413).
    """
    header = email.message.Message()
    header["content-type"] = content_type
    if header.get_content_maintype() != "multipart":
        return [Upload("picture", body)]
    boundary = header.get_boundary()
    if not boundary:
        raise _broken_form("its content type names no boundary")
    found = _parts(body, boundary.encode("utf-8", "surrogateescape"))
    if not found:
        raise _broken_form("it holds no picture")
    return found


def _parts(body: bytes, boundary: bytes) -> list[Upload]:
    """RFC 2046, section 5.1.1."""
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if not parts or not parts[-1].startswith(b"--"):
        raise _broken_form("it does not end with its boundary")
    if len(parts) - 1 > MAX_PICTURES:
        raise too_many_pictures(len(parts) - 1)
    found = []
    for number, part in enumerate(parts[:-1], start=1):
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator:
            raise _broken_form(f"part {number} has no content")
        headers = email.parser.HeaderParser().parsestr(head.lstrip().decode(errors="replace"))
        name = headers.get_filename() or headers.get_param("name", header="content-disposition")
        found.append(Upload(name if isinstance(name, str) and name else f"picture {number}", content))
    return found


def _broken_form(reason: str) -> RefusedError:
    return RefusedError(400, "broken_form", f"This multipart form cannot be read: {reason}. Send it as browsers do.")
