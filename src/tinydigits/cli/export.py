"""Write a trained network in another form, and prove that it does what it did.

The forms: onnx; c, for microcontrollers; html, one page that reads digits;
hub, a folder for the Hugging Face Hub, which `evaluate` and `predict` take too.

All test digits go through the exported form and through PyTorch, and all
sorts of pictures through both preprocessors; parity.json beside the files
says how they compare. Exit code 1 if they differ, or if the comparison cannot
be run here (no C compiler, no Node.js) and --allow-unproven is not given.

Example:
  tinydigits export tiny-10k --to c --int8
  tinydigits export runs/net-py-Net-001 --to html --out page
  tinydigits export tiny-10k --to hub
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import DEFAULT_MODEL, add_data, add_json, add_model
from tinydigits.cli.output import print_json, print_notice, print_plain, stdout_console, watched

if TYPE_CHECKING:
    from rich.console import Console

NAMES = ("onnx", "c", "html", "hub")
_NO_THRESHOLD = (
    "The network ends in log_softmax. The exported one gives logits before it, to which the card's threshold does not "
    "apply, so nothing is rejected as no digit. End the network with its logits, and prove it anew, to have that."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser, "a zoo name with shipped weights, a run directory, or a .safetensors file")
    parser.add_argument("--to", metavar="FORM", choices=NAMES, required=True, help="onnx, c, html or hub")
    parser.add_argument("--int8", action="store_true", help="8-bit integers instead of float32")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: exports/MODEL-FORM")
    parser.add_argument("--allow-unproven", action="store_true", help="exit 0 where the comparison cannot be run")
    add_data(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fold, write, compare, print."""
    from tinydigits.data.normalise import normalise
    from tinydigits.data.sources import load_dataset
    from tinydigits.errors import ConfigError
    from tinydigits.evaluation.predictions import predict_logits
    from tinydigits.models.weights import load_model
    from tinydigits.shipping.export import FORMS, card_facts, int8_graph, write_form
    from tinydigits.shipping.fold import fold_network
    from tinydigits.shipping.hub import hub_form
    from tinydigits.shipping.parity import Judged, prove_parity
    from tinydigits.storage import write_json

    if arguments.to == "hub" and arguments.int8:
        raise ConfigError("--int8: the hub folder holds PyTorch's own weights, in float32. Leave it out, or choose c.")
    model, card = load_model(arguments.model or DEFAULT_MODEL)
    if arguments.to == "hub":
        form, folded = hub_form(model, card)
    else:
        form, folded = FORMS[arguments.to], fold_network(model, card)
    # digits of the kind that the weights were trained on calibrate and judge
    data = load_dataset(arguments.data or ("auto" if card.data == "mnist" else card.data), arguments.data_dir)
    dropped = card.calibration is not None and folded.threshold is None
    notice = " ".join(filter(None, [data.notice, _NO_THRESHOLD if dropped else None])) or None
    if notice:
        print_notice(notice)
    graph = int8_graph(folded, data) if arguments.int8 else folded
    name = f"{graph.model}-{form.name}{'-int8' if arguments.int8 else ''}"
    directory = arguments.out or Path("exports") / name
    files = write_form(form, graph, directory, card_facts(card, int8=arguments.int8))
    inputs = normalise(data.test.images, card.mean, card.deviation)
    logits = predict_logits(model, inputs, watch=partial(watched, what="PyTorch")).numpy()
    parity = {**prove_parity(form, graph, files, Judged(data.test, logits), watched), "notice": notice}
    write_json(directory / "parity.json", parity)
    if arguments.json:
        print_json({"files": [str(path) for path in files], "parity": parity})
    else:
        _print(files, parity, stdout_console())
    proven = parity["verdict"] == "passed" or (parity["verdict"] == "not run" and arguments.allow_unproven)
    return 0 if proven else 1


def _print(files: list[Path], parity: dict[str, Any], console: "Console") -> None:
    for path in files:
        print_plain(console, f"{path}  {path.stat().st_size:,} bytes")
    styles = {"passed": "bold green", "failed": "bold red", "not run": "bold yellow"}
    console.print(f"\nParity: [{styles[parity['verdict']]}]{parity['verdict']}[/]")
    for sentence in _sentences(parity):
        print_plain(console, f"  {sentence}")


def _sentences(parity: dict[str, Any]) -> list[str]:
    if parity["verdict"] == "not run":
        return [parity["reason"], "The files are written, and nothing is known of what they do."]
    logits, digits = parity["logits"], parity["digits"]
    sentences = [
        f"{digits['n']:,} digits ({digits['data']}): {100 * logits['accuracy']:.2f} % right, "
        f"PyTorch {100 * logits['accuracy_pytorch']:.2f} %; {logits['disagreements_with_pytorch']} answered otherwise."
    ]
    if "bit_exact" in logits:
        same = f"the same answer as the reference on {100 * logits['same_answers']:.2f} % of them"
        sentences.append("Every integer is the reference's." if logits["bit_exact"] else f"Here {same}.")
    else:
        sentences.append(f"Logits differ by at most {logits['largest_difference']:.1e}.")
    if parity["preprocessing"]:
        prepared = parity["preprocessing"]
        sentences.append(f"{prepared['identical']} of {prepared['pictures']} pictures are prepared to the same bytes.")
    if "diverges_at" in logits:
        sentences.append(f"It first differs after {logits['diverges_at']}.")
    faults: list[str] = parity["faults"]
    return sentences + faults
