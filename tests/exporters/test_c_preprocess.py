"""The preprocessor in C: the bytes of Python on hard pictures, in the memory it states, without undefined behaviour."""

import ctypes
import shutil
import subprocess
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tinydigits.data.dataset import DigitData
from tinydigits.data.sources import load_dataset
from tinydigits.errors import BlankPictureError
from tinydigits.exporters.c.runner import preprocess_c
from tinydigits.pictures.preprocess import preprocess_gray

Gray = NDArray[np.uint8]

SOURCES = files("tinydigits.exporters.c") / "sources"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZED = (*STRICT, "-O1", "-fsanitize=address,undefined")
DONE, BLANK, BAD_SIZE = 0, 1, 2


def in_python(picture: Gray) -> bytes | None:
    try:
        return preprocess_gray(picture).tobytes()
    except BlankPictureError:
        return None


def assert_same(pictures: list[Gray], compiler: str = "gcc") -> None:
    """The C is that of an export, sanitized; a complaint fails."""
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    with as_file(SOURCES) as directory:
        found = preprocess_c(directory, pictures, SANITIZED, compiler)
    for picture, result in zip(pictures, found, strict=True):
        assert result == in_python(picture), picture.shape


def digit(index: int, width: int, height: int, method: Image.Resampling = Image.Resampling.BICUBIC) -> Gray:
    """Light ink on black."""
    picture = Image.fromarray(load_dataset("optdigits").test.images[index])
    return np.asarray(picture.resize((width, height), method))


def photographed(ink: Gray, bright: float, dim: float, noise: float, seed: int) -> Gray:
    """Dark ink on paper that is lit from one side."""
    height, width = ink.shape
    y, x = np.mgrid[0:height, 0:width]
    light = bright + (dim - bright) * (0.7 * x / width + 0.3 * y / height)
    grain = np.random.default_rng(seed).normal(0, noise, ink.shape)
    return np.asarray(np.clip(light * (1 - 0.8 * ink / 255.0) + grain, 0, 255), dtype=np.uint8)


def hard_pictures() -> list[Gray]:
    """Digits of many sizes in every light, either polarity, off centre, cut, dusty; strips and blanks."""
    rng = np.random.default_rng(0)
    pictures = [np.zeros((1, 1), np.uint8), np.full((1, 77), 255, np.uint8), np.full((90, 60), 131, np.uint8)]
    pictures += [rng.normal(128, 3, (200, 200)).astype(np.uint8), np.pad(np.zeros((1, 1), np.uint8), 150) + 255]
    for index, (width, height) in enumerate([(28, 28), (60, 90), (300, 200), (7, 5), (19, 20), (57, 56), (513, 700)]):
        for method in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC):
            ink = digit(index, width, height, method)
            corner = np.pad(ink // 2, ((0, height), (2 * width, 0)))
            dusty = np.maximum(ink, 255 * (rng.random(ink.shape) < 0.004).astype(np.uint8))
            cut = ink[height // 4 :, width // 3 :]
            pictures += [ink, 255 - ink, corner, 255 - corner, dusty, cut]
            pictures += [photographed(ink, 250, 110, 3, index), photographed(ink, 255, 60, 0, index)]
            pictures += [255 - photographed(ink, 140, 30, 2, index), ink // 9 + 3, ink // 30]
    for size in [(1, 900), (900, 1), (2, 600), (600, 3), (25, 24), (1500, 2)]:
        slope = np.linspace(0, 255, size[0] * size[1]).reshape(size).astype(np.uint8)
        noise = rng.integers(0, 256, size).astype(np.uint8)
        stripe = np.where(np.arange(size[1]) % 50 < 9, 20, 230).astype(np.uint8) * np.ones(size, np.uint8)
        pictures += [slope, noise, stripe]
    return pictures


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_hard_pictures_give_the_bytes_of_python(compiler: str) -> None:
    pictures = hard_pictures()
    results = list(map(in_python, pictures))
    assert 10 < results.count(None) < len(results) / 2
    assert_same([np.ascontiguousarray(picture) for picture in pictures], compiler)


def test_mnist_gives_the_bytes_of_python(mnist: DigitData) -> None:
    digits = list(mnist.test.images[:300])
    assert_same(
        [*digits, *(255 - digit for digit in digits), *(np.kron(d, np.ones((9, 9), np.uint8)) for d in digits[:50])]
    )


def test_large_pictures_give_the_bytes_of_python() -> None:
    """Sums reach their largest values: white paper, all of the allowed pixels in one row, one column, a square."""
    pictures = [photographed(digit(3, 3000, 2000), 255, 120, 2, 0), np.full((1, 3_000_000), 255, np.uint8)]
    stripe = np.full((2_000_001, 1), 250, np.uint8)
    stripe[900_000:1_000_000] = 3
    assert_same([*pictures, stripe])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8000, 8000), (1, 64_000_000), (64_000_000, 1)])
