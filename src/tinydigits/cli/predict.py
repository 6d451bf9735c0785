"""Read digits from pictures: files, directories, or - for standard input.

Any picture of one digit will do: PNG, JPEG, GIF, …, dark on light or light on
dark, photograph or scan. Directories are searched for pictures, hidden files
left out.

MODEL is a name with shipped weights (no PyTorch is loaded), a run directory,
or a .safetensors file with its card beside it. The first word is taken for
MODEL if it is one of these, or if there is no such file and it does not end
like a picture; otherwise MODEL is tiny-10k. A picture that is called like a
model is written ./tiny-10k.

"No digit" is answered when there is no ink, or less that looks like a digit
than in 99.5 % of real ones. That is an answer, not an error. A picture that
cannot be read is reported, the others are answered, and the exit code is 2.

--json prints a list of {path, rejected, labels: [{label, score}, …], reason,
error, notice} in the order asked for, labels best first: all ten of them
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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import DEFAULT_MODEL, add_json
from tinydigits.cli.output import print_json, print_notice, stderr_console, stdout_console
from tinydigits.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.text import Text

    from tinydigits.shipping.predict import Answer, Picture

_MANY = 500  # pictures from which on processes are worth their start
_NAMED = 5  # skipped files
_SHADES = " ░▒▓█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.usage = "tinydigits predict [-h] [--top N] [--show] [--json] [MODEL] PICTURE ..."
    parser.add_argument("words", nargs="+", metavar="[MODEL] PICTURE", help=f"MODEL (default: {DEFAULT_MODEL}) first")
    parser.add_argument("--top", type=int, metavar="N", help="the N most probable digits (default: 1; with --json 10)")
    parser.add_argument("--show", action="store_true", help="show what the network saw: 28×28, light ink on black")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find, read, answer, print."""
    from tinydigits.shipping.predict import answer_pictures, find_pictures, load_predictor, names_model, read_pictures

    if arguments.top is not None and not 1 <= arguments.top <= 10:
        raise ConfigError(f"--top {arguments.top}: it is from 1 to 10.")
    words: list[str] = arguments.words
    model = words.pop(0) if names_model(words[0]) else DEFAULT_MODEL
    if not words:
        raise ConfigError(
            f"{model}: there is no such picture, or it is the model and no picture is named after it. Name a picture: "
            f"tinydigits predict {model} digit.png"
        )
    predictor = load_predictor(model)
    sources, skipped = find_pictures(words, _standard_input)
    _report_skipped(skipped)
    pictures = _watched(read_pictures(sources, _workers(len(sources))), len(sources), arguments.json)
    console = stderr_console() if arguments.json else stdout_console()
    documents = []
    failed = False
    for answer in answer_pictures(pictures, predictor):
        _report(answer.picture)
        failed |= answer.rejected is None
        if arguments.show and answer.picture.image is not None:
            console.print(draw(answer.picture.image, colour=_has_colour(console)), soft_wrap=True)
        if arguments.json:
            documents.append(answer.as_dict(arguments.top or 10))
        elif answer.rejected is not None:
            console.print(_line(answer, arguments.top or 1), soft_wrap=True)
    if arguments.json:
        print_json(documents)
    return 2 if failed else 0


def _standard_input() -> bytes:
    return sys.stdin.buffer.read()


def _workers(pictures: int) -> int:
    return 1 if pictures < _MANY else os.cpu_count() or 1


def _report_skipped(skipped: Sequence[str]) -> None:
    from tinydigits.shipping.predict import printable

    if skipped:
        names = ", ".join(map(printable, skipped[:_NAMED])) + (", …" if len(skipped) > _NAMED else "")
        files = "1 file" if len(skipped) == 1 else f"{len(skipped):,} files"
        print_notice(f"Notice: {files} left out that do not end like a picture: {names}")


def _report(picture: "Picture") -> None:
    from tinydigits.shipping.predict import printable

    if picture.notice:
        print_notice(f"Notice: {printable(picture.notice)}")
    if picture.error:
        print(f"tinydigits predict: {printable(picture.error)}", file=sys.stderr)


def _watched(pictures: "Iterator[Picture]", total: int, json: bool) -> "Iterator[Picture]":
    """The same, with a progress bar where a person waits for many and sees no answers meanwhile."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr_console()
    idle = json or not stdout_console().is_terminal
    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not (console.is_terminal and idle and total > 1)
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        yield from bar.track(pictures, total=total)


def _line(answer: "Answer", top: int) -> "Text":
    """`7   99.98 %   digit.png`, or `–   no digit  …`; the columns have the same width on every line."""
    from rich.text import Text

    from tinydigits.shipping.predict import printable

    ranked = [(str(digit), _share(score)) for digit, score in answer.ranking[:top]]
    line = Text()
    if answer.rejected:
        line.append("–", "bold yellow").append("  no digit  " + printable(answer.picture.path))
        guess = ", ".join(f"{digit} {share.strip()}" for digit, share in ranked)
        return line.append(f"  ({f'if one, then {guess}' if guess else 'no ink'})", "dim")
    (digit, share), *others = ranked
    line.append(digit, "bold green").append(f"  {share}  ")
    for other, score in others:
        line.append(f"{other} {score}  ", "dim")
    return line.append(printable(answer.picture.path))


def _share(score: float) -> str:
    return ">99.99 %" if score > 0.9999 else f"{100 * score:6.2f} %"


def _has_colour(console: "Console") -> bool:
    return console.color_system is not None and not console.no_color


def draw(image: "NDArray[np.uint8]", colour: bool) -> "Text":
    """A picture for the terminal.

    Args:
        image: uint8 [28, 28].
        colour: 14 lines of half blocks, the pixels' greys as colours; without: 28 lines of two characters a pixel, in
            five shades, which also reads well in a file.
    """
    from rich.text import Text

    if colour:
        rows = [
            [
                ("▀", f"rgb({u},{u},{u}) on rgb({v},{v},{v})")
                for u, v in zip(upper.tolist(), lower.tolist(), strict=True)
            ]
            for upper, lower in zip(image[::2], image[1::2], strict=True)
        ]
        return Text("\n").join(Text.assemble(*row) for row in rows)
    shades = image.astype(int) * len(_SHADES) // 256
    return Text("\n".join("".join(2 * _SHADES[shade] for shade in row).rstrip() for row in shades.tolist()))
