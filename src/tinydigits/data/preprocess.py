"""Any picture → 28×28 bytes the way MNIST was made: light ink on black, 20×20 box, centre of mass in the middle."""

import os
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tinydigits.errors import BlankPictureError, UnreadablePictureError

SIZE = 28  # of the result
BOX = 20  # the digit fits into a box of this size, as in MNIST
MAX_PIXELS = 64_000_000  # what is larger is refused before it is decoded

MAX_SIDE = 512  # of the picture that the integer part works on
MAX_CELLS = 24  # per side of the grid on which the light is estimated
RELAXATIONS = 32
MIN_CONTRAST = 16  # grey levels between paper and ink
NEARLY_FULL = 240  # an ink level that need not be stretched to 255, so that MNIST stays as it is
BOX_THRESHOLD = 48  # ink level that counts when the box is sought …
SHARP_THRESHOLD = 8  # … and in a picture so small (SHARP_SIDE) that nothing faint can be blur
SHARP_SIDE = 56
SPECK_SHARE = 32  # what is apart and holds less than 1/32 of the ink is a speck

Gray = NDArray[np.uint8]
Integers = NDArray[np.signedinteger]

_DIFFERENCES = np.arange(-255, 256)  # of a pixel from its paper: what the tables of step 6 and 8 are about
_SQUARES = np.arange(1, 256) ** 2


def preprocess(picture: str | os.PathLike[str] | Image.Image | NDArray[np.generic]) -> Gray:
    """Turn any picture of one digit into an MNIST-like image: uint8 [28, 28], light ink on black.

    Takes the path of a picture file, a Pillow image or an array (see `decode`); dark ink on light paper or
    light ink on dark, in colour or grey, evenly lit or not.

    Raises:
        UnreadablePictureError: it cannot be decoded, or is too large.
        BlankPictureError: it holds no ink.
    """
    try:
        return preprocess_gray(decode(picture))
    except BlankPictureError as error:
        raise BlankPictureError(f"{_name(picture)}: {error}") from None


def decode(picture: str | os.PathLike[str] | Image.Image | NDArray[np.generic]) -> Gray:
    """Decode a picture to grey levels: uint8 [H, W].

    Files and Pillow images: the first frame, turned as its EXIF tag says. Arrays: [H, W], [H, W, 3] (RGB) or
    [H, W, 4] (RGBA) of bool, uint8, uint16 or floats in [0, 1]. 16 bits v become (255 v + 32767) // 65535; colour
    becomes (299 R + 587 G + 114 B + 500) // 1000. Transparent pixels become white, or black when all
    that is visible is light (levels over 127), so that white strokes on nothing stay visible.

    Raises:
        UnreadablePictureError: the file is missing, no picture or cut off, the array has another shape or
            type, or there are more than 64 million pixels (a file is then refused by its header).
    """
    if isinstance(picture, np.ndarray):
        return _decode_array(picture)
    if isinstance(picture, Image.Image):
        return _decode_image(picture, _name(picture))
    if isinstance(picture, str | os.PathLike):
        return _decode_file(Path(picture))
    raise UnreadablePictureError(
        f"{type(picture).__name__}: this is no picture. Give the path of a file, a Pillow image or a NumPy array."
    )