def test_the_largest_pictures_give_the_bytes_of_python(shape: tuple[int, int]) -> None:
    picture = np.full(shape, 255, np.uint8)
    picture[shape[0] // 3 : shape[0] // 2 + 1, shape[1] // 3 : shape[1] // 2 + 1] = 0
    assert_same([picture])


@cache
def library(directory: Path) -> ctypes.CDLL:
    target = directory / "preprocess.so"
    with as_file(SOURCES) as sources:
        command = ["gcc", *STRICT, "-O2", "-shared", "-fPIC", str(sources / "tinydigits_preprocess.c")]
        subprocess.run([*command, "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    return library(tmp_path_factory.mktemp("library"))


def call(compiled: ctypes.CDLL, picture: Gray, width: int, height: int) -> tuple[int, Gray]:
    """What is returned, and the image; the memory stated in the header is given and not a byte more, and was dirty."""
    shrink = max(1, (max(width, height) + 511) // 512)
    size = max(0, 7372 + -(-width // shrink) * -(-height // shrink))
    guard = 4096
    memory = np.random.default_rng(1).integers(0, 256, size + guard).astype(np.uint8)
    before, out = memory.copy(), np.full(784 + guard, 7, np.uint8)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (picture, memory, out)]
    status = compiled.tinydigits_preprocess(pointers[0], width, height, pointers[1], pointers[2])
    assert np.array_equal(memory[size:], before[size:])
    assert (out[784:] == 7).all()
    return status, out[:784]


@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(-255, 255),
    st.integers(0, 12),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_random_pictures_give_the_bytes_of_python(
    compiled: ctypes.CDLL, height: int, width: int, seed: int, base: int, ink: int, noise: int
) -> None:
    """A bar on a slope with noise: every branch is met, the blank ones too."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(seed).normal(0, noise, (height, width))
    slope = base + (128 - base) * (seed % 3) * (x + y) / (height + width) + grain
    bar = (np.abs(x - width / 2) < width / 8) & (np.abs(y - height / 2) < height / 3)
    picture = np.clip(slope + ink * bar, 0, 255).astype(np.uint8)
    status, out = call(compiled, picture, width, height)
    wanted = in_python(picture)
    assert status == (BLANK if wanted is None else DONE)
    assert out.tobytes() == (bytes(784) if wanted is None else wanted)


@pytest.mark.parametrize(
    ("width", "height"), [(0, 5), (5, 0), (-1, 5), (5, -3), (8001, 8000), (2**31 - 1, 2**31 - 1), (64_000_001, 1)]
)
def test_a_bad_size_is_refused_before_anything_is_read(compiled: ctypes.CDLL, width: int, height: int) -> None:
    status = compiled.tinydigits_preprocess(None, width, height, None, None)
    assert status == BAD_SIZE


def test_the_stated_memory_is_what_the_header_says(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    sizes = [(28, 28), (512, 512), (513, 300), (8000, 8000), (1, 64_000_000)]
    lines = "".join(f'    printf("%ld\\n", (long)TINYDIGITS_WORK_BYTES({w}, {h}));\n' for w, h in sizes)
    source = tmp_path / "sizes.c"
    source.write_text(
        f'#include <stdio.h>\n#include "tinydigits_preprocess.h"\nint main(void) {{\n{lines}    return 0;\n}}\n'
    )
    with as_file(SOURCES) as directory:
        command = ["gcc", *STRICT, f"-I{directory}", str(source), "-o", str(tmp_path / "sizes")]
        subprocess.run(command, check=True)
    stated = subprocess.run([str(tmp_path / "sizes")], capture_output=True, text=True, check=True).stdout.split()
    assert list(map(int, stated)) == [7372 + pixels for pixels in (784, 262_144, 257 * 150, 250_000, 512)]
