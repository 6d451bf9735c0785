"""Read digits from pictures: files, directories, or - for standard input.

Any picture of one digit will do: PNG, JPEG, GIF, …, dark on light or light on
dark, photograph or scan. Directories are searched for pictures, without hidden
files.

MODEL is a zoo model with shipped weights (PyTorch is not loaded), a run
directory, or a .safetensors file with its card beside it. The first word is
MODEL if it is one of these, or if there is no such file and it has no picture
extension; otherwise MODEL is tiny-10k. To read a picture with the name of a
model, write ./tiny-10k.

"No digit": the picture has no ink, or scores below the threshold that 99.5 %
of real digits pass. It is a prediction, not an error. If a picture cannot be
read, an error is printed, the others are read, and the exit code is 2.

--json prints a list of {path, rejected, labels: [{label, score}, …], reason,
error, warning} in the order of the pictures, best label first: all ten labels
unless --top is given. Without ink labels are empty; with an error, rejected
is null too.

Example:
  tinydigits predict digit.png
  tinydigits predict era-8k scans/ photo.jpg --top 3
  tinydigits predict - --json < digit.png
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, print_warning, printable, stderr_console, stdout_console, watched
from tinydigits.errors import ConfigError
from tinydigits.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.text import Text

    from tinydigits.inference.files import Picture
    from tinydigits.records import Prediction

_PICTURES_FOR_PROCESSES = 500  # pictures from which several processes are worth their start
_SKIPPED_SHOWN = 5  # skipped files that a warning names
_SHADES = " ░▒▓█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "tinydigits predict [-h] [--top N] [--show] [--json] [MODEL] PICTURE ..."
    words = f"optional MODEL first (default: {DEFAULT_MODEL})"
    parser.add_argument("words", nargs="+", metavar="[MODEL] PICTURE", help=words)
    parser.add_argument("--top", type=int, metavar="N", help="the N most probable digits (default: 1; with --json 10)")
    parser.add_argument("--show", action="store_true", help="show what the network sees: 28×28, light ink on black")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.inference.files import find_pictures, read_pictures
    from tinydigits.inference.predict import load_classifier, names_model, predict_pictures

    if arguments.top is not None and not 1 <= arguments.top <= 10:
        raise ConfigError(f"--top {arguments.top}: must be from 1 to 10.")
    words: list[str] = arguments.words
    model = words.pop(0) if names_model(words[0]) else DEFAULT_MODEL
    if not words:
        raise ConfigError(
            f"{model}: there is no such picture, or it is the model and no picture is named after it. Name a picture: "
            f"tinydigits predict {model} digit.png"
        )
    classifier = load_classifier(model)
    sources, skipped = find_pictures(words, lambda: sys.stdin.buffer.read())
    _warn_of_skipped(skipped)
    workers = 1 if len(sources) < _PICTURES_FOR_PROCESSES else os.cpu_count() or 1
    console = stderr_console() if arguments.json else stdout_console()
    seen = not arguments.json and console.is_terminal  # predictions, while one waits for the others
    pictures = watched(read_pictures(sources, workers), "pictures", len(sources), hidden=seen or len(sources) < 2)
    colour = console.color_system is not None and not console.no_color
    predictions = []
    failed = False
    for picture, prediction in predict_pictures(pictures, classifier, arguments.top or (10 if arguments.json else 1)):
        _report(picture)
        if arguments.show and picture.image is not None:
            console.print(draw(picture.image, colour), soft_wrap=True)
        if arguments.json:
            predictions.append(prediction)
        elif not prediction.error:
            console.print(_line(picture, prediction), soft_wrap=True)
        failed |= prediction.error is not None
    if arguments.json:
        print_json(predictions)
    return 2 if failed else 0


def _warn_of_skipped(skipped: Sequence[str]) -> None:
    if skipped:
        names = ", ".join(map(printable, skipped[:_SKIPPED_SHOWN])) + (", …" if len(skipped) > _SKIPPED_SHOWN else "")
        files = "1 file that does" if len(skipped) == 1 else f"{len(skipped):,} files that do"
        print_warning(f"Warning: skipped {files} not end like a picture: {names}")


def _report(picture: "Picture") -> None:
    if picture.warning:
        print_warning(f"Warning: {printable(picture.warning)}")
    if picture.error:
        print(f"tinydigits predict: {printable(picture.error)}", file=sys.stderr)


def _line(picture: "Picture", prediction: "Prediction") -> "Text":
    """`7   99.98 %   digit.png`, or `–   no digit  …`; the columns have the same width on every line."""
    from rich.text import Text

    ranked = [(str(row.label), _percent(row.score)) for row in prediction.labels]
    line = Text()
    if prediction.rejected:
        line.append("–", "bold yellow").append("  no digit  " + printable(picture.path))
        guess = ", ".join(f"{digit} {score.strip()}" for digit, score in ranked)
        return line.append(f"  ({f'if one, then {guess}' if guess else 'no ink'})", "dim")
    (digit, score), *others = ranked
    line.append(digit, "bold green").append(f"  {score}  ")
    for digit, score in others:
        line.append(f"{digit} {score}  ", "dim")
    return line.append(printable(picture.path))


def _percent(score: float) -> str:
    return ">99.99 %" if score > 0.9999 else f"{100 * score:6.2f} %"


def draw(image: "NDArray[np.uint8]", colour: bool) -> "Text":
    """A picture for the terminal.

    Args:
        image: uint8 [28, 28].
        colour: 14 lines of half blocks, the pixels' greys as colours; without: 28 lines of two characters a pixel, in
            five shades, which also reads well in a file.
    """
    from rich.text import Text

    if colour:
        pairs = image.reshape(-1, 2, image.shape[1]).swapaxes(1, 2).tolist()  # [14, 28, 2]: two rows in one line
        rows = [[("▀", f"rgb({u},{u},{u}) on rgb({v},{v},{v})") for u, v in row] for row in pairs]
        return Text("\n").join(Text.assemble(*row) for row in rows)
    shades = image.astype(int) * len(_SHADES) // 256
    return Text("\n".join("".join(2 * _SHADES[shade] for shade in row).rstrip() for row in shades.tolist()))
