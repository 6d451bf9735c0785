"""Any picture → 28×28 bytes the way MNIST was made: light ink on black, 20×20 box, centre of mass in the middle."""

import numpy as np

from tinydigits.errors import BlankPictureError
from tinydigits.pictures.arithmetic import Gray, Integers, avg, block_sums
from tinydigits.pictures.decode import PictureLike, decode, picture_name
from tinydigits.pictures.fit import NEARLY_FULL, centre, find_box, fit
from tinydigits.pictures.paper import estimate_paper

MAX_SIDE = 512  # of the picture that the integer part works on
MIN_CONTRAST = 16  # grey levels between paper and ink
BOX_THRESHOLD = 48  # ink level that counts when the box is sought …
SHARP_THRESHOLD = 8  # … and in a picture so small (SHARP_SIDE) that nothing faint can be blur
SHARP_SIDE = 56

_DIFFERENCES = np.arange(-255, 256)  # of a pixel from its paper: the index of the tables of steps 6 and 8
_SQUARES = np.arange(1, 256) ** 2


def preprocess(picture: PictureLike) -> Gray:
    """Turn any picture of one digit into an MNIST-like image: uint8 [28, 28], light ink on black.

    The ink may be dark on light paper or light on dark, in colour or grey, evenly lit or not.

    Args:
        picture: The path of a picture file, a Pillow image or an array; see `decode`.

    Raises:
        UnreadablePictureError: the picture cannot be decoded, or is too large.
        BlankPictureError: it holds no ink.
    """
    try:
        return preprocess_gray(decode(picture))
    except BlankPictureError as error:
        raise BlankPictureError(f"{picture_name(picture)}: {error}") from None


def preprocess_gray(gray: Gray) -> Gray:
    """Grey levels uint8 [H, W] → uint8 [28, 28], light ink on black, in integer arithmetic only.

    This is the specification. The C and JavaScript versions follow the same steps and give the same bytes. All values
    and intermediate results fit int32, except the sums named int64 below (all under 2^53). `a // b` rounds towards
    minus infinity; `avg(s, n)` is (s + n // 2) // n; y and x count rows and columns from 0.

    1. Reduce. k = ceil(max(H, W) / 512). If k > 1, each block of k×k pixels (smaller at the bottom and right
       edges) becomes avg(sum, count), int64 sum. H and W are the reduced sides from here on; N = H W.
    2. Paper by the border. The border is the pixels with y = 0, y = H-1, x = 0 or x = W-1, each counted once. b = its
       most frequent level (the lowest of equals). If at least 7/8 of the border and at least 1/4 of the picture
       lie in b-2..b+2, the paper is evenly lit: paper(y, x) = b; continue with step 6.
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
       centres interpolate, beyond the outermost extrapolate in a straight line, first down, then across:
       for a row, u = (2 y + 1) gh - H; i = u // (2 H) held within 0 .. gh-2; f = u - 2 H i;
       r_j = avg(t_ij (2 H - f) + t_(i+1)j f, 2 H), or t_0j if gh = 1; the columns likewise give v from r;
       paper(y, x) = (v + 128) // 256 held within 0..255.
    6. Polarity. e = gray - paper. Ink is light if the sum of e² over e > 0 exceeds the sum over e < 0 (int64),
       else dark. With dark ink in uneven light (step 5 was done) |e| is taken relative to the paper: it becomes
       min(255, avg(255 |e|, max(paper, 1))), and e keeps its sign. With dark ink e then changes its sign, in any
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
    11. Centre. B = sum v, Y = sum y v: top = ceil((27 B - 2 Y) / (2 B)), held within 0 .. 28 - h', so that the centre
        of mass lies within 13.5 ≤ y < 14.5, which is where all of MNIST has it; left likewise.

    Raises:
        BlankPictureError: no ink, see steps 8 to 10.
    """
    assert gray.dtype == np.uint8
    assert gray.ndim == 2
    assert gray.size > 0
    gray = _reduce(gray)
    ink, threshold = _ink(gray)
    rows, columns = find_box(ink > threshold)
    return centre(fit(ink[rows, columns]))


def _reduce(gray: Gray) -> Gray:
    """Step 1."""
    height, width = gray.shape
    factor = -(-max(height, width) // MAX_SIDE)
    if factor == 1:
        return gray
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    count = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return avg(block_sums(gray, rows, columns), count).astype(np.uint8)


def _ink(gray: Gray) -> tuple[Gray, int]:
    """Steps 2 to 8, and the threshold of step 9: ink uint8 [H, W], 0 on paper."""
    paper, bare = estimate_paper(gray)
    index: Gray | Integers  # of each pixel in a table over e = -255..255; in even light its grey level will do
    if isinstance(paper, int):
        index, levels = gray, slice(255 - paper, 511 - paper)
    else:
        index, levels = gray - paper + 255, slice(0, 511)
    histogram = np.zeros(511, dtype=np.int64)
    histogram[levels] = np.bincount(index.ravel(), minlength=levels.stop - levels.start)
    dark = int(_SQUARES @ histogram[256:]) <= int(_SQUARES @ histogram[254::-1])
    if dark and not isinstance(paper, int):
        difference = index - 255
        index = 255 + np.minimum(255, avg(255 * np.abs(difference), np.maximum(paper, 1))) * np.sign(difference)
        histogram = np.bincount(index.ravel(), minlength=511)
    if dark:
        histogram = histogram[::-1]
    beyond = np.cumsum(histogram[:255])[::-1]  # [level]: pixels with -e > level
    noise = int(np.searchsorted(-beyond, -(gray.size // 512)))
    if bare is not None:
        within = np.cumsum(np.bincount(np.abs(_DIFFERENCES[levels][index[bare]]), minlength=256))
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
    stretched = strength if span >= NEARLY_FULL else np.minimum(255, avg(255 * strength, span))
    table = np.where(strength > 0, stretched, 0).astype(np.uint8)
    if dark:
        table = table[::-1]
    least = SHARP_THRESHOLD if max(gray.shape) <= SHARP_SIDE else BOX_THRESHOLD
    threshold = max(least, min(127, 128 * noise // span))
    return table[levels].take(index), threshold


def _largest_level(at_least: Integers, count: int) -> int:
    """The largest level that `count` pixels reach, -1 if none; `at_least` falls from level to level."""
    return int(np.searchsorted(-at_least, -count, side="right")) - 1
