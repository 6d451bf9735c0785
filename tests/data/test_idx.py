import contextlib
import gzip
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinydigits.data.idx import parse_images, parse_labels, unpack
from tinydigits.errors import DamagedDataError

Pack = Callable[[NDArray[np.uint8]], bytes]
PLAIN = bytes(range(256)) * 40
PACKED = gzip.compress(PLAIN)


@pytest.mark.parametrize("content", [PLAIN, PACKED], ids=["plain", "gzip"])
def test_unpack_gives_the_decompressed_bytes(content: bytes) -> None:
    assert unpack(content, "file", len(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    ("content", "size_bytes", "message"),
    [
        (b"", 10, r"^file: 0 bytes, 10 expected: the file is cut off"),
        (PLAIN[:-1], len(PLAIN), r"^file: 10,239 bytes, 10,240 expected: the file is cut off"),
        (gzip.compress(PLAIN[:-1]), len(PLAIN), r"10,239 bytes after decompression, 10,240 expected: .* cut off"),
        (PACKED[: len(PACKED) // 2], len(PLAIN), r"bytes after decompression, 10,240 expected: .* cut off"),
        (PACKED[:-4], len(PLAIN), r"checksum is missing: the file is cut off"),
        (PLAIN, 100, r"10,240 bytes or more, 100 expected: this is a different file"),
        (PACKED, 100, r"101 bytes after decompression or more, 100 expected: this is a different file"),
        (b"<html>no such file</html>", 100, r"25 bytes, 100 expected"),
    ],
    ids=["empty", "short", "short inside", "cut", "cut trailer", "long", "long inside", "web page"],
)
def test_a_wrong_length_says_what_is_there_and_what_is_expected(content: bytes, size_bytes: int, message: str) -> None:
    with pytest.raises(DamagedDataError, match=message):
        unpack(content, "file", size_bytes)


@settings(max_examples=200, deadline=None)
@given(bit=st.integers(0, 8 * len(PACKED) - 1))
def test_a_flipped_bit_in_gzip_never_passes_as_other_content(bit: int) -> None:
    flipped = bytearray(PACKED)
    flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(DamagedDataError):
        assert unpack(bytes(flipped), "file", len(PLAIN)) == PLAIN  # the bit of a time stamp, for example


def test_a_flipped_bit_in_the_data_is_named_as_damage() -> None:
    flipped = bytearray(PACKED)
    flipped[-20] ^= 4
    with pytest.raises(DamagedDataError, match=r"^file: cannot be decompressed \(.*\): the file is damaged"):
        unpack(bytes(flipped), "file", len(PLAIN))


def test_a_gzip_bomb_is_not_unpacked() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(compressor.compress(bytes(1_000_000)) for _ in range(20)) + compressor.flush()
    with pytest.raises(DamagedDataError, match="11 bytes after decompression or more"):
        unpack(bomb, "bomb", 10)


def test_parse_gives_back_what_was_packed_in_arrays_one_may_write_to(idx_bytes: Pack) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.array([0, 9, 4, 4, 1], np.uint8)
    parsed_images = parse_images(idx_bytes(images), "images")
    parsed_labels = parse_labels(idx_bytes(labels), "labels")
    np.testing.assert_array_equal(parsed_images, images)
    np.testing.assert_array_equal(parsed_labels, labels)
    assert parsed_images.flags.writeable
    assert parsed_labels.flags.writeable


IMAGES_28 = struct.pack(">4I", 2051, 2, 28, 28) + bytes(2 * 784)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack(">2I", 2049, 20) + bytes(20), "starts with 2049, 2051 expected: not an IDX file of pictures"),
        (b"\x00" + IMAGES_28[1:3] + b"\x09" + IMAGES_28[4:], "starts with 2057, 2051 expected"),
        (struct.pack(">4I", 2051, 3, 28, 28) + bytes(2 * 784), "counts 3 pictures, which makes 2,368 bytes, .* 1,584"),
        (struct.pack(">4I", 2051, 1, 28, 28) + bytes(2 * 784), "counts 1 pictures"),
        (struct.pack(">4I", 2051, 4, 14, 28) + bytes(2 * 784), "pictures of 14×28 pixels, 28×28 expected"),
        (struct.pack(">4I", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1), "counts 4,294,967,295 pictures"),
        (IMAGES_28[:9], "9 bytes, too few for the 16 of its header"),
    ],
    ids=["labels", "magic", "count over", "count under", "size", "absurd", "header"],
)
def test_wrong_images_are_refused_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(DamagedDataError, match=message):
        parse_images(content, "images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES_28, "starts with 2051, 2049 expected: not an IDX file of labels"),
        (struct.pack(">2I", 2049, 3) + bytes([1, 10, 200]), "label 10 at position 1, 0 to 9 expected"),
        (struct.pack(">2I", 2049, 4) + bytes(3), "counts 4 labels, which makes 12 bytes, but there are 11"),
    ],
    ids=["images", "label 10", "count"],
)
def test_wrong_labels_are_refused_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(DamagedDataError, match=message):
        parse_labels(content, "labels")
