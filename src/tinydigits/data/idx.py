"""IDX files, the format of MNIST, read strictly.

The format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"): big-endian 32-bit
numbers first, a magic number and the length of each dimension, then one byte for each value.
Errors name the fault; the caller, who knows where the file is from, adds the hint.
"""

import struct
import zlib
from math import prod

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import DamagedDataError

IMAGE_MAGIC = 2051  # 0x0803: bytes, three dimensions
LABEL_MAGIC = 2049  # 0x0801: bytes, one dimension
GZIP_MAGIC = b"\x1f\x8b"


def unpack(content: bytes, name: str, size_bytes: int) -> bytes:
    """The decompressed bytes of a file, plain or gzip, which must be `size_bytes` long.

    The content decides, not the name: browsers decompress a download and keep the `.gz`.

    Raises:
        DamagedDataError: gzip is broken, or the length is wrong.
    """
    if content[:2] != GZIP_MAGIC:
        _check_size(len(content), size_bytes, f"{name}: {len(content):,} bytes")
        return content
    stream = zlib.decompressobj(wbits=31)  # gzip with header and checksum
    try:
        # One byte more than expected: enough to detect a file that is too long, and safe from gzip bombs.
        unpacked = stream.decompress(content, size_bytes + 1)
    except zlib.error as error:
        raise DamagedDataError(f"{name}: cannot be decompressed ({error}): the file is damaged.") from error
    _check_size(len(unpacked), size_bytes, f"{name}: {len(unpacked):,} bytes after decompression")
    if not stream.eof:
        raise DamagedDataError(f"{name}: its gzip checksum is missing: the file is cut off.")
    return unpacked


def parse_images(content: bytes, name: str) -> NDArray[np.uint8]:
    """The pictures of an IDX file: uint8 [N, 28, 28].

    Raises:
        DamagedDataError: the magic number, picture size or length is wrong.
    """
    (count, rows, columns), pixels = _parse(content, name, IMAGE_MAGIC, 3, "pictures")
    if (rows, columns) != (28, 28):
        raise DamagedDataError(f"{name}: pictures of {rows}×{columns} pixels, 28×28 expected.")
    return pixels.reshape(count, 28, 28)


def parse_labels(content: bytes, name: str) -> NDArray[np.uint8]:
    """The labels of an IDX file: uint8 [N], each 0..9.

    Raises:
        DamagedDataError: the magic number or length is wrong, or a label is over 9.
    """
    _, labels = _parse(content, name, LABEL_MAGIC, 1, "labels")
    wrong = np.flatnonzero(labels > 9)
    if len(wrong):
        raise DamagedDataError(f"{name}: label {labels[wrong[0]]} at position {wrong[0]:,}, 0 to 9 expected.")
    return labels


def _parse(content: bytes, name: str, magic: int, dimensions: int, what: str) -> tuple[list[int], NDArray[np.uint8]]:
    """The lengths of the dimensions, and the values after the header as a writable array."""
    header_bytes = 4 * (1 + dimensions)
    if len(content) < header_bytes:
        raise DamagedDataError(f"{name}: {len(content)} bytes, too few for the {header_bytes} of its header.")
    found, *lengths = struct.unpack_from(f">{1 + dimensions}I", content)
    if found != magic:
        raise DamagedDataError(f"{name}: starts with {found}, {magic} expected: not an IDX file of {what}.")
    if len(content) != (promised := header_bytes + prod(lengths)):
        raise DamagedDataError(
            f"{name}: its header counts {lengths[0]:,} {what}, which makes {promised:,} bytes, "
            f"but there are {len(content):,}."
        )
    return lengths, np.frombuffer(content, np.uint8)[header_bytes:].copy()  # torch warns about read-only arrays


def _check_size(size_bytes: int, expected_bytes: int, found: str) -> None:
    if size_bytes < expected_bytes:
        raise DamagedDataError(f"{found}, {expected_bytes:,} expected: the file is cut off.")
    if size_bytes > expected_bytes:
        raise DamagedDataError(f"{found} or more, {expected_bytes:,} expected: this is a different file.")
