"""A user's own pictures: one folder for each digit, named 0 to 9."""

from pathlib import Path

import numpy as np

from tinydigits.data.dataset import Dataset, DigitData, split_by_rule
from tinydigits.errors import DataError, DataNotFoundError
from tinydigits.pictures.preprocess import preprocess

LAYOUT = "A folder of digits contains ten folders, 0 to 9, with at least 10 pictures each, and nothing else."
LITTER = {"thumbs.db", "desktop.ini"}  # what file managers leave behind, besides hidden files


def load_folder(path: Path) -> DigitData:
    """Digits from `path/0/*` … `path/9/*`, every picture through `preprocess`, split by the fixed rule.

    Pictures are sorted by name, so that the same files give the same data set everywhere. Hidden files are skipped.

    Raises:
        DataNotFoundError: `path` is not a directory, or is empty.
        DataError: the layout is wrong, or a digit has too few pictures.
        PictureError: a picture cannot be read or holds no ink; the message names the file.
    """
    if not path.is_dir():
        raise DataNotFoundError(f"{path} is not a directory. {LAYOUT}")
    pictures = _pictures(path)
    images = np.stack([preprocess(picture) for picture, _ in pictures])
    labels = np.array([digit for _, digit in pictures], np.uint8)
    return split_by_rule(Dataset(images, labels, f"folder:{path}"))


def _pictures(path: Path) -> list[tuple[Path, int]]:
    """All pictures with their digits, in a fixed order."""
    entries = _visible(path)
    if not entries:
        raise DataNotFoundError(f"{path} is empty. {LAYOUT}")
    digits = set("0123456789")
    for entry in entries:
        if entry.name not in digits or not entry.is_dir():
            raise DataError(f"{entry} is not the folder of a digit. Move it elsewhere. {LAYOUT}")
    if missing := sorted(digits - {entry.name for entry in entries}):
        raise DataError(f"{path} has no folder {', '.join(missing)}. {LAYOUT}")
    pictures = []
    for folder in entries:
        found = _visible(folder)
        if not found:
            raise DataError(f"{folder} holds no pictures. {LAYOUT}")
        for picture in found:
            if picture.is_dir():
                raise DataError(f"{picture} is a folder, not a picture. Move it elsewhere. {LAYOUT}")
            pictures.append((picture, int(folder.name)))
    return pictures


def _visible(directory: Path) -> list[Path]:
    try:
        entries = sorted(directory.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{directory} cannot be read: {reason}. Fix its permissions.") from error
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LITTER]