def preprocess_gray(gray: Gray) -> Gray:
    """Grey levels uint8 [H, W] → uint8 [28, 28], light ink on black, in integer arithmetic only.

    The same steps, giving the same bytes, can be written in C and in JavaScript. All values and intermediate
    results fit int32, except the sums named int64 below (all under 2^53). `a // b` rounds towards
    minus infinity; `avg(s, n)` is (s + n // 2) // n; y and x count rows and columns from 0.

    1. Reduce. k = ceil(max(H, W) / 512). If k > 1, each block of k×k pixels (smaller at the bottom and right
       edges) becomes avg(sum, count), int64 sum. H and W are the reduced sides from here on; N = H W.
    2. Paper by the border. The border is the pixels with y = 0, y = H-1, x = 0 or x = W-1, each counted once. b = its
       most frequent level (the lowest of equals). If at least 7/8 of the border and at least 1/4 of the picture
       lie in b-2..b+2, the paper is evenly lit: paper(y, x) = b; go on with step 6.
    3. Cells. c = ceil(max(H, W) / 24), gh = ceil(H / c), gw = ceil(W / c). Cell (i, j) covers the rows i H // gh ..
       (i+1) H // gh - 1 and the columns likewise; t = avg(256 sum, count), 1/256 levels, int64 sum.
       D = the largest |difference| of two cells side by side (4 neighbours; 0 if there is one cell);
       S = D // 8, at least 2·256, at most 12·256. m = the lower median of the border cells: of n sorted
       values, the one at (n-1) // 2. Border cells with |t - m| ≤ S are paper; a neighbour of a paper cell
       that differs from it by at most S is paper too, until no cell is added.
    4. Even light. p = the lower median of the paper cells. If at least 7/8 of them have 2 |t - p| ≤ S, then
       paper(y, x) = (p + 128) // 256. Otherwise the light is uneven:
    5. Uneven light. In rounds, each cell without value that has n > 0 neighbours with value (as they were before the
       round) becomes avg(their sum, n), until all have one. Then 32 rounds: all cells that are not paper
       become avg(sum of their 2 to 4 neighbours, their number), all at once (one cell alone stays). Between cell
       centres interpolate, beyond the outermost go on in a straight line, first down, then across:
       for a row, u = (2 y + 1) gh - H; i = u // (2 H) held within 0 .. gh-2; f = u - 2 H i;
       r_j = avg(t_ij (2 H - f) + t_(i+1)j f, 2 H), or t_0j if gh = 1; the columns likewise give v from r;
       paper(y, x) = (v + 128) // 256 held within 0..255.
    6. Polarity. e = gray - paper. Ink is light if the sum of e² over e > 0 exceeds the sum over e < 0 (int64),
       else dark. With dark ink in uneven light (step 5 was done) |e| becomes its share of the paper,
       min(255, avg(255 |e|, max(paper, 1))), and keeps its sign. With dark ink e then changes its sign, in any
       light; from here on ink is e > 0.
    7. Noise. n = the smallest level ≥ 0 such that at most N // 512 pixels have -e > n. Unless step 2 found the
       paper, r = the smallest level such that at most P // 8 of the P pixels in the paper cells of step 3 have
       |e| > r, and n becomes max(n, min(255, 2 r)).
    8. Contrast. k = the largest level ≥ 0 such that at least max(1, N // 2048) pixels have e ≥ k (-1 if none). No
       ink if 2 (k - n) < max(32, 3 n). Strong ink has 2 (e - n) > k - n; these are q pixels. s = the largest value such
       that at least (q + 3) // 4 pixels have e - n ≥ s. For e > n, ink = e - n if s ≥ 240, else
       min(255, avg(255 (e - n), s)); for e ≤ n, ink = 0.
    9. Box. A pixel is inked if ink > T, T = max(t, min(127, 128 n // s)), t = 8 if max(H, W) ≤ 56, else 48. A
       row's count is its number of inked pixels, or 0 if these are fewer than 1 + max(H, W) // 128. Rows with count > 0
       form runs between rows with 0 (no run: no ink). A run is a speck if 32 times its sum of counts is less
       than the sum of all. The box reaches from the first row of the first run that is no speck to the last row
       of the last such run; if all are specks, none is. The same for the columns, counted within these rows
       only; then again for all rows of the picture, counted within these columns only. The box is h×w pixels.
    10. Fit. L = max(h, w); h' = max(1, (40 h + L) // (2 L)), w' = max(1, (40 w + L) // (2 L)).
        If L ≥ 20, by area: output (j, i) covers the rows j h / h' .. (j+1) h / h' and the columns likewise; with the
        overlaps in units of 1/h' rows and 1/w' columns as weights, it is avg(sum, h w). If L < 20, bilinear: for a row,
        u = (2 j + 1) h - h', a = u // (2 h'), f = u - 2 h' a, rows a and a+1 (each held within 0..h-1) weigh 2 h' - f
        and f; the columns likewise; the output is avg(sum, 4 h' w'). Then with M = the largest output (0: no
        ink), each becomes avg(255 v, M) unless M ≥ 240.
    11. Place. B = sum v, Y = sum y v: top = ceil((27 B - 2 Y) / (2 B)), held within 0 .. 28 - h', so that the centre of
        mass lies within 13.5 ≤ y < 14.5, which is where all of MNIST has it; left likewise.

    Raises:
        BlankPictureError: no ink, see steps 8 to 10.
    """
    assert gray.dtype == np.uint8
    assert gray.ndim == 2
    assert gray.size > 0
    gray = _reduce(gray)
    ink, threshold = _ink(gray)
    rows, columns = _box(ink > threshold)
    return _place(_fit(ink[rows, columns]))


