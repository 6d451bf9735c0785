"""Decode a picture file, a Pillow image or an array to grey levels."""

import os
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tinydigits.errors import UnreadablePictureError
from tinydigits.pictures.arithmetic import Gray

MAX_PIXELS = 64_000_000  # a larger picture is rejected before it is decoded
_MILLIONS = MAX_PIXELS // 1_000_000
_SMALLER = "Make the picture smaller, or cut out the digit."

PictureLike = str | os.PathLike[str] | Image.Image | NDArray[np.generic]


def decode(picture: PictureLike) -> Gray:
    """Decode a picture to grey levels: uint8 [H, W].

    Files and Pillow images: the first frame, turned as its EXIF tag says. Arrays: [H, W], [H, W, 3] (RGB) or
    [H, W, 4] (RGBA) of bool, uint8, uint16 or floats in [0, 1]. 16 bits v become (255 v + 32767) // 65535; colour
    becomes (299 R + 587 G + 114 B + 500) // 1000. Transparent pixels become white, or black when all
    that is visible is light (levels over 127), so that white strokes on nothing stay visible.

    Raises:
        UnreadablePictureError: the file is missing, not a picture or cut off, the array has another shape or
            type, or there are more than 64 million pixels (a file is then rejected by its header).
    """
    if isinstance(picture, np.ndarray):
        return _decode_array(picture)
    if isinstance(picture, Image.Image):
        return _decode_image(picture, picture_name(picture))
    if isinstance(picture, str | os.PathLike):
        return _decode_file(Path(picture))
    raise UnreadablePictureError(
        f"{type(picture).__name__}: this is not a picture. Give the path of a file, a Pillow image or a NumPy array."
    )


def picture_name(picture: object) -> str:
    """What messages call a picture: its path, or the kind of image or array."""
    if isinstance(picture, Image.Image):
        return str(getattr(picture, "filename", "") or f"Pillow image of mode {picture.mode}")
    return f"array of shape {list(picture.shape)}" if isinstance(picture, np.ndarray) else str(picture)


def _check_size(name: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnreadablePictureError(
            f"{name}: {width:,}×{height:,} pixels are more than the {_MILLIONS} million that are decoded. {_SMALLER}"
        )


def _decode_array(array: NDArray[np.generic]) -> Gray:
    name = picture_name(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise UnreadablePictureError(
            f"{name}: an array must be [H, W], [H, W, 3] or [H, W, 4] and not empty. Reshape it."
        )
    _check_size(name, *array.shape[:2])
    if array.dtype == np.bool_:
        return _flatten(array.astype(np.uint8) * np.uint8(255))
    if array.dtype == np.uint8:
        return _flatten(array.astype(np.uint8))
    if array.dtype == np.uint16:
        return _flatten(_from_16_bits(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise UnreadablePictureError(
            f"{name}: values of type {array.dtype} are not supported. Convert them to uint8, or to floats from 0 to 1."
        )
    values = array.astype(np.float64)
    if not bool(((values >= 0) & (values <= 1)).all()):  # NaN fails too
        raise UnreadablePictureError(
            f"{name}: floats must be finite and from 0 (black) to 1 (white); these go from {values.min():g} to "
            f"{values.max():g}. Scale them, or convert to uint8."
        )
    return _flatten(np.floor(values * 255 + 0.5).astype(np.uint8))


def _decode_file(path: Path) -> Gray:
    try:
        # Pillow warns of large pictures; ours is the stricter limit.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            return _decode_image(image, str(path))
    except (Image.DecompressionBombError, OSError, ValueError) as error:
        raise UnreadablePictureError(f"{path}: {_fault(error)}") from None


def _fault(error: Exception) -> str:
    """Why Pillow cannot open a file, and the hint."""
    match error:
        case FileNotFoundError():
            return "there is no such file. Check the path."
        case Image.DecompressionBombError():
            return f"its header promises more than the {_MILLIONS} million pixels that are decoded. {_SMALLER}"
        case UnidentifiedImageError():
            return "this is not a picture in a known format. Give a PNG or JPEG file."
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return f"the file cannot be read: {reason}. Check the path and its permissions."


def _decode_image(image: Image.Image, name: str) -> Gray:
    _check_size(name, image.height, image.width)
    if image.width * image.height == 0:
        raise UnreadablePictureError(f"{name}: the picture has no pixels. Give one that shows a digit.")
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            return _flatten(_from_16_bits(np.asarray(image).astype(np.uint16)))
        if image.mode == "I":  # 32 bits, in practice holding 16
            return _flatten(_from_16_bits(np.clip(np.asarray(image), 0, 65535)))
        if image.mode == "F":
            return _decode_array(np.asarray(image))
        transparent = image.has_transparency_data
        if image.mode in ("1", "L") and not transparent:
            return np.array(image.convert("L"), dtype=np.uint8)
        return _flatten(np.asarray(image.convert("RGBA" if transparent else "RGB")))
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error) as error:
        raise UnreadablePictureError(
            f"{name}: the picture is damaged, cut off or of an unusual kind ({error}). Export it again as PNG or JPEG."
        ) from None


def _from_16_bits(values: NDArray[np.generic]) -> Gray:
    return ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)


def _flatten(pixels: Gray) -> Gray:
    """Grey, RGB or RGBA uint8 → grey uint8 [H, W]; a block of rows at a time, to bound the memory."""
    if pixels.ndim == 2:
        return pixels
    height, width = pixels.shape[:2]
    gray = np.empty((height, width), dtype=np.uint8)
    rows = max(1, 1_000_000 // width)
    blocks = [slice(start, start + rows) for start in range(0, height, rows)]
    for block in blocks:
        colours = pixels[block, :, :3].astype(np.int32)
        gray[block] = (colours @ np.array([299, 587, 114], dtype=np.int32) + 500) // 1000
    if pixels.shape[2] == 3 or (alpha := pixels[..., 3]).min() == 255:
        return gray
    visible = gray[alpha >= 128]
    ground = 0 if visible.size and visible.min() > 127 else 255
    for block in blocks:
        opacity = alpha[block].astype(np.int32)
        gray[block] = (gray[block].astype(np.int32) * opacity + ground * (255 - opacity) + 127) // 255
    return gray
