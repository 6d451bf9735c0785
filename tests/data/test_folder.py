from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tinydigits.data.folder import load_folder
from tinydigits.errors import BlankPictureError, DataError, DataNotFoundError, UnreadablePictureError
from tinydigits.pictures.preprocess import preprocess


def draw(path: Path, digit: int, number: int) -> None:
    """A digit in dark on light, each one a little different."""
    image = Image.new("L", (60, 60), 255)
    ImageDraw.Draw(image).text((10 + number % 5, 5), str(digit), fill=number, font_size=40)
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of every digit."""
    for digit in range(10):
        (tmp_path / str(digit)).mkdir()
        for number in range(10):
            draw(tmp_path / str(digit) / f"{number:02}.png", digit, number)
    return tmp_path


def test_a_folder_of_pictures_becomes_split_digits(folder: Path) -> None:
    data = load_folder(folder)
    assert (len(data.train), len(data.validation), len(data.test)) == (80, 10, 20)
    assert np.bincount(data.test.labels).tolist() == [2] * 10
    assert data.name == f"folder:{folder}"
    # The training digits keep the order of the files, so the first one is a picture of 0.
    zeros = {preprocess(path).tobytes() for path in (folder / "0").iterdir()}
    assert data.train.labels[0] == 0
    assert data.train.images[0].tobytes() in zeros


def test_the_order_is_that_of_the_names_and_litter_is_skipped(folder: Path) -> None:
    before = load_folder(folder)
    (folder / ".DS_Store").touch()
    (folder / "3" / "Thumbs.db").touch()
    last = folder / "5" / "09.png"
    content = last.read_bytes()
    last.unlink()
    (folder / "5" / "zz.png").write_bytes(content)  # still the last by name, written later
    after = load_folder(folder)
    assert (after.train.sha256, after.test.sha256) == (before.train.sha256, before.test.sha256)


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "ten").mkdir(), DataError, r"/ten is not the folder of a digit\. Move it elsewhere"),
        (lambda f: (f / "scan.png").touch(), DataError, r"/scan\.png is not the folder of a digit"),
        (lambda f: (f / "7" / "old").mkdir(), DataError, r"/7/old is a folder, not a picture"),
        (lambda f: remove(f / "7"), DataError, r"has no folder 7\. A folder of digits contains ten folders"),
        (lambda f: [p.unlink() for p in (f / "7").iterdir()], DataError, r"/7 holds no pictures"),
        (lambda f: [p.unlink() for p in sorted((f / "7").iterdir())[1:]], DataError, r"1 examples of digit 7"),
        (lambda f: (f / "7" / "a.png").write_text("hello"), UnreadablePictureError, r"/7/a\.png"),
        (lambda f: Image.new("L", (50, 50), 255).save(f / "7" / "a.png"), BlankPictureError, r"/7/a\.png"),
    ],
    ids=["class", "stray", "nested", "missing", "empty", "too few", "text", "blank"],
)
def test_what_is_wrong_with_a_folder_is_said_with_its_path(
    folder: Path, spoil: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    spoil(folder)
    with pytest.raises(error, match=message):
        load_folder(folder)


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="is empty. A folder of digits contains"):
        load_folder(tmp_path)
    with pytest.raises(DataNotFoundError, match="nowhere is not a directory"):
        load_folder(tmp_path / "nowhere")