def _avg(total: Integers, count: int | Integers) -> Integers:
    return (total + count // 2) // count


def _block_sums(gray: Gray, rows: Integers, columns: Integers) -> Integers:
    """Sums over blocks that begin at `rows` and `columns`: [len(rows), len(columns)]."""
    strips = np.add.reduceat(gray, rows, axis=0, dtype=np.int32)
    return np.asarray(np.add.reduceat(strips, columns, axis=1, dtype=np.int64))


def _reduce(gray: Gray) -> Gray:
    """Step 1."""
    height, width = gray.shape
    factor = -(-max(height, width) // MAX_SIDE)
    if factor == 1:
        return gray
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    count = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return _avg(_block_sums(gray, rows, columns), count).astype(np.uint8)


def _ink(gray: Gray) -> tuple[Gray, int]:
    """Steps 2 to 8, and the threshold of step 9: ink uint8 [H, W], 0 on paper."""
    level, bare = _border_level(gray), None
    paper: int | Integers
    if level is None:
        paper, bare = _paper(gray)
    else:
        paper = level
    place: Gray | Integers  # of each pixel in tables of e = -255..255; in even light grey levels will do
    if isinstance(paper, int):
        place, levels = gray, slice(255 - paper, 511 - paper)
    else:
        place, levels = gray - paper + 255, slice(0, 511)
    histogram = np.zeros(511, dtype=np.int64)
    histogram[levels] = np.bincount(place.ravel(), minlength=levels.stop - levels.start)
    dark = int(_SQUARES @ histogram[256:]) <= int(_SQUARES @ histogram[254::-1])
    if dark and not isinstance(paper, int):
        deviation = place - 255
        place = 255 + np.minimum(255, _avg(255 * np.abs(deviation), np.maximum(paper, 1))) * np.sign(deviation)
        histogram = np.bincount(place.ravel(), minlength=511)
    if dark:
        histogram = histogram[::-1]
    beyond = np.cumsum(histogram[:255])[::-1]  # [level]: pixels with -e > level
    noise = int(np.searchsorted(-beyond, -(gray.size // 512)))
    if bare is not None:
        within = np.cumsum(np.bincount(np.abs(_DIFFERENCES[levels][place[bare]]), minlength=256))
        rough = int(np.searchsorted(within, within[-1] - within[-1] // 8))
        noise = max(noise, min(255, 2 * rough))
    at_least = np.cumsum(histogram[:254:-1])[::-1]  # [level]: pixels with e ≥ level
    peak = _largest_level(at_least, max(1, gray.size // 2048))
    if 2 * (peak - noise) < max(2 * MIN_CONTRAST, 3 * noise):
        raise BlankPictureError(
            f"no ink was found: the strongest marks differ from the paper by {max(peak, 0)} of 255 grey levels, "
            f"the noise by {noise}. Use a picture with one digit, written clearly darker or lighter than its paper."
        )
    strong = int(at_least[noise + (peak - noise) // 2 + 1])
    span = _largest_level(at_least, (strong + 3) // 4) - noise
    strength = _DIFFERENCES - noise
    stretched = strength if span >= NEARLY_FULL else np.minimum(255, _avg(255 * strength, span))
    table = np.where(strength > 0, stretched, 0).astype(np.uint8)
    if dark:
        table = table[::-1]
    least = SHARP_THRESHOLD if max(gray.shape) <= SHARP_SIDE else BOX_THRESHOLD
    threshold = max(least, min(127, 128 * noise // span))
    return table[levels].take(place), threshold


def _largest_level(at_least: Integers, count: int) -> int:
    """The largest level that `count` pixels reach, -1 if none; `at_least` falls from level to level."""
    return int(np.searchsorted(-at_least, -count, side="right")) - 1


def _border_level(gray: Gray) -> int | None:
    """Step 2: the level of an evenly lit paper, None if the border does not show one."""
    inner = slice(1, max(1, gray.shape[0] - 1))
    parts = [gray[0], gray[inner, 0] if gray.shape[0] > 2 else gray[:0, 0]]
    if gray.shape[0] > 1:
        parts.append(gray[-1])
    if gray.shape[0] > 2 and gray.shape[1] > 1:
        parts.append(gray[inner, -1])
    border = np.bincount(np.concatenate(parts), minlength=256)
    level = int(border.argmax())
    low, high = max(0, level - 2), level + 3
    if 8 * int(border[low:high].sum()) < 7 * int(border.sum()):
        return None
    near = np.count_nonzero((gray >= low) & (gray <= min(255, high - 1)))
    return level if 4 * near >= gray.size else None


def _paper(gray: Gray) -> tuple[int | Integers, NDArray[np.bool_]]:
    """Steps 3 to 5: one level, or a level for each pixel [H, W]; and which pixels lie in paper cells [H, W]."""
    height, width = gray.shape
    side = -(-max(height, width) // MAX_CELLS)
    gh, gw = -(-height // side), -(-width // side)
    rows, columns = np.arange(gh) * height // gh, np.arange(gw) * width // gw
    row_counts, column_counts = np.diff(rows, append=height), np.diff(columns, append=width)
    cells = _avg(256 * _block_sums(gray, rows, columns), np.outer(row_counts, column_counts))
    step = max(np.abs(np.diff(cells, axis=axis)).max(initial=0) for axis in (0, 1))
    smooth = int(np.clip(step // 8, 2 * 256, 12 * 256))
    known = _paper_cells(cells, smooth)
    bare = known.repeat(row_counts, axis=0).repeat(column_counts, axis=1)
    level = _lower_median(cells[known])
    if 8 * np.count_nonzero(2 * np.abs(cells[known] - level) <= smooth) >= 7 * np.count_nonzero(known):
        return (level + 128) // 256, bare
    cells = _fill(cells, known)
    down = _interpolate(cells.astype(np.int32), height)
    across = _interpolate(down.T, width).T
    levels: Integers = np.clip((across + 128) >> 8, 0, 255)
    return levels, bare


def _lower_median(values: Integers) -> int:
    return int(np.sort(values, axis=None)[(values.size - 1) // 2])


def _paper_cells(cells: Integers, smooth: int) -> NDArray[np.bool_]:
    """Step 3: which cells are joined to the border's median by small steps."""
    border = np.ones(cells.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    known = border & (np.abs(cells - _lower_median(cells[border])) <= smooth)
    down = np.abs(np.diff(cells, axis=0)) <= smooth
    across = np.abs(np.diff(cells, axis=1)) <= smooth
    found = 0
    while (count := int(np.count_nonzero(known))) > found:
        found = count
        known[1:] |= known[:-1] & down
        known[:-1] |= known[1:] & down
        known[:, 1:] |= known[:, :-1] & across
        known[:, :-1] |= known[:, 1:] & across
    return known


def _neighbour_sums(values: Integers) -> Integers:
    """The sum of the 2 to 4 neighbours of each cell."""
    total = np.zeros_like(values)
    total[1:] += values[:-1]
    total[:-1] += values[1:]
    total[:, 1:] += values[:, :-1]
    total[:, :-1] += values[:, 1:]
    return total


def _fill(cells: Integers, known: NDArray[np.bool_]) -> Integers:
    """Step 5: the paper beneath the ink, from the paper around it."""
    cells, filled = np.where(known, cells, 0), known.copy()
    while not filled.all():
        count = _neighbour_sums(filled.astype(np.int64))
        new = (count > 0) & ~filled
        cells[new] = _avg(_neighbour_sums(cells)[new], count[new])
        filled |= new
    count = np.maximum(1, _neighbour_sums(np.ones_like(cells)))
    for _ in range(0 if known.all() else RELAXATIONS):
        cells = np.where(known, cells, _avg(_neighbour_sums(cells), count))
    return cells


def _interpolate(cells: Integers, length: int) -> Integers:
    """Step 5: cells [g, n] → [length, n], along the first axis."""
    number = len(cells)
    if number == 1:
        return np.repeat(cells, length, axis=0)
    place = (2 * np.arange(length, dtype=np.int32) + 1) * number - length
    first = np.clip(place // (2 * length), 0, number - 2)
    weight = (place - 2 * length * first)[:, None]
    return _avg(cells[first] * (2 * length - weight) + cells[first + 1] * weight, 2 * length)


def _box(inked: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Step 9."""
    least = 1 + max(inked.shape) // 128
    rows = _extent(inked.sum(axis=1), least)
    columns = _extent(inked[rows].sum(axis=0), least)
    rows = _extent(inked[:, columns].sum(axis=1), least)
    return rows, columns


def _extent(counts: Integers, least: int) -> slice:
    """Numbers one by one: for so few, NumPy's calls would take several times as long."""
    runs: list[tuple[int, int, int]] = []  # start, end, sum of counts
    start = weight = 0
    for place, count in enumerate([*counts.tolist(), 0]):
        if count >= least:
            weight += count
            continue
        if weight:
            runs.append((start, place, weight))
        start, weight = place + 1, 0
    if not runs:
        raise BlankPictureError("no ink was found, only specks. Use a picture with one digit, written clearly.")
    total = sum(weight for *_, weight in runs)
    kept = [run for run in runs if SPECK_SHARE * run[2] >= total] or runs
    return slice(kept[0][0], kept[-1][1])


def _fit(ink: Gray) -> Gray:
    """Step 10: [h, w] → [h', w'], the longer side 20."""
    height, width = ink.shape
    longer = max(height, width)
    new_height = max(1, (2 * BOX * height + longer) // (2 * longer))
    new_width = max(1, (2 * BOX * width + longer) // (2 * longer))
    values = ink.astype(np.int32)
    if longer >= BOX:
        total = _cover(_cover(values, new_height).T, new_width).T
        digit = _avg(total, height * width)
    else:
        total = _enlarge(_enlarge(values, new_height).T, new_width).T
        digit = _avg(total, 4 * new_height * new_width)
    largest = int(digit.max())
    if largest == 0:
        raise BlankPictureError("no ink was found, only hairlines. Use a picture with one digit, written clearly.")
    return (digit if largest >= NEARLY_FULL else _avg(255 * digit, largest)).astype(np.uint8)


def _cover(values: Integers, length: int) -> Integers:
    """Sums over `length` equal parts of the first axis; the weights of a part sum to len(values)."""
    if len(values) == length:
        return values * length
    sums = np.zeros((len(values) + 1, values.shape[1]), dtype=np.int32)
    np.cumsum(values, axis=0, out=sums[1:])
    whole, part = np.divmod(np.arange(length + 1, dtype=np.int32) * len(values), length)
    inside = np.minimum(whole, len(values) - 1)
    below = np.asarray(length * sums[whole] + part[:, None] * values[inside], dtype=np.int32)
    return below[1:] - below[:-1]


def _enlarge(values: Integers, length: int) -> Integers:
    """Linear interpolation along the first axis, times 2·length."""
    place = (2 * np.arange(length, dtype=np.int32) + 1) * len(values) - length
    first = place // (2 * length)
    weight = (place - 2 * length * first)[:, None]
    last = len(values) - 1
    return values[np.clip(first, 0, last)] * (2 * length - weight) + values[np.clip(first + 1, 0, last)] * weight


def _place(digit: Gray) -> Gray:
    """Step 11: [h', w'] → [28, 28]."""
    values = digit.astype(np.int64)
    total = int(values.sum())
    result = np.zeros((SIZE, SIZE), dtype=np.uint8)
    corner = []
    for axis in (0, 1):
        moment = int(values.sum(axis=1 - axis) @ np.arange(digit.shape[axis]))
        start = -((2 * moment - (SIZE - 1) * total) // (2 * total))  # rounded up
        corner.append(min(max(start, 0), SIZE - digit.shape[axis]))
    top, left = corner
    result[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return result


def _name(picture: object) -> str:
    if isinstance(picture, Image.Image):
        return str(getattr(picture, "filename", "") or f"Pillow image of mode {picture.mode}")
    if isinstance(picture, np.ndarray):
        return f"array of shape {list(picture.shape)}"
    return str(picture)


def _too_large(name: str, width: int, height: int) -> UnreadablePictureError:
    return UnreadablePictureError(
        f"{name}: {width:,}×{height:,} pixels are more than the {MAX_PIXELS // 1_000_000} million that are decoded. "
        f"Make the picture smaller, or cut out the digit."
    )


def _decode_array(array: NDArray[np.generic]) -> Gray:
    name = _name(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise UnreadablePictureError(
            f"{name}: an array must be [H, W], [H, W, 3] or [H, W, 4] and not empty. Reshape it."
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large(name, array.shape[1], array.shape[0])
    if array.dtype == np.bool_:
        return _flatten(array.astype(np.uint8) * np.uint8(255))
    if array.dtype == np.uint8:
        return _flatten(array.astype(np.uint8))
    if array.dtype == np.uint16:
        return _flatten(_from_16_bits(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise UnreadablePictureError(
            f"{name}: values of type {array.dtype} are not understood. Convert them to uint8, or to floats from 0 to 1."
        )
    values = array.astype(np.float64)
    if not bool(((values >= 0) & (values <= 1)).all()):  # NaN fails too
        raise UnreadablePictureError(
            f"{name}: floats must be finite and from 0 (black) to 1 (white), here they go from {values.min():g} to "
            f"{values.max():g}. Scale them, or convert to uint8."
        )
    return _flatten(np.floor(values * 255 + 0.5).astype(np.uint8))


def _decode_file(path: Path) -> Gray:
    try:
        with warnings.catch_warnings():  # Pillow warns of large pictures; ours is the stricter limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _decode_image(image, str(path))
    except FileNotFoundError:
        raise UnreadablePictureError(f"{path}: there is no such file. Check the path.") from None
    except Image.DecompressionBombError:
        raise UnreadablePictureError(
            f"{path}: its header promises more than the {MAX_PIXELS // 1_000_000} million pixels that are decoded. "
            f"Make the picture smaller, or cut out the digit."
        ) from None
    except UnidentifiedImageError:
        raise UnreadablePictureError(
            f"{path}: this is no picture in a known format. Give a PNG or JPEG file."
        ) from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UnreadablePictureError(
            f"{path}: the file cannot be read: {reason}. Check the path and its permissions."
        ) from None


def _decode_image(image: Image.Image, name: str) -> Gray:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, image.width, image.height)
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
            f"{name}: the picture is damaged, cut off or of an odd kind ({error}). Export it again as PNG or JPEG."
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
    for start in range(0, height, rows):
        colours = pixels[start : start + rows, :, :3].astype(np.int32)
        gray[start : start + rows] = (colours @ np.array([299, 587, 114], dtype=np.int32) + 500) // 1000
    alpha = pixels[..., 3:]  # [H, W, 0 or 1]
    if alpha.size == 0 or alpha.min() == 255:
        return gray
    alpha = alpha[..., 0]
    visible = gray[alpha >= 128]
    ground = 0 if visible.size and visible.min() > 127 else 255
    for start in range(0, height, rows):
        block, opacity = gray[start : start + rows].astype(np.int32), alpha[start : start + rows].astype(np.int32)
        gray[start : start + rows] = (block * opacity + ground * (255 - opacity) + 127) // 255
    return gray
