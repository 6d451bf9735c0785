"""Any picture → 28×28: decoding, the integer arithmetic against a scalar version of it, and real pictures."""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from tinydigits.data.optdigits import enlarge
from tinydigits.errors import BlankPictureError, PictureError, UnreadablePictureError
from tinydigits.pictures.decode import decode
from tinydigits.pictures.preprocess import preprocess, preprocess_gray

Gray = NDArray[np.uint8]
Grid = list[list[int]]


def avg(total: int, count: int) -> int:
    return (total + count // 2) // count


def lower_median(values: list[int]) -> int:
    return sorted(values)[(len(values) - 1) // 2]


def scalar_preprocess(picture: Gray) -> Grid:
    """The docstring of preprocess_gray, step by step, in loops, as it would be written in C."""
    gray = scalar_reduce([[int(level) for level in row] for row in picture])
    ink, threshold = scalar_ink(gray)
    return scalar_place(scalar_fit(scalar_box(ink, threshold)))


def scalar_reduce(gray: Grid) -> Grid:
    height, width = len(gray), len(gray[0])
    k = (max(height, width) + 511) // 512
    reduced = []
    for y in range(0, height, k):
        row = []
        for x in range(0, width, k):
            block = [gray[v][u] for v in range(y, min(y + k, height)) for u in range(x, min(x + k, width))]
            row.append(avg(sum(block), len(block)))
        reduced.append(row)
    return reduced


def scalar_border_level(gray: Grid) -> int | None:
    height, width = len(gray), len(gray[0])
    counts = [0] * 256
    border = 0
    for y in range(height):
        for x in range(width):
            if y in (0, height - 1) or x in (0, width - 1):
                counts[gray[y][x]] += 1
                border += 1
    b = counts.index(max(counts))
    near = sum(counts[max(0, b - 2) : b + 3])
    everywhere = sum(abs(level - b) <= 2 for row in gray for level in row)
    return b if 8 * near >= 7 * border and 4 * everywhere >= height * width else None


def neighbours(i: int, j: int, height: int, width: int) -> list[tuple[int, int]]:
    around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
    return [(y, x) for y, x in around if 0 <= y < height and 0 <= x < width]


def scalar_cells(gray: Grid) -> Grid:
    height, width = len(gray), len(gray[0])
    c = (max(height, width) + 23) // 24
    gh, gw = (height + c - 1) // c, (width + c - 1) // c
    cells = []
    for i in range(gh):
        row = []
        for j in range(gw):
            ys = range(i * height // gh, (i + 1) * height // gh)
            xs = range(j * width // gw, (j + 1) * width // gw)
            row.append(avg(256 * sum(gray[y][x] for y in ys for x in xs), len(ys) * len(xs)))
        cells.append(row)
    return cells


def scalar_paper(gray: Grid) -> tuple[int | Grid, set[tuple[int, int]]]:
    t = scalar_cells(gray)
    gh, gw = len(t), len(t[0])
    height, width = len(gray), len(gray[0])
    cells = [(i, j) for i in range(gh) for j in range(gw)]
    jumps = [abs(t[i][j] - t[y][x]) for i, j in cells for y, x in neighbours(i, j, gh, gw)]
    s = min(12 * 256, max(2 * 256, max(jumps, default=0) // 8))
    border = [(i, j) for i, j in cells if i in (0, gh - 1) or j in (0, gw - 1)]
    m = lower_median([t[i][j] for i, j in border])
    todo = [(i, j) for i, j in border if abs(t[i][j] - m) <= s]
    paper = set(todo)
    while todo:
        i, j = todo.pop()
        for y, x in neighbours(i, j, gh, gw):
            if (y, x) not in paper and abs(t[i][j] - t[y][x]) <= s:
                paper.add((y, x))
                todo.append((y, x))
    bare = {
        (y, x)
        for i, j in paper
        for y in range(i * height // gh, (i + 1) * height // gh)
        for x in range(j * width // gw, (j + 1) * width // gw)
    }
    p = lower_median([t[i][j] for i, j in paper])
    if 8 * sum(2 * abs(t[i][j] - p) <= s for i, j in paper) >= 7 * len(paper):
        return (p + 128) // 256, bare
    return scalar_surface(t, paper, height, width), bare


def scalar_surface(t: Grid, paper: set[tuple[int, int]], height: int, width: int) -> Grid:
    gh, gw = len(t), len(t[0])
    known = {(i, j): t[i][j] for i, j in paper}
    while len(known) < gh * gw:
        new = {}
        for i in range(gh):
            for j in range(gw):
                values = [known[cell] for cell in neighbours(i, j, gh, gw) if cell in known]
                if (i, j) not in known and values:
                    new[i, j] = avg(sum(values), len(values))
        known |= new
    for _ in range(32):
        relaxed = dict(known)
        for i, j in known.keys() - paper:
            values = [known[cell] for cell in neighbours(i, j, gh, gw)]
            relaxed[i, j] = avg(sum(values), len(values))
        known = relaxed
    cells = [[known[i, j] for j in range(gw)] for i in range(gh)]
    down = [scalar_between(list(column), height) for column in zip(*cells, strict=True)]
    rows = [scalar_between(list(row), width) for row in zip(*down, strict=True)]
    return [[min(255, max(0, (v + 128) // 256)) for v in row] for row in rows]


def scalar_between(cells: list[int], length: int) -> list[int]:
    g = len(cells)
    if g == 1:
        return cells * length
    values = []
    for y in range(length):
        u = (2 * y + 1) * g - length
        i = min(max(u // (2 * length), 0), g - 2)
        f = u - 2 * length * i
        values.append(avg(cells[i] * (2 * length - f) + cells[i + 1] * f, 2 * length))
    return values


def scalar_ink(gray: Grid) -> tuple[Grid, int]:
    height, width = len(gray), len(gray[0])
    number = height * width
    level = scalar_border_level(gray)
    paper, bare = scalar_paper(gray) if level is None else (level, set())
    surface = [[paper] * width] * height if isinstance(paper, int) else paper
    e = [[gray[y][x] - surface[y][x] for x in range(width)] for y in range(height)]
    light = sum(v * v for row in e for v in row if v > 0)
    dark = sum(v * v for row in e for v in row if v < 0)
    if light <= dark:
        if not isinstance(paper, int):
            for y in range(height):
                for x in range(width):
                    relative = min(255, avg(255 * abs(e[y][x]), max(surface[y][x], 1)))
                    e[y][x] = relative if e[y][x] > 0 else -relative
        e = [[-v for v in row] for row in e]
    flat = [v for row in e for v in row]
    n = 0
    while sum(-v > n for v in flat) > number // 512:
        n += 1
    r = 0
    while sum(abs(e[y][x]) > r for y, x in bare) > len(bare) // 8:
        r += 1
    n = max(n, min(255, 2 * r))
    k = 255
    while k >= 0 and sum(v >= k for v in flat) < max(1, number // 2048):
        k -= 1
    if 2 * (k - n) < max(32, 3 * n):
        raise BlankPictureError
    q = sum(2 * (v - n) > k - n for v in flat)
    s = 255 - n
    while sum(v - n >= s for v in flat) < (q + 3) // 4:
        s -= 1
    stretch = [max(0, v - n) if s >= 240 else min(255, avg(255 * max(0, v - n), s)) for v in flat]
    ink = [stretch[y * width : (y + 1) * width] for y in range(height)]
    return ink, max(8 if max(height, width) <= 56 else 48, min(127, 128 * n // s))


def scalar_extent(counts: list[int], least: int) -> range:
    counts = [count if count >= least else 0 for count in counts]
    runs = []
    start = None
    for y, count in enumerate([*counts, 0]):
        if count and start is None:
            start = y
        if not count and start is not None:
            runs.append((start, y))
            start = None
    if not runs:
        raise BlankPictureError
    heavy = [run for run in runs if 32 * sum(counts[slice(*run)]) >= sum(counts)] or runs
    return range(heavy[0][0], heavy[-1][1])


def scalar_box(ink: Grid, threshold: int) -> Grid:
    height, width = len(ink), len(ink[0])
    least = 1 + max(height, width) // 128
    rows = scalar_extent([sum(v > threshold for v in row) for row in ink], least)
    columns = scalar_extent([sum(ink[y][x] > threshold for y in rows) for x in range(width)], least)
    rows = scalar_extent([sum(ink[y][x] > threshold for x in columns) for y in range(height)], least)
    return [[ink[y][x] for x in columns] for y in rows]


def weights(length: int, new: int, enlarge: bool) -> list[list[tuple[int, int]]]:
    """For each output: the positions it draws from, and their whole weights."""
    table = []
    for j in range(new):
        if enlarge:
            u = (2 * j + 1) * length - new
            a, f = u // (2 * new), u % (2 * new)
            table.append([(max(a, 0), 2 * new - f), (min(a + 1, length - 1), f)])
        else:
            low, high = j * length, (j + 1) * length
            overlaps = [(i, min(high, (i + 1) * new) - max(low, i * new)) for i in range(length)]
            table.append([(i, overlap) for i, overlap in overlaps if overlap > 0])
    return table


def scalar_fit(box: Grid) -> Grid:
    h, w = len(box), len(box[0])
    longer = max(h, w)
    new_h = max(1, (40 * h + longer) // (2 * longer))
    new_w = max(1, (40 * w + longer) // (2 * longer))
    enlarge = longer < 20
    total = 4 * new_h * new_w if enlarge else h * w
    across = weights(w, new_w, enlarge)
    digit = []
    for down in weights(h, new_h, enlarge):
        strip = [sum(weight * box[y][x] for y, weight in down) for x in range(w)]
        digit.append([avg(sum(strip[x] * weight for x, weight in part), total) for part in across])
    largest = max(map(max, digit))
    if largest == 0:
        raise BlankPictureError
    return digit if largest >= 240 else [[avg(255 * v, largest) for v in row] for row in digit]


def scalar_place(digit: Grid) -> Grid:
    h, w = len(digit), len(digit[0])
    b = sum(map(sum, digit))
    y_sum = sum(y * v for y, row in enumerate(digit) for v in row)
    x_sum = sum(x * v for row in digit for x, v in enumerate(row))
    top = min(max((27 * b - 2 * y_sum + 2 * b - 1) // (2 * b), 0), 28 - h)
    left = min(max((27 * b - 2 * x_sum + 2 * b - 1) // (2 * b), 0), 28 - w)
    result = [[0] * 28 for _ in range(28)]
    for y in range(h):
        for x in range(w):
            result[top + y][left + x] = digit[y][x]
    return result


def assert_same_as_scalar(gray: Gray) -> bool:
    """Whether there was a digit."""
    try:
        expected = scalar_preprocess(gray)
    except BlankPictureError:
        with pytest.raises(BlankPictureError):
            preprocess_gray(gray)
        return False
    result = preprocess_gray(gray)
    assert result.dtype == np.uint8
    assert result.shape == (28, 28)
    assert result.tolist() == expected
    return True


def eight_by_eight(index: int) -> Gray:
    """A digit of scikit-learn, 8×8 with a margin: light ink on black."""
    image = load_digits().images[index] * 255 / 16
    return np.pad(image.astype(np.uint8), 2)


def enlarged(index: int, size: int) -> Gray:
    return np.asarray(Image.fromarray(eight_by_eight(index)).resize((size, size), Image.Resampling.BICUBIC))


def smoothly_enlarged(index: int, size: int) -> Gray:
    strokes = enlarge(load_digits().images[index : index + 1].astype(np.int32))[0]
    return np.asarray(Image.fromarray(strokes).resize((size, size), Image.Resampling.BICUBIC))


def on_paper(ink: Gray, light: NDArray[np.float64] | float, noise: float, seed: int) -> Gray:
    """A photograph: ink reflects a fifth of the light that paper does."""
    grain = np.random.default_rng(seed).normal(0, noise, ink.shape)
    return np.clip(light * (1 - 0.8 * (ink / 255)) + grain, 0, 255).astype(np.uint8)


def slanting_light(size: int, bright: float, dim: float, vignette: float) -> NDArray[np.float64]:
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    plane = bright + (dim - bright) * (0.35 * (x + 1) + 0.15 * (y + 1))
    return np.asarray(plane * (1 - vignette * (x**2 + y**2) / 2), dtype=np.float64)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 256]), st.integers(0, 255)
)
@settings(max_examples=60, deadline=None)
def test_random_pictures_give_the_bytes_of_the_scalar_twin(
    height: int, width: int, seed: int, levels: int, base: int
) -> None:
    """Noise on nothing, on a digit, on a slope: every branch is met, the blank ones too."""
    rng = np.random.default_rng(seed)
    grain = rng.integers(0, levels, (height, width)) * (255 // (levels - 1) if levels < 256 else 1)
    assert_same_as_scalar(grain.astype(np.uint8))
    y, x = np.mgrid[0:height, 0:width]
    slope = base + (128 - base) * (x + y) / (height + width) + rng.integers(0, 4, (height, width))
    bar = (np.abs(x - width / 2) < width / 8) & (np.abs(y - height / 2) < height / 3)
    assert_same_as_scalar(np.clip(slope - 90 * bar, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(70, 70), (130, 97), (1, 900), (900, 3), (530, 60)])
@pytest.mark.parametrize("kind", ["clean", "photo", "touching", "chalk"])
def test_pictures_of_any_size_give_the_bytes_of_the_scalar_twin(size: tuple[int, int], kind: str) -> None:
    height, width = size
    ink = np.asarray(Image.fromarray(eight_by_eight(3)).resize((width, height), Image.Resampling.BILINEAR))
    light = slanting_light(1000, 250, 110, 0.3)[:height, :width]
    pictures = {
        "clean": 255 - ink,
        "photo": on_paper(ink, light, 4, 1),
        "touching": ink[height // 5 : height - height // 5 or None, width // 5 :],
        "chalk": np.clip(light / 4 + ink * 0.5, 0, 255).astype(np.uint8),
    }
    found = assert_same_as_scalar(pictures[kind])
    assert found or min(size) < 4  # a row of pixels may hold no digit, anything larger does


@pytest.mark.parametrize("index", range(10))
def test_digits_give_the_bytes_of_the_scalar_twin(index: int) -> None:
    assert assert_same_as_scalar(eight_by_eight(index))
    assert assert_same_as_scalar(on_paper(enlarged(index, 60), slanting_light(60, 240, 120, 0.2), 3, index))


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize("method", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_a_clean_picture_and_its_negative_give_the_same_bytes(index: int, method: Image.Resampling) -> None:
    picture = np.asarray(Image.fromarray(eight_by_eight(index)).resize((200, 200), method))
    assert np.array_equal(preprocess_gray(picture), preprocess_gray(255 - picture))


@pytest.mark.parametrize("index", range(10))
def test_a_digit_is_20_pixels_long_centred_and_fully_lit(index: int) -> None:
    digit = preprocess_gray(enlarged(index, 300))
    rows, columns = np.flatnonzero(digit.any(axis=1)), np.flatnonzero(digit.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    mass = digit.sum(dtype=int)
    for axis in (0, 1):
        assert 13.5 <= digit.sum(axis=1 - axis, dtype=int) @ np.arange(28) / mass < 14.5
    assert digit.max() >= 240


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize(("bright", "dim", "vignette"), [(250, 110, 0.3), (255, 60, 0.2), (240, 240, 0.5)])
def test_uneven_light_hardly_matters(index: int, bright: float, dim: float, vignette: float) -> None:
    ink = smoothly_enlarged(index, 240)
    clean = preprocess_gray(ink).astype(int)
    photo = preprocess_gray(on_paper(ink, slanting_light(240, bright, dim, vignette), 4, index)).astype(int)
    assert np.abs(photo - clean).mean() < 16  # of 255


def test_thick_strokes_on_the_edge_stay_whole() -> None:
    """A fat bar from edge to edge is not taken for the paper, and gets no hole."""
    picture = np.full((200, 200), 255, dtype=np.uint8)
    picture[:, 60:130] = 0
    picture[:60, 20:130] = 0
    digit = preprocess_gray(picture)
    inside = digit[digit > 0]
    assert (inside == 255).mean() > 0.9
    assert inside.size > 150


def test_specks_and_dust_do_not_shrink_the_digit() -> None:
    clean = enlarged(8, 300)
    dusty = clean.copy()
    for y, x in [(5, 290), (290, 12), (150, 4), (2, 140)]:
        dusty[y : y + 5, x : x + 5] = 255
    assert np.abs(preprocess_gray(dusty).astype(int) - preprocess_gray(clean)).mean() < 1


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((1, 1), np.uint8),
        np.full((1, 77), 255, np.uint8),
        np.full((90, 60), 131, np.uint8),
        np.random.default_rng(0).normal(128, 3, (200, 200)).astype(np.uint8),
        np.clip(np.random.default_rng(0).normal(255, 12, (200, 200)), 0, 255).astype(np.uint8),
        slanting_light(200, 250, 120, 0.3).astype(np.uint8),
        np.pad(np.zeros((1, 1), np.uint8), 150, constant_values=255),
    ],
    ids=["1×1", "1×77", "uniform", "noise", "clipped noise", "shaded", "one speck"],
)
def test_a_picture_without_ink_is_blank(picture: Gray) -> None:
    with pytest.raises(BlankPictureError, match=r"no ink was found.*Use a picture"):
        preprocess(picture)


def mnist_test_images() -> Gray:
    directory = os.environ.get("TINYDIGITS_DATA")
    if directory is None:
        pytest.skip("needs MNIST: TINYDIGITS_DATA is not set")
    plain, packed = (Path(directory) / f"t10k-images-idx3-ubyte{suffix}" for suffix in ("", ".gz"))
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)


def test_an_mnist_digit_comes_back_as_it_is() -> None:
    digits = mnist_test_images()[:2000]
    result = np.stack([preprocess_gray(digit) for digit in digits])
    assert (result == digits).all(axis=(1, 2)).mean() > 0.93
    assert np.abs(result.astype(int) - digits).mean() < 0.1


@pytest.mark.parametrize(
    ("method", "limit"),
    [(Image.Resampling.NEAREST, 0.4), (Image.Resampling.BILINEAR, 8), (Image.Resampling.BICUBIC, 7.5)],
)
def test_an_enlarged_mnist_digit_comes_back_almost_as_it_was(method: Image.Resampling, limit: float) -> None:
    digits = mnist_test_images()[:300]
    large = [np.asarray(Image.fromarray(digit).resize((280, 280), method)) for digit in digits]
    result = np.stack([preprocess_gray(picture) for picture in large])
    assert np.array_equal(result, np.stack([preprocess_gray(255 - picture) for picture in large]))
    assert np.abs(result.astype(int) - digits).mean() < limit


def test_mnist_gives_the_bytes_of_the_scalar_twin() -> None:
    for digit in mnist_test_images()[:40]:
        assert assert_same_as_scalar(digit)


# Decoding


def drawn(size: int = 60) -> Image.Image:
    """Dark ink on white; asymmetric, so that a turn shows."""
    return Image.fromarray(255 - enlarged(7, size))


def with_ink(colour: tuple[int, int, int], paper: tuple[int, int, int]) -> Image.Image:
    return Image.composite(Image.new("RGB", (60, 60), paper), Image.new("RGB", (60, 60), colour), drawn())


def transparent(colour: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGBA", (60, 60), (*colour, 0))
    picture.putalpha(Image.fromarray(255 - np.asarray(drawn())))
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        with_ink((200, 0, 0), (255, 255, 255)),
        with_ink((0, 40, 220), (250, 240, 200)),
        with_ink((255, 255, 255), (20, 60, 30)),
        transparent((0, 0, 0)),
        transparent((255, 255, 255)),
        drawn().convert("RGB").quantize(32),
        drawn().convert("CMYK"),
        drawn().convert("LA"),
        Image.fromarray(np.asarray(drawn()).astype(np.uint16) * 257),
        Image.fromarray(np.asarray(drawn()).astype(np.int32) * 257),
        Image.fromarray(np.asarray(drawn()).astype(np.float32) / 255),
    ],
    ids=lambda picture: picture.mode,
)
def test_every_kind_of_picture_gives_the_same_digit(picture: Image.Image) -> None:
    difference = preprocess(picture).astype(int) - preprocess(drawn()).astype(int)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize(
    "convert",
    [
        lambda gray: gray,
        lambda gray: gray.astype(np.uint16) * 257,
        lambda gray: gray / 255,
        lambda gray: (gray / 255).astype(np.float32),
        lambda gray: np.stack([gray] * 3, axis=-1),
        lambda gray: np.stack([gray] * 3 + [np.full_like(gray, 255)], axis=-1),
        lambda gray: np.stack([gray] * 3, axis=-1) / 255,
    ],
    ids=["uint8", "uint16", "float64", "float32", "RGB", "RGBA", "float RGB"],
)
def test_arrays_decode_to_their_grey_levels(convert: Callable[[Gray], NDArray[np.generic]]) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert np.array_equal(decode(convert(gray)), gray)


def test_booleans_are_black_and_white() -> None:
    assert decode(np.array([[True, False]])).tolist() == [[255, 0]]


def test_colour_becomes_grey_by_the_stated_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    red, green, blue = (pixels[..., i].astype(int) for i in range(3))
    assert np.array_equal(decode(pixels), (299 * red + 587 * green + 114 * blue + 500) // 1000)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_turned_back(orientation: int, tmp_path: Path) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    picture = drawn().crop((0, 0, 60, 50))
    turned = picture.transpose(undo[orientation]) if orientation in undo else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "digit.jpg"
    turned.save(path, quality=98, exif=exif)
    gray = decode(path)
    assert gray.shape == (50, 60)
    assert np.abs(gray.astype(int) - np.asarray(picture)).mean() < 3


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    path = tmp_path / "digit.gif"
    drawn().save(path, save_all=True, append_images=[Image.new("L", (60, 60), 255)])
    assert np.abs(preprocess(str(path)).astype(int) - preprocess(drawn())).mean() < 3


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends after its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize("side", [8_001, 9_000, 12_000, 20_000, 100_000])
def test_a_huge_picture_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(side, side) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(UnreadablePictureError, match=r"huge\.png.*64 million.*Make the picture smaller"):
        preprocess(path)


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    drawn(200).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"just a letter to my aunt\n", "not a picture in a known format"),
        (b"", "not a picture in a known format"),
        (png_header(10, 10), "not a picture in a known format"),
        (encoded("PNG")[:-600], "damaged, cut off"),
        (encoded("JPEG")[: len(encoded("JPEG")) // 2], "damaged, cut off"),
        (encoded("GIF")[:900], "damaged, cut off"),
        (encoded("TIFF")[:900], "(damaged, cut off|not a picture in a known format)"),
    ],
    ids=["text", "empty", "header only", "half PNG", "half JPEG", "half GIF", "half TIFF"],
)
def test_a_file_that_cannot_be_decoded_is_named_with_the_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    path.write_bytes(content)
    with pytest.raises(UnreadablePictureError, match=rf"digit\.png: .*{reason}"):
        preprocess(path)


def test_a_missing_file_or_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePictureError, match=r"nowhere\.png: there is no such file"):
        preprocess(tmp_path / "nowhere.png")
    with pytest.raises(UnreadablePictureError, match=r"cannot be read: is a directory"):
        preprocess(tmp_path)


def test_a_blank_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    Image.new("L", (50, 50), 255).save(path)
    with pytest.raises(BlankPictureError, match=r"white\.png: no ink was found"):
        preprocess(path)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(784, np.uint8), r"\[784\].*Reshape"),
        (np.zeros((28, 28, 2), np.uint8), r"\[28, 28, 2\].*Reshape"),
        (np.zeros((1, 28, 28, 3), np.uint8), "Reshape"),
        (np.zeros((0, 28), np.uint8), "not empty"),
        (np.zeros((28, 28), np.int64), "int64.*Convert"),
        (np.zeros((28, 28), np.complex128), "complex128.*Convert"),
        (np.array([["7"]]), "Convert"),
        (np.full((28, 28), np.nan), "finite"),
        (np.full((28, 28), 2.0), "from 0 .black. to 1"),
        (np.full((28, 28), -0.1), "from 0 .black. to 1"),
        (np.broadcast_to(np.uint8(0), (8_001, 8_000)), "64 million"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array: NDArray[np.generic], reason: str) -> None:
    with pytest.raises(UnreadablePictureError, match=reason):
        preprocess(array)


def test_a_thing_that_is_no_picture_is_refused() -> None:
    with pytest.raises(PictureError, match="int: this is not a picture"):
        preprocess(7)  # type: ignore[arg-type]
