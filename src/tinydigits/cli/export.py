"""Export a trained network to another format, and check its results.

The formats: onnx; c, for microcontrollers; html, one page that reads digits;
hub, a folder for the Hugging Face Hub, which every command accepts as MODEL.

The exported files and PyTorch read all test digits; for C and HTML, both
preprocessors are also compared on many kinds of pictures. parity.json beside
the files tells how they compare. The exit code is 1 if they differ, or if the
comparison cannot be run here (no C compiler, no Node.js) and --allow-unproven
is not given.

Example:
  tinydigits export tiny-10k --to c --int8
  tinydigits export runs/net-py-Net-001 --to html --out page
  tinydigits export tiny-10k --to hub
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import add_data, add_json, add_model
from tinydigits.cli.output import print_plain, print_result, print_warning, watched
from tinydigits.exporters import FORMATS
from tinydigits.records import ExportResult, Parity

if TYPE_CHECKING:
    from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "a zoo name with shipped weights, a run directory, or a .safetensors file")
    parser.add_argument("--to", metavar="FORMAT", choices=FORMATS, required=True, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--int8", action="store_true", help="8-bit integers instead of float32; not for hub")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: exports/MODEL-FORMAT")
    parser.add_argument("--allow-unproven", action="store_true", help="exit 0 if the comparison cannot be run")
    add_data(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.exporters.export import export

    result = export(
        arguments.model,
        arguments.to,
        int8=arguments.int8,
        out=arguments.out,
        data=arguments.data,
        data_dir=arguments.data_dir,
        watch=watched,
    )
    print_warning(result.parity.warning)
    print_result(result, arguments.json, _print)
    verdict = result.parity.verdict
    return 0 if verdict == "passed" or (verdict == "not run" and arguments.allow_unproven) else 1


def _print(result: ExportResult, console: "Console") -> None:
    for file in result.files:
        print_plain(console, f"{file}  {Path(file).stat().st_size:,} bytes")
    styles = {"passed": "bold green", "failed": "bold red", "not run": "bold yellow"}
    console.print(f"\nParity: [{styles[result.parity.verdict]}]{result.parity.verdict}[/]")
    for sentence in _sentences(result.parity):
        print_plain(console, f"  {sentence}")


def _sentences(parity: Parity) -> list[str]:
    logits, digits, pictures = parity.logits, parity.digits, parity.preprocessing
    if logits is None:
        return [parity.reason or "", "The files are written, but not checked."]
    sentences = [
        f"{digits.n:,} digits ({digits.data}): {100 * logits.accuracy:.2f} % correct, PyTorch "
        f"{100 * logits.accuracy_pytorch:.2f} %; {logits.disagreements_with_pytorch} predictions differ."
    ]
    if logits.bit_exact:
        sentences.append("Every integer is the reference's.")
    elif logits.same_predictions is not None:
        sentences.append(f"{100 * logits.same_predictions:.2f} % of the predictions are those of the int8 reference.")
    elif logits.largest_difference is not None:
        sentences.append(f"Logits differ by at most {logits.largest_difference:.1e}.")
    if pictures is not None:
        sentences.append(f"{pictures.identical} of {pictures.pictures} pictures are prepared to the same bytes.")
    if logits.diverges_at is not None:
        sentences.append(f"The first difference is after {logits.diverges_at}.")
    return [*sentences, *parity.faults]
